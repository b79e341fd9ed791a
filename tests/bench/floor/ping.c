/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request and an answer of the sizes that one fault needs, between two
 * processes: no fault over the network can take less.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "floor/tls.h"

#define REQUEST_BYTES 32
#define ANSWER_BYTES 4232 /* a page and its header */

static void serve(const struct floor_options *o, int listener)
{
	static uint8_t request[REQUEST_BYTES], answer[ANSWER_BYTES];
	SSL *ssl = tls_accept(o, listener);

	memset(answer, 0x5a, sizeof(answer));
	while (tls_read_exactly(ssl, request, sizeof(request)) == 0)
		if (tls_write_all(ssl, answer, sizeof(answer)) < 0)
			break;
	_exit(0);
}

int floor_ping(const struct floor_options *o)
{
	static uint8_t request[REQUEST_BYTES], answer[ANSWER_BYTES];
	size_t warmup = o->samples < FLOOR_WARMUP ? 5 : FLOOR_WARMUP;
	struct sockaddr_in address;
	int listener = tls_listen(o, &address);
	struct latency l;
	char text[256];
	SSL *ssl;

	if (floor_fork() == 0)
		serve(o, listener);
	ssl = tls_connect(o, &address);
	if (latency_init(&l, o->samples) < 0)
		return 1;
	for (size_t i = 0; i < o->samples + warmup; i++) {
		uint64_t start = bench_now_ns();

		if (tls_write_all(ssl, request, sizeof(request)) < 0 ||
		    tls_read_exactly(ssl, answer, sizeof(answer)) < 0)
			floor_die("TLS peer");
		if (i >= warmup)
			latency_add(&l, bench_now_ns() - start);
	}
	latency_format(&l, text, sizeof(text));
	printf("{%s, \"cipher\": \"%s\"}\n", text, SSL_get_cipher_name(ssl));
	latency_fini(&l);
	SSL_free(ssl);
	return 0;
}
