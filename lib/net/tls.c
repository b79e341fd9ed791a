/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS contexts: certificate, key and CA from files, and the rules that hold for
 * every connection. Made by the daemons at start and on reload; each channel
 * takes one session.
 *
 * One SSL_CTX serves both directions. TLS 1.3 only, no tickets, no resumption
 * (every connection proves its certificate), ALPN required.
 */
#include "net/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "net/tls_explain.h"

#define VERIFY_DEPTH_MAX 4
/* AES-128 first: with AES-NI it gives the lowest latency for a page. */
#define CIPHERSUITES "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

struct tls_context {
	atomic_uint n_refs;
	SSL_CTX *ctx;
	unsigned char alpn[256]; /* as on the wire: length, then the name */
	unsigned alpn_len;
};

/* A key with a passphrase would make OpenSSL ask on the terminal. */
static int passphrase_refuse(char *buf, int size, int rwflag, void *user)
{
	(void)buf;
	(void)size;
	(void)rwflag;
	*(bool *)user = true;
	return -1;
}

static int alpn_select(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                       const unsigned char *in, unsigned in_len, void *arg)
{
	struct tls_context *c = arg;
	unsigned char *selected;

	(void)ssl;
	if (SSL_select_next_proto(&selected, out_len, c->alpn, c->alpn_len, in, in_len) !=
	    OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = selected;
	return SSL_TLSEXT_ERR_OK;
}

static int context_load_key(SSL_CTX *ctx, const struct tls_settings *s, struct error *err)
{
	bool encrypted = false;
	int ok;

	SSL_CTX_set_default_passwd_cb(ctx, passphrase_refuse);
	SSL_CTX_set_default_passwd_cb_userdata(ctx, &encrypted);
	ok = SSL_CTX_use_PrivateKey_file(ctx, s->key_path, SSL_FILETYPE_PEM);
	SSL_CTX_set_default_passwd_cb_userdata(ctx, NULL);
	SSL_CTX_set_default_passwd_cb(ctx, NULL);
	if (encrypted) {
		ERR_clear_error();
		return error_set(err, -EINVAL,
		                 "key %s is encrypted: give a PEM key without a passphrase, "
		                 "readable by this daemon only",
		                 s->key_path);
	}
	return ok == 1 ? 0 : -EINVAL;
}

static int context_load(SSL_CTX *ctx, const struct tls_settings *s, struct error *err)
{
	STACK_OF(X509_NAME) * names;
	int r;

	if (SSL_CTX_use_certificate_chain_file(ctx, s->certificate_path) != 1) {
		r = tls_error(err, -EINVAL, s->certificate_path);
		error_prefix(err, "cannot load the certificate (PEM)");
		return r;
	}
	r = context_load_key(ctx, s, err);
	if (r < 0 && ERR_peek_error()) {
		bool mismatch = ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH;

		tls_error(err, r, s->key_path);
		error_prefix(err, mismatch ? "the key does not belong to the certificate"
		                           : "cannot load the key (PEM)");
	}
	if (r < 0)
		return r;
	if (SSL_CTX_check_private_key(ctx) != 1)
		return tls_error(err, -EINVAL, "the key does not belong to the certificate");
	names = SSL_load_client_CA_file(s->ca_path);
	if (!names || SSL_CTX_load_verify_file(ctx, s->ca_path) != 1) {
		sk_X509_NAME_pop_free(names, X509_NAME_free);
		r = tls_error(err, -EINVAL, s->ca_path);
		error_prefix(err, "cannot load the CA certificates (PEM)");
		return r;
	}
	SSL_CTX_set_client_CA_list(ctx, names);
	return 0;
}

/*
 * No kTLS: net/tls_socket.c saves more system calls than it would. Reading
 * ahead is safe because a channel always drains the session.
 */
static int context_set_rules(struct tls_context *c, const struct tls_settings *s)
{
	SSL_CTX *ctx = c->ctx;
	size_t alpn_len = strlen(s->alpn);

	if (alpn_len == 0 || alpn_len > 255)
		return -EINVAL;
	c->alpn[0] = (unsigned char)alpn_len;
	memcpy(c->alpn + 1, s->alpn, alpn_len);
	c->alpn_len = (unsigned)alpn_len + 1;
	if (SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_ciphersuites(ctx, CIPHERSUITES) != 1 ||
	    SSL_CTX_set_num_tickets(ctx, 0) != 1)
		return -EIO;
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE |
	                                 SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
	                   tls_verdict_note);
	SSL_CTX_set_verify_depth(ctx, VERIFY_DEPTH_MAX);
	SSL_CTX_set_alpn_select_cb(ctx, alpn_select, c);
	return 0;
}

int tls_context_new(const struct tls_settings *s, struct tls_context **ret, struct error *err)
{
	_cleanup_(cleanup_tls_context_unref) struct tls_context *c = calloc(1, sizeof(*c));
	int r;

	if (!c || tls_verdict_init() < 0)
		return error_set(err, -ENOMEM, "no memory for a TLS context");
	atomic_init(&c->n_refs, 1);
	ERR_clear_error();
	c->ctx = SSL_CTX_new(TLS_method());
	if (!c->ctx)
		return tls_error(err, -ENOMEM, "cannot make a TLS context");
	r = context_set_rules(c, s);
	if (r < 0)
		return tls_error(err, r, "cannot set the rules of a TLS context");
	r = context_load(c->ctx, s, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(c);
	return 0;
}

struct tls_context *tls_context_ref(struct tls_context *c)
{
	atomic_fetch_add(&c->n_refs, 1);
	return c;
}

struct tls_context *tls_context_unref(struct tls_context *c)
{
	if (!c || atomic_fetch_sub(&c->n_refs, 1) != 1)
		return NULL;
	SSL_CTX_free(c->ctx);
	free(c);
	return NULL;
}

int tls_session_new(struct tls_context *c, bool server, SSL **ret, struct error *err)
{
	SSL *ssl;

	ERR_clear_error();
	ssl = SSL_new(c->ctx);
	if (!ssl)
		return tls_error(err, -ENOMEM, "cannot make a TLS session");
	if (server) {
		SSL_set_accept_state(ssl);
	} else {
		SSL_set_connect_state(ssl);
		/* Unlike the rest of OpenSSL this one returns 0 for success. */
		if (SSL_set_alpn_protos(ssl, c->alpn, c->alpn_len) != 0) {
			SSL_free(ssl);
			return tls_error(err, -ENOMEM, "cannot make a TLS session");
		}
	}
	*ret = ssl;
	return 0;
}
