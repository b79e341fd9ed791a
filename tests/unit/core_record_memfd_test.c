/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of core/record_memfd.h: wherever a daemon dies while it writes, the next
 * one finds the record that was written or the one before it, whole; what is no record
 * is refused with a text that says why, and is left alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/record_memfd.h"
#include "core/units.h"

static const struct uuid id = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};

/*
 * Death in the middle of a write: every pwrite() of this program comes here. After
 * so many bytes the rest is lost, and so is everything after it.
 */
static size_t bytes_to_live = SIZE_MAX;
static size_t bytes_a_call = SIZE_MAX;
static bool dead;

ssize_t pwrite(int fd, const void *buf, size_t count, off_t offset)
{
	size_t n = MIN(count, bytes_a_call);

	if (dead) {
		errno = EIO;
		return -1;
	}
	if (n > bytes_to_live) {
		dead = true;
		if (bytes_to_live > 0)
			syscall(SYS_pwrite64, fd, buf, bytes_to_live, offset);
		errno = EIO;
		return -1;
	}
	if (bytes_to_live != SIZE_MAX)
		bytes_to_live -= n;
	return syscall(SYS_pwrite64, fd, buf, n, offset);
}

static void live(void)
{
	dead = false;
	bytes_to_live = bytes_a_call = SIZE_MAX;
}

static struct record_memfd *record_new(void)
{
	struct record_memfd *r = NULL;

	assert_int_equal(record_memfd_new(&id, &r, NULL), 0);
	return r;
}

/* As the next daemon: of the file, and nothing else. */
static struct record_memfd *record_again(const struct record_memfd *r)
{
	struct record_memfd *again = NULL;
	struct error err = {0};

	if (record_memfd_open(dup(r->fd), &id, &again, &err) < 0)
		fail_msg("%s", err.text);
	return again;
}

static void write_text(struct record_memfd *r, const char *text)
{
	assert_int_equal(record_memfd_write(r, text, strlen(text), NULL), 0);
}

static bool reads(const struct record_memfd *r, const char *text)
{
	_cleanup_free_ uint8_t *bytes = NULL;
	size_t len;

	assert_int_equal(record_memfd_read(r, &bytes, &len, NULL), 0);
	return len == strlen(text) && memcmp(bytes, text, len) == 0;
}

static void the_newest_is_read(void **state)
{
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = record_new();

	(void)state;
	assert_int_not_equal(fcntl(r->fd, F_GETFD) & FD_CLOEXEC, 0);
	for (int i = 0; i < 10; i++) {
		_cleanup_(cleanup_record_memfd_free) struct record_memfd *again = NULL;
		char text[32];

		snprintf(text, sizeof(text), "%.*s record %d", i % 3 * 4, "long long", i);
		write_text(r, text);
		assert_true(reads(r, text));
		again = record_again(r);
		assert_true(uuid_equal(&again->header.head.migration_id, &id));
		assert_true(reads(again, text));
		if (i % 2) { /* and the next daemon writes on */
			write_text(again, "by another");
			assert_true(reads(again, "by another"));
			record_memfd_free(TAKE_PTR(r));
			r = TAKE_PTR(again);
		}
	}
	assert_null(record_memfd_free(NULL));
}

static void up_to_the_limit(void **state)
{
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = record_new();
	static uint8_t big[RECORD_BYTES_MAX + 1];
	struct error err = {0};

	(void)state;
	memset(big, 0xa5, sizeof(big));
	for (int i = 0; i < 3; i++) { /* both slots full: none runs into the other */
		_cleanup_free_ uint8_t *bytes = NULL;
		size_t len;

		big[0] = (uint8_t)i;
		assert_int_equal(record_memfd_write(r, big, RECORD_BYTES_MAX, NULL), 0);
		assert_int_equal(record_memfd_read(r, &bytes, &len, NULL), 0);
		assert_int_equal(len, RECORD_BYTES_MAX);
		assert_memory_equal(bytes, big, len);
	}
	assert_int_equal(record_memfd_write(r, big, sizeof(big), &err), -EMSGSIZE);
	assert_non_null(strstr(err.text, "1048577 bytes: expected 1 to 1048576"));
	assert_int_equal(record_memfd_write(r, big, 0, &err), -EMSGSIZE);
	record_memfd_free(record_again(r));
}

/* The kernel may take less than it was given. */
static void short_writes(void **state)
{
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = NULL;

	(void)state;
	bytes_a_call = 7;
	r = record_new();
	write_text(r, "seven bytes at a time");
	live();
	assert_true(reads(r, "seven bytes at a time"));
	record_memfd_free(record_again(r));
}

static const char *const texts[] = {"the first", "the second, and a longer one", "third",
                                    "the fourth, in the place of another"};

