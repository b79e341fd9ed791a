/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS 1.3 with certificates on both sides, and who the peer is. This module
 * and net/channel.c are the only ones that see OpenSSL.
 */
#ifndef NET_TLS_H
#define NET_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/cleanup.h"
#include "core/error.h"

struct tls_settings {
	const char *certificate_path; /* PEM chain, own certificate first */
	const char *key_path;         /* PEM, not encrypted */
	const char *ca_path;          /* PEM, what peers are verified against */
	const char *alpn;             /* "postcopy/1" */
};

/* Counted references, so that a reload does not disturb running connections. Any thread. */
struct tls_context;

int tls_context_new(const struct tls_settings *s, struct tls_context **ret, struct error *err);
struct tls_context *tls_context_ref(struct tls_context *c);
struct tls_context *tls_context_unref(struct tls_context *c); /* always NULL */
DEFINE_CLEANUP(struct tls_context, tls_context_unref)

/* A session object for one connection: TLS 1.3 only, peer certificate required and verified. */
int tls_session_new(struct tls_context *c, bool server, SSL **ret, struct error *err);

/*
 * Does the peer's certificate carry this identity as a subject alternative
 * name? identity is "dns:NAME" or "uri:URI"; without prefix a text with "://"
 * is a URI, anything else a DNS name. DNS names compare without case, exactly
 * (no wildcards); URIs compare byte by byte. -EACCES with a text that names
 * both what was expected and what the certificate has.
 */
int tls_check_identity(const SSL *ssl, const char *identity, struct error *err);

/* -EINVAL with a text unless identity is one that tls_check_identity() can match. */
int tls_identity_validate(const char *identity, struct error *err);

/* The peer's SANs, "dns:a, uri:b", for logs and the ledger; cut to fit. */
const char *tls_peer_names(const SSL *ssl, char *buf, size_t buf_len);

/* SHA-256 of the peer's certificate. -ENOENT without one. */
int tls_peer_fingerprint(const SSL *ssl, uint8_t ret[32]);

/* Take all of this thread's OpenSSL errors as one text: "what: reason; reason". */
int tls_error(struct error *err, int code, const char *what);

#endif
