/* SPDX-License-Identifier: Apache-2.0 */
/* Userfaultfds for VMMs that do not open their own. Called by the VMM. */
#include <errno.h>

#include "client/internal.h"
#include "core/uffd_abi.h"
#include "core/uffd_open.h"

int postcopy_uffd_open(unsigned int flags)
{
	if (flags != 0)
		return -EINVAL;
	return uffd_open();
}

int postcopy_poison_supported(void)
{
	uint64_t features;
	int r = uffd_features(&features);

	return r < 0 ? r : (features & UFFD_FEATURE_POISON) != 0;
}

int postcopy_uuid_parse(const char *text, uint8_t ret_id[16])
{
	struct uuid id;
	int r = text ? uuid_parse(text, &id) : -EINVAL;

	if (r < 0)
		return -EINVAL;
	for (size_t i = 0; i < sizeof(id.bytes); i++)
		ret_id[i] = id.bytes[i];
	return 0;
}