/* Records 0 .. i - 1 are written, and i for n bytes. True if that was all of it. */
static bool died_at(size_t i, size_t n)
{
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = record_new();
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *next = NULL;
	struct error err = {0};
	bool done;

	for (size_t k = 0; k < i; k++)
		write_text(r, texts[k]);
	bytes_to_live = n;
	done = record_memfd_write(r, texts[i], strlen(texts[i]), &err) == 0;
	assert_true(done == !dead && (done || strstr(err.text, "write the migration record")));
	live();
	next = record_again(r);
	assert_true(reads(next, texts[i]) || (!done && reads(next, texts[i - 1])));
	write_text(next, "life goes on");
	assert_true(reads(next, "life goes on"));
	record_memfd_free(TAKE_PTR(next));
	next = record_again(r);
	assert_true(reads(next, "life goes on"));
	return done;
}

static void death_at_every_byte(void **state)
{
	(void)state;
	for (size_t i = 1; i < ARRAY_SIZE(texts); i++) {
		size_t n = 0;

		while (!died_at(i, n))
			n++;
		assert_int_equal(n, strlen(texts[i]) + sizeof(struct record_slot));
	}
}

/* There is no record before the first: then none is found, not half of one. */
static void death_in_the_first(void **state)
{
	size_t all = strlen(texts[0]) + sizeof(struct record_slot);

	(void)state;
	for (size_t n = 0; n <= all; n++) {
		_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = record_new();
		_cleanup_(cleanup_record_memfd_free) struct record_memfd *next = NULL;
		_cleanup_close_ int fd = dup(r->fd);
		struct error err = {0};

		bytes_to_live = n;
		assert_int_equal(record_memfd_write(r, texts[0], strlen(texts[0]), NULL) == 0,
		                 n == all);
		live();
		if (record_memfd_open(fd, &id, &next, &err) == 0) {
			(void)TAKE_FD(fd);
			assert_true(reads(next, texts[0]));
		} else {
			assert_true(n < all);
			assert_non_null(strstr(err.text, "neither copy of it is whole"));
		}
	}
}

/* A write that failed (memory) costs nothing: the same daemon writes again. */
static void failure_is_not_death(void **state)
{
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = record_new();

	(void)state;
	write_text(r, "kept");
	for (size_t n = 0; n < 10 + sizeof(struct record_slot) - sizeof(uint64_t); n++) {
		bytes_to_live = n;
		assert_true(record_memfd_write(r, "lost, lost", 10, NULL) < 0);
		live();
		assert_true(reads(r, "kept"));
	}
	write_text(r, "written");
	assert_true(reads(r, "written"));
}

struct big_record {
	uint64_t number;
	uint8_t bytes[200000];
};

static size_t big_fill(struct big_record *b, uint64_t number)
{
	size_t len = 20000 + number * 7919 % 180000;

	b->number = number;
	memset(b->bytes, (int)(number % 251), len);
	return sizeof(b->number) + len;
}

static void write_until_killed(struct record_memfd *r, int pipe_fd)
{
	static struct big_record b;

	for (uint64_t number = 1;; number++) {
		size_t len = big_fill(&b, number);

		if (record_memfd_write(r, &b, len, NULL) < 0 ||
		    write(pipe_fd, &number, sizeof(number)) != sizeof(number))
			_exit(1);
	}
}

/* Let a process write records until so many are done, kill it; the last that it has told of. */
static uint64_t killed_after(struct record_memfd *r, uint64_t n)
{
	uint64_t number = 0;
	int pipes[2], status;
	pid_t pid;

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		write_until_killed(r, pipes[1]);
	close(pipes[1]);
	while (number < n)
		assert_int_equal(read(pipes[0], &number, sizeof(number)), sizeof(number));
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	while (read(pipes[0], &number, sizeof(number)) == sizeof(number))
		;
	close(pipes[0]);
	return number;
}

static void kill_minus_nine(void **state)
{
	static struct big_record expected;

	(void)state;
	for (uint64_t round = 0; round < 40; round++) {
		_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = record_new();
		_cleanup_(cleanup_record_memfd_free) struct record_memfd *next = NULL;
		uint64_t number = killed_after(r, 1 + round % 8);
		_cleanup_free_ uint8_t *bytes = NULL;
		size_t len;

		next = record_again(r);
		assert_int_equal(record_memfd_read(next, &bytes, &len, NULL), 0);
		if (((struct big_record *)(void *)bytes)->number == number + 1)
			number++; /* killed before it could tell */
		assert_int_equal(len, big_fill(&expected, number));
		assert_memory_equal(bytes, &expected, len);
	}
}

