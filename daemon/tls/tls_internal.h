/* Inside of daemon/tls: the OpenSSL engine. Nothing here is seen by another folder. */
#ifndef SPLITD_DAEMON_TLS_INTERNAL_H
#define SPLITD_DAEMON_TLS_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include <openssl/ssl.h>

#include "base/bits.h"
#include "base/list.h"
#include "base/pool.h"
#include "daemon/tls/tls.h"

/* --- certificates (tls_certificate.c) --------------------------------------------------------- */

#define CERTIFICATE_NAMES_MAX 256

struct certificate {
	X509 *leaf;
	STACK_OF(X509) * chain; /* behind the leaf */
	EVP_PKEY *key;
	char **names; /* lower case; "*.example" for wildcards */
	size_t names_n;
	uint8_t *ocsp;
	size_t ocsp_n;
	time_t ocsp_until; /* it is stapled before this only; 0: no end given */
};

/* Reads the files. 0; -SPLIT_E_TLS_CONFIG with *error; -SPLIT_E_BASE_NOMEM. certificate_fini in any
 * case. Warnings go to `ctx`. */
int certificate_load(struct certificate *c, const struct tls_certificate *from,
		     struct tls_context *ctx, struct tls_error *error) SPLIT_MUST_USE;
void certificate_fini(struct certificate *c);
/* Whether one of its names covers `host` (lower case); `wildcards`: by a wildcard too. */
bool certificate_covers(const struct certificate *c, const char *host, bool wildcards);
/* "*.example" covers "a.example"; everything else itself. Without case. */
bool name_covers(const char *pattern, const char *name);
/* One printable line from OpenSSL's last error of this thread; clears its queue. */
const char *openssl_reason(char *buf, size_t bytes);

/* --- context (tls_context.c) -------------------------------------------------------------------
 */

#define CONTEXT_WARNINGS_MAX 32

struct tls_context {
	atomic_uint refs;
	uint64_t id; /* of a client's: no other has had it; what is kept of sessions goes by it */
	SSL_CTX *ssl;
	struct certificate *certificates;
	size_t certificates_n;
	struct tls_tickets *tickets;
	char alpn[32]; /* length byte, then the name */
	bool client;
	char *warnings[CONTEXT_WARNINGS_MAX];
	size_t warnings_n;
};

/* tls_client.c: what the SSL of a session to a server needs. 0 or -SPLIT_E_TLS_HANDSHAKE. */
int client_prepare(struct tls_session *s) SPLIT_MUST_USE;
/* A session to a server begins (its server, context): with the ticket of one before, if the engine
 * has it. Worker. */
void client_resume(struct tls_session *s, uint64_t source);
/* The handshake is done: tickets that came in it are kept. Worker. */
void client_opened(struct tls_session *s);
/* Of the session; of the engine. */
void client_tickets_put(struct tls_session *s);
void client_tickets_fini(struct tls_engine *e);
/* tls_context.c: one with nothing in it but its SSL_CTX; 0 or -SPLIT_E_BASE_NOMEM. */
int context_new(const SSL_METHOD *method, struct tls_error *error,
		struct tls_context **out) SPLIT_MUST_USE;
/* Versions, ciphers and the like. */
int context_rules(SSL_CTX *ssl, const char *ciphers, const char *suites, const char *groups,
		  enum tls_version min_version, struct tls_error *error) SPLIT_MUST_USE;
