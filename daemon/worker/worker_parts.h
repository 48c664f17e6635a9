/* Inside daemon/worker only: what its files offer each other, by file. Included by
 * worker_internal.h, which has the structs. */
#ifndef SPLITD_DAEMON_WORKER_WORKER_PARTS_H
#define SPLITD_DAEMON_WORKER_WORKER_PARTS_H

#include "daemon/worker/worker_internal.h"

/* ---- bytes on their way into a TCP connection ------------------------------------------------ */

static inline void outgoing_drop(struct outgoing *o)
{
	rte_pktmbuf_free(o->head);
	o->head = NULL;
	o->tail = NULL;
	o->bytes = 0;
}

/* Room behind what was written, within o->room. 0, SPLIT_AGAIN: that is used up, or
 * -SPLIT_E_BASE_NOMEM: no mbuf. One mbuf never holds more than one segment carries, so that
 * segments need no pieces. */
static inline int outgoing_lend(struct outgoing *o, struct rte_mempool *pool, uint8_t **buf_out,
				size_t *room_out)
{
	struct rte_mbuf *m = o->tail;
	uint32_t room = 0;

	if (o->bytes >= o->room)
		return SPLIT_AGAIN;
	if (m != NULL && m->data_len < o->segment)
		room = RTE_MIN((uint32_t)rte_pktmbuf_tailroom(m), o->segment - m->data_len);
	if (room == 0) {
		m = rte_pktmbuf_alloc(pool);
		if (m == NULL)
			return -SPLIT_E_BASE_NOMEM;
		if (o->tail == NULL) {
			o->head = m;
		} else {
			o->tail->next = m;
			o->head->nb_segs++;
		}
		o->tail = m;
		room = RTE_MIN((uint32_t)rte_pktmbuf_tailroom(m), o->segment);
	}
	*buf_out = rte_pktmbuf_mtod_offset(m, uint8_t *, m->data_len);
	*room_out = RTE_MIN(room, o->room - o->bytes);
	return 0;
}

/* The first `bytes` of the room lent last were written. */
static inline void outgoing_commit(struct outgoing *o, size_t bytes)
{
	o->tail->data_len += (uint16_t)bytes;
	o->head->pkt_len += (uint32_t)bytes;
	o->bytes += (uint32_t)bytes;
}

/* Hand it to TCP. False: it has no room for it now, `writable` follows. What TCP does not want any
 * more is dropped. */
static inline bool outgoing_push(struct outgoing *o, struct tcp_conn *tcp)
{
	int err = o->bytes != 0 ? tcp_send(tcp, o->head) : -SPLIT_E_BASE_INVALID;

	if (err == -SPLIT_E_NET_FULL) {
		tcp_want_writable(tcp);
		return false;
	}
	if (err != 0) /* or an mbuf lent but not written */
		rte_pktmbuf_free(o->head);
	o->head = NULL;
	o->tail = NULL;
	o->bytes = 0;
	return true;
}

/* ---- connection.c --------------------------------------------------------------------------- */

extern const struct tcp_events connection_tcp_events;

static inline void connection_due(struct connection *c)
{
	if (list_empty(&c->due))
		list_add_tail(&c->w->due, &c->due);
}

/* The gRPC side begins: at accept, or once the TLS handshake is done. */
int connection_serve(struct connection *c) SPLIT_MUST_USE;
/* Plain bytes from the client. */
void connection_received(struct connection *c, const uint8_t *bytes, size_t n);
/* Room for bytes on the wire, in mbufs and within c->out.room (http2.h, struct http2_out). */
int connection_out_reserve(void *ctx, size_t wanted, uint8_t **buf_out, size_t *room_out);
void connection_out_commit(void *ctx, size_t bytes);
/* Hand what was written to TCP. False when TCP has no room for it now: `writable` follows. */
bool connection_out_push(struct connection *c);
/* What TCP takes now; little when mbufs are short, so that clients that do not read can't hold what
 * others need. */
size_t connection_send_room(const struct connection *c);

/* Send what connections have; bounded work. Returns how many had something. */
unsigned connections_send(struct worker *w);
/* End those whose frames do not get whole. A few times in a timeout. */
void connections_check(struct worker *w);
/* Tell every client to go away gracefully. */
void connections_drain(struct worker *w);
/* Close all, with what they still have to send. */
void connections_cut(struct worker *w);
/* End all, or one, at once: RST. */
void connections_abort(struct worker *w);
void connection_abort(struct connection *c);
/* One that stands for a host's calls out; what it has still to do goes at connection_nested_fini.
 */
