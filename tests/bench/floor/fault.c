/* SPDX-License-Identifier: Apache-2.0 */
/* A fault that another process on this host answers at once: no network, no protocol. */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "floor/memory.h"

#define REGION_BYTES (UINT64_C(512) << 20)

static void answer(const struct memory *m)
{
	static uint8_t data[BENCH_PAGE] __attribute__((aligned(BENCH_PAGE)));
	struct pollfd pfd = {.fd = m->uffd, .events = POLLIN};
	uint64_t page;

	memset(data, 0x5a, sizeof(data));
	for (;;) {
		if (poll(&pfd, 1, -1) < 0)
			floor_die("poll");
		while (memory_read_faults(m, &page, 1))
			if (memory_copy(m, page, data, 1) < 0)
				floor_die("UFFDIO_COPY");
	}
}

int floor_fault(const struct floor_options *o)
{
	struct memory m = memory_new(o, REGION_BYTES);
	struct latency l;
	char text[256];

	if (o->samples + FLOOR_WARMUP > m.n_pages || latency_init(&l, o->samples) < 0)
		return fprintf(stderr, "bench-floor: too many samples\n"), 2;
	if (floor_fork() == 0)
		answer(&m);
	for (size_t i = 0; i < o->samples + FLOOR_WARMUP; i++) {
		volatile uint8_t *byte = m.address + content_walk(i, m.n_pages) * BENCH_PAGE;
		uint64_t start = bench_now_ns();

		(void)*byte;
		if (i >= FLOOR_WARMUP)
			latency_add(&l, bench_now_ns() - start);
	}
	latency_format(&l, text, sizeof(text));
	printf("{%s}\n", text);
	latency_fini(&l);
	return 0;
}
