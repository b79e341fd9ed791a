/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps what an export has lost so that no moment of death loses an entry that counts.
 * Called by poison_set.c for each entry, and when an export is found after a restart.
 *
 * Always holds: the number of entries is written last. No mapping: a file that somebody
 * has shortened gives an error, not SIGBUS.
 */
#include "source/poison_log.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/units.h"

static struct poison_log_header header_of(const struct uuid *id, uint64_t n_pages)
{
	struct poison_log_header h = {
	        .head = kept_header_of(POISON_LOG_MAGIC, sizeof(h), id),
	        .n_pages = n_pages,
	        .counts_offset = WIRE_PAGE_SIZE,
	        .entries_offset = 2 * WIRE_PAGE_SIZE,
	};

	kept_header_sign(&h.head);
	return h;
}

int poison_log_new(const struct uuid *migration_id, uint64_t n_pages, struct poison_log **ret,
                   struct error *err)
{
	_cleanup_(cleanup_poison_log_free) struct poison_log *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return error_set_errno(err, -ENOMEM, "log of lost pages");
	l->header = header_of(migration_id, n_pages);
	l->fd = memfd_create("postcopy-sourced-poison", MFD_CLOEXEC);
	if (l->fd < 0 || ftruncate(l->fd, (off_t)l->header.entries_offset) < 0)
		return error_set_errno(err, -errno, "log of lost pages");
	r = kept_write(l->fd, &l->header, sizeof(l->header), 0);
	if (r < 0)
		return error_set_errno(err, r, "log of lost pages");
	*ret = TAKE_PTR(l);
	return 0;
}

static uint64_t entry_offset(const struct poison_log *l, uint64_t i)
{
	return l->header.entries_offset + i * sizeof(struct poison_log_entry);
}

/* What counts is there, and behind it at most what was being written. */
static int check_length(const struct poison_log *l, uint64_t file_bytes, struct error *err)
{
	uint64_t n = l->counts.n_entries;

	if (n <= l->header.n_pages && file_bytes >= entry_offset(l, n) &&
	    file_bytes <= entry_offset(l, n + 1))
		return 0;
	return error_set(err, -EBADMSG,
	                 "it should have %llu entries for %llu pages, but the file has %llu bytes",
	                 (unsigned long long)n, (unsigned long long)l->header.n_pages,
	                 (unsigned long long)file_bytes);
}

static int open_checked(struct poison_log *l, int fd, const struct uuid *id, uint64_t n_pages,
                        struct error *err)
{
	struct poison_log_header expected = header_of(id, n_pages);
	uint64_t file_bytes;
	int r = kept_header_read(fd, POISON_LOG_MAGIC, sizeof(l->header), &l->header.head,
	                         &file_bytes, err);

	if (r < 0)
		return r;
	if (!uuid_equal(&l->header.head.migration_id, id))
		return error_set(err, -EBADMSG, "it is that of another export");
	if (l->header.n_pages != n_pages || l->header.counts_offset != expected.counts_offset ||
	    l->header.entries_offset != expected.entries_offset)
		return error_set(err, -EBADMSG,
		                 "it is of %llu pages, with its numbers at %llu and its entries at "
		                 "%llu, expected %llu, %llu and %llu",
		                 (unsigned long long)l->header.n_pages,
		                 (unsigned long long)l->header.counts_offset,
		                 (unsigned long long)l->header.entries_offset,
		                 (unsigned long long)n_pages,
		                 (unsigned long long)expected.counts_offset,
		                 (unsigned long long)expected.entries_offset);
	r = kept_read(fd, &l->counts, sizeof(l->counts), l->header.counts_offset);
	return r < 0 ? error_set_errno(err, r, "read its numbers")
	             : check_length(l, file_bytes, err);
}

int poison_log_open(int fd, const struct uuid *migration_id, uint64_t n_pages,
                    struct poison_log **ret, struct error *err)
{
	struct poison_log *l = calloc(1, sizeof(*l));
	int r = l ? open_checked(l, fd, migration_id, n_pages, err)
	          : error_set_errno(err, -ENOMEM, "log of lost pages");

	if (r < 0) {
		free(l);
		error_prefix(err, "the log of its lost pages cannot be used");
		return r;
	}
	l->fd = fd;
	*ret = l;
	return 0;
}

struct poison_log *poison_log_free(struct poison_log *l)
{
	if (!l)
		return NULL;
	close_fd(&l->fd);
	free(l);
	return NULL;
}

static uint64_t entry_checksum(const struct poison_log_entry *e)
{
	return kept_checksum(KEPT_CHECKSUM_START, e, offsetof(struct poison_log_entry, checksum));
}

int poison_log_append(struct poison_log *l, const struct poison_log_entry *e)
{
	struct poison_log_entry signed_entry = *e;
	uint64_t n = l->counts.n_entries + 1;
	int r;

	signed_entry.checksum = entry_checksum(e);
	r = kept_write(l->fd, &signed_entry, sizeof(signed_entry), entry_offset(l, n - 1));
	/* Eight bytes in one page: a kill cannot tear them. */
	if (r == 0)
		r = kept_write(l->fd, &n, sizeof(n),
		               l->header.counts_offset +
		                       offsetof(struct poison_log_counts, n_entries));
	if (r == 0)
		l->counts.n_entries = n;
	return r;
}

int poison_log_read(const struct poison_log *l, uint64_t i, struct poison_log_entry *ret,
                    struct error *err)
{
	struct poison_log_entry e;
	int r = kept_read(l->fd, &e, sizeof(e), entry_offset(l, i));

	if (r < 0)
		return error_set_errno(err, r, "entry %llu of the log of its lost pages",
		                       (unsigned long long)i);
	if (e.checksum != entry_checksum(&e))
		return error_set(err, -EBADMSG,
		                 "entry %llu of the log of its lost pages has a wrong checksum",
		                 (unsigned long long)i);
	if (e.count == 0 || e.first >= l->header.n_pages || e.count > l->header.n_pages - e.first)
		return error_set(err, -EBADMSG,
		                 "entry %llu of the log of its lost pages is of pages %llu + %llu, "
		                 "and the export has %llu",
		                 (unsigned long long)i, (unsigned long long)e.first,
		                 (unsigned long long)e.count,
		                 (unsigned long long)l->header.n_pages);
	*ret = e;
	return 0;
}

void poison_log_audited(struct poison_log *l, uint64_t n_pages)
{
	l->counts.n_audited = n_pages;
	/* If that cannot be noted, the next agent writes these records again. */
	(void)kept_write(l->fd, &n_pages, sizeof(n_pages),
	                 l->header.counts_offset + offsetof(struct poison_log_counts, n_audited));
}
