/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: what a daemon answers to libpostcopy. What decodes must encode, and decode again. */
#include <errno.h>

#include "fuzz.h"
#include "wire/attach_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err = {0};
	struct attach_reply m, copy;
	uint8_t *buf;
	size_t len;
	int r = attach_reply_decode(data, size, &m, &err);

	FUZZ_CHECK(r == 0 || (r == -EBADMSG && err.text[0]));
	if (r < 0)
		return 0;
	r = attach_reply_encode(&m, &buf, &len);
	if (r == -EMSGSIZE) /* an input near the limit can grow */
		return 0;
	FUZZ_CHECK(r == 0);
	FUZZ_CHECK(attach_reply_decode(buf, len, &copy, &err) == 0);
	free(buf);
	return 0;
}
