/* Calls: their table, handles and references.
 *
 * A struct split_call is never unmapped while its host lives, and its word carries a generation, so
 * a handle (closure data) can be checked at any time, however late. All transitions are
 * compare-and-swap on that one word; the memory orders are acquire/release because the word guards
 * the struct.
 */
#include <assert.h>
#include <sched.h>
#include <stdlib.h>

#include "host-lib/host_internal.h"

_Static_assert(sizeof(void *) == 8, "closure data holds a 64-bit handle");
_Static_assert(sizeof(struct split_metadata) == sizeof(struct metadata_entry), "metadata v1");
_Static_assert(offsetof(struct split_metadata, value) == offsetof(struct metadata_entry, value),
	       "metadata v1");
_Static_assert(offsetof(struct split_metadata, name_bytes) ==
		       offsetof(struct metadata_entry, name_bytes),
	       "metadata v1");
_Static_assert(offsetof(struct split_metadata, value_bytes) ==
		       offsetof(struct metadata_entry, value_bytes),
	       "metadata v1");

#define REGISTRY_MAX      255
#define HANDLE_HOST_SHIFT 56
#define HANDLE_CALL_SHIFT 32
#define HANDLE_CALL_MASK  UINT64_C(0xffffff)

/* A host by its number. `users` counts the closures that are inside, so that remove can wait. */
static struct {
	_Atomic(struct split_host *) host;
	_Atomic uint32_t users;
} registry[REGISTRY_MAX];
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t registry_generation;

int host_registry_add(struct split_host *host)
{
	int rc = -SPLIT_E_BASE_LIMIT;

	pthread_mutex_lock(&registry_lock);
	for (unsigned i = 0; i < REGISTRY_MAX; i++) {
		if (atomic_load(&registry[i].host) != NULL)
			continue;
		/* Far from the generations of hosts that had this number before. */
		host->calls.generation = registry_generation += 0x9e3779b1u;
		host->registry = i + 1;
		atomic_store(&registry[i].host, host);
		rc = 0;
		break;
	}
	pthread_mutex_unlock(&registry_lock);
	return rc;
}

void host_registry_remove(struct split_host *host)
{
	unsigned i = host->registry - 1;

	atomic_store(&registry[i].host, NULL);
	while (atomic_load(&registry[i].users) != 0)
		sched_yield();
}

/* ------------------------------------------------------------------ table */

int call_table_init(struct call_table *t, uint32_t max)
{
	t->max = (max + HOST_CALL_CHUNK - 1) / HOST_CALL_CHUNK * HOST_CALL_CHUNK;
	t->chunks = calloc(t->max / HOST_CALL_CHUNK, sizeof(*t->chunks));
	if (t->chunks == NULL)
		return -SPLIT_E_BASE_NOMEM;
	if (pthread_mutex_init(&t->lock, NULL) != 0) {
		free(t->chunks);
		return -SPLIT_E_BASE_NOMEM;
	}
	return 0;
}

void call_table_fini(struct call_table *t)
{
	for (uint32_t i = 0; i < t->made; i++) {
		struct split_call *chunk = atomic_load(&t->chunks[i / HOST_CALL_CHUNK]);

		answer_parts_free(&chunk[i % HOST_CALL_CHUNK]);
		wire_free(NULL, &chunk[i % HOST_CALL_CHUNK].in);
		free(chunk[i % HOST_CALL_CHUNK].stream);
		free(chunk[i % HOST_CALL_CHUNK].out);
	}
	for (uint32_t i = 0; i < t->made; i += HOST_CALL_CHUNK)
		free(atomic_load(&t->chunks[i / HOST_CALL_CHUNK]));
	free(t->chunks);
	pthread_mutex_destroy(&t->lock);
}

static void *alloc_shared(void *data, size_t bytes)
{
	return split_call_alloc(data, bytes);
}

static void free_nothing(void *data, void *p)
{
	(void)data;
	(void)p;
}

/* One more chunk, as a list; the table's lock is held. */
static struct split_call *table_grow(struct call_table *t, struct split_host *host)
{
	struct split_call *chunk;