void connection_nested_init(struct connection *c, struct worker *w);
void connection_nested_fini(struct connection *c);

/* ---- connection_tls.c ----------------------------------------------------------------------- */

extern const struct tls_events connection_tls_events;

/* Begin the handshake; the gRPC side follows when it is done. */
int connection_tls_begin(struct connection *c, struct tls_context *context) SPLIT_MUST_USE;
void connection_tls_free(struct connection *c);
/* Bytes from the client; takes the chain. */
void connection_tls_received(struct connection *c, struct rte_mbuf *chain);
/* Write what waits in the session. False: there is no room for it now, another turn follows. */
bool connection_tls_flush(struct connection *c);
/* Plaintext of HTTP/2: collected into records (struct http2_out), sealed as each is full and, by
 * connection_tls_seal, at the end. That takes what HTTP/2's sending returned and returns it, or an
 * error of its own. */
int connection_plain_reserve(void *ctx, size_t wanted, uint8_t **buf_out, size_t *room_out);
void connection_plain_commit(void *ctx, size_t bytes);
int connection_tls_seal(struct connection *c, int result);
/* Say close_notify. False: there is no room for it now, another turn follows. */
bool connection_tls_shutdown(struct connection *c);
/* The client's names, which go with its calls; NULL: none. */
const struct tls_identity *connection_identity(const struct connection *c);
/* Whether this client may call the service (services[].allow): 0, or the status to end a call with.
 */
int connection_allow(struct connection *c, size_t service);
/* The new certificates of a listener, from the control thread; takes the reference. */
void listener_tls_set(struct worker *w, uint32_t listener, struct tls_context *context);

/* ---- call.c --------------------------------------------------------------------------------- */

extern const struct grpc_backend call_backend;

/* End the call at the client (if it is still there) and at the host. `text` is static. */
void call_fail(struct call *call, enum grpc_status status, const char *text, unsigned cause);
/* The same, the status following from a negative code. */
void call_fail_code(struct call *call, int code);
/* The host's part is over: give back what is held for it, and tell it if it does not know.
 * `cause`: enum cancel_cause, 0 when it has answered or is gone. Any number of times. */
void call_leave_host(struct call *call, unsigned cause);
/* Whether anybody is at the client's side: a client, or the other half of a call out. */
static inline bool call_wanted(const struct call *call)
{
	return call->grpc != NULL || call->nested.linked;
}
/* A call of client `c`, NULL: no room. */
struct call *call_new(struct worker *w, struct connection *c, struct grpc_call *grpc);
/* Copy the request's metadata, but for what hosts do not get. 0 or a negative code. */
int call_items_copy(struct call *call, const struct grpc_metadata *md, uint32_t n);
void call_items_put(struct call *call);
/* What a client does: ask for a message's room (as grpc_backend.reserve), fill it, end its
 * messages, go. */
int call_reserve(struct call *call, uint32_t bytes, uint8_t **buf_out);
void call_message(struct call *call, uint32_t bytes, bool compressed, bool last);
void call_half_close(struct call *call);
void call_closed(struct call *call, enum grpc_closed why);
/* The status and text that a negative code stands for. */
enum grpc_status call_failure(int code, const char **text_out);
/* Free the call if neither side has a part in it any more. */
void call_put(struct call *call);
/* `where` is PREPARE or PUBLISH; room_get() makes a call wait for ROOM. */
void call_wait(struct call *call, enum call_wait where, bool at_head);
void call_unwait(struct call *call);
void call_wire_put(struct call *call);
/* The message at hand is with the host: the next may come. */
void call_message_done(struct call *call);
/* The next message may come after all, if it was refused. */
void call_ask(struct call *call);
/* Publish the streams that began. Returns how many. */
unsigned openings_run(struct worker *w);

/* ---- choose.c ------------------------------------------------------------------------------- */

struct picker_config;

/* A service's policy, as its picker wants it. */
void choose_picker_config(const struct worker *w, const struct config_balance *b,
			  struct picker_config *out);
void choose_config(const struct worker *w, const struct config_service *service,
		   struct picker_config *out);
/* Choose the endpoint by what is known of the call: 0 and the route, or a negative code. */
int call_choose(struct call *call, void **route_out) SPLIT_MUST_USE;
/* From reserve, without an endpoint: where the first message of `bytes` must be looked at before
 * one is chosen, it is brought to `small`, all or its beginning. 0: go on and choose. SPLIT_AGAIN:
 * it is asked again. CHOOSE_LATER: `small` is its room; choose when it is whole. */
