/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A socket BIO for net/channel*.c. OpenSSL's own asks the kernel once more
 * after everything was read, for each wake-up of a page fault's answer; here a
 * short recv() is remembered until the loop reports the socket as readable
 * again (level-triggered, so nothing is lost if more came in between).
 */
#include "net/tls_socket.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>

struct tls_socket {
	int fd;
	int error;
	bool empty; /* the last recv() was short */
	bool ended; /* it returned 0 */
	bool more;  /* what is sent now has a continuation */
};

static BIO_METHOD *method;
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

static bool is_retry(int error)
{
	return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

static int socket_read(BIO *bio, char *buf, int len)
{
	struct tls_socket *s = BIO_get_data(bio);
	ssize_t n;

	BIO_clear_retry_flags(bio);
	if (s->empty) {
		BIO_set_retry_read(bio);
		return -1;
	}
	n = recv(s->fd, buf, (size_t)len, 0);
	if (n < 0 && is_retry(errno)) {
		s->empty = true;
		BIO_set_retry_read(bio);
		return -1;
	}
	if (n < 0)
		s->error = errno;
	s->ended = n == 0;
	s->empty = n > 0 && n < len;
	return (int)n;
}

static int socket_write(BIO *bio, const char *buf, int len)
{
	struct tls_socket *s = BIO_get_data(bio);
	ssize_t n;

	BIO_clear_retry_flags(bio);
	n = send(s->fd, buf, (size_t)len, MSG_NOSIGNAL | (s->more ? MSG_MORE : 0));
	if (n < 0 && is_retry(errno)) {
		BIO_set_retry_write(bio);
		return -1;
	}
	if (n < 0)
		s->error = errno;
	return (int)n;
}

static long socket_ctrl(BIO *bio, int command, long larg, void *parg)
{
	struct tls_socket *s = BIO_get_data(bio);

	(void)larg;
	(void)parg;
	switch (command) {
	case BIO_CTRL_EOF:
		return s->ended;
	case BIO_CTRL_FLUSH:
		return 1;
	default:
		return 0;
	}
}

static int socket_destroy(BIO *bio)
{
	free(BIO_get_data(bio));
	BIO_set_data(bio, NULL);
	return 1;
}

static void method_make(void)
{
	BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket");

	if (!m)
		return;
	BIO_meth_set_read(m, socket_read);
	BIO_meth_set_write(m, socket_write);
	BIO_meth_set_ctrl(m, socket_ctrl);
	BIO_meth_set_destroy(m, socket_destroy);
	method = m;
}

int tls_socket_attach(SSL *ssl, int fd)
{
	struct tls_socket *s;
	BIO *bio;

	pthread_once(&method_once, method_make);
	bio = method ? BIO_new(method) : NULL;
	s = bio ? calloc(1, sizeof(*s)) : NULL;
	if (!s) {
		BIO_free(bio);
		return -ENOMEM;
	}
	s->fd = fd;
	BIO_set_data(bio, s);
	BIO_set_init(bio, 1);
	SSL_set_bio(ssl, bio, bio);
	return 0;
}

void tls_socket_arm(SSL *ssl)
{
	struct tls_socket *s = BIO_get_data(SSL_get_rbio(ssl));

	s->empty = false;
}

void tls_socket_more(SSL *ssl, bool more)
{
	struct tls_socket *s = BIO_get_data(SSL_get_wbio(ssl));

	s->more = more;
}

int tls_socket_errno(SSL *ssl)
{
	struct tls_socket *s = BIO_get_data(SSL_get_rbio(ssl));

	return s->error;
}
