/* Two ends in one process: OpenSSL as the client over memory BIOs, a tls_session as the server.
 * Bytes between them move only when the test says so, in pieces of the size it wants. */
#ifndef SPLITD_TESTS_TLS_RIG_H
#define SPLITD_TESTS_TLS_RIG_H

#include <check.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/tls/tls.h"

/* Certificates of the test's folder, made once in a process by the openssl command: "ca", "server"
 * (EC, for server.example and *.wild.example), "server_rsa" (the same name), "other"
 * (other.example), "client" (billing.example), "expired", "foreign_ca", "foreign" (by that). Path
 * of the file: rig_file("server.pem"). Valid until the next call but seven. */
const char *rig_file(const char *name);
void rig_cleanup(void);

struct context_options {
	const char *name;            /* of the listener */
	const char *certificates[4]; /* "server", …; none: "server" */
	const char *client_ca;       /* "ca" */
	enum tls_client_auth auth;
	enum tls_version version;
	bool no_tickets;
};
struct tls_context *rig_context(const struct context_options *o, struct tls_tickets *tickets);

/* An engine; 0 handshakes_max: 16. */
struct tls_engine *rig_engine(struct tls_helpers *helpers, uint32_t handshakes_max,
			      uint32_t per_second);

struct client_options {
	const char *alpn;        /* NULL: h2; "": none */
	const char *server_name; /* NULL: server.example; "": none */
	const char *certificate; /* "client" */
	int version;             /* TLS1_2_VERSION; 0: any */
	const char *ciphers;     /* of 1.2 */
	SSL_SESSION *session;    /* to resume */
};

#define RIG_BYTES_MAX (1u << 20)

struct rig {
	SSL_CTX *client_ctx;
	SSL *client;
	BIO *to_client, *from_client;
	bool client_done, client_failed;
	int client_alert; /* fatal, that the server sent; -1: none */
	SSL_SESSION *ticket;

	struct tls_engine *engine;
	struct tls_session *server;
	bool opened, server_failed;
	unsigned progress;
	size_t room;   /* what the server's connection takes now; SIZE_MAX: all */
	uint8_t *sent; /* by the server, not yet moved */
	size_t sent_n;
	uint8_t *received; /* plaintext */
	size_t received_n;
};

void rig_open(struct rig *r, struct tls_engine *engine, struct tls_context *context,
	      const struct client_options *o, uint64_t source);
void rig_close(struct rig *r);
/* The client alone: nothing moves any more. */
void rig_client_free(struct rig *r);
/* Move what there is, both ways, the client's bytes in pieces of `piece`; runs the engine. Returns
 * whether anything moved. */
bool rig_move(struct rig *r, size_t piece);
/* Until nothing moves any more (and no helper has a step). */
void rig_settle(struct rig *r, size_t piece);
/* Settle, and assert that both ends are open. */
void rig_handshake(struct rig *r);
/* `n` bytes of a pattern from the client (the server), moved and compared. */
void rig_upload(struct rig *r, size_t n, size_t piece);
void rig_download(struct rig *r, size_t n);
/* The client's ciphertext that waits, taken away: at most RIG_BYTES_MAX. */
size_t rig_take(struct rig *r, uint8_t *to);
/* Feed the server; the result of tls_session_recv. */
ssize_t rig_feed(struct rig *r, const uint8_t *p, size_t n);

extern uint64_t rig_now_ns;

#endif