#define CHOOSE_LATER 2
int call_look(struct call *call, uint32_t bytes) SPLIT_MUST_USE;
/* What a status says about the endpoint that the call was with. */
void call_judge(struct call *call, uint32_t status);

/* ---- prepare.c ------------------------------------------------------------------------------ */

/* Go on with a call whose message is whole, or whose stream has half-closed. */
void call_advance(struct call *call);
/* Bring metadata and message into blocks of the segment. 0: done. SPLIT_AGAIN: it waits or runs on,
 * and call_advance follows. Negative: the call has been failed. */
int call_prepare(struct call *call) SPLIT_MUST_USE;
/* Whether the message at hand is to be decoded into blocks before it can be published. */
bool message_needs_blocks(const struct call *call);
/* A block of the call's endpoint: requests leave some of the segment to answers. As
 * endpoint_block_get. */
static inline int call_block_get(const struct call *call, struct endpoint_blocks *blocks,
				 size_t bytes, struct shepherd_chunk *out)
{
	const struct attached *ep = call->ep;

	if (unlikely(ep->calls_out) && !call->nested.out &&
	    endpoint_bytes_used(ep->port) + bytes > ep->outer_max)
		return -SPLIT_E_SHEPHERD_QUOTA;
	return endpoint_block_get(ep->port, blocks, bytes, out);
}
/* Bring the message at hand into `rq`; it lies in blocks already, or is decoded into the next slot
 * of `lane` now. 0, PUBLISH_LATER, PUBLISH_WAITS or negative (the call has been failed). */
int message_fill(struct call *call, unsigned lane, struct endpoint_request *rq) SPLIT_MUST_USE;
#define PUBLISH_LATER 2 /* the lane has no room: ask again */
#define PUBLISH_WAITS 3 /* the message waits for room in the segment; call_advance follows */
/* Decode a small message into the next slot of `lane`. 0 and the bytes used; SPLIT_AGAIN: it needs
 * blocks; negative: why not. */
int call_decode_inline(struct call *call, unsigned lane, uint8_t *bytes_out) SPLIT_MUST_USE;
/* One more quantum of a decode; give it up. */
void call_job_run(struct call *call);
void call_job_drop(struct call *call);
/* Room may have come back: try those that wait. Returns how many went on. */
unsigned attached_retry(struct attached *ep);

/* ---- room.c --------------------------------------------------------------------------------- */

/* Room for the `bytes` of a message larger than CALL_SMALL_BYTES, in call->wire, whole or not at
 * all. SPLIT_AGAIN: the call waits, and its reserve is asked again. Negative: there never will be.
 */
int room_get(struct call *call, uint32_t bytes) SPLIT_MUST_USE;
/* Give it back, and the part in its connection's share. Any number of times. */
void room_put(struct call *call);
/* The message at hand points into its room: that belongs to the message's blocks from now on. */
void room_keep(struct call *call);
void room_unwait(struct call *call);
/* Room may have come back: connections take turns. Returns how many calls went on. Bounded. */
unsigned room_retry(struct attached *ep);
/* While other connections wait for room, end the uploads that are too slow. */
void uploads_check(struct attached *ep);

/* ---- publish.c ------------------------------------------------------------------------------ */

/* Choose a lane and publish the REQUEST, or queue. */
void call_place(struct call *call);
/* Publish what follows the REQUEST: further messages, half-close, cancel. Waits if it must. */
void call_follow_up(struct call *call);
/* Lanes may have moved: publish what waits. Returns how many. */
unsigned attached_publish(struct attached *ep);
/* It is not at the host any more and may be published again: with the message that it had, as it
 * was where that lies in its blocks and they are here, else from its bytes in `small`. */
void call_unpublish(struct call *call, bool blocks_here);
/* The host said REFUSE. */
void call_given_back(struct call *call);

/* ---- complete.c, encode.c ------------------------------------------------------------------- */

extern const struct endpoint_events complete_events;

/* Work on the replies of a call as far as it goes. */
void call_replies_advance(struct call *call);
/* Drop every reply not yet sent. */
void call_replies_drop(struct call *call);
/* A reply is done with, sent or not. */
void reply_done(struct reply *r);
/* Tell hosts which of their streams have room again. Returns how many. */
unsigned attached_grant(struct attached *ep);
/* Encode. 0 done; SPLIT_AGAIN: waits or runs on, call_replies_advance follows; negative: it can't
 * be encoded. */