	if (t->made >= t->max)
		return NULL;
	chunk = aligned_alloc(BITS_CACHE_LINE, HOST_CALL_CHUNK * sizeof(*chunk));
	if (chunk == NULL)
		return NULL;
	memset(chunk, 0, HOST_CALL_CHUNK * sizeof(*chunk));
	for (uint32_t i = 0; i < HOST_CALL_CHUNK; i++) {
		struct split_call *c = &chunk[i];

		atomic_init(&c->word, (uint64_t)t->generation << CALL_GEN_SHIFT | CALL_ANSWERED);
		c->index = t->made + i;
		c->host = host;
		c->allocator = (ProtobufCAllocator){alloc_shared, free_nothing, c};
		c->next = i + 1 < HOST_CALL_CHUNK ? c + 1 : NULL;
	}
	atomic_store_explicit(&t->chunks[t->made / HOST_CALL_CHUNK], chunk, memory_order_release);
	t->made += HOST_CALL_CHUNK;
	return chunk;
}

struct split_call *call_table_get(struct call_table *t, struct split_host *host)
{
	struct split_call *first, *last;

	pthread_mutex_lock(&t->lock);
	first = t->free;
	if (first == NULL) {
		first = table_grow(t, host);
	} else {
		last = first;
		for (unsigned i = 1; i < HOST_CALL_CHUNK && last->next != NULL; i++)
			last = last->next;
		t->free = last->next;
		last->next = NULL;
	}
	pthread_mutex_unlock(&t->lock);
	return first;
}

void call_table_put(struct call_table *t, struct split_call *list)
{
	struct split_call *last = list;

	if (list == NULL)
		return;
	while (last->next != NULL)
		last = last->next;
	pthread_mutex_lock(&t->lock);
	last->next = t->free;
	t->free = list;
	pthread_mutex_unlock(&t->lock);
}

/* ------------------------------------------------------------------ handles */

uint32_t call_generation(const struct split_call *call)
{
	return (uint32_t)(atomic_load_explicit(&call->word, memory_order_acquire) >>
			  CALL_GEN_SHIFT);
}

void *call_handle(const struct split_call *call)
{
	return (void *)(uintptr_t)((uint64_t)call->host->registry << HANDLE_HOST_SHIFT |
				   (uint64_t)call->index << HANDLE_CALL_SHIFT |
				   call_generation(call));
}

/* The host of a handle, entered (leave with host_leave), or NULL. The counter goes up before the
 * host is looked at and remove clears the host before it reads the counter: seq_cst on both. */
static struct split_host *host_enter(uint64_t handle)
{
	unsigned number = (unsigned)(handle >> HANDLE_HOST_SHIFT);
	struct split_host *host;

	if (number == 0)
		return NULL;
	atomic_fetch_add(&registry[number - 1].users, 1);
	host = atomic_load(&registry[number - 1].host);
	if (host == NULL)
		atomic_fetch_sub(&registry[number - 1].users, 1);
	return host;
}

static void host_leave(uint64_t handle)
{
	atomic_fetch_sub(&registry[(handle >> HANDLE_HOST_SHIFT) - 1].users, 1);
}

static struct split_call *call_at(const struct split_host *host, uint64_t handle)
{
	uint32_t index = (uint32_t)(handle >> HANDLE_CALL_SHIFT & HANDLE_CALL_MASK);
	struct split_call *chunk;

	if (index >= host->calls.max)
		return NULL;
	chunk = atomic_load_explicit(&host->calls.chunks[index / HOST_CALL_CHUNK],
				     memory_order_acquire);
	return chunk == NULL ? NULL : &chunk[index % HOST_CALL_CHUNK];
}

/* ------------------------------------------------------------------ references */

bool call_claim_answer(struct split_call *call, uint32_t gen)
{
	uint64_t w = atomic_load_explicit(&call->word, memory_order_acquire), next;

	do {
		if ((uint32_t)(w >> CALL_GEN_SHIFT) != gen || (w & CALL_ANSWERED) != 0)
			return false;
		/* A stream's own reference becomes the answer's. */
		next = (w | CALL_ANSWERED) + (call->streaming ? 0 : 1);
	} while (!atomic_compare_exchange_weak_explicit(&call->word, &w, next, memory_order_acq_rel,
							memory_order_acquire));
	return true;
}

bool call_hold_unanswered(struct split_call *call)
{
	uint64_t w = atomic_load_explicit(&call->word, memory_order_acquire);

	do {
		if ((w & CALL_ANSWERED) != 0)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(
		&call->word, &w, w + 1, memory_order_acq_rel, memory_order_acquire));
	return true;
}

/* Back to the worker it came from. The generation goes up with the next call of the struct, in
 * worker.c; ANSWERED keeps every handle out until then. */
