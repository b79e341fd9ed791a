/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: what calls at a socket that was made for Firecracker. */
#include <errno.h>

#include "daemon/firecracker_message.h"
#include "daemon/region.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct attach_region *regions = NULL;
	struct error err = {0};
	size_t n = 0;
	int r = firecracker_message_decode((const char *)data, size, &regions, &n, &err);

	FUZZ_CHECK(r == 0 || r == -EAGAIN || (r == -EBADMSG && err.text[0]));
	FUZZ_CHECK(r == 0 ? n >= 1 && n <= REGION_TABLE_MAX : !regions);
	for (size_t i = 1; i < n; i++)
		FUZZ_CHECK(regions[i - 1].gpa.addr <= regions[i].gpa.addr);
	free(regions);
	return 0;
}
