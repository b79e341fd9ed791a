/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: what a client sends to the control socket. What decodes must encode, and decode again. */
#include <errno.h>

#include "fuzz.h"
#include "wire/control_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err = {0};
	struct control_request m, copy;
	uint8_t *buf;
	size_t len;
	int r = control_request_decode(data, size, &m, &err);

	FUZZ_CHECK(r == 0 || (r == -EBADMSG && err.text[0]));
	if (r < 0)
		return 0;
	r = control_request_encode(&m, &buf, &len);
	control_request_free(&m);
	if (r == -EMSGSIZE) /* an input near the limit can grow */
		return 0;
	FUZZ_CHECK(r == 0);
	FUZZ_CHECK(control_request_decode(buf, len, &copy, &err) == 0);
	control_request_free(&copy);
	free(buf);
	return 0;
}