void call_free(struct split_call *call)
{
	struct worker *home = call->home;
	struct split_call *top;

	if (call->is_out) {
		out_free(call);
		return;
	}
	if (call->begun && call->method->raw.closed != NULL)
		call->method->raw.closed(call, call->method->raw.data);
	if (call->parts)
		answer_parts_free(call);
	if (unlikely(call->wired))
		wire_free(home, &call->in);
	/* The count is the last: the session may go once it is complete. */
	if (likely(home == worker_self && home->ring_mine)) {
		call->next = home->free;
		home->free = call;
		atomic_store_explicit(
			&home->closed_here,
			atomic_load_explicit(&home->closed_here, memory_order_relaxed) + 1,
			memory_order_release);
		return;
	}
	top = atomic_load_explicit(&home->returned, memory_order_relaxed);
	do {
		call->next = top;
	} while (!atomic_compare_exchange_weak_explicit(
		&home->returned, &top, call, memory_order_release, memory_order_relaxed));
	atomic_fetch_add_explicit(&home->closed, 1, memory_order_release);
}

/* Answer for a handler that forgot; the caller holds a reference and has set ANSWERED. */
static void answer_missing(struct split_call *call)
{
	bool kept = false;

	STAT(call->host, answers_missing);
	if (!call->status_set || call->status == SPLIT_OK)
		(void)answer_status_set(call, SPLIT_INTERNAL, "the handler gave no answer");
	(void)answer_claimed(call, NULL, &kept);
	assert(!kept); /* its handler has returned */
}

void call_put(struct split_call *call, unsigned n)
{
	uint64_t w = atomic_load_explicit(&call->word, memory_order_acquire);

	for (;;) {
		uint64_t next = w - n;
		bool last = (w & CALL_REFS) == n;
		bool forgot = last && (w & CALL_ANSWERED) == 0 && call->method->answers_now;
		bool give = last && !forgot && call->has_token && (w & CALL_GONE) == 0;

		if (forgot)
			next = w | CALL_ANSWERED;
		else if (give)
			next = w | CALL_GONE;
		if (!atomic_compare_exchange_weak_explicit(
			    &call->word, &w, next, memory_order_acq_rel, memory_order_acquire))
			continue;
		w = next;
		if (forgot) {
			answer_missing(call);
			w = atomic_load_explicit(&call->word, memory_order_acquire);
		} else if (give) {
			request_release(call->session, call->daemon_worker, call->request_token);
		} else {
			break;
		}
	}
	if ((w & CALL_REFS) == 0 && (w & CALL_ANSWERED) != 0)
		call_free(call);
}

void call_drop_unbegun(struct split_call *call)
{
	atomic_fetch_or_explicit(&call->word, CALL_ANSWERED | CALL_GONE, memory_order_acq_rel);
	call_put(call, 1);
}

/* ------------------------------------------------------------------ answering */

/* ANSWERED is set and a reference is ours. */
static int finish(struct split_call *call, const ProtobufCMessage *reply)
{
	bool kept = false;
	int rc = answer_claimed(call, reply, &kept);

	if (!kept)
		call_put(call, 1);
	return rc;
}

/* Whether this is the thread that is in the handler of `call`, which no stream's is: its reference
 * does for the answer. */
static inline bool own(const struct worker *w, const struct split_call *call)
{
	return w != NULL && w->current == call && !call->streaming;
}

/* From within the handler. */
static inline int answer_own(struct worker *w, struct split_call *call,
			     const ProtobufCMessage *reply)
{
	bool kept;

	if (unlikely((atomic_fetch_or_explicit(&call->word, CALL_ANSWERED, memory_order_acq_rel) &
		      CALL_ANSWERED) != 0)) {
		STAT(call->host, answers_twice);
		return SPLIT_E_ANSWERED;
	}
	return likely(answer_usual(w, call, reply)) ? 0 : answer_claimed(call, reply, &kept);
}

void call_closure(const ProtobufCMessage *reply, void *closure_data)
{
	uint64_t handle = (uint64_t)(uintptr_t)closure_data;
	struct worker *w = worker_self;
	struct split_host *host;
	struct split_call *call;

	/* The usual case, within its handler: the host cannot go away. */
	if (w != NULL && w->current != NULL && call_handle(w->current) == closure_data) {
		(void)answer_own(w, w->current, reply);
		return;
	}
	host = host_enter(handle);
	if (host == NULL)
		return;
	call = call_at(host, handle);
	if (call != NULL && call_claim_answer(call, (uint32_t)handle))
		(void)finish(call, reply);
	else
		STAT(host, answers_twice);
	host_leave(handle);
}

