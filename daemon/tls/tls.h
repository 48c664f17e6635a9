/* TLS 1.2 and 1.3 for byte streams, accepted or begun: ciphertext in, plaintext up, and back (RFC
 * 8446, 5246).
 *
 * One engine stands behind this header today (OpenSSL 3); no type of it leaves the folder. A
 * session sees bytes only: it reads them where they were received (no copy before the record
 * layer's own) and writes records straight into room that `struct tls_out` lends. It makes no
 * system call and reads no clock but the wall clock for certificates.
 *
 * Who does what
 *   context  certificates, keys and rules of one listener. Made by the control thread, from files;
 *            counted references, immutable, shared by all workers. A reload makes a new one, and
 * new connections get it; old ones keep what they have. tickets  the keys of session tickets,
 * shared by all contexts and workers, rotated by the control thread. helpers  threads that carry
 * handshakes. A handshake costs up to milliseconds of arithmetic, and a worker's other connections
 * must not wait for it: so a session that has bytes for its handshake is lent to a helper for one
 * step (until it needs more bytes, is done, or has failed) and comes back with the bytes to send.
 * The worker never touches a session that is lent, and the helper nothing of the worker but that
 * session. engine   a worker's part: its sessions, its handshakes, its counters.
 *
 * Threads: an engine and its sessions belong to one worker thread. Contexts, tickets and helpers
 * are made and destroyed by the control thread; what may be called from elsewhere says so.
 *
 * Call protocol of a session
 *   tls_session_create when a connection is accepted. Bytes from the peer go to tls_session_recv,
 *   which takes as many as it can: while the session is lent it may take fewer than it was given;
 *   events.progress then says when to offer the rest. events.opened is called once, when the
 *   handshake is done, before the first events.data. tls_session_send writes what waits inside (a
 *   flight, an alert, the rest of a record); after progress and whenever there is room again.
 *   tls_session_write seals one record. tls_session_shutdown seals close_notify. At a fatal error:
 *   tls_session_send once more (the alert), close, destroy.
 *
 * Bounds: handshakes under way, their rate and bytes, records without content, renegotiation, key
 * updates and certificate chains are bounded; each bound has a counter. Waiting handshakes are
 * served round robin over their sources, those that have begun first; with no room for another the
 * one that has waited longest for its peer gives way.
 *
 * Never: renegotiation (RFC 9113 s9.2.1), compression, 0-RTT, static key exchange, CBC.
 */
#ifndef SPLITD_DAEMON_TLS_TLS_H
#define SPLITD_DAEMON_TLS_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/counter.h"
#include "base/error.h"

/* Largest plaintext of a record, and the most that a record is longer than its plaintext (header,
 * explicit nonce of 1.2, content type of 1.3, tag). */
#define TLS_RECORD_BYTES_MAX 16384u
#define TLS_RECORD_OVERHEAD  64u

/* X(name, text). Single writer: the engine's worker. */
#define TLS_COUNTERS(X)                                                                            \
	X(sessions, "connections accepted for TLS")                                                \
	X(sessions_refused, "connections refused: no room for a handshake or session")             \
	X(handshakes, "handshakes done")                                                           \
	X(handshakes_12, "of these with TLS 1.2")                                                  \
	X(handshakes_resumed, "of these by a session ticket")                                      \
	X(handshakes_failed, "handshakes that failed")                                             \
	X(handshakes_timeout, "handshakes given up: handshake_timeout")                            \
	X(handshakes_evicted, "handshakes that gave way to newer ones: handshakes_max")            \
	X(handshakes_delayed, "handshakes held back: handshakes_per_second")                       \
	X(handshakes_over, "handshakes ended: too many bytes before their end")                    \
	X(handshakes_left, "handshakes that the peer left")                                        \
	X(failed_alpn, "handshakes refused: the client does not offer h2")                         \
	X(failed_version, "handshakes refused: protocol version")                                  \
	X(failed_cipher, "handshakes refused: no cipher, curve or signature in common")            \
	X(failed_certificate, "handshakes refused: the client's certificate, or none")             \
	X(failed_peer, "handshakes ended by the client's alert")                                   \
	X(failed_malformed, "handshakes ended: not TLS, or broken")                                \
	X(steps, "handshake steps")                                                                \
	X(steps_helper, "of these by helper threads")                                              \
	X(step_ns, "time spent in handshake steps")                                                \
	X(step_ns_max, "longest handshake step")                                                   \
	X(step_wait_ns_max, "longest wait of a handshake step for its turn")                       \
	X(rx_bytes, "plaintext bytes received")                                                    \
	X(rx_records, "records received, or parts of them")                                        \
	X(tx_bytes, "plaintext bytes sent")                                                        \
	X(tx_records, "records of data sent")                                                      \
	X(tx_blocked, "records whose end had to wait for room")                                    \
	X(alerts_received, "fatal alerts received")                                                \
	X(alerts_sent, "fatal alerts sent")                                                        \
	X(sessions_failed, "sessions ended by a broken record or a broken rule")                   \
	X(renegotiations, "sessions ended: the client asked for renegotiation")                    \
	X(key_updates, "key updates and other messages after the handshake")                       \
	X(key_updates_over, "sessions ended: too many of these")                                   \
	X(closed_by_peer, "sessions that the peer ended by close_notify")                          \
	X(closed_short, "sessions whose stream ended without close_notify")                        \
	X(gauge_handshakes, "handshakes under way now")                                            \
	X(gauge_waiting, "handshake steps waiting for a helper now")

