/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of source/poison_log.h and of a poison set that is kept: wherever an agent
 * dies, the next one knows every lost page that anybody was told of, with its reason and
 * time, and what the journal has of them; nobody is told of one before it is kept; what
 * is no such log is refused with a text that says why, and is left alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "source/poison_set.h"

#define PAGES 4096
#define ENTRIES (2 * 4096)

static const struct uuid id = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};
static struct source_region regions[] = {
        {.name = "a", .first_page = 0, .n_pages = 100},
        {.name = "b", .first_page = 100, .n_pages = PAGES - 100},
};
static const struct region_table table = {.regions = regions, .n_regions = 2, .n_pages = PAGES};

/*
 * Death in the middle of a write: every pwrite() of this program comes here. After so
 * many bytes the rest is lost, and so is everything after it.
 */
static size_t bytes_to_live = SIZE_MAX;
static bool dead;
static const struct poison_set *watched; /* at each write: is the page lost already? */
static uint64_t watched_page;
static bool seen_too_early;

ssize_t pwrite(int fd, const void *buf, size_t count, off_t offset)
{
	if (watched && poison_set_test(watched, watched_page))
		seen_too_early = true;
	if (!dead && count <= bytes_to_live) {
		if (bytes_to_live != SIZE_MAX)
			bytes_to_live -= count;
		return syscall(SYS_pwrite64, fd, buf, count, offset);
	}
	if (!dead && bytes_to_live > 0)
		syscall(SYS_pwrite64, fd, buf, bytes_to_live, offset);
	dead = true;
	errno = EIO;
	return -1;
}

static void live(void)
{
	dead = false;
	bytes_to_live = SIZE_MAX;
}

static struct poison_set *set_new(struct poison_log **ret)
{
	struct poison_set *s;

	assert_int_equal(poison_set_new(&table, &s), 0);
	assert_int_equal(poison_log_new(&id, PAGES, ret, NULL), 0);
	assert_int_equal(poison_set_keep(s, *ret, NULL), 0);
	return s;
}

/* As the next agent: of the file, and nothing else. */
static int set_open(int fd, struct poison_set **ret, struct error *err)
{
	_cleanup_(cleanup_poison_set_free) struct poison_set *s = NULL;
	_cleanup_(cleanup_poison_log_free) struct poison_log *log = NULL;
	int r;

	assert_int_equal(poison_set_new(&table, &s), 0);
	r = poison_log_open(fd, &id, PAGES, &log, err);
	if (r < 0)
		return r;
	r = poison_set_keep(s, log, err);
	if (r < 0) {
		log->fd = -1; /* the caller's again */
		return r;
	}
	log = NULL;
	*ret = TAKE_PTR(s);
	return 0;
}

static struct poison_set *set_again(int fd)
{
	struct poison_set *s = NULL;
	struct error err = {0};

	if (set_open(dup(fd), &s, &err) < 0)
		fail_msg("%s", err.text);
	return s;
}

static void add(struct poison_set *s, uint64_t first, uint64_t count, enum poison_reason reason,
                enum poison_reporter by)
{
	assert_int_equal(poison_set_add(s, first, count, reason, by, NULL), 0);
}

static void fill(struct poison_set *s)
{
	add(s, 5, 3, POISON_REASON_REPORTED, POISON_BY_VMM);
	add(s, 4, 6, POISON_REASON_READ_ERROR, POISON_BY_READ); /* 4, 8 and 9 are new */
	add(s, 99, 1, POISON_REASON_READ_ERROR, POISON_BY_READ);
	add(s, 100, 2, POISON_REASON_READ_ERROR, POISON_BY_READ); /* of the next region */
	add(s, 102, 5, POISON_REASON_READ_ERROR, POISON_BY_READ); /* goes on there */
	add(s, 1000, 1, POISON_REASON_REPORTED, POISON_BY_OPERATOR);
}

static void check_same(struct poison_set *a, struct poison_set *b)
{
	_cleanup_free_ struct poison_entry *ea = NULL, *eb = NULL;
	size_t na, nb;

	assert_int_equal(poison_set_copy(a, &ea, &na), 0);
	assert_int_equal(poison_set_copy(b, &eb, &nb), 0);
	assert_int_equal(na, nb);
	for (size_t i = 0; i < na; i++) {
		assert_int_equal(ea[i].first, eb[i].first);
		assert_int_equal(ea[i].count, eb[i].count);
		assert_int_equal(ea[i].before, eb[i].before);
		assert_int_equal(ea[i].time_us, eb[i].time_us);
		assert_int_equal(ea[i].reason, eb[i].reason);
		assert_int_equal(ea[i].by, eb[i].by);
	}
	for (uint64_t page = 0; page < PAGES; page++)
		assert_int_equal(poison_set_test(a, page), poison_set_test(b, page));
	assert_int_equal(poison_set_count(a), poison_set_count(b));
}

