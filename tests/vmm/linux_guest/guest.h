/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the guest's program share. Each part has counters of its
 * own that main.c reads at any time: relaxed atomics.
 */
#ifndef TESTS_VMM_LINUX_GUEST_GUEST_H
#define TESTS_VMM_LINUX_GUEST_GUEST_H
#include <stdbool.h>
#include <stdint.h>
#include <stdnoreturn.h>

#define PAGE_SIZE 4096
#define WORDS_PER_PAGE (PAGE_SIZE / 8)
#define WALKERS 2 /* one a vCPU */

enum guest_part {
	GUEST_MEMORY,
	GUEST_DISK,
	GUEST_NET,
	GUEST_PARTS,
};

struct guest_counts {
	uint64_t n_passes; /* over all pages or blocks */
	uint64_t n_right;
};

/* Relaxed: nothing else is said by them. */
static inline void count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static inline uint64_t counted(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* main.c: one line "WRONG ..." on the serial port, and the thread goes no further: what it found
 * is to be looked at. The other parts go on. */
noreturn void guest_wrong(enum guest_part part, const char *format, ...)
        __attribute__((format(printf, 2, 3)));
/* A guest that cannot even start; errno says why. */
noreturn void guest_broken(const char *what);
/* Whole lines only, from any thread. */
void guest_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A thread that never ends. On that CPU, or on any for -1. real_time: before all others. */
void guest_thread(void *(*run)(void *), void *argument, int cpu, bool real_time);

/* memory.c: walk over so much memory from now on. */
void memory_start(unsigned size_mib);
void memory_counts(struct guest_counts *ret_counts);

/* disk.c: write and read this device from now on. */
void disk_start(const char *device);
void disk_counts(struct guest_counts *ret_counts);

struct packet_counts {
	uint64_t n_sent;
	uint64_t n_right; /* answers that came, with the content they must have */
	uint64_t n_lost;  /* of those sent more than a second ago */
};

/* packet.c: exchange packets with the peer at this address from now on. */
void packet_start(const char *address, uint16_t port);
void packet_counts(struct packet_counts *ret_counts);

#endif
