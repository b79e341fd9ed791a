/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Called by the floors that need a network. The settings are those which the
 * real programs use, so that only their work makes the difference.
 */
#include "floor/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

/* As in the real programs: the fastest one where both ends have AES instructions. */
#define CIPHERSUITES "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"

static SSL_CTX *new_context(const struct floor_options *o, const char *name, bool server)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	char cert[256], key[256], ca[256];

	snprintf(cert, sizeof(cert), "%s/%s.pem", o->pki, name);
	snprintf(key, sizeof(key), "%s/%s.key", o->pki, name);
	snprintf(ca, sizeof(ca), "%s/ca.pem", o->pki);
	if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) ||
	    SSL_CTX_set_ciphersuites(ctx, CIPHERSUITES) != 1 ||
	    SSL_CTX_use_certificate_chain_file(ctx, cert) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_load_verify_locations(ctx, ca, NULL) != 1) {
		errno = EINVAL;
		floor_die("--pki: certificates");
	}
	SSL_CTX_set_read_ahead(ctx, 1); /* header and body of a record in one read() */
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	return ctx;
}

/* Sockets stay in the namespace in which they were made. */
static void enter(int netns)
{
	if (netns < 0 || setns(netns, CLONE_NEWNET) < 0)
		floor_die("network namespace");
	close(netns);
}

int tls_listen(const struct floor_options *o, struct sockaddr_in *ret_address)
{
	int own = o->server_netns ? open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC) : -1, fd;
	socklen_t len = sizeof(*ret_address);

	if (o->server_netns)
		enter(open(o->server_netns, O_RDONLY | O_CLOEXEC));
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*ret_address = (struct sockaddr_in){.sin_family = AF_INET};
	if (inet_pton(AF_INET, o->address, &ret_address->sin_addr) != 1 || fd < 0 ||
	    bind(fd, (struct sockaddr *)ret_address, len) < 0 || listen(fd, 64) < 0 ||
	    getsockname(fd, (struct sockaddr *)ret_address, &len) < 0)
		floor_die("listen");
	if (o->server_netns)
		enter(own);
	return fd;
}

static SSL *new_ssl(const struct floor_options *o, const char *name, bool server, int fd)
{
	SSL_CTX *ctx = new_context(o, name, server);
	SSL *ssl = SSL_new(ctx);
	int one = 1;

	if (!ssl || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0 ||
	    SSL_set_fd(ssl, fd) != 1 || (server ? SSL_accept(ssl) : SSL_connect(ssl)) != 1) {
		errno = EPROTO;
		floor_die("TLS handshake");
	}
	SSL_CTX_free(ctx); /* the connection keeps it */
	return ssl;
}

SSL *tls_accept(const struct floor_options *o, int listener)
{
	int fd = accept(listener, NULL, NULL);

	if (fd < 0)
		floor_die("accept");
	return new_ssl(o, "source", true, fd);
}

SSL *tls_connect(const struct floor_options *o, const struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
		floor_die("connect");
	return new_ssl(o, "destination", false, fd);
}

int tls_read_exactly(SSL *ssl, void *buf, size_t len)
{
	for (size_t done = 0, n; done < len; done += n)
		if (SSL_read_ex(ssl, (char *)buf + done, len - done, &n) != 1)
			return -EIO;
	return 0;
}

int tls_write_all(SSL *ssl, const void *buf, size_t len)
{
	size_t n;

	return SSL_write_ex(ssl, buf, len, &n) == 1 && n == len ? 0 : -EIO;
}
