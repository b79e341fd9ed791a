/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenSSL's errors in words. net/channel*.c calls this when a handshake or a
 * read fails; the text must let an operator tell an expired certificate from
 * an unknown CA, on either side.
 *
 * When the peer refuses us all that arrives is an alert, and in TLS 1.3 a
 * client may get it only after its own handshake is complete.
 */
#include "net/tls_explain.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cleanup.h"
#include "net/tls.h"

struct verdict {
	int code;
	char text[256];
};

static int verdict_index = -1;
static pthread_once_t verdict_once = PTHREAD_ONCE_INIT;

static void verdict_release(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl,
                            void *argp)
{
	(void)parent;
	(void)ad;
	(void)idx;
	(void)argl;
	(void)argp;
	free(ptr);
}

static void verdict_register(void)
{
	verdict_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, verdict_release);
}

int tls_verdict_init(void)
{
	pthread_once(&verdict_once, verdict_register);
	return verdict_index < 0 ? -ENOMEM : 0;
}

static const char *time_format(const ASN1_TIME *t, char *buf, size_t buf_len)
{
	struct tm tm;

	if (!t || ASN1_TIME_to_tm(t, &tm) != 1 || !strftime(buf, buf_len, "%F %T UTC", &tm))
		snprintf(buf, buf_len, "?");
	return buf;
}

static int verdict_code(int reason)
{
	switch (reason) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
		return -EKEYEXPIRED;
	case X509_V_ERR_CERT_REVOKED:
		return -EKEYREVOKED;
	default:
		return -EKEYREJECTED;
	}
}

/* "certificate has expired" with the date, "... : check ca on this side" and so on. */
static void verdict_write(struct verdict *v, int reason, X509 *cert)
{
	const char *words = X509_verify_cert_error_string(reason);
	char subject[96] = "?", when[32];

	if (cert)
		X509_NAME_oneline(X509_get_subject_name(cert), subject, sizeof(subject));
	v->code = verdict_code(reason);
	switch (reason) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
		snprintf(v->text, sizeof(v->text), "certificate %s expired at %s: renew it",
		         subject, time_format(X509_get0_notAfter(cert), when, sizeof(when)));
		break;
	case X509_V_ERR_CERT_NOT_YET_VALID:
		snprintf(v->text, sizeof(v->text),
		         "certificate %s is not valid before %s: compare the hosts' clocks",
		         subject, time_format(X509_get0_notBefore(cert), when, sizeof(when)));
		break;
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
		snprintf(v->text, sizeof(v->text),
		         "certificate %s is not signed by a CA in this side's CA file (%s)",
		         subject, words);
		break;
	default:
		snprintf(v->text, sizeof(v->text), "certificate %s: %s", subject, words);
	}
}

int tls_verdict_note(int ok, X509_STORE_CTX *store)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct verdict *v;

	if (ok || !ssl || SSL_get_ex_data(ssl, verdict_index))
		return ok;
	v = calloc(1, sizeof(*v));
	if (!v)
		return 0;
	verdict_write(v, X509_STORE_CTX_get_error(store), X509_STORE_CTX_get_current_cert(store));
	if (SSL_set_ex_data(ssl, verdict_index, v) != 1)
		free(v);
	return 0;
}