/* Refused, with this text; the descriptor stays the caller's. Closes it. */
static void refuse(int fd, int code, const char *text)
{
	struct record_memfd *r = NULL;
	struct error err = {0};

	assert_true(fd >= 0);
	assert_int_equal(record_memfd_open(fd, &id, &r, &err), code);
	assert_null(r);
	assert_int_equal(err.code, code);
	if (!strstr(err.text, text) || !strstr(err.text, "its guest keeps waiting"))
		fail_msg("\"%s\" does not say \"%s\"", err.text, text);
	assert_int_equal(close(fd), 0);
}

static int file_of(const void *bytes, size_t len)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, len), len);
	return fd;
}

static void another_file(void **state)
{
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = record_new();
	struct kept_header head = kept_header_of("PCPYSTA1", sizeof(head), &id);
	char other[100] = "";
	static const char zeros[100];
	int pipes[2];

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	refuse(pipes[0], -EINVAL, "is not a memory file");
	refuse(pipes[1], -EINVAL, "is not a memory file");
	refuse(open("/dev/null", O_RDWR | O_CLOEXEC), -EINVAL, "is not a memory file");
	refuse(file_of("", 0), -EBADMSG, "it has 0 bytes, less than a header of 64");
	refuse(file_of(&r->header, 63), -EBADMSG, "it has 63 bytes");
	refuse(file_of(zeros, sizeof(zeros)), -EBADMSG, "it does not begin with PCPYREC1");
	kept_header_sign(&head);
	memcpy(other, &head, sizeof(head));
	refuse(file_of(other, sizeof(other)), -EBADMSG, "it does not begin with PCPYREC1");
	refuse(dup(r->fd), -EBADMSG, "the first was never written, the second was never written");
}

/* A good record, with two writes, of which the header is changed. */
static int damaged(void (*damage)(struct record_header *h), bool sign)
{
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = record_new();
	struct record_header h = r->header;

	write_text(r, "one");
	write_text(r, "two");
	damage(&h);
	if (sign)
		kept_header_sign(&h.head);
	assert_int_equal(pwrite(r->fd, &h, sizeof(h), 0), sizeof(h));
	return dup(r->fd);
}

static void make_magic(struct record_header *h)
{
	h->head.magic[7] = '2';
}

static void make_newer(struct record_header *h)
{
	h->head.version = KEPT_VERSION + 1;
}

static void make_unversioned(struct record_header *h)
{
	h->head.version = 0;
}

static void make_longer(struct record_header *h)
{
	h->head.header_bytes = UINT32_MAX;
}

static void make_another(struct record_header *h)
{
	h->head.migration_id.bytes[3] ^= 1;
}

static void make_empty(struct record_header *h)
{
	h->slot_capacity = 0;
}

static void make_huge(struct record_header *h)
{
	h->slot_capacity = RECORD_BYTES_MAX + 1;
}

static void make_overlap(struct record_header *h)
{
	h->slot_offset[1] = h->slot_offset[0] + h->slot_capacity;
}

static void make_in_header(struct record_header *h)
{
	h->slot_offset[0] = sizeof(*h) - 1;
}

static void make_outside(struct record_header *h)
{
	h->slot_offset[1] += WIRE_PAGE_SIZE;
}

static void make_wrap(struct record_header *h)
{
	h->slot_offset[1] = UINT64_MAX - 8;
}

static void bad_header(void **state)
{
	(void)state;
	refuse(damaged(make_magic, true), -EBADMSG, "does not begin with PCPYREC1");
	refuse(damaged(make_newer, true), -EPROTONOSUPPORT,
	       "written by a newer version (format 2, this one reads up to 1): install that "
	       "version again");
	refuse(damaged(make_newer, false), -EPROTONOSUPPORT, "newer version");
	refuse(damaged(make_unversioned, true), -EPROTONOSUPPORT, "too old (format 0");
	refuse(damaged(make_longer, false), -EBADMSG, "its header has 4294967295 bytes");
	refuse(damaged(make_another, false), -EBADMSG, "its header's checksum is 0x");
	refuse(damaged(make_another, true), -EBADMSG, "it is that of another migration");
	refuse(damaged(make_overlap, false), -EBADMSG, "its header's checksum is 0x");
	refuse(damaged(make_empty, true), -EBADMSG, "it has room for 0 bytes");
	refuse(damaged(make_huge, true), -EBADMSG, "it has room for 1048577 bytes");
	refuse(damaged(make_overlap, true), -EBADMSG, "its two copies overlap");
	refuse(damaged(make_in_header, true), -EBADMSG, "copy 1 of it should lie at offset 63");
	refuse(damaged(make_outside, true), -EBADMSG, "copy 2 of it should lie at offset");
	refuse(damaged(make_wrap, true), -EBADMSG, "copy 2 of it should lie at offset");
}