static void test_comes_back(void **state)
{
	struct poison_log *log;
	struct poison_set *s = set_new(&log), *again;

	(void)state;
	again = set_again(log->fd); /* an empty one, too */
	assert_int_equal(poison_set_count(again), 0);
	poison_set_free(again);
	fill(s);
	poison_set_audited(s, 7);
	again = set_again(log->fd);
	check_same(s, again);
	poison_set_free(s);
	/* It is kept on, by the second agent for the third. */
	add(again, 2000, 9, POISON_REASON_REPORTED, POISON_BY_VMM);
	assert_int_equal(poison_set_count(again), 24);
	poison_set_free(again);
}

static void test_the_next_one_goes_on(void **state)
{
	struct poison_log *log, *log2, *log3;
	struct poison_set *s = set_new(&log), *second, *third;

	(void)state;
	fill(s);
	poison_set_audited(s, 7);
	assert_int_equal(poison_log_open(dup(log->fd), &id, PAGES, &log2, NULL), 0);
	assert_int_equal(log2->counts.n_audited, 7);
	assert_int_equal(poison_set_new(&table, &second), 0);
	assert_int_equal(poison_set_keep(second, log2, NULL), 0);
	add(second, 7, 2000, POISON_REASON_REPORTED, POISON_BY_VMM);
	poison_set_audited(second, 9);
	assert_int_equal(poison_log_open(dup(log2->fd), &id, PAGES, &log3, NULL), 0);
	assert_int_equal(log3->counts.n_audited, 9);
	assert_int_equal(poison_set_new(&table, &third), 0);
	assert_int_equal(poison_set_keep(third, log3, NULL), 0);
	check_same(second, third);
	poison_set_free(s);
	poison_set_free(second);
	poison_set_free(third);
}

/* Cut off after each byte that is ever written. */
static void test_death_at_any_byte(void **state)
{
	size_t budget = 0;
	bool finished = false;

	(void)state;
	for (; !finished; budget++) {
		struct poison_log *log;
		struct poison_set *s = set_new(&log), *again;
		uint64_t known = 0;

		bytes_to_live = budget;
		for (uint64_t i = 0; i < 4 && !dead; i++) {
			uint64_t page = 10 * i;

			if (poison_set_add(s, page, 3, POISON_REASON_REPORTED, POISON_BY_VMM,
			                   NULL) == 0)
				known += 3;
			else
				assert_false(poison_set_test(s, page));
			if (!dead)
				poison_set_audited(s, known - 1);
		}
		finished = !dead;
		live();
		again = set_again(log->fd);
		/* What was being entered may have come in, whole. */
		assert_true(poison_set_count(again) == known ||
		            poison_set_count(again) == known + 3);
		for (uint64_t n = 0; n < known / 3; n++)
			assert_true(poison_set_test(again, 10 * n + 2));
		add(again, 500, 1, POISON_REASON_REPORTED, POISON_BY_VMM);
		poison_set_free(again);
		again = set_again(log->fd); /* and the rest of what was cut off is no trouble */
		assert_true(poison_set_test(again, 500));
		poison_set_free(again);
		poison_set_free(s);
	}
	assert_true(budget > 4 * sizeof(struct poison_log_entry));
}

/* A real kill at a random moment, of a process that tells what it was told. */
static void test_killed(void **state)
{
	(void)state;
	for (int round = 0; round < 40; round++) {
		struct poison_log *log;
		struct poison_set *s = set_new(&log), *again;
		_Atomic uint64_t *told =
		        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		pid_t pid = fork();

		if (pid == 0) {
			for (uint64_t i = 0; i < PAGES - 200; i += 2) {
				if (poison_set_add(s, 100 + i, 1, POISON_REASON_READ_ERROR,
				                   POISON_BY_READ, NULL) == 0)
					*told = i + 2;
			}
			pause();
		}
		while (*told < (uint64_t)round * 20)
			;
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		again = set_again(log->fd);
		for (uint64_t i = 0; i < *told; i += 2)
			assert_true(poison_set_test(again, 100 + i));
		assert_true(poison_set_count(again) - *told / 2 <= 1);
		munmap((void *)told, 4096);
		poison_set_free(again);
		poison_set_free(s);
	}
}

static void test_kept_before_it_is_known(void **state)
{
	struct poison_log *log;
	struct poison_set *s = set_new(&log);

	(void)state;
	watched = s;
	watched_page = 42;
	add(s, 40, 5, POISON_REASON_REPORTED, POISON_BY_VMM);
	watched = NULL;
	assert_true(poison_set_test(s, 42));
	assert_false(seen_too_early);
	poison_set_free(s);
}

static void *adder(void *arg)
{
	struct poison_set *s = arg;

	for (uint64_t page = 100; page < PAGES; page++)
		if (page % 3)
			add(s, page, 1, POISON_REASON_READ_ERROR, POISON_BY_READ);
	return NULL;
}

static void test_several_threads(void **state)
{
	struct poison_log *log;
	struct poison_set *s = set_new(&log), *again;
	pthread_t threads[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, adder, s);
	for (uint64_t n = 0; n < 1000; n++)
		poison_set_audited(s, MIN(n, poison_set_count(s)));
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	again = set_again(log->fd);
	check_same(s, again);
	poison_set_free(again);
	poison_set_free(s);
}