int reply_encode(struct reply *r) SPLIT_MUST_USE;
void reply_job_run(struct reply *r);
/* Give back the host's memory behind a reply; give back our own and the reply. */
void reply_token_put(struct reply *r);
void reply_put(struct reply *r);
void reply_encode_again(struct reply *r);
/* It can't be encoded (`err`, negative): counted, told to the log, and its call ends. */
void reply_failed(struct reply *r, int err);
/* Replies that waited for pages. Returns how many were tried. */
unsigned replies_retry(struct worker *w);

/* A host's completion about a call: a message or a status (complete.c). */
void call_reply(struct call *call, const struct endpoint_completion *c);
void call_credit(struct call *call, uint32_t credit);
void call_want(struct call *call);
/* Metadata that the host has sent, in w->metadata. How many, or a negative code. */
int call_metadata_read(struct worker *w, const struct attached *ep, uint64_t address);

/* ---- refused.c ------------------------------------------------------------------------------ */

int refused_init(struct worker *w) SPLIT_MUST_USE;
void refused_fini(struct worker *w);
/* The message at hand is refused: for the log, if it is to have it. Before the call is failed. */
void refused_request(struct call *call, int err);
/* The host could not decode it. */
void refused_at_host(struct call *call, uint32_t status);
/* It was too large to be taken in. `bytes`: UINT64_MAX, not known. */
void refused_oversize(struct call *call, uint64_t bytes);
/* The host's message is refused; its memory is kept until the line is made. */
void refused_reply(struct reply *r, int err);
/* Give back what lines were made of; forget what is an endpoint's, that goes. */
void refused_collect(struct worker *w);
void refused_forget(struct worker *w, const struct attached *ep);

/* ---- nested.c, nested_remote.c --------------------------------------------------------------- */

/* What calls ask of their client: grpc's functions, or the other half of a call out. */
void client_finish(struct call *call, const struct grpc_result *result);
int client_send(struct call *call, struct reply *r) SPLIT_MUST_USE;
int client_send_metadata(struct call *call, const struct grpc_metadata *md,
			 uint32_t n) SPLIT_MUST_USE;
void client_room(struct call *call);
/* The beginning of the message that waits for room. Returns how many bytes. */
size_t client_peek(struct call *call, uint8_t *to, size_t max);
void client_pause(struct call *call, bool paused);
uint64_t client_deadline_ns(const struct call *call);

/* A host's words: it opens a call out; it says more of one. */
void out_begin(struct attached *ep, const struct endpoint_completion *c);
void out_completion(struct call *call, const struct endpoint_completion *c);
/* What call_advance and call_fail are to a call out. */
void out_advance(struct call *call);
void out_fail(struct call *call, enum grpc_status status, const char *text);
/* The host's last request has gone to the callee. */
void out_half_close(struct call *call);
/* The metadata of its answer; the callee's status. */
int out_headers(struct call *call, const struct grpc_metadata *md, uint32_t n);
void out_ended(struct call *call, const struct grpc_result *result);
/* Its host has gone: free it, now. */
void out_abort(struct call *call);
/* The call has ended: those that were made for it end too. */
void call_children_end(struct call *call);
/* Go on with calls whose other side has done something. Returns how many. */
unsigned nested_run(struct worker *w);
/* End calls out whose messages wait too long for memory. A few times in a second. */
void nested_check(struct worker *w);
void nested_due(struct call *call);

/* A callee that waited (host_wait.c): `sought` is who serves it. */
void callee_found(struct call *call);

/* The callee of a call out is a server on the network. 0, or the status to end it with. */
int remote_open(struct call *call, uint32_t metadata_n, const char **text_out) SPLIT_MUST_USE;
int remote_send(struct call *call, struct reply *r) SPLIT_MUST_USE;
void remote_end(struct call *call);
void remote_room(struct call *call);
void remote_cancel(struct call *call);

/* ---- readers.c ------------------------------------------------------------------------------ */

/* Whether the connection has its share of pages with so many bytes more. */
bool reader_share_full(const struct connection *c, uint32_t bytes);
/* The reply waits until its connection's share of pages is less used; not any more. */
void reader_wait(struct reply *r);
/* Bytes have gone out to it; there were none to go, and now there are. */
void reader_took(struct connection *c, uint32_t bytes);
void reader_begins(struct connection *c);
/* Its client has not read for long and gets no more: the call was failed, the reply is gone. */
bool reader_refuses(struct reply *r);
void reader_unwait(struct reply *r);
/* A call about to be prepared or published. True: its client has to read first; the call is held,
 * or was failed. */
