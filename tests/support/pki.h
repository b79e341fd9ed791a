/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificates for tests, made in a temporary directory: no shell, no files in
 * the repository that expire. Every call aborts the test program on failure.
 */
#ifndef SUPPORT_PKI_H
#define SUPPORT_PKI_H

#include <stddef.h>

#include "net/tls.h"

#define PKI_PATH_MAX 128
#define PKI_ALPN "postcopy/1"
#define PKI_SOURCE_DNS "source.example"
#define PKI_SOURCE_URI "postcopy://source"
#define PKI_DESTINATION_DNS "destination.example"
#define PKI_DESTINATION_URI "postcopy://destination"

/*
 * Made by pki_new(), each as NAME.pem and NAME.key:
 *   ca, other-ca     two CAs that do not know each other
 *   source, destination   a good pair (names above)
 *   stranger         source's names, signed by other-ca
 *   expired          source's names, ended yesterday
 *   renamed          dns:elsewhere.example, uri:postcopy://elsewhere
 */
struct pki {
	char dir[64];
};

struct pki_request {
	const char *name; /* of the files */
	const char *ca;   /* "ca" */
	const char *dns;  /* NULL: none */
	size_t dns_len;   /* 0: strlen(dns); for names with a NUL inside */
	const char *uri;
	long not_after_s; /* from now; 0: one hour */
};

struct pki *pki_new(void);
struct pki *pki_free(struct pki *pki); /* removes the files too */

/* Another certificate. */
void pki_issue(struct pki *pki, const struct pki_request *request);

/* DIR/NAME into buf (PKI_PATH_MAX), returned; for instance "source.pem". */
const char *pki_path(const struct pki *pki, const char *file, char buf[PKI_PATH_MAX]);

/* A context with this certificate that trusts that CA. alpn NULL: PKI_ALPN. */
struct tls_context *pki_context(const struct pki *pki, const char *name, const char *ca,
                                const char *alpn);

#endif
