/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In a vhost-user back end: what the guest has lost for good is marked in a mapping that
 * nobody has touched yet. In QEMU it is a mark in the page tables; the file has a hole there,
 * which would be zeros. Called by back_end_map.c.
 *
 * Marks outlive the userfaultfd, but not a fork, nor a huge page in their place.
 */
#include <errno.h>
#include <sys/mman.h>

#include "client/qemu/qemu.h"
#include "core/uffd_abi.h"
#include "core/uffd_open.h"

static int range_poison(int uffd, char *address, uint64_t length)
{
	while (length > 0) {
		struct uffdio_poison poison = {
		        .range = {.start = (uintptr_t)address, .len = length}};

		if (ioctl(uffd, UFFDIO_POISON, &poison) == 0)
			return 0;
		if (errno != EAGAIN)
			return -errno;
		if (poison.updated > 0) {
			address += poison.updated;
			length -= (uint64_t)poison.updated;
		}
	}
	return 0;
}

static int lost_poison(const struct mapping *m, int uffd, const struct postcopy_range *lost)
{
	uint64_t offset = lost->guest_physical_address;

	if (offset > m->length_bytes || lost->length > m->length_bytes - offset)
		return -ERANGE;
	return range_poison(uffd, (char *)m->address + offset, lost->length);
}

int back_end_mark(const struct mapping *m, int uffd, const struct postcopy_range *lost, size_t n,
                  struct error *err)
{
	struct uffdio_register reg = {
	        .range = {.start = (uintptr_t)m->address, .len = m->length_bytes},
	        .mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	uint64_t features;
	int r = uffd_negotiate(uffd, UFFD_FEATURE_POISON, &features);

	(void)madvise(m->address, m->length_bytes, MADV_DONTFORK);
	if (!m->is_hugetlb)
		(void)madvise(m->address, m->length_bytes, MADV_NOHUGEPAGE);
	if (r == 0 && ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		r = -errno;
	for (size_t i = 0; i < n && r == 0; i++)
		r = lost_poison(m, uffd, &lost[i]);
	return r < 0 ? error_set_errno(err, r, "cannot mark what the guest has lost") : 0;
}
