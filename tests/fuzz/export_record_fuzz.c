/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: what a restarted agent finds as an export's record. What decodes must encode, and decode again. */
#include <errno.h>

#include "fuzz.h"
#include "wire/export_record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err = {0};
	struct export_record m, copy;
	uint8_t *buf;
	size_t len;
	int r = export_record_decode(data, size, &m, &err);

	FUZZ_CHECK(r == 0 || (r == -EBADMSG && err.text[0]));
	if (r < 0)
		return 0;
	r = export_record_encode(&m, &buf, &len);
	export_record_free(&m);
	if (r == -EMSGSIZE) /* an input near the limit can grow */
		return 0;
	FUZZ_CHECK(r == 0);
	FUZZ_CHECK(export_record_decode(buf, len, &copy, &err) == 0);
	export_record_free(&copy);
	free(buf);
	return 0;
}
