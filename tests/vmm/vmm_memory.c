/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's RAM; called by both roles. Always holds: on the destination
 * nothing here touches it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/payload_image.h"
#include "vmm/vmm.h"

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#define HUGE_PAGE (UINT64_C(2) << 20)

static const char *const kind_names[] = {
        [MEMORY_MEMFD] = "memfd",
        [MEMORY_ANONYMOUS] = "anon",
        [MEMORY_HUGETLB] = "hugetlb",
};

int vmm_memory_parse(struct vmm_memory *m, const char *spec)
{
	const char *colon = strchr(spec, ':');
	uint64_t mib = colon ? strtoull(colon + 1, NULL, 10) : 0;

	if (mib < 4 || mib > GUEST_MEMORY_MAX >> 20 || mib % 2)
		return -EINVAL;
	for (size_t i = 0; i < sizeof(kind_names) / sizeof(kind_names[0]); i++) {
		if (strlen(kind_names[i]) != (size_t)(colon - spec) ||
		    strncmp(spec, kind_names[i], (size_t)(colon - spec)))
			continue;
		*m = (struct vmm_memory){
		        .kind = (enum memory_kind)i, .length = mib << 20, .fd = -1};
		return 0;
	}
	return -EINVAL;
}

int vmm_memory_map(struct vmm_memory *m)
{
	bool huge = m->kind == MEMORY_HUGETLB;
	int flags = MAP_SHARED;

	if (m->kind == MEMORY_ANONYMOUS) {
		flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	} else {
		m->fd = memfd_create("ram", MFD_CLOEXEC | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
		if (m->fd < 0 || ftruncate(m->fd, (off_t)m->length) < 0)
			return -errno;
	}
	m->address = mmap(NULL, m->length, PROT_READ | PROT_WRITE, flags, m->fd, 0);
	return m->address == MAP_FAILED ? -errno : 0;
}

uint64_t vmm_memory_page_size(const struct vmm_memory *m)
{
	return m->kind == MEMORY_HUGETLB ? HUGE_PAGE : GUEST_PAGE;
}

uint64_t vmm_memory_walk_pages(const struct vmm_memory *m)
{
	return (m->length - GUEST_WALK_START) / GUEST_PAGE;
}

uint64_t vmm_page_gpa(uint64_t page)
{
	return GUEST_WALK_START + page * GUEST_PAGE;
}

struct postcopy_region vmm_memory_region(const struct vmm_memory *m)
{
	static const enum postcopy_backing backings[] = {
	        [MEMORY_MEMFD] = POSTCOPY_BACKING_MEMFD,
	        [MEMORY_ANONYMOUS] = POSTCOPY_BACKING_ANONYMOUS,
	        [MEMORY_HUGETLB] = POSTCOPY_BACKING_HUGETLB,
	};

	return (struct postcopy_region){
	        .name = "ram0",
	        .address = m->address,
	        .length = m->length,
	        .page_size = vmm_memory_page_size(m),
	        .backing = backings[m->kind],
	        .mode = POSTCOPY_MODE_MISSING,
	        .memory_fd = m->fd,
	};
}

struct poison_region vmm_memory_poison(const struct vmm_memory *m)
{
	return (struct poison_region){vmm_memory_walk_pages(m),
	                              vmm_memory_page_size(m) / GUEST_PAGE};
}

int vmm_memory_fail(const struct vmm_memory *m, uint64_t page)
{
	return driven_page_fail(m->address + vmm_page_gpa(page));
}

int vmm_memory_load_guest(const struct vmm_memory *m, unsigned n_vcpus, uint64_t seed)
{
	struct guest_head *head = (struct guest_head *)(void *)(m->address + GUEST_LOAD);

	memcpy(head, payload_image, (uintptr_t)payload_image_end - (uintptr_t)payload_image);
	if (head->magic != GUEST_MAGIC)
		return -ENOEXEC;
	head->n_pages = vmm_memory_walk_pages(m);
	head->n_vcpus = n_vcpus;
	head->seed = seed;
	return 0;
}

size_t vmm_memory_guest_damage(const struct vmm_memory *m)
{
	const struct guest_head *head = (const struct guest_head *)(const void *)payload_image;
	size_t n_bad = 0;

	/* From the page tables on the guest, or the processor, writes to it. */
	for (uint64_t i = sizeof(*head); i < head->page_tables - GUEST_LOAD; i++)
		n_bad += m->address[GUEST_LOAD + i] != payload_image[i];
	return n_bad;
}