COUNTER_DECLARE(tls, TLS_COUNTERS); /* struct tls_counters, tls_counter_desc */

/* One clear line: what is wrong, with the file or setting it is about. */
struct tls_error {
	char text[512];
};

/* Once in a process, before its first use of OpenSSL if that can be (main's first lines): record
 * buffers are then kept at hand for each thread instead of going through malloc. Harmless to
 * repeat. */
void tls_library_init(void);

/* ---- tickets -------------------------------------------------------------------------------- */

struct tls_tickets;

/* Ticket keys, the first one made at once. 0, -SPLIT_E_BASE_NOMEM, -SPLIT_E_BASE_SYSTEM (no
 * randomness). */
int tls_tickets_create(struct tls_tickets **out) SPLIT_MUST_USE;
/* All contexts made with it must be gone. NULL is fine. */
void tls_tickets_destroy(struct tls_tickets *tickets);
/* A new key seals from now on; the TLS_TICKET_KEYS - 1 before it still open. One thread. 0 or
 * -SPLIT_E_BASE_SYSTEM. */
int tls_tickets_rotate(struct tls_tickets *tickets) SPLIT_MUST_USE;
#define TLS_TICKET_KEYS 3u

/* ---- contexts ------------------------------------------------------------------------------- */

struct tls_context;

struct tls_certificate {
	const char *cert_file; /* PEM: the certificate, then its intermediates */
	const char *key_file;  /* PEM, not encrypted */
	const char *ocsp_file; /* DER OCSP response to staple; NULL: none */
	/* Server names it is for: "host.example", "*.example" (one label). None: what the
	 * certificate says (subjectAltName; without one its common name). */
	const char *const *names;
	size_t names_n;
};

enum tls_client_auth { TLS_CLIENT_NONE, TLS_CLIENT_OPTIONAL, TLS_CLIENT_REQUIRED };
enum tls_version { TLS_VERSION_1_2, TLS_VERSION_1_3 };

struct tls_context_config {
	const char *name; /* the listener's, for messages; sessions resume under it only */
	/* The first is for clients that name no server, or an unknown one. Several may be for one
	 * name: the client's signature algorithms choose (RSA beside ECDSA). */
	const struct tls_certificate *certificates;
	size_t certificates_n;
	const char *client_ca_file; /* PEM; needed unless client_auth is NONE */
	enum tls_client_auth client_auth;
	enum tls_version min_version;
	const char *ciphers;      /* of 1.2, in OpenSSL's names; NULL: the defaults */
	const char *ciphersuites; /* of 1.3; NULL: the defaults */
	const char *groups;       /* key exchange; NULL: the defaults */
	const char *alpn;         /* the one protocol spoken; NULL: "h2" */
	uint64_t ticket_seconds;  /* life of a ticket; 0: no tickets */
};

/* The other end: rules for connections to servers. */
struct tls_client_config {
	const char *name;    /* for messages */
	const char *ca_file; /* PEM: who may vouch for servers; NULL: those the system trusts */
	const char *cert_file, *key_file; /* PEM: our certificate; NULL: none */
	enum tls_version min_version;
	const char *ciphers, *ciphersuites, *groups; /* as below; NULL: the defaults */
	const char *alpn;                            /* NULL: "h2" */
};
/* As tls_context_create; for tls_session_connect only. */
int tls_context_create_client(const struct tls_client_config *config, struct tls_context **out,
			      struct tls_error *error) SPLIT_MUST_USE;

/* Read and check all files; one reference is the caller's. `tickets` (NULL: no tickets) must
 * outlive it. 0; -SPLIT_E_TLS_CONFIG and *error says what is wrong; -SPLIT_E_BASE_NOMEM. */
int tls_context_create(const struct tls_context_config *config, struct tls_tickets *tickets,
		       struct tls_context **out, struct tls_error *error) SPLIT_MUST_USE;
