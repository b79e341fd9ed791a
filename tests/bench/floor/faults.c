/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults of many threads, answered over TLS by the shortest program that does
 * it: a handler between uffd and connection, and a source that knows pages by
 * their number. No protobuf, no daemon, no page map, no promises.
 *
 * A request is a u64 page number; an answer the same number and the page. A
 * batch of either is one SSL_write.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "floor/memory.h"
#include "floor/tls.h"

#define REGION_BYTES (UINT64_C(512) << 20)
#define BATCH 16
#define ANSWER_BYTES (sizeof(uint64_t) + BENCH_PAGE)

static uint8_t *filled_memory(uint64_t n_pages)
{
	uint8_t *memory = mmap(NULL, n_pages * BENCH_PAGE, PROT_READ | PROT_WRITE,
	                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		floor_die("mmap");
	for (uint64_t page = 0; page < n_pages; page++)
		content_fill(memory + page * BENCH_PAGE, page);
	return memory;
}

/* What has arrived, up to one record: a batch, unless it was split. */
static void serve(const struct floor_options *o, int listener, uint64_t n_pages)
{
	static uint8_t out[BATCH * ANSWER_BYTES];
	static uint64_t in[BATCH];
	uint8_t *memory = filled_memory(n_pages);
	SSL *ssl = tls_accept(o, listener);
	size_t have = 0, len;

	while (SSL_read_ex(ssl, (uint8_t *)in + have, sizeof(in) - have, &len) == 1) {
		size_t n = (have + len) / sizeof(in[0]);

		for (size_t i = 0; i < n; i++) {
			memcpy(out + i * ANSWER_BYTES, &in[i], sizeof(in[i]));
			memcpy(out + i * ANSWER_BYTES + sizeof(in[i]), memory + in[i] * BENCH_PAGE,
			       BENCH_PAGE);
		}
		if (n && tls_write_all(ssl, out, n * ANSWER_BYTES) < 0)
			break;
		have = (have + len) % sizeof(in[0]);
		memmove(in, (uint8_t *)in + n * sizeof(in[0]), have);
	}
	_exit(0);
}

/* Place the whole answers; what is left of the last one stays for later. */
static size_t place(const struct memory *m, uint8_t *buf, size_t have)
{
	size_t at = 0;

	for (; have - at >= ANSWER_BYTES; at += ANSWER_BYTES) {
		uint64_t page;

		memcpy(&page, buf + at, sizeof(page));
		if (memory_copy(m, page, buf + at + sizeof(page), 1) < 0)
			floor_die("UFFDIO_COPY");
	}
	memmove(buf, buf + at, have - at);
	return have - at;
}

static size_t receive(const struct memory *m, SSL *ssl, uint8_t *buf, size_t size, size_t have)
{
	size_t len;

	while (SSL_read_ex(ssl, buf + have, size - have, &len) == 1)
		have = place(m, buf, have + len);
	if (SSL_get_error(ssl, 0) != SSL_ERROR_WANT_READ)
		_exit(0);
	return have;
}

static void ask(const struct memory *m, SSL *ssl)
{
	uint64_t pages[BATCH];
	size_t n;

	/* Requests are few and short: the socket's buffer always has room for them. */
	while ((n = memory_read_faults(m, pages, BATCH)))
		if (tls_write_all(ssl, pages, n * sizeof(pages[0])) < 0)
			floor_die("TLS write");
}

static void handle(const struct floor_options *o, const struct memory *m,
                   const struct sockaddr_in *address, int ready)
{
	static uint8_t buf[BATCH * ANSWER_BYTES];
	SSL *ssl = tls_connect(o, address);
	struct pollfd fds[2] = {{.fd = m->uffd, .events = POLLIN},
	                        {.fd = SSL_get_fd(ssl), .events = POLLIN}};
	size_t have = 0;

	if (fcntl(fds[1].fd, F_SETFL, O_NONBLOCK) < 0 || write(ready, "", 1) != 1)
		floor_die("handler");
	for (;;) {
		if (poll(fds, 2, -1) < 0)
			floor_die("poll");
		if (fds[0].revents)
			ask(m, ssl);
		if (fds[1].revents)
			have = receive(m, ssl, buf, sizeof(buf), have);
	}
}

struct toucher {
	const struct floor_options *o;
	const struct memory *m;
	pthread_t thread;
	unsigned index;
	struct latency latency;
};

static void *touch(void *arg)
{
	struct toucher *t = arg;

	for (size_t i = 0; i < t->o->samples; i++) {
		uint64_t page = content_walk(i * t->o->threads + t->index, t->m->n_pages);
		volatile uint8_t *byte = t->m->address + page * BENCH_PAGE;
		uint64_t start = bench_now_ns();

		(void)*byte;
		latency_add(&t->latency, bench_now_ns() - start);
		if (!content_is_right((const void *)byte, page, 0)) {
			errno = EILSEQ;
			floor_die("wrong bytes in a page");
		}
	}
	return NULL;
}

static int run(const struct floor_options *o, const struct memory *m)
{
	struct toucher *t = calloc(o->threads, sizeof(*t));
	uint64_t start = bench_now_ns(), ns;
	struct latency all;
	char text[256];

	if (!t || latency_init(&all, o->samples * o->threads) < 0)
		return 1;
	for (unsigned i = 0; i < o->threads; i++) {
		t[i] = (struct toucher){.o = o, .m = m, .index = i};
		if (latency_init(&t[i].latency, o->samples) < 0 ||
		    pthread_create(&t[i].thread, NULL, touch, &t[i]))
			return 1;
	}
	for (unsigned i = 0; i < o->threads; i++)
		pthread_join(t[i].thread, NULL);
	ns = bench_now_ns() - start;
	for (unsigned i = 0; i < o->threads; i++) {
		latency_append(&all, &t[i].latency);
		latency_fini(&t[i].latency);
	}
	free(t);
	latency_format(&all, text, sizeof(text));
	printf("{%s, \"rate\": %.1f}\n", text, (double)all.n * 1e9 / (double)ns);
	latency_fini(&all);
	return 0;
}

int floor_faults(const struct floor_options *o)
{
	struct memory m = memory_new(o, REGION_BYTES);
	struct sockaddr_in address;
	int listener = tls_listen(o, &address), ready[2];
	char byte;

	if (o->samples * o->threads > m.n_pages)
		return fprintf(stderr, "bench-floor: too many samples\n"), 2;
	if (pipe(ready) < 0)
		floor_die("pipe");
	if (floor_fork() == 0)
		serve(o, listener, m.n_pages);
	if (floor_fork() == 0)
		handle(o, &m, &address, ready[1]);
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		return 1;
	return run(o, &m);
}
