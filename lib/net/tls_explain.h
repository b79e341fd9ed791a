/* SPDX-License-Identifier: Apache-2.0 */
/* What went wrong with TLS, in words for an operator. For net/tls*.c and net/channel*.c. */
#ifndef NET_TLS_EXPLAIN_H
#define NET_TLS_EXPLAIN_H

#include <openssl/ssl.h>

#include "core/error.h"

/* Register where a session keeps why it refused the peer's certificate. Once, before sessions. */
int tls_verdict_init(void);

/* For SSL_CTX_set_verify(): notes why a certificate is refused, then refuses it. */
int tls_verdict_note(int ok, X509_STORE_CTX *store);

/*
 * Turn the failure (SSL_ERROR_SSL) that this thread just had with ssl into a
 * code and a text; takes the thread's OpenSSL errors.
 */
int tls_explain(const SSL *ssl, struct error *err);

#endif
