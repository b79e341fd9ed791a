/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the header of a memfd that outlives the program, written and checked. Called
 * by record_memfd.c, state_memfd.c and poison_log.c.
 *
 * Always holds: a file is read by pread() here, never through a mapping, so that no
 * file, however short, is more than an error.
 */
#include "core/kept_memfd.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/fdpass.h"

uint64_t kept_checksum(uint64_t so_far, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	for (size_t i = 0; i < len; i++)
		so_far = (so_far ^ p[i]) * UINT64_C(0x100000001b3);
	return so_far;
}

static uint64_t header_checksum(const struct kept_header *h)
{
	struct kept_header head = *h;
	uint64_t sum;

	head.checksum = 0;
	sum = kept_checksum(KEPT_CHECKSUM_START, &head, sizeof(head));
	return kept_checksum(sum, h + 1, h->header_bytes - sizeof(*h));
}

struct kept_header kept_header_of(const char magic[8], uint32_t header_bytes,
                                  const struct uuid *migration_id)
{
	struct kept_header h = {
	        .version = KEPT_VERSION,
	        .header_bytes = header_bytes,
	        .migration_id = *migration_id,
	};

	memcpy(h.magic, magic, sizeof(h.magic));
	return h;
}

void kept_header_sign(struct kept_header *h)
{
	h->checksum = header_checksum(h);
}

int kept_read(int fd, void *buf, size_t len, uint64_t offset)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));

		if (n == 0)
			return -ENODATA;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return 0;
}

int kept_write(int fd, const void *buf, size_t len, uint64_t offset)
{
	for (size_t done = 0; done < len;) {
		ssize_t n =
		        pwrite(fd, (const char *)buf + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return 0;
}

/* The one place that says who can read what. */
static int check_version(uint32_t version, struct error *err)
{
	if (version > KEPT_VERSION)
		return error_set(
		        err, -EPROTONOSUPPORT,
		        "it was written by a newer version (format %u, this one reads up to "
		        "%d): install that version again and restart the service",
		        version, KEPT_VERSION);
	if (version == 0 || version + 1 < KEPT_VERSION)
		return error_set(err, -EPROTONOSUPPORT,
		                 "it was written by a version that is too old (format %u, this one "
		                 "reads %d and the one before it): install a version in "
		                 "between and restart the service",
		                 version, KEPT_VERSION);
	return 0;
}

static int check_header(const struct kept_header *h, const char magic[8], uint32_t header_bytes,
                        struct error *err)
{
	int r;

	if (memcmp(h->magic, magic, sizeof(h->magic)) != 0)
		return error_set(err, -EBADMSG, "it does not begin with %.8s: it is another file",
		                 magic);
	r = check_version(h->version, err);
	if (r < 0)
		return r;
	if (h->header_bytes != header_bytes)
		return error_set(err, -EBADMSG, "its header has %u bytes, expected %u",
		                 h->header_bytes, header_bytes);
	if (h->checksum != header_checksum(h))
		return error_set(
		        err, -EBADMSG, "its header's checksum is 0x%016llx, expected 0x%016llx",
		        (unsigned long long)h->checksum, (unsigned long long)header_checksum(h));
	return 0;
}

int kept_header_read(int fd, const char magic[8], uint32_t header_bytes, struct kept_header *h,
                     uint64_t *ret_file_bytes, struct error *err)
{
	struct stat st;
	int r;

	if (!fd_is_memory_file(fd))
		return error_set(err, -EINVAL, "descriptor %d is not a memory file", fd);
	if (fstat(fd, &st) < 0)
		return error_set_errno(err, -errno, "fstat of descriptor %d", fd);
	r = kept_read(fd, h, header_bytes, 0);
	if (r == -ENODATA)
		return error_set(err, -EBADMSG, "it has %lld bytes, less than a header of %u",
		                 (long long)st.st_size, header_bytes);
	if (r < 0)
		return error_set_errno(err, r, "read its header");
	r = check_header(h, magic, header_bytes, err);
	if (r == 0)
		*ret_file_bytes = (uint64_t)st.st_size;
	return r;
}