int context_wrong(struct tls_error *error, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
int context_alpn(struct tls_context *ctx, const char *alpn) SPLIT_MUST_USE;
void context_warn(struct tls_context *ctx, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* --- tickets (tls_tickets.c) -------------------------------------------------------------------
 */

/* OpenSSL's callback; the context's `tickets` are not NULL. */
int tickets_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
		EVP_MAC_CTX *mac, int seal);

/* --- identity (tls_identity.c) -----------------------------------------------------------------
 */

/* Of the peer's certificate; NULL without one or without memory. */
struct tls_identity *identity_of(X509 *certificate);
void identity_free(struct tls_identity *identity);

/* --- session ------------------------------------------------------------------------------------
 */

/* Bytes of the peer that one step gets at most; more wait in the caller's hands. */
#define HANDSHAKE_CHUNK 4096u
/* What a handshake may send before it is done: the largest certificate chains. */
#define HANDSHAKE_OUT_MAX (256u * 1024u)
/* What a peer may send before its handshake is done: RFC 8446 asks for no more than a certificate
 * list, which CERTIFICATE_LIST_MAX bounds, and two flights. */
#define HANDSHAKE_IN_MAX     (128u * 1024u)
#define CERTIFICATE_LIST_MAX (64 * 1024)
/* Waiting handshakes are served round robin over so many classes of sources. */
#define SOURCE_BUCKETS 64u
/* Messages after the handshake (key updates): a burst, and one more for each so many bytes. */
#define POST_HANDSHAKE_BURST 32u
#define POST_HANDSHAKE_BYTES (1u << 20)

/* Why a handshake failed; set where it is found, counted by the worker. */
enum handshake_cause {
	CAUSE_NONE,
	CAUSE_ALPN,
	CAUSE_VERSION,
	CAUSE_CIPHER,
	CAUSE_CERTIFICATE,
	CAUSE_PEER,
	CAUSE_MALFORMED,
	CAUSE_OVER,
};

enum handshake_place {
	PLACE_PEER,   /* waits for the peer's bytes; on engine.peer_wait, oldest first */
	PLACE_READY,  /* has bytes, waits for its turn; on engine.ready or engine.begun */
	PLACE_HELPER, /* lent */
};

/* A handshake under way. In PLACE_HELPER it, its session and the SSL belong to the helper. */
struct tls_handshake {
	struct list link;
	struct tls_session *session;
	enum handshake_place place;
	unsigned bucket;
	bool begun;     /* a step has been made */
	bool abandoned; /* the session was destroyed while it was lent */
	bool silent;    /* nothing of its output may be sent any more */
	uint64_t began_ns;
	uint64_t ready_ns;

	/* A step's result. */
	int result; /* 0 done, SPLIT_AGAIN, or a fatal error */
	enum handshake_cause cause;
	uint64_t step_ns;

	size_t in_total;
	uint8_t *out; /* malloc */
	size_t out_n, out_at, out_max;
	uint32_t in_n, in_at;
	uint8_t in[HANDSHAKE_CHUNK];
};

enum session_state {
	SESSION_HANDSHAKE,
	SESSION_OPEN,
	SESSION_FAILED,
};

/* What is kept of sessions to servers, for the next: tickets (RFC 8446 s4.6.1). */
#define CLIENT_TICKETS 64u

struct client_ticket {
	uint64_t key; /* of server, address and context; 0: free */
	uint64_t kept;
	SSL_SESSION *session;
};

struct client_tickets {
	uint64_t clock;
	struct client_ticket at[CLIENT_TICKETS];
};

struct tls_session {
	struct tls_engine *engine;
	struct tls_context *context; /* until the handshake is done */
	char *server;                /* whom we connect to; NULL: accepted */
	uint64_t ticket_key;
	SSL_SESSION *resumes; /* until the SSL has it */
	SSL_SESSION *ticket;  /* came in the handshake */
	const char *why;      /* it failed, for people; static; NULL: not known */
	SSL *ssl;             /* NULL before the first step */
	struct tls_handshake *handshake;
	struct tls_identity *identity;
	struct tls_out out;
	void *user;
	const uint8_t *in; /* while the SSL reads */
	size_t in_n;
	uint32_t pending; /* plaintext bytes of a record whose end waits in the SSL */
	uint32_t segment;
	uint64_t sent_ns;  /* last record of data */
	uint32_t burst;    /* plaintext sent since the connection was last idle, up to a bound */
	uint32_t messages; /* after the handshake */
	uint64_t received; /* plaintext */
	uint8_t state;
	uint8_t cause;
	uint8_t alert; /* the fatal one that came */
	bool alert_fatal_in, alert_fatal_out;
	bool renegotiation;
	bool eof;        /* close_notify came */
	bool shut;       /* close_notify was sealed */
	bool shut_waits; /* its end waits in the SSL */
};

/* SSL → struct tls_session; SSL_CTX → struct tls_context. */
extern int session_index, context_index;
/* Makes them. 0 or -SPLIT_E_BASE_NOMEM. */
int library_ready(void);

/* tls_bio.c: the SSL's bytes come from session->in, or the handshake's chunk, and go to
 * session->out, or the handshake's buffer. NULL without memory. */
BIO *session_bio(struct tls_session *s);

/* tls_handshake.c: one step, on whatever thread. Makes the SSL at first. */
void handshake_step(struct tls_handshake *hs);
/* OpenSSL's info callback: alerts, messages after the handshake. */
void session_info(const SSL *ssl, int where, int ret);

/* tls_session.c: the handshake is done: what is left of its chunk is data. Worker. */
int session_opened(struct tls_session *s, uint64_t now_ns) SPLIT_MUST_USE;
/* Give everything back. */
void session_free(struct tls_session *s);

/* --- helpers (tls_helpers.c) --------------------------------------------------------------------
 */

/* Handshakes of one engine that one helper may have at once: one at work, one behind it. */
#define HELPER_DEPTH 4u

/* Lend to a helper. False when all have enough. Worker. */
bool helpers_submit(struct tls_helpers *helpers, unsigned engine, struct tls_handshake *hs);
/* One that is done, or NULL. Worker. */
struct tls_handshake *helpers_take(struct tls_helpers *helpers, unsigned engine);
/* The engine's descriptor that is told of steps done; -1: none. Before the first submit. */
void helpers_wake_fd_set(struct tls_helpers *helpers, unsigned engine, int fd);

/* --- engine (tls_engine.c) ----------------------------------------------------------------------
 */

struct tls_engine {
	struct tls_counters counters;
	struct tls_engine_config config;
	const struct tls_events *events;
	struct pool sessions;
	struct pool handshakes;
	struct list peer_wait;             /* oldest first */
	struct list begun;                 /* ready, a step made before */
	struct list ready[SOURCE_BUCKETS]; /* ready for their first step */
	uint64_t ready_bits;
	unsigned next_bucket;
	unsigned waiting; /* in begun and ready */
	unsigned lent;
	struct list inline_done; /* without helpers: one step's result */
	double tokens;
	uint64_t tokens_ns;
	uint64_t now_ns;
	struct client_tickets *tickets; /* NULL: no session to a server was begun */
	uint8_t scratch[TLS_RECORD_BYTES_MAX + 64];
};

_Static_assert(SOURCE_BUCKETS == 64, "one bit for each in ready_bits");

/* The handshake has bytes: let it have its turn. */
void engine_ready(struct tls_engine *e, struct tls_handshake *hs);
/* Take it off whatever it waits on. */
void engine_unlink(struct tls_engine *e, struct tls_handshake *hs);
/* The handshake is over (or its session is): free it. */
void engine_handshake_put(struct tls_engine *e, struct tls_handshake *hs);

/* --- memory (tls_memory.c) ----------------------------------------------------------------------
 */

/* Bytes that OpenSSL has now, all threads; for tests and the table in docs/TLS.md. */
size_t memory_used(void);

#endif