/* Reasons that an operator can do something about, ours and the peer's (alerts). */
static const struct {
	int reason;
	int code;
	const char *text;
} reasons[] = {
        {SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, -ENOKEY,
         "the peer sent no certificate: mutual TLS needs one on both sides"},
        {SSL_R_UNSUPPORTED_PROTOCOL, -EPROTONOSUPPORT,
         "the peer speaks TLS 1.2 or older only: TLS 1.3 is required"},
        {SSL_R_VERSION_TOO_LOW, -EPROTONOSUPPORT,
         "the peer speaks TLS 1.2 or older only: TLS 1.3 is required"},
        {SSL_R_WRONG_VERSION_NUMBER, -EPROTONOSUPPORT, "what the peer sent is not TLS 1.3"},
        {SSL_R_HTTP_REQUEST, -EPROTONOSUPPORT, "the peer sent an HTTP request, not TLS"},
        {SSL_R_NO_APPLICATION_PROTOCOL, -EPROTONOSUPPORT,
         "no ALPN protocol in common: the peer does not offer ours"},
        {SSL_R_NO_SHARED_CIPHER, -EPROTONOSUPPORT, "no TLS 1.3 cipher in common with the peer"},
        {SSL_R_UNEXPECTED_EOF_WHILE_READING, -ECONNRESET,
         "the peer ended the connection without the end of TLS (it died, or something cut the "
         "line)"},
        {SSL_R_TLSV1_ALERT_UNKNOWN_CA, -EKEYREJECTED,
         "the peer refused our certificate: its CA file does not have the CA that signed it "
         "(alert unknown CA)"},
        {SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED, -EKEYEXPIRED,
         "the peer refused our certificate: it has expired (alert certificate expired)"},
        {SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED, -EKEYREVOKED,
         "the peer refused our certificate: it is revoked (alert certificate revoked)"},
        {SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, -EKEYREJECTED,
         "the peer refused our certificate (alert bad certificate)"},
        {SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE, -EKEYREJECTED,
         "the peer refused our certificate: not made for this use (alert unsupported certificate)"},
        {SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN, -EKEYREJECTED,
         "the peer refused our certificate (alert certificate unknown)"},
        {SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED, -ENOKEY,
         "the peer wants a certificate and we sent none (alert certificate required)"},
        {SSL_R_TLSV1_ALERT_ACCESS_DENIED, -EACCES, "the peer refused us (alert access denied)"},
        {SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, -EPROTONOSUPPORT,
         "the peer does not speak TLS 1.3 (alert protocol version)"},
        {SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL, -EPROTONOSUPPORT,
         "no ALPN protocol in common: the peer does not know ours (alert no application protocol)"},
        {SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE, -EPROTO,
         "the peer found no TLS parameters in common (alert handshake failure)"},
        {SSL_R_SSLV3_ALERT_BAD_RECORD_MAC, -EPROTO,
         "the peer could not decrypt what we sent: damaged on the way (alert bad record mac)"},
};

int tls_explain(const SSL *ssl, struct error *err)
{
	const struct verdict *v = SSL_get_ex_data(ssl, verdict_index);
	unsigned long e = ERR_peek_error();

	if (v) {
		ERR_clear_error();
		return error_set(err, v->code, "the peer's %s", v->text);
	}
	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++) {
		if (ERR_GET_LIB(e) != ERR_LIB_SSL || ERR_GET_REASON(e) != reasons[i].reason)
			continue;
		ERR_clear_error();
		return error_set(err, reasons[i].code, "%s", reasons[i].text);
	}
	return tls_error(err, -EPROTO, "TLS failed");
}

/* One entry of OpenSSL's queue; its "system lib" says less than the errno that came before it. */
static size_t reason_append(char *text, size_t len, unsigned long e, const char *data)
{
	const char *reason =
	        ERR_SYSTEM_ERROR(e) ? strerror((int)ERR_GET_REASON(e)) : ERR_reason_error_string(e);

	if (ERR_GET_REASON(e) == ERR_R_SYS_LIB || len >= ERROR_TEXT_MAX)
		return len;
	len += (size_t)snprintf(text + len, ERROR_TEXT_MAX - len, ": %s",
	                        reason ? reason : "unknown OpenSSL error");
	if (len < ERROR_TEXT_MAX && !ERR_SYSTEM_ERROR(e) && *data)
		len += (size_t)snprintf(text + len, ERROR_TEXT_MAX - len, " (%s)", data);
	return len;
}

int tls_error(struct error *err, int code, const char *what)
{
	char text[ERROR_TEXT_MAX];
	size_t len = (size_t)snprintf(text, sizeof(text), "%s", what);
	const char *data;
	unsigned long e;
	int flags;

	while ((e = ERR_get_error_all(NULL, NULL, NULL, &data, &flags)))
		len = reason_append(text, len, e, flags & ERR_TXT_STRING ? data : "");
	return error_set(err, code, "%s", text);
}
