/* What a client certificate says about its holder, as strings (RFC 5280 s4.2.1.6). A name with a
 * NUL inside is somebody who wants to be read differently by different readers: it is left out. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <openssl/x509v3.h>

#include "daemon/tls/tls_internal.h"

#define NAME_CN      "x509_common_name"
#define NAME_SUBJECT "x509_subject"
#define NAME_SAN     "x509_subject_alternative_name"

/* Collects properties, strings behind them. Runs twice: first to count, then to write. */
struct collector {
	struct tls_identity *to; /* NULL: counting */
	char *at;
	uint32_t n;
	size_t bytes;
};

static void collect(struct collector *c, const char *name, const void *value, size_t n)
{
	if (c->n >= TLS_IDENTITY_MAX || n == 0 || n > TLS_IDENTITY_VALUE_MAX ||
	    memchr(value, '\0', n) != NULL)
		return;
	if (c->to != NULL) {
		memcpy(c->at, value, n);
		c->at[n] = '\0';
		c->to->properties[c->n] = (struct tls_property){
			.name = name,
			.value = c->at,
			.name_len = (uint32_t)strlen(name),
			.value_len = (uint32_t)n,
		};
		c->at += n + 1;
	}
	c->n++;
	c->bytes += n + 1;
}

static void collect_string(struct collector *c, const char *name, const ASN1_STRING *string)
{
	unsigned char *utf8 = NULL;
	int n = ASN1_STRING_to_UTF8(&utf8, string);

	if (n > 0)
		collect(c, name, utf8, (size_t)n);
	OPENSSL_free(utf8);
}

static void collect_address(struct collector *c, const ASN1_OCTET_STRING *ip)
{
	int n = ASN1_STRING_length(ip);
	char text[INET6_ADDRSTRLEN];

	if ((n == 4 || n == 16) && inet_ntop(n == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(ip),
					     text, sizeof(text)) != NULL)
		collect(c, NAME_SAN, text, strlen(text));
}

static void collect_alternative(struct collector *c, const GENERAL_NAME *name)
{
	switch (name->type) {
	case GEN_DNS:
		collect_string(c, NAME_SAN, name->d.dNSName);
		break;
	case GEN_URI:
		collect_string(c, NAME_SAN, name->d.uniformResourceIdentifier);
		break;
	case GEN_EMAIL:
		collect_string(c, NAME_SAN, name->d.rfc822Name);
		break;
	case GEN_IPADD:
		collect_address(c, name->d.iPAddress);
		break;
	default: /* nothing that has a text of its own */
		break;
	}
}

static void collect_subject(struct collector *c, const X509_NAME *subject)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *text;
	long n;

	if (bio == NULL)
		return;
	if (X509_NAME_print_ex(bio, subject, 0, XN_FLAG_RFC2253) >= 0) {
		n = BIO_get_mem_data(bio, &text);
		if (n > 0)
			collect(c, NAME_SUBJECT, text, (size_t)n);
	}
	BIO_free(bio);
}

static void collect_all(struct collector *c, X509 *certificate, const GENERAL_NAMES *alternatives)
{
	const X509_NAME *subject = X509_get_subject_name(certificate);
	int last = -1, at;

	/* The last one is the most specific (RFC 4514 has it first). */
	while ((at = X509_NAME_get_index_by_NID(subject, NID_commonName, last)) >= 0)
		last = at;
	if (last >= 0)
		collect_string(c, NAME_CN,
			       X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, last)));
	collect_subject(c, subject);
	for (int i = 0; i < sk_GENERAL_NAME_num(alternatives); i++)
		collect_alternative(c, sk_GENERAL_NAME_value(alternatives, i));
}

struct tls_identity *identity_of(X509 *certificate)
{
	GENERAL_NAMES *alternatives;
	struct collector c = {0};
	size_t head;

	if (certificate == NULL)
		return NULL;
	alternatives = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
	collect_all(&c, certificate, alternatives);
	head = sizeof(*c.to) + c.n * sizeof(c.to->properties[0]);
	c.to = calloc(1, head + c.bytes);
	if (c.to != NULL) {
		c.at = (char *)c.to + head;
		c.to->properties_n = c.n;
		c.n = 0;
		collect_all(&c, certificate, alternatives);
	}
	GENERAL_NAMES_free(alternatives);
	return c.to;
}

void identity_free(struct tls_identity *identity)
{
	free(identity);
}

bool name_covers(const char *pattern, const char *name)
{
	const char *dot;

	if (strncmp(pattern, "*.", 2) != 0)
		return strcasecmp(pattern, name) == 0;
	dot = strchr(name, '.');
	return dot != NULL && dot != name && strcasecmp(pattern + 1, dot) == 0;
}

/* Host names have no case (RFC 4343); URIs, mail addresses and people's names may have. */
static bool is_host(const char *text)
{
	return text[strcspn(text, ":/@ ")] == '\0';
}

bool tls_identity_matches(const struct tls_identity *identity, const char *pattern)
{
	if (identity == NULL)
		return false;
	for (uint32_t i = 0; i < identity->properties_n; i++) {
		const struct tls_property *p = &identity->properties[i];

		if (strcmp(p->name, NAME_SUBJECT) == 0)
			continue;
		if (strcmp(p->value, pattern) == 0)
			return true;
		if (strcmp(p->name, NAME_SAN) == 0 && is_host(p->value) &&
		    name_covers(pattern, p->value))
			return true;
	}
	return false;
}