static void poke(const struct record_memfd *r, unsigned slot, size_t at, const void *bytes,
                 size_t len)
{
	assert_int_equal(pwrite(r->fd, bytes, len, (off_t)(r->header.slot_offset[slot] + at)), len);
}

/* Slot 0 has "three", 1 has "two". */
static struct record_memfd *two_records(void)
{
	struct record_memfd *r = record_new();

	write_text(r, "one");
	write_text(r, "two");
	write_text(r, "three");
	return r;
}

static void one_bad_slot(void **state)
{
	static const struct {
		size_t at;
		uint64_t value;
	} bad[] = {
	        {offsetof(struct record_slot, length_bytes), 0},
	        {offsetof(struct record_slot, length_bytes), 4},
	        {offsetof(struct record_slot, length_bytes), UINT64_MAX},
	        {offsetof(struct record_slot, checksum), 1},
	        {sizeof(struct record_slot), 0x6565726854}, /* "Three" */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = two_records();
		_cleanup_(cleanup_record_memfd_free) struct record_memfd *next = NULL;

		poke(r, 1, bad[i].at, &bad[i].value, 8);
		next = record_again(r);
		assert_true(reads(next, "three"));
		write_text(next, "four");
		assert_true(reads(next, "four"));
		assert_int_equal(next->newest, 1); /* "three" was not overwritten */
	}
}

/*
 * Damage in the newest one, or in a number: the one before would be taken for it, with
 * what has happened since forgotten. A death leaves neither.
 */
static void newest_slot_bad(void **state)
{
	static const struct {
		unsigned slot;
		size_t at;
		uint64_t value;
		const char *says;
	} bad[] = {
	        {1, offsetof(struct record_slot, length_bytes), 0, "has an impossible length"},
	        {1, offsetof(struct record_slot, checksum), 1, "has a wrong checksum"},
	        {1, sizeof(struct record_slot), 0x6f6f77, "has a wrong checksum"},
	        {1, offsetof(struct record_slot, sequence), 9, "numbers 3 and 9"},
	        {1, offsetof(struct record_slot, sequence), 0, "numbers 3 and 0"},
	        {0, offsetof(struct record_slot, sequence), 7, "numbers 7 and 4"},
	        {0, offsetof(struct record_slot, sequence), 0, "numbers 0 and 4"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = two_records();

		write_text(r, "four");
		poke(r, bad[i].slot, bad[i].at, &bad[i].value, 8);
		refuse(dup(r->fd), -EBADMSG, bad[i].says);
	}
}

static void both_slots_bad(void **state)
{
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = two_records();
	struct record_memfd *next = record_again(r);
	struct error err = {0};
	const uint64_t large = RECORD_BYTES_MAX + 1;
	uint8_t *bytes = NULL;
	size_t len;

	(void)state;
	poke(r, 0, offsetof(struct record_slot, length_bytes), &large, 8);
	poke(r, 1, sizeof(struct record_slot), "T", 1);
	refuse(dup(r->fd), -EBADMSG,
	       "the first has an impossible length, the second has a wrong checksum");
	assert_int_equal(record_memfd_read(next, &bytes, &len, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "neither copy"));
	assert_null(bytes);
	record_memfd_free(next);
}

/* Also while it is open: an error, not a signal. */
static void shorter_file(void **state)
{
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = two_records();
	off_t all = lseek(r->fd, 0, SEEK_END);
	struct error err = {0};
	uint8_t *bytes;
	size_t len;

	(void)state;
	assert_int_equal(ftruncate(r->fd, all - 1), 0);
	refuse(dup(r->fd), -EBADMSG, "copy 2 of it should lie at offset");
	assert_int_equal(ftruncate(r->fd, (off_t)r->header.slot_offset[0] + 26), 0);
	refuse(dup(r->fd), -EBADMSG, "copy 1 of it should lie at offset");
	assert_int_equal(record_memfd_read(r, &bytes, &len, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "the first cannot be read to its end, the second cannot "
	                                 "be read"));
	assert_int_equal(ftruncate(r->fd, 0), 0);
	assert_int_equal(record_memfd_read(r, &bytes, &len, &err), -EBADMSG);
	refuse(dup(r->fd), -EBADMSG, "it has 0 bytes");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(the_newest_is_read), cmocka_unit_test(up_to_the_limit),
	        cmocka_unit_test(short_writes),       cmocka_unit_test(death_at_every_byte),
	        cmocka_unit_test(death_in_the_first), cmocka_unit_test(failure_is_not_death),
	        cmocka_unit_test(kill_minus_nine),    cmocka_unit_test(another_file),
	        cmocka_unit_test(bad_header),         cmocka_unit_test(one_bad_slot),
	        cmocka_unit_test(newest_slot_bad),    cmocka_unit_test(both_slots_bad),
	        cmocka_unit_test(shorter_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
