/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PKI of the tests. Called by loop and end-to-end tests at start.
 *
 * A failure here is a broken machine, not a test result: it aborts.
 */
#include "support/pki.h"

#include <dirent.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOUR_S 3600L

static void require(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "test PKI: %s failed\n", what);
	ERR_print_errors_fp(stderr);
	abort();
}

const char *pki_path(const struct pki *pki, const char *file, char buf[PKI_PATH_MAX])
{
	snprintf(buf, PKI_PATH_MAX, "%s/%s", pki->dir, file);
	return buf;
}

static FILE *file_open(const struct pki *pki, const char *name, const char *suffix,
                       const char *mode)
{
	char file[64], path[PKI_PATH_MAX];
	FILE *f;

	snprintf(file, sizeof(file), "%s.%s", name, suffix);
	f = fopen(pki_path(pki, file, path), mode);
	require(f != NULL, path);
	return f;
}

static void pair_write(const struct pki *pki, const char *name, X509 *cert, EVP_PKEY *key)
{
	FILE *f = file_open(pki, name, "pem", "w");

	require(PEM_write_X509(f, cert) == 1, "writing a certificate");
	fclose(f);
	f = file_open(pki, name, "key", "w");
	require(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1, "writing a key");
	fclose(f);
}

static X509 *certificate_read(const struct pki *pki, const char *name)
{
	FILE *f = file_open(pki, name, "pem", "r");
	X509 *cert = PEM_read_X509(f, NULL, NULL, NULL);

	fclose(f);
	require(cert != NULL, "reading a certificate");
	return cert;
}

static EVP_PKEY *key_read(const struct pki *pki, const char *name)
{
	FILE *f = file_open(pki, name, "key", "r");
	EVP_PKEY *key = PEM_read_PrivateKey(f, NULL, NULL, NULL);

	fclose(f);
	require(key != NULL, "reading a key");
	return key;
}

static void extension_add(X509 *cert, int nid, const char *value)
{
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

	require(e && X509_add_ext(cert, e, -1) == 1, value);
	X509_EXTENSION_free(e);
}

/* Straight from bytes, so that a name may have a NUL inside. */
static void san_push(GENERAL_NAMES *sans, int type, const char *name, size_t len)
{
	GENERAL_NAME *san = GENERAL_NAME_new();
	ASN1_IA5STRING *text = ASN1_IA5STRING_new();

	require(san && text && ASN1_STRING_set(text, name, (int)len) == 1, "a name");
	GENERAL_NAME_set0_value(san, type, text);
	require(sk_GENERAL_NAME_push(sans, san) > 0, "a name");
}

static void sans_add(X509 *cert, const struct pki_request *request)
{
	GENERAL_NAMES *sans = sk_GENERAL_NAME_new_null();

	if (request->dns)
		san_push(sans, GEN_DNS, request->dns,
		         request->dns_len ? request->dns_len : strlen(request->dns));
	if (request->uri)
		san_push(sans, GEN_URI, request->uri, strlen(request->uri));
	if (sk_GENERAL_NAME_num(sans) > 0)
		require(X509_add1_ext_i2d(cert, NID_subject_alt_name, sans, 0, 0) == 1, "SANs");
	GENERAL_NAMES_free(sans);
}

static X509 *certificate_new(const char *common_name, EVP_PKEY *key, long not_after_s)
{
	X509 *cert = X509_new();
	X509_NAME *name = X509_get_subject_name(cert);
	uint64_t serial = 0;

	require(RAND_bytes((unsigned char *)&serial, 7) == 1, "random numbers");
	ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial);
	X509_set_version(cert, 2);
	X509_gmtime_adj(X509_getm_notBefore(cert), -48 * HOUR_S);
	X509_gmtime_adj(X509_getm_notAfter(cert), not_after_s);
	require(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
	                                   (const unsigned char *)common_name, -1, -1, 0) == 1,
	        "a subject");
	require(X509_set_pubkey(cert, key) == 1, "a public key");
	return cert;
}

