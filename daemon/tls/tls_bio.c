/* The BIO between an SSL and its connection. It holds nothing: reads take the bytes where they were
 * received, writes go into the room that the connection lends. While a handshake is under way both
 * ends are its buffers instead, for its thread may not touch the connection. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bio.h>

#include "daemon/tls/tls_internal.h"

static int bio_read(BIO *bio, char *to, size_t n, size_t *got)
{
	struct tls_session *s = BIO_get_data(bio);
	struct tls_handshake *hs = s->handshake;

	BIO_clear_retry_flags(bio);
	if (hs != NULL && s->state == SESSION_HANDSHAKE) {
		size_t left = hs->in_n - hs->in_at;

		*got = n < left ? n : left;
		if (*got != 0)
			memcpy(to, hs->in + hs->in_at, *got);
		hs->in_at += (uint32_t)*got;
	} else {
		*got = n < s->in_n ? n : s->in_n;
		if (*got != 0)
			memcpy(to, s->in, *got);
		s->in += *got;
		s->in_n -= *got;
	}
	if (*got != 0 || n == 0)
		return 1;
	BIO_set_retry_read(bio);
	return 0;
}

static bool handshake_room(struct tls_handshake *hs, size_t n)
{
	size_t max = hs->out_max != 0 ? hs->out_max : 4096;
	uint8_t *p;

	while (max - hs->out_n < n)
		max *= 2;
	if (max > HANDSHAKE_OUT_MAX)
		return false;
	if (max == hs->out_max)
		return true;
	p = realloc(hs->out, max);
	if (p == NULL)
		return false;
	hs->out = p;
	hs->out_max = max;
	return true;
}

static int bio_write(BIO *bio, const char *from, size_t n, size_t *put)
{
	struct tls_session *s = BIO_get_data(bio);
	struct tls_handshake *hs = s->handshake;

	BIO_clear_retry_flags(bio);
	*put = 0;
	if (hs != NULL && s->state == SESSION_HANDSHAKE) {
		if (n > HANDSHAKE_OUT_MAX || !handshake_room(hs, n))
			return 0; /* no retry: the handshake fails */
		memcpy(hs->out + hs->out_n, from, n);
		hs->out_n += n;
		*put = n;
		return 1;
	}
	while (*put < n) {
		uint8_t *room;
		size_t part = 0;

		if (s->out.reserve(s->out.ctx, n - *put, &room, &part) != 0)
			break;
		part = part < n - *put ? part : n - *put;
		memcpy(room, from + *put, part);
		s->out.commit(s->out.ctx, part);
		*put += part;
	}
	if (*put != 0)
		return 1;
	BIO_set_retry_write(bio);
	return 0;
}

static long bio_ctrl(BIO *bio, int what, long number, void *pointer)
{
	(void)bio;
	(void)number;
	(void)pointer;
	/* Everything else (kTLS, peeking at what waits) is not there. */
	return what == BIO_CTRL_FLUSH || what == BIO_CTRL_DUP ? 1 : 0;
}

static BIO_METHOD *method;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void method_make(void)
{
	method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "splitd connection");
	if (method == NULL)
		return;
	if (BIO_meth_set_read_ex(method, bio_read) != 1 ||
	    BIO_meth_set_write_ex(method, bio_write) != 1 ||
	    BIO_meth_set_ctrl(method, bio_ctrl) != 1) {
		BIO_meth_free(method);
		method = NULL;
	}
}

BIO *session_bio(struct tls_session *s)
{
	BIO *bio;

	(void)pthread_once(&once, method_make);
	bio = method != NULL ? BIO_new(method) : NULL;
	if (bio == NULL)
		return NULL;
	BIO_set_data(bio, s);
	BIO_set_init(bio, 1);
	return bio;
}