int split_call_answer(struct split_call *call, const ProtobufCMessage *reply)
{
	struct worker *w = worker_self;

	if (likely(own(w, call)))
		return answer_own(w, call, reply);
	/* Its messages go by split_call_send, within the window. */
	if (reply != NULL &&
	    (call->method->kind == SPLIT_SERVER_STREAM || call->method->kind == SPLIT_BIDI_STREAM))
		return SPLIT_E_ARGUMENT;
	if (!call_claim_answer(call, call_generation(call))) {
		STAT(call->host, answers_twice);
		return SPLIT_E_ANSWERED;
	}
	return finish(call, reply);
}

int split_call_fail(struct split_call *call, enum split_status code, const char *message)
{
	int rc;

	if (code == SPLIT_OK)
		return SPLIT_E_ARGUMENT;
	rc = split_call_set_status(call, code, message);
	if (rc == SPLIT_E_ARGUMENT)
		return rc;
	return split_call_answer(call, NULL);
}

/* ------------------------------------------------------------------ what a handler asks */

struct split_call *split_call_current(void)
{
	return worker_self == NULL ? NULL : worker_self->current;
}

struct split_call *split_call_of(void *closure_data)
{
	uint64_t handle = (uint64_t)(uintptr_t)closure_data;
	struct worker *w = worker_self;
	struct split_host *host;
	struct split_call *call;
	uint64_t word;

	if (w != NULL && w->current != NULL && call_handle(w->current) == closure_data)
		return w->current;
	host = host_enter(handle);
	if (host == NULL)
		return NULL;
	call = call_at(host, handle);
	if (call != NULL) {
		word = atomic_load_explicit(&call->word, memory_order_acquire);
		if ((uint32_t)(word >> CALL_GEN_SHIFT) != (uint32_t)handle ||
		    ((word & CALL_ANSWERED) != 0 && (word & CALL_REFS) == 0))
			call = NULL;
	}
	host_leave(handle);
	return call;
}

const ProtobufCMessage *split_call_message(const struct split_call *call)
{
	return call->message;
}

const ProtobufCMessage *split_call_retain(struct split_call *call)
{
	atomic_fetch_add_explicit(&call->word, 1, memory_order_relaxed);
	STAT(call->host, retained);
	return call->message;
}

void split_call_release(struct split_call *call)
{
	call_put(call, 1);
}

static const struct split_metadata *entries_of(const struct metadata_block *block,
					       size_t *count_out)
{
	*count_out = block != NULL ? block->count : 0;
	return block != NULL ? (const struct split_metadata *)(const void *)block->entries : NULL;
}

const struct split_metadata *split_call_metadata(const struct split_call *call, size_t *count_out)
{
	return entries_of(call->metadata, count_out);
}

const struct split_metadata *split_call_peer_identity(const struct split_call *call,
						      size_t *count_out)
{
	return entries_of(call->identity, count_out);
}

bool split_call_peer_is_tls(const struct split_call *call)
{
	return call->peer_is_tls;
}

const struct split_metadata *split_call_metadata_find(const struct split_call *call,
						      const char *name)
{
	size_t n, len = strlen(name);
	const struct split_metadata *m = split_call_metadata(call, &n);

	for (size_t i = 0; i < n; i++)
		if (m[i].name_bytes == len && memcmp(m[i].name, name, len) == 0)
			return &m[i];
	return NULL;
}

uint64_t split_call_deadline_ns(const struct split_call *call)
{
	return call->deadline_ns;
}

int64_t split_call_time_left_ns(const struct split_call *call)
{
	return call->deadline_ns == 0 ? INT64_MAX : (int64_t)(call->deadline_ns - clock_ns());
}

void split_call_peer(const struct split_call *call, struct split_peer *out)
{
	*out = call->peer;
}

const char *split_call_method(const struct split_call *call)
{
	return call->method->path;
}

enum split_method_kind split_call_kind(const struct split_call *call)
{
	return call->method->kind;
}

bool split_call_cancelled(const struct split_call *call)
{
	if (atomic_load_explicit(&call->cancelled, memory_order_acquire) != 0 ||
	    !attachment_alive(call->session->attachment) || split_call_time_left_ns(call) <= 0)
		return true;
	/* The news may still lie in the ring of the worker, which is busy with this very handler.
	 */
	return worker_self != NULL && worker_self->current == call &&
	       worker_sees_cancel(worker_self, call);
}

ProtobufCAllocator *split_call_allocator(struct split_call *call)
{
	return &call->allocator;
}

void split_call_set_user(struct split_call *call, void *user)
{
	call->user = user;
}

void *split_call_user(const struct split_call *call)
{
	return call->user;
}