/* References: any thread. The last put frees. NULL is fine for put. */
struct tls_context *tls_context_get(struct tls_context *context);
void tls_context_put(struct tls_context *context);
/* Whether the caller's reference is the only one. Then none can come any more. */
bool tls_context_last(const struct tls_context *context);
/* Of one, and the time in the file, for people: "CN=a.example, until 2027-01-01". Returns buf. */
const char *tls_context_describe(const struct tls_context *context, char *buf, size_t bytes);
/* Warnings found on the way (a key that others can read, a certificate about to end), one at a
 * time; NULL after the last. */
const char *tls_context_warning(const struct tls_context *context, size_t index);

/* ---- helpers -------------------------------------------------------------------------------- */

struct tls_helpers;

struct tls_helpers_config {
	unsigned threads;      /* 1..TLS_HELPERS_MAX */
	unsigned engines;      /* workers that use them */
	const unsigned *cores; /* thread i runs on cores[i % cores_n]; 0: the creator's cores */
	size_t cores_n;
	int nice; /* added to the threads' niceness */
};
#define TLS_HELPERS_MAX 16u

/* Start the threads; they sleep until there is work. 0, -SPLIT_E_BASE_INVALID, -SPLIT_E_BASE_NOMEM
 * or -SPLIT_E_BASE_SYSTEM. */
int tls_helpers_create(const struct tls_helpers_config *config,
		       struct tls_helpers **out) SPLIT_MUST_USE;
/* Stops and joins them. All engines that use them are gone. NULL is fine. */
void tls_helpers_destroy(struct tls_helpers *helpers);

/* ---- identity ------------------------------------------------------------------------------- */

/* What a verified client certificate says, under gRPC's names for it ("x509_common_name",
 * "x509_subject_alternative_name" once for each, "x509_subject"). Values have no NUL within and one
 * behind; names of more than TLS_IDENTITY_VALUE_MAX bytes and more than TLS_IDENTITY_MAX entries
 * are left out. */
struct tls_property {
	const char *name;
	const char *value;
	uint32_t name_len, value_len;
};
#define TLS_IDENTITY_MAX       32u
#define TLS_IDENTITY_VALUE_MAX 1024u

struct tls_identity {
	uint32_t properties_n;
	struct tls_property properties[];
};

/* Whether the identity is one that `pattern` names: a common name or alternative name equal to it,
 * or for "*.example" with one label before. Host names compare without case. NULL identity: no. */
bool tls_identity_matches(const struct tls_identity *identity, const char *pattern);

/* ---- engine --------------------------------------------------------------------------------- */

struct tls_engine;
struct tls_session;

/* Where sealed bytes go; as http2.h's http2_out.
 * reserve: lends at least 1 byte of room, best `wanted`; 0, or SPLIT_AGAIN when there is none now.
 * commit: the first `bytes` of the room last lent are the next bytes of the connection. */
struct tls_out {
	int (*reserve)(void *ctx, size_t wanted, uint8_t **buf_out, size_t *room_out);
	void (*commit)(void *ctx, size_t bytes);
	void *ctx;
};

/* Calls up, `user` as given at creation. None may destroy the session. */
struct tls_events {
	/* The handshake is done; data follows. Non-zero: the session has failed. */
	int (*opened)(void *user);
	/* Plaintext in order, valid until return. */
	void (*data)(void *user, const uint8_t *p, size_t n);
	/* From tls_engine_poll: the handshake went on, or ended. Bytes may wait for
	 * tls_session_send, and tls_session_recv takes bytes again. */
	void (*progress)(void *user);
};

struct tls_engine_config {
	uint32_t sessions_max;
	uint32_t handshakes_max;        /* under way at once; about 4.5 KiB each */
	uint32_t handshakes_per_second; /* begun; 0: no limit. As many at once as in a second. */
	uint32_t record_bytes_max;      /* plaintext of our records; 0: suited to latency */
	struct tls_helpers *helpers;    /* NULL: handshakes run on the worker, a step each poll */
	unsigned index;                 /* of this engine among those of `helpers` */
	int wake_fd;                    /* helpers add 1 here when a step is done; -1: none */
};

/* 0, -SPLIT_E_BASE_NOMEM, -SPLIT_E_BASE_INVALID. `events` and `helpers` must outlive it. */
int tls_engine_create(const struct tls_engine_config *config, const struct tls_events *events,
		      struct tls_engine **out) SPLIT_MUST_USE;
/* All sessions were destroyed; waits for those that helpers still hold. NULL is fine. */
void tls_engine_destroy(struct tls_engine *engine);
const struct tls_counters *tls_engine_counters(const struct tls_engine *engine);

