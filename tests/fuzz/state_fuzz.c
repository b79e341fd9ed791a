/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: what a restarted daemon finds as a migration's record. What decodes must encode, and decode again. */
#include <errno.h>

#include "fuzz.h"
#include "wire/state_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err = {0};
	struct state_message m, copy;
	uint8_t *buf;
	size_t len;
	int r = state_message_decode(data, size, &m, &err);

	FUZZ_CHECK(r == 0 || (r == -EBADMSG && err.text[0]));
	if (r < 0)
		return 0;
	r = state_message_encode(&m, &buf, &len);
	state_message_free(&m);
	if (r == -EMSGSIZE) /* an input near the limit can grow */
		return 0;
	FUZZ_CHECK(r == 0);
	FUZZ_CHECK(state_message_decode(buf, len, &copy, &err) == 0);
	state_message_free(&copy);
	free(buf);
	return 0;
}