/* The bytes of a file in another. */
static int copy_of(int fd)
{
	int copy = memfd_create("copy", MFD_CLOEXEC);
	uint8_t buf[3 * 4096];
	ssize_t n = pread(fd, buf, sizeof(buf), 0);

	assert_true(n > 0 && n < (ssize_t)sizeof(buf));
	assert_int_equal(syscall(SYS_pwrite64, copy, buf, n, 0), n);
	return copy;
}

static void refused(int fd, const char *text)
{
	struct poison_set *s = NULL;
	struct error err = {0};
	struct stat before, after;

	assert_int_equal(fstat(fd, &before), 0);
	assert_true(set_open(fd, &s, &err) < 0);
	if (!strstr(err.text, text))
		fail_msg("\"%s\" does not say \"%s\"", err.text, text);
	assert_int_equal(fstat(fd, &after), 0); /* it is open, and as it was */
	assert_int_equal(before.st_size, after.st_size);
	close(fd);
}

static void flip(int fd, off_t offset)
{
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, offset), 1);
	byte ^= 0x10;
	assert_int_equal(syscall(SYS_pwrite64, fd, &byte, 1, offset), 1);
}

static void put(int fd, off_t offset, const void *value, size_t len)
{
	assert_int_equal(syscall(SYS_pwrite64, fd, value, len, offset), len);
}

/* Nothing of it may be wrong without being seen: a lost page would become readable. */
static void test_every_byte_counts(void **state)
{
	struct poison_log *log;
	struct poison_set *s = set_new(&log);
	struct stat st;

	(void)state;
	fill(s);
	poison_set_audited(s, 3);
	assert_int_equal(fstat(log->fd, &st), 0);
	for (off_t at = 0; at < st.st_size; at++) {
		bool header = at < (off_t)sizeof(struct poison_log_header);
		bool counts = at >= 4096 && at < 4096 + (off_t)sizeof(struct poison_log_counts);
		int copy;

		if (!header && !counts && at < ENTRIES)
			continue; /* nothing is there */
		copy = copy_of(log->fd);
		flip(copy, at);
		refused(copy, "");
	}
	for (off_t len = 0; len < st.st_size; len += 7) {
		int copy = copy_of(log->fd);

		assert_int_equal(ftruncate(copy, len), 0);
		refused(copy, "");
	}
	poison_set_free(s);
}

static void test_what_it_says(void **state)
{
	static const struct uuid other = {{9}};
	struct poison_log *log, *wrong;
	struct poison_set *s = set_new(&log), *of_other;
	struct error err = {0};
	uint64_t number;
	int copy;

	(void)state;
	fill(s);
	copy = copy_of(log->fd);
	number = 4;
	put(copy, 4096, &number, sizeof(number));
	refused(copy, "it should have 4 entries for 4096 pages, but the file has");
	copy = copy_of(log->fd);
	number = 16;
	put(copy, 4096 + 8, &number, sizeof(number));
	refused(copy, "has 15, but says that the journal has 16");
	copy = copy_of(log->fd);
	flip(copy, ENTRIES + 2 * 40 + 1);
	refused(copy, "entry 2 of the log of its lost pages has a wrong checksum");
	refused(open("/dev/null", O_RDWR), "is not a memory file");

	assert_int_equal(poison_log_open(log->fd, &other, PAGES, &wrong, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "it is that of another export"));
	assert_int_equal(poison_log_open(log->fd, &id, PAGES + 1, &wrong, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "it is of 4096 pages"));

	/* Well signed, but of nonsense: by an agent with a defect. */
	static const struct poison_log_entry bad[] = {
	        {.first = 4, .count = 2, .reason = 1},           /* 5 is lost already */
	        {.first = 98, .count = 3, .reason = 1},          /* 99 as well */
	        {.first = 50, .count = 60, .reason = 1},         /* across two regions */
	        {.first = 50, .count = 1, .reason = 4},          /* no such reason */
	        {.first = 50, .count = 1, .reason = 1, .by = 3}, /* no such reporter */
	        {.first = 50, .count = 0, .reason = 1},          /* of nothing */
	        {.first = UINT64_MAX, .count = 2, .reason = 1},  /* wraps around */
	        {.first = 4000, .count = UINT64_MAX, .reason = 1},
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(poison_set_new(&table, &of_other), 0);
		assert_int_equal(poison_log_new(&id, PAGES, &wrong, NULL), 0);
		assert_int_equal(poison_set_keep(of_other, wrong, NULL), 0);
		fill(of_other);
		assert_int_equal(poison_log_append(wrong, &bad[i]), 0);
		refused(dup(wrong->fd), "of the log of its lost pages");
		poison_set_free(of_other);
	}
	poison_set_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_comes_back),
	        cmocka_unit_test(test_the_next_one_goes_on),
	        cmocka_unit_test(test_death_at_any_byte),
	        cmocka_unit_test(test_killed),
	        cmocka_unit_test(test_kept_before_it_is_known),
	        cmocka_unit_test(test_several_threads),
	        cmocka_unit_test(test_every_byte_counts),
	        cmocka_unit_test(test_what_it_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