bool call_held(struct call *call);
/* The host's part in it is over. Any number of times. */
void call_left(struct call *call);
/* Its share may have room again: go on with what waits for that. */
void connection_replies_retry(struct connection *c);
/* See to clients that do not read. A few times in a reader_timeout. */
void readers_check(struct worker *w);

/* ---- host_wait.c ---------------------------------------------------------------------------- */

/* The configured service of a call that nobody serves now, if its calls wait for a host; else -1.
 */
int host_wait_service(const struct worker *w, const struct grpc_request_head *head);
/* Whether a call out that finds nobody who serves it waits, and until when. */
bool host_wait_wanted(const struct call *out, uint64_t *until_ns_out);
/* Let its callee wait. */
void host_wait_enter(struct call *call, uint64_t until_ns);
/* Let it wait. From open. */
void host_wait_begin(struct call *call, const struct grpc_request_head *head, int service,
		     struct grpc_accept *accept);
/* Hosts may have come, or the time of some be over. */
void host_wait_run(struct worker *w);

/* ---- own_services.c ------------------------------------------------------------------------- */

/* The services that the daemon answers itself. */
int own_services_setup(struct worker *w) SPLIT_MUST_USE;
/* The connection's gRPC side is there: it is told of by channelz from now on. */
void connection_board_enter(struct connection *c);
/* See which services are served now; tell those who watch. */
void own_services_look(struct worker *w);

/* ---- worker.c, setup.c, idle.c, worker_control.c -------------------------------------------- */

/* Everything from the configuration; on failure worker_teardown undoes what was done. */
int worker_setup(struct worker *w) SPLIT_MUST_USE;
void worker_teardown(struct worker *w);

int idle_init(struct worker *w) SPLIT_MUST_USE;
void idle_fini(struct worker *w);
void idle_watch(struct worker *w, struct attached *ep);
void idle_unwatch(struct worker *w, const struct attached *ep);
/* The turn found nothing: spin or sleep. */
void worker_idle(struct worker *w);
/* The first turn that found something again. */
void worker_idle_over(struct worker *w);
/* Ticks may have become rare: look again soon. */
void worker_tick_soon(struct worker *w);

/* Messages between the threads: what the rings carry. */
struct ring_msg {
	uint32_t kind;
	int32_t cause;
	struct attached *attached;
	const struct worker_endpoint *endpoint;
	uint64_t deadline_ns, drain;
	struct tls_context *tls; /* a reference */
	uint32_t listener;
	uint32_t channel;
	uint32_t lane, lane_kind;
	const struct config *config;
	struct worker_addresses *addresses;
};
/* client_io.c: the daemon's own gRPC client on this worker; w->client is NULL where no channel goes
 * to servers. */
int client_io_setup(struct worker *w) SPLIT_MUST_USE;
void client_io_fini(struct worker *w);
/* w->cfg is another one: its channels. */
void client_io_configure(struct worker *w);
void client_addresses_set(struct worker *w, uint32_t channel, struct worker_addresses *list);

int rings_create(struct worker *w) SPLIT_MUST_USE;
void rings_destroy(struct worker *w);
/* Take what control has posted. Returns how many. */
unsigned messages_run(struct worker *w);
/* The endpoint broke the protocol: no more calls for it, tell control, once. */
void attached_fault(struct attached *ep, int cause);
void attached_free(struct attached *ep);

/* reconfigure.c: what of the configuration methods and connections carry with them. */
/* Whether this configuration lets its host serve the method at `index`. */
bool method_allowed(const struct attached *ep, const struct config *cfg, size_t index);
/* Limits and the rest, of a method that is allowed. */
void method_configure(struct attached *ep, const struct config *cfg, size_t index);
/* One that the host calls over a channel. False: no memory. */
bool out_prepare(struct attached *ep, const struct config *cfg, size_t index) SPLIT_MUST_USE;
void attached_route(const struct attached *ep, const struct config *cfg, size_t index,
		    struct balance_route_config *out);
void worker_configure(struct worker *w, const struct config *cfg);
/* setup.c: what layers were told at the start, told again. */
void grpc_configure(struct worker *w);
void services_configure(struct worker *w);
void readers_period_set(struct worker *w);
/* Budgets by shares, when endpoints have come or gone or the quantum has changed. */
void budgets_set(struct worker *w);
/* What `told` says of now. */
void attached_tell(struct attached *ep);
/* See whether the drain is over. */
void drain_check(struct worker *w);

#endif