static void ca_issue(const struct pki *pki, const char *name)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert;

	require(key != NULL, "a key");
	cert = certificate_new(name, key, 24 * HOUR_S);
	X509_set_issuer_name(cert, X509_get_subject_name(cert));
	extension_add(cert, NID_basic_constraints, "critical,CA:TRUE");
	extension_add(cert, NID_key_usage, "critical,keyCertSign,cRLSign");
	require(X509_sign(cert, key, EVP_sha256()) > 0, "signing");
	pair_write(pki, name, cert, key);
	X509_free(cert);
	EVP_PKEY_free(key);
}

void pki_issue(struct pki *pki, const struct pki_request *request)
{
	X509 *ca = certificate_read(pki, request->ca ? request->ca : "ca");
	EVP_PKEY *ca_key = key_read(pki, request->ca ? request->ca : "ca");
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert;

	require(key != NULL, "a key");
	cert = certificate_new(request->name, key,
	                       request->not_after_s ? request->not_after_s : HOUR_S);
	X509_set_issuer_name(cert, X509_get_subject_name(ca));
	extension_add(cert, NID_basic_constraints, "critical,CA:FALSE");
	extension_add(cert, NID_key_usage, "critical,digitalSignature");
	extension_add(cert, NID_ext_key_usage, "serverAuth,clientAuth");
	sans_add(cert, request);
	require(X509_sign(cert, ca_key, EVP_sha256()) > 0, "signing");
	pair_write(pki, request->name, cert, key);
	X509_free(cert);
	EVP_PKEY_free(key);
	X509_free(ca);
	EVP_PKEY_free(ca_key);
}

struct pki *pki_new(void)
{
	static const struct pki_request requests[] = {
	        {.name = "source", .dns = PKI_SOURCE_DNS, .uri = PKI_SOURCE_URI},
	        {.name = "destination", .dns = PKI_DESTINATION_DNS, .uri = PKI_DESTINATION_URI},
	        {.name = "stranger",
	         .ca = "other-ca",
	         .dns = PKI_SOURCE_DNS,
	         .uri = PKI_SOURCE_URI},
	        {.name = "expired",
	         .dns = PKI_SOURCE_DNS,
	         .uri = PKI_SOURCE_URI,
	         .not_after_s = -24 * HOUR_S},
	        {.name = "renamed", .dns = "elsewhere.example", .uri = "postcopy://elsewhere"},
	};
	const char *tmp = getenv("TMPDIR");
	struct pki *pki = calloc(1, sizeof(*pki));

	require(pki != NULL, "memory");
	if (!tmp || strlen(tmp) > 30)
		tmp = "/tmp";
	snprintf(pki->dir, sizeof(pki->dir), "%s/postcopy-pki-XXXXXX", tmp);
	require(mkdtemp(pki->dir) != NULL, "mkdtemp");
	ca_issue(pki, "ca");
	ca_issue(pki, "other-ca");
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++)
		pki_issue(pki, &requests[i]);
	return pki;
}

struct pki *pki_free(struct pki *pki)
{
	char path[PKI_PATH_MAX];
	struct dirent *entry;
	DIR *dir;

	if (!pki)
		return NULL;
	dir = opendir(pki->dir);
	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] != '.' && strlen(entry->d_name) < 60)
			unlink(pki_path(pki, entry->d_name, path));
	}
	if (dir)
		closedir(dir);
	rmdir(pki->dir);
	free(pki);
	return NULL;
}

struct tls_context *pki_context(const struct pki *pki, const char *name, const char *ca,
                                const char *alpn)
{
	char cert_file[64], key_file[64], ca_file[64];
	char cert_path[PKI_PATH_MAX], key_path[PKI_PATH_MAX], ca_path[PKI_PATH_MAX];
	struct tls_settings settings = {.alpn = alpn ? alpn : PKI_ALPN};
	struct tls_context *context = NULL;
	struct error err = {0};

	snprintf(cert_file, sizeof(cert_file), "%s.pem", name);
	snprintf(key_file, sizeof(key_file), "%s.key", name);
	snprintf(ca_file, sizeof(ca_file), "%s.pem", ca);
	settings.certificate_path = pki_path(pki, cert_file, cert_path);
	settings.key_path = pki_path(pki, key_file, key_path);
	settings.ca_path = pki_path(pki, ca_file, ca_path);
	require(tls_context_new(&settings, &context, &err) == 0, err.text);
	return context;
}
