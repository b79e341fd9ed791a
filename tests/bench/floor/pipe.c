/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raw TLS pipe: a process that sends the same buffer again and again, and
 * one that takes it, a thread a connection on both sides. `copy` also places
 * what arrives in the memory of a third process, as a guest's stream must.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "floor/memory.h"
#include "floor/tls.h"

#define CHUNK_BYTES (256U << 10)

struct end {
	pthread_t thread;
	SSL *ssl;
	uint64_t bytes;
	const struct memory *memory; /* NULL: nothing is placed */
	uint64_t first_page;
};

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000U + (uint64_t)ts.tv_nsec;
}

static uint8_t *new_chunk(void)
{
	uint8_t *chunk = aligned_alloc(BENCH_PAGE, CHUNK_BYTES);

	if (!chunk)
		floor_die("memory");
	for (uint64_t page = 0; page < CHUNK_BYTES / BENCH_PAGE; page++)
		content_fill(chunk + page * BENCH_PAGE, page);
	return chunk;
}

static void *send_all(void *arg)
{
	struct end *e = arg;
	uint8_t *chunk = new_chunk();

	for (uint64_t done = 0; done < e->bytes; done += CHUNK_BYTES)
		if (tls_write_all(e->ssl, chunk, CHUNK_BYTES) < 0)
			floor_die("TLS write");
	free(chunk);
	return NULL;
}

static void *receive_all(void *arg)
{
	struct end *e = arg;
	uint8_t *chunk = new_chunk();

	for (uint64_t done = 0; done < e->bytes; done += CHUNK_BYTES) {
		if (tls_read_exactly(e->ssl, chunk, CHUNK_BYTES) < 0)
			floor_die("TLS read");
		if (e->memory && memory_copy(e->memory, e->first_page + done / BENCH_PAGE, chunk,
		                             CHUNK_BYTES / BENCH_PAGE) < 0)
			floor_die("UFFDIO_COPY");
	}
	free(chunk);
	return NULL;
}

static void run_ends(struct end *ends, unsigned n, void *(*function)(void *))
{
	for (unsigned i = 0; i < n; i++)
		if ((errno = pthread_create(&ends[i].thread, NULL, function, &ends[i])))
			floor_die("pthread_create");
	for (unsigned i = 0; i < n; i++)
		pthread_join(ends[i].thread, NULL);
}

static uint64_t share(const struct floor_options *o)
{
	return o->bytes / o->connections / CHUNK_BYTES * CHUNK_BYTES;
}

static struct end *new_ends(const struct floor_options *o)
{
	struct end *ends = calloc(o->connections, sizeof(*ends));

	for (unsigned i = 0; ends && i < o->connections; i++)
		ends[i].bytes = share(o);
	return ends ? ends : (floor_die("memory"), NULL);
}

static void sender(const struct floor_options *o, int listener)
{
	struct end *ends = new_ends(o);
	char byte;

	for (unsigned i = 0; i < o->connections; i++)
		ends[i].ssl = tls_accept(o, listener);
	/* Nothing moves before all are connected. */
	if (tls_read_exactly(ends[0].ssl, &byte, 1) < 0)
		_exit(1);
	run_ends(ends, o->connections, send_all);
	/* The receiver is the first to close. */
	tls_read_exactly(ends[0].ssl, &byte, 1);
	_exit(0);
}

static void receiver(const struct floor_options *o, const struct sockaddr_in *address,
                     const struct memory *m)
{
	struct end *ends = new_ends(o);
	uint64_t total = share(o) * o->connections, start, cpu, ns;

	for (unsigned i = 0; i < o->connections; i++) {
		ends[i].ssl = tls_connect(o, address);
		ends[i].memory = m;
		ends[i].first_page = share(o) * i / BENCH_PAGE;
	}
	start = bench_now_ns();
	cpu = cpu_ns();
	if (tls_write_all(ends[0].ssl, "", 1) < 0)
		_exit(1);
	run_ends(ends, o->connections, receive_all);
	cpu = cpu_ns() - cpu;
	ns = bench_now_ns() - start;
	printf("{\"bytes\": %llu, \"seconds\": %.6f, \"mib_s\": %.1f, \"cpu_s\": %.6f}\n",
	       (unsigned long long)total, (double)ns / 1e9,
	       (double)total / 1048576 * 1e9 / (double)ns, (double)cpu / 1e9);
	fflush(stdout);
	_exit(0);
}

static int run(const struct floor_options *o, const struct memory *m)
{
	struct sockaddr_in address;
	int listener = tls_listen(o, &address), status;
	pid_t pid;

	if (share(o) == 0)
		return fprintf(stderr, "bench-floor: too few bytes\n"), 2;
	if (floor_fork() == 0)
		sender(o, listener);
	pid = floor_fork();
	if (pid == 0)
		receiver(o, &address, m);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int floor_pipe(const struct floor_options *o)
{
	return run(o, NULL);
}

int floor_copy(const struct floor_options *o)
{
	struct memory m = memory_new(o, o->bytes);

	return run(o, &m);
}
