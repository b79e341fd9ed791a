/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who the peer is: the subject alternative names of its certificate. Called
 * when a channel is ready, before anything is served.
 *
 * Only SANs count, never the common name. A certificate is hostile input: a
 * name with a NUL or another control character inside matches nothing.
 */
#include <ctype.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#include "net/tls.h"

#define DNS_NAME_MAX 253
#define URI_MAX 2048

struct identity {
	int type; /* GEN_DNS or GEN_URI */
	const char *name;
};

static struct identity identity_parse(const char *text)
{
	if (strncmp(text, "dns:", 4) == 0)
		return (struct identity){GEN_DNS, text + 4};
	if (strncmp(text, "uri:", 4) == 0)
		return (struct identity){GEN_URI, text + 4};
	return (struct identity){strstr(text, "://") ? GEN_URI : GEN_DNS, text};
}

static bool dns_name_is_valid(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len > DNS_NAME_MAX || name[0] == '.' || name[len - 1] == '.' ||
	    strstr(name, ".."))
		return false;
	for (; *name; name++) {
		if (!isascii((unsigned char)*name) ||
		    !(isalnum((unsigned char)*name) || strchr("-._", *name)))
			return false;
	}
	return true;
}

static bool uri_is_valid(const char *uri)
{
	const char *colon = strchr(uri, ':');

	if (!colon || colon == uri || !colon[1] || strlen(uri) > URI_MAX)
		return false;
	for (; *uri; uri++) {
		if (*uri <= ' ' || *uri > '~')
			return false;
	}
	return true;
}

int tls_identity_validate(const char *identity, struct error *err)
{
	struct identity id = identity_parse(identity);

	if (id.type == GEN_DNS && !dns_name_is_valid(id.name))
		return error_set(err, -EINVAL,
		                 "peer identity \"%.200s\": expected a DNS name (letters, digits, "
		                 "'-', '.', no wildcard) or uri:SCHEME:...",
		                 identity);
	if (id.type == GEN_URI && !uri_is_valid(id.name))
		return error_set(err, -EINVAL,
		                 "peer identity \"%.200s\": expected a URI of printable ASCII, "
		                 "SCHEME:REST",
		                 identity);
	return 0;
}

static bool ascii_equal_ignoring_case(const unsigned char *a, const char *b, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char x = a[i], y = (unsigned char)b[i];

		x = x >= 'A' && x <= 'Z' ? (unsigned char)(x + 32) : x;
		y = y >= 'A' && y <= 'Z' ? (unsigned char)(y + 32) : y;
		if (x != y)
			return false;
	}
	return true;
}

/* The lengths must be equal, so a NUL inside the certificate's name never ends a comparison. */
static bool san_matches(const GENERAL_NAME *san, const struct identity *id)
{
	const unsigned char *data;
	size_t len = strlen(id->name);

	if (san->type != id->type)
		return false;
	data = ASN1_STRING_get0_data(san->d.ia5);
	if ((size_t)ASN1_STRING_length(san->d.ia5) != len)
		return false;
	if (id->type == GEN_URI)
		return memcmp(data, id->name, len) == 0;
	return ascii_equal_ignoring_case(data, id->name, len);
}

static GENERAL_NAMES *peer_sans(const SSL *ssl)
{
	X509 *cert = SSL_get0_peer_certificate(ssl);

	return cert ? X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL) : NULL;
}

int tls_check_identity(const SSL *ssl, const char *identity, struct error *err)
{
	struct identity id = identity_parse(identity);
	char names[192];
	GENERAL_NAMES *sans;
	bool found = false;
	int r = tls_identity_validate(identity, err);

	if (r < 0)
		return r;
	sans = peer_sans(ssl);
	for (int i = 0; i < sk_GENERAL_NAME_num(sans) && !found; i++)
		found = san_matches(sk_GENERAL_NAME_value(sans, i), &id);
	GENERAL_NAMES_free(sans);
	ERR_clear_error();
	if (found)
		return 0;
	return error_set(err, -EACCES,
	                 "the peer is not who was named for this migration: expected %s:%.120s, "
	                 "its certificate has %s",
	                 id.type == GEN_URI ? "uri" : "dns", id.name,
	                 tls_peer_names(ssl, names, sizeof(names)));
}

/* Append "prefix:text" with what is not printable shown as '?'. */
static size_t name_append(char *buf, size_t len, size_t buf_len, const char *prefix,
                          const ASN1_STRING *s)
{
	const unsigned char *data = ASN1_STRING_get0_data(s);
	int n = ASN1_STRING_length(s);

	len += (size_t)snprintf(buf + len, buf_len - len, "%s%s", len ? ", " : "", prefix);
	for (int i = 0; i < n && len + 1 < buf_len; i++)
		buf[len++] = data[i] > ' ' && data[i] <= '~' ? (char)data[i] : '?';
	if (len >= buf_len)
		return buf_len - 1;
	buf[len] = '\0';
	return len;
}

const char *tls_peer_names(const SSL *ssl, char *buf, size_t buf_len)
{
	GENERAL_NAMES *sans = peer_sans(ssl);
	size_t len = 0;

	for (int i = 0; i < sk_GENERAL_NAME_num(sans) && len + 1 < buf_len; i++) {
		const GENERAL_NAME *san = sk_GENERAL_NAME_value(sans, i);

		if (san->type == GEN_DNS)
			len = name_append(buf, len, buf_len, "dns:", san->d.dNSName);
		else if (san->type == GEN_URI)
			len = name_append(buf, len, buf_len,
			                  "uri:", san->d.uniformResourceIdentifier);
	}
	GENERAL_NAMES_free(sans);
	ERR_clear_error();
	if (len == 0)
		snprintf(buf, buf_len, "no names");
	return buf;
}

int tls_peer_fingerprint(const SSL *ssl, uint8_t ret[32])
{
	X509 *cert = SSL_get0_peer_certificate(ssl);
	uint8_t digest[EVP_MAX_MD_SIZE];
	unsigned len;

	if (!cert)
		return -ENOENT;
	if (X509_digest(cert, EVP_sha256(), digest, &len) != 1 || len != 32) {
		ERR_clear_error();
		return -EIO;
	}
	memcpy(ret, digest, 32);
	return 0;
}