/* Once a turn: take back what helpers have done, hand out what waits. Bounded work. Returns how
 * many steps ended. */
unsigned tls_engine_poll(struct tls_engine *engine, uint64_t now_ns);
/* Whether a handshake waits for the next poll, and no helper will say so. */
bool tls_engine_pending(const struct tls_engine *engine);
/* Room for the plaintext of one record, the same for all sessions of the engine: valid until the
 * next tls_session_write or _recv on any of them. TLS_RECORD_BYTES_MAX bytes. */
uint8_t *tls_engine_scratch(struct tls_engine *engine);

/* ---- sessions ------------------------------------------------------------------------------- */

/* Begin the server's side of a handshake; takes a reference of `context` until it is done.
 * `source`: a hash of whom it is from, for fairness; `segment`: bytes that a segment carries. 0;
 * -SPLIT_E_BASE_ LIMIT: no room for another. */
int tls_session_create(struct tls_engine *engine, struct tls_context *context,
		       const struct tls_out *out, void *user, uint64_t source, uint32_t segment,
		       uint64_t now_ns, struct tls_session **session_out) SPLIT_MUST_USE;
/* Begin the client's side; as tls_session_create. The server's certificate must be valid for
 * `server`, a host name (also sent as SNI) or an address; copied. A session with the same context,
 * server and `source` before may have left a ticket: then this one resumes it, if the server likes.
 * The first flight comes with the next tls_engine_poll and events.progress. */
int tls_session_connect(struct tls_engine *engine, struct tls_context *context, const char *server,
			const struct tls_out *out, void *user, uint64_t source, uint32_t segment,
			uint64_t now_ns, struct tls_session **session_out) SPLIT_MUST_USE;
/* At any time; what a helper holds is freed once it is back. NULL is fine. `why`: counted when the
 * handshake was not done. */
enum tls_end { TLS_END_CLOSED, TLS_END_TIMEOUT };
void tls_session_destroy(struct tls_session *session, enum tls_end why);

/* The handshake is done (and the session has not failed since). */
bool tls_session_open(const struct tls_session *session);
/* The handshake cannot go on without more bytes from the peer. */
bool tls_session_waits(const struct tls_session *session);
/* The peer has sent close_notify: no more data comes, ours may go on (RFC 8446 s6.1). */
bool tls_session_eof(const struct tls_session *session);

/* Feed bytes from the peer. Returns how many were taken (fewer than `n` only while a handshake step
 * is under way), or a fatal error: an alert that says so waits for tls_session_send, or was
 * received. After close_notify all are taken and dropped. */
ssize_t tls_session_recv(struct tls_session *session, const uint8_t *p, size_t n,
			 uint64_t now_ns) SPLIT_MUST_USE;
/* The stream ended: counted when close_notify had not come before. */
void tls_session_recv_end(struct tls_session *session);

/* Write what waits inside. 0: nothing is left; SPLIT_AGAIN: no more room now. A failed session
 * sends its alert, then says so (a fatal error). Without effect while it is lent. */
int tls_session_send(struct tls_session *session) SPLIT_MUST_USE;
/* Whether something waits for tls_session_send. */
bool tls_session_want_send(const struct tls_session *session);

/* Plaintext bytes that the next record should carry: one segment's while the connection begins or
 * was idle, so that the peer can open it when the first segment is there; then up to
 * TLS_RECORD_BYTES_MAX. */
uint32_t tls_session_record_bytes(const struct tls_session *session, uint64_t now_ns);
/* Seal 1..TLS_RECORD_BYTES_MAX bytes as one record. 0: written; SPLIT_AGAIN: the plaintext was
 * taken, the rest of its record waits for tls_session_send and nothing else may be written before.
 * Fatal errors otherwise. The session is open and nothing waits. */
int tls_session_write(struct tls_session *session, const uint8_t *p, size_t n,
		      uint64_t now_ns) SPLIT_MUST_USE;
/* Seal close_notify, once; no tls_session_write after it. 0, or SPLIT_AGAIN: tls_session_send
 * writes its rest. Without effect when the session is not open or something waits. */
int tls_session_shutdown(struct tls_session *session);

/* Why the session failed, for people: static text; NULL: there is nothing to say of it. */
const char *tls_session_why(const struct tls_session *session);

/* The verified client's identity; NULL when it gave none. Lives as long as the session. */
const struct tls_identity *tls_session_identity(const struct tls_session *session);

struct tls_info {
	const char *version; /* "TLSv1.3"; static */
	const char *cipher;  /* "TLS_AES_128_GCM_SHA256", IANA's name; static */
	bool resumed;
};
/* Of an open session. */
void tls_session_info(const struct tls_session *session, struct tls_info *out);

#endif
