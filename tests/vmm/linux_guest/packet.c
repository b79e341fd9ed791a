/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UDP packets to a peer outside, which sends each back with every bit of its
 * content turned over. Both sides check the content. Each packet also says how
 * many pages have been checked so far: from outside, that is the guest's speed
 * and its downtime. A packet may be lost on the way; a wrong one ends the guest.
 *
 * A packet: magic, number, pages checked, Adler-32 of the content (low half) and
 * its length in words (high half), then the content; all little endian.
 */
#include "guest.h"
#include "pattern.h"
#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x74656b6361706370) /* "pcpacket" */
#define PERIOD_NS 2000000
#define LATE (1000000000 / PERIOD_NS) /* packets a second */
#define CONTENT_WORDS_MAX 160
#define REMEMBERED 4096 /* packets; a power of two */

struct packet {
	uint64_t magic, number, n_pages;
	uint32_t adler, n_words;
	uint64_t content[CONTENT_WORDS_MAX];
};

#define HEAD_BYTES offsetof(struct packet, content)

static int peer_fd;
static struct packet_counts counts;
static uint8_t answered[REMEMBERED]; /* by the number's low bits */

static uint32_t adler32(const uint8_t *bytes, size_t len_bytes)
{
	uint32_t a = 1, b = 0;

	for (size_t i = 0; i < len_bytes; i++) {
		a = (a + bytes[i]) % 65521;
		b = (b + a) % 65521;
	}
	return b << 16 | a;
}

/* Of many lengths, from one word to the longest. */
static uint32_t content_words(uint64_t number)
{
	return (uint32_t)(1 + number * 37 % CONTENT_WORDS_MAX);
}

static void packet_make(struct packet *p, uint64_t number)
{
	struct pattern pattern = {GUEST_NET, number, 1};
	struct guest_counts memory;

	memory_counts(&memory);
	p->magic = MAGIC;
	p->number = number;
	p->n_pages = memory.n_right;
	p->n_words = content_words(number);
	pattern_fill(p->content, p->n_words, &pattern);
	p->adler = adler32((const uint8_t *)p->content, p->n_words * sizeof(p->content[0]));
}

/* One that was sent a second ago has come back by now, or is lost. */
static void packet_forget(uint64_t number)
{
	if (number < LATE)
		return;
	number -= LATE;
	if (!__atomic_exchange_n(&answered[number % REMEMBERED], 0, __ATOMIC_RELAXED))
		count(&counts.n_lost, 1);
}

static noreturn void *sender_run(void *unused)
{
	static struct packet p;
	struct timespec due;

	(void)unused;
	clock_gettime(CLOCK_MONOTONIC, &due);
	for (uint64_t number = 0;; number++) {
		packet_make(&p, number);
		packet_forget(number);
		count(&counts.n_sent, 1);
		/* Whatever is not sent is lost, and counted so. */
		(void)!send(peer_fd, &p, HEAD_BYTES + p.n_words * sizeof(p.content[0]), 0);
		due.tv_nsec += PERIOD_NS;
		due.tv_sec += due.tv_nsec / 1000000000;
		due.tv_nsec %= 1000000000;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
	}
}

static void answer_check(struct packet *p, ssize_t len_bytes)
{
	struct pattern expected = {GUEST_NET, p->number, 1};
	size_t right;

	if (len_bytes < (ssize_t)HEAD_BYTES || p->magic != MAGIC ||
	    p->number >= counted(&counts.n_sent) || p->n_words != content_words(p->number) ||
	    len_bytes != (ssize_t)(HEAD_BYTES + p->n_words * sizeof(p->content[0])))
		guest_wrong(GUEST_NET, "packet %llu: %zd bytes, %u words",
		            (unsigned long long)p->number, len_bytes, p->n_words);
	for (unsigned i = 0; i < p->n_words; i++)
		p->content[i] = ~p->content[i];
	right = pattern_check(p->content, p->n_words, &expected);
	if (right < p->n_words)
		pattern_wrong("packet", p->content, p->n_words, right, &expected);
}

static noreturn void *receiver_run(void *unused)
{
	static struct packet p;
	ssize_t len_bytes;

	(void)unused;
	for (;;) {
		len_bytes = recv(peer_fd, &p, sizeof(p), 0);
		if (len_bytes < 0)
			continue; /* nobody listens there yet */
		answer_check(&p, len_bytes);
		if (p.number + LATE <= counted(&counts.n_sent))
			continue; /* it has been counted as lost */
		__atomic_store_n(&answered[p.number % REMEMBERED], 1, __ATOMIC_RELAXED);
		count(&counts.n_right, 1);
	}
}

void packet_start(const char *address, uint16_t port)
{
	struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(port)};

	peer_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (inet_pton(AF_INET, address, &peer.sin_addr) != 1 ||
	    connect(peer_fd, (struct sockaddr *)&peer, sizeof(peer)))
		guest_broken(address);
	guest_thread(receiver_run, NULL, -1, true);
	guest_thread(sender_run, NULL, -1, true);
}

void packet_counts(struct packet_counts *ret_counts)
{
	ret_counts->n_sent = counted(&counts.n_sent);
	ret_counts->n_right = counted(&counts.n_right);
	ret_counts->n_lost = counted(&counts.n_lost);
}
