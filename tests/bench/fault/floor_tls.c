/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Floor 2: a request and an answer of the sizes that one fault needs, over TLS
 * 1.3 with certificates on both sides, between two processes on loopback.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"

#define REQUEST_BYTES 32
#define ANSWER_BYTES 4232 /* a page and its header */

static SSL *client;

static SSL_CTX *new_context(const struct bench *b, const char *name, bool server)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	char cert[128], key[128], ca[128];

	snprintf(cert, sizeof(cert), "%s/pki/%s.pem", b->dir, name);
	snprintf(key, sizeof(key), "%s/pki/%s.key", b->dir, name);
	snprintf(ca, sizeof(ca), "%s/pki/ca.pem", b->dir);
	if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) ||
	    SSL_CTX_use_certificate_chain_file(ctx, cert) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_load_verify_locations(ctx, ca, NULL) != 1)
		return NULL;
	SSL_CTX_set_read_ahead(ctx, 1); /* header and body of a record in one read() */
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	return ctx;
}

static int read_exactly(SSL *ssl, void *buf, size_t len)
{
	for (size_t done = 0, n; done < len; done += n)
		if (SSL_read_ex(ssl, (char *)buf + done, len - done, &n) != 1)
			return -EIO;
	return 0;
}

static int write_all(SSL *ssl, const void *buf, size_t len)
{
	size_t n;

	return SSL_write_ex(ssl, buf, len, &n) == 1 && n == len ? 0 : -EIO;
}

static void serve(const struct bench *b, int listener)
{
	static uint8_t request[REQUEST_BYTES], answer[ANSWER_BYTES];
	int one = 1, fd = accept(listener, NULL, NULL);
	SSL_CTX *ctx = new_context(b, "source", true);
	SSL *ssl = ctx ? SSL_new(ctx) : NULL;

	memset(answer, 0x5a, sizeof(answer));
	if (fd < 0 || !ssl || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0 ||
	    SSL_set_fd(ssl, fd) != 1 || SSL_accept(ssl) != 1)
		_exit(1);
	while (read_exactly(ssl, request, sizeof(request)) == 0)
		if (write_all(ssl, answer, sizeof(answer)) < 0)
			break;
	_exit(0);
}

static int listen_on_loopback(struct sockaddr_in *ret_address)
{
	socklen_t len = sizeof(*ret_address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*ret_address = (struct sockaddr_in){.sin_family = AF_INET};
	ret_address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || bind(fd, (struct sockaddr *)ret_address, len) < 0 || listen(fd, 1) < 0 ||
	    getsockname(fd, (struct sockaddr *)ret_address, &len) < 0)
		return -errno;
	return fd;
}

static int floor_tls_setup(struct bench *b)
{
	struct sockaddr_in address;
	int listener = listen_on_loopback(&address), one = 1, fd;
	SSL_CTX *ctx = new_context(b, "destination", false);
	pid_t pid;

	if (listener < 0 || !ctx)
		return listener < 0 ? listener : -EINVAL;
	pid = bench_fork(b);
	if (pid == 0)
		serve(b, listener);
	if (pid < 0)
		return pid;
	close(listener);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0)
		return -errno;
	client = SSL_new(ctx);
	if (!client || SSL_set_fd(client, fd) != 1 || SSL_connect(client) != 1)
		return -EPROTO;
	return 0;
}

static int floor_tls_round(struct bench *b, uint64_t *ret_ns)
{
	static uint8_t request[REQUEST_BYTES], answer[ANSWER_BYTES];

	for (size_t i = 0; i < b->samples; i++) {
		uint64_t start = bench_now_ns();

		if (write_all(client, request, sizeof(request)) < 0 ||
		    read_exactly(client, answer, sizeof(answer)) < 0)
			return -EIO;
		ret_ns[i] = bench_now_ns() - start;
	}
	return 0;
}

const struct bench_case floor_tls = {"ping", "TLS 1.3, 32 bytes there, 4232 back", floor_tls_setup,
                                     floor_tls_round};
