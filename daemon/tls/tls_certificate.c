/* A certificate with its key from files, checked so that what is wrong is said at start or reload
 * in one line that names the file, and not by every client's handshake. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "daemon/tls/tls_internal.h"

#define FILE_BYTES_MAX (1024u * 1024u)
#define CHAIN_MAX      16
/* A certificate that ends within this gets a warning. */
#define EXPIRY_WARN_S (7 * 24 * 3600)

const char *openssl_reason(char *buf, size_t bytes)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = ERR_reason_error_string(code);

	if (code == 0)
		(void)snprintf(buf, bytes, "no reason given");
	else if (reason != NULL)
		(void)snprintf(buf, bytes, "%s", reason);
	else
		(void)snprintf(buf, bytes, "error %lx", code);
	ERR_clear_error();
	return buf;
}

static int wrong(struct tls_error *error, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static int wrong(struct tls_error *error, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(error->text, sizeof(error->text), fmt, args);
	va_end(args);
	return -SPLIT_E_TLS_CONFIG;
}

/* The whole file in memory, read once: what was checked is what is used. NULL: *error. */
static BIO *file_read(const char *path, const char *what, struct stat *st, struct tls_error *error)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	uint8_t part[4096];
	size_t total = 0;
	BIO *bio = NULL;
	ssize_t n;

	if (fd < 0 || fstat(fd, st) != 0) {
		wrong(error, "%s %s cannot be read: %s", what, path, strerror(errno));
		goto out;
	}
	if (!S_ISREG(st->st_mode)) {
		wrong(error, "%s %s is no regular file", what, path);
		goto out;
	}
	bio = BIO_new(BIO_s_secmem());
	while (bio != NULL && (n = read(fd, part, sizeof(part))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		total += n > 0 ? (size_t)n : 0;
		if (n > 0 && total <= FILE_BYTES_MAX && BIO_write(bio, part, (int)n) == n)
			continue;
		wrong(error, "%s %s cannot be read: %s", what, path,
		      n < 0 ? strerror(errno) : "it is too large");
		BIO_free(bio);
		bio = NULL;
		goto out;
	}
	if (bio == NULL)
		wrong(error, "%s %s: out of memory", what, path);
	else
		BIO_set_mem_eof_return(bio, 0);
out:
	OPENSSL_cleanse(part, sizeof(part));
	if (fd >= 0)
		close(fd);
	return bio;
}

/* ---- the certificate ------------------------------------------------------------------------- */

static int chain_load(struct certificate *c, const char *path, struct tls_error *error)
{
	char reason[128];
	struct stat st;
	BIO *bio = file_read(path, "certificate", &st, error);
	X509 *next;
	int err = 0;

	if (bio == NULL)
		return -SPLIT_E_TLS_CONFIG;
	c->chain = sk_X509_new_null();
	c->leaf = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL);
	if (c->leaf == NULL || c->chain == NULL)
		err = wrong(error, "certificate %s holds no certificate in PEM form: %s", path,
			    openssl_reason(reason, sizeof(reason)));
	while (err == 0 && (next = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL) {
		if (sk_X509_num(c->chain) >= CHAIN_MAX || sk_X509_push(c->chain, next) == 0) {
			X509_free(next);
			err = wrong(error, "certificate %s has more than %d intermediates", path,
				    CHAIN_MAX);
		}
	}
	/* The end of the file, or something that is not a certificate. */
	if (err == 0 && ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
		err = wrong(error, "certificate %s: its certificate %d is broken: %s", path,
			    sk_X509_num(c->chain) + 2, openssl_reason(reason, sizeof(reason)));
	ERR_clear_error();
	BIO_free(bio);
	return err;
}

static int no_password(char *buf, int bytes, int writing, void *user)
{
	(void)buf;
	(void)bytes;
	(void)writing;
	*(bool *)user = true;
	return -1;
}

static int key_load(struct certificate *c, const struct tls_certificate *from,
		    struct tls_context *ctx, struct tls_error *error)
{
	bool encrypted = false;
	char reason[128];
	struct stat st;
	BIO *bio = file_read(from->key_file, "key", &st, error);

	if (bio == NULL)
		return -SPLIT_E_TLS_CONFIG;
	c->key = PEM_read_bio_PrivateKey(bio, NULL, no_password, &encrypted);
	BIO_free(bio);
	if (c->key == NULL && encrypted)
		return wrong(error, "key %s is encrypted; splitd asks nobody for a password",
			     from->key_file);
	if (c->key == NULL)
		return wrong(error, "key %s holds no private key in PEM form: %s", from->key_file,
			     openssl_reason(reason, sizeof(reason)));
	if (st.st_mode & S_IWOTH)
		return wrong(error, "key %s can be written by everybody (mode %04o)",
			     from->key_file, (unsigned)st.st_mode & 07777);
	if (st.st_mode & (S_IRGRP | S_IROTH))
		context_warn(ctx, "key %s can be read by others than its owner (mode %04o)",
			     from->key_file, (unsigned)st.st_mode & 07777);
	if (X509_check_private_key(c->leaf, c->key) != 1) {
		ERR_clear_error();
		return wrong(error, "key %s does not belong to certificate %s", from->key_file,
			     from->cert_file);
	}
	return 0;
}

/* Clients refuse a certificate that has ended; but a daemon that does not come up serves nobody at
 * all: these are warnings. */
static void validity_check(const struct certificate *c, const char *path, struct tls_context *ctx)
{
	const ASN1_TIME *until = X509_get0_notAfter(c->leaf);
	time_t soon = time(NULL) + EXPIRY_WARN_S;
	char text[64] = "?";
	struct tm tm;

	if (ASN1_TIME_to_tm(until, &tm) == 1)
		(void)strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &tm);
	if (X509_cmp_current_time(until) < 0)
		context_warn(ctx, "certificate %s has ended (%s)", path, text);
	else if (X509_cmp_time(until, &soon) < 0)
		context_warn(ctx, "certificate %s ends soon (%s)", path, text);
	if (X509_cmp_current_time(X509_get0_notBefore(c->leaf)) > 0)
		context_warn(ctx, "certificate %s is not valid yet", path);
}

/* ---- its names ------------------------------------------------------------------------------- */

static int name_add(struct certificate *c, const char *name, size_t n)
{
	char *copy;

	if (n == 0 || n > 253 || memchr(name, '\0', n) != NULL ||
	    c->names_n >= CERTIFICATE_NAMES_MAX)
		return 0;
	copy = strndup(name, n);
	if (copy == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (size_t i = 0; i < n; i++)
		if (copy[i] >= 'A' && copy[i] <= 'Z')
			copy[i] = (char)(copy[i] - 'A' + 'a');
	if (copy[n - 1] == '.')
		copy[n - 1] = '\0';
	c->names[c->names_n++] = copy;
	return 0;
}

static int names_of_certificate(struct certificate *c)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(c->leaf, NID_subject_alt_name, NULL, NULL);
	char cn[256];
	int err = 0, n;

	for (int i = 0; i < sk_GENERAL_NAME_num(names) && err == 0; i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

		if (name->type == GEN_DNS)
			err = name_add(c, (const char *)ASN1_STRING_get0_data(name->d.dNSName),
				       (size_t)ASN1_STRING_length(name->d.dNSName));
	}
	GENERAL_NAMES_free(names);
	if (err == 0 && c->names_n == 0) {
		n = X509_NAME_get_text_by_NID(X509_get_subject_name(c->leaf), NID_commonName, cn,
					      sizeof(cn));
		if (n > 0 && n < (int)sizeof(cn))
			err = name_add(c, cn, strlen(cn));
	}
	return err;
}

static int names_load(struct certificate *c, const struct tls_certificate *from)
{
	int err = 0;

	c->names = calloc(CERTIFICATE_NAMES_MAX, sizeof(*c->names));
	if (c->names == NULL)
		return -SPLIT_E_BASE_NOMEM;
	if (from->names_n == 0)
		return names_of_certificate(c);
	for (size_t i = 0; i < from->names_n && err == 0; i++)
		err = name_add(c, from->names[i], strlen(from->names[i]));
	return err;
}

bool certificate_covers(const struct certificate *c, const char *host, bool wildcards)
{
	for (size_t i = 0; i < c->names_n; i++)
		if (wildcards == (c->names[i][0] == '*') && name_covers(c->names[i], host))
			return true;
	return false;
}

/* ---- OCSP ------------------------------------------------------------------------------------ */

static time_t time_of(const ASN1_GENERALIZEDTIME *t)
{
	struct tm tm;

	return t != NULL && ASN1_TIME_to_tm(t, &tm) == 1 ? timegm(&tm) : 0;
}

/* When the response ends; *good_out: it is one, and says so of some certificate. */
static time_t ocsp_look(OCSP_RESPONSE *response, bool *good_out)
{
	OCSP_BASICRESP *basic = OCSP_response_get1_basic(response);
	time_t until = 0;

	*good_out = false;
	if (basic != NULL && OCSP_resp_count(basic) > 0) {
		ASN1_GENERALIZEDTIME *next = NULL;
		int status =
			OCSP_single_get0_status(OCSP_resp_get0(basic, 0), NULL, NULL, NULL, &next);

		*good_out = status == V_OCSP_CERTSTATUS_GOOD;
		until = time_of(next);
	}
	OCSP_BASICRESP_free(basic);
	return until;
}

static int ocsp_load(struct certificate *c, const char *path, struct tls_context *ctx,
		     struct tls_error *error)
{
	struct stat st;
	BIO *bio = file_read(path, "OCSP response", &st, error);
	OCSP_RESPONSE *response;
	const uint8_t *p;
	char *bytes;
	long n;
	bool good = false;

	if (bio == NULL)
		return -SPLIT_E_TLS_CONFIG;
	n = BIO_get_mem_data(bio, &bytes);
	p = (const uint8_t *)bytes;
	response = d2i_OCSP_RESPONSE(NULL, &p, n);
	if (response != NULL && OCSP_response_status(response) == OCSP_RESPONSE_STATUS_SUCCESSFUL)
		c->ocsp_until = ocsp_look(response, &good);
	OCSP_RESPONSE_free(response);
	ERR_clear_error();
	if (good) {
		c->ocsp = malloc((size_t)n);
		if (c->ocsp != NULL) {
			memcpy(c->ocsp, bytes, (size_t)n);
			c->ocsp_n = (size_t)n;
		}
	}
	BIO_free(bio);
	if (!good)
		return wrong(error, "OCSP response %s is no DER response that says \"good\"", path);
	if (c->ocsp == NULL)
		return -SPLIT_E_BASE_NOMEM;
	if (c->ocsp_until != 0 && c->ocsp_until <= time(NULL))
		context_warn(ctx, "OCSP response %s has ended; it is not sent", path);
	return 0;
}

/* ---- the whole ------------------------------------------------------------------------------- */

int certificate_load(struct certificate *c, const struct tls_certificate *from,
		     struct tls_context *ctx, struct tls_error *error)
{
	int err = chain_load(c, from->cert_file, error);

	if (err == 0)
		err = key_load(c, from, ctx, error);
	if (err == 0) {
		validity_check(c, from->cert_file, ctx);
		err = names_load(c, from);
	}
	if (err == 0 && from->ocsp_file != NULL)
		err = ocsp_load(c, from->ocsp_file, ctx, error);
	return err;
}

void certificate_fini(struct certificate *c)
{
	X509_free(c->leaf);
	sk_X509_pop_free(c->chain, X509_free);
	EVP_PKEY_free(c->key);
	for (size_t i = 0; i < c->names_n; i++)
		free(c->names[i]);
	free(c->names);
	free(c->ocsp);
	memset(c, 0, sizeof(*c));
}
