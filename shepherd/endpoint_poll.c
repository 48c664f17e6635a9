/* From the host: completions.
 *
 * The segment is the host's: it may hold anything and change between two loads. So each word is
 * loaded once, into `struct taken`, and only that copy is looked at. The sequence is loaded with
 * acquire; an honest host stored the rest before it. What is checked here is the form: kind, flags,
 * counts, addresses at their start. What an address leads to is as hostile as the rest.
 */
#include "shepherd/shepherd_internal.h"

#include <string.h>

/* A private copy of one slot. */
struct taken {
	uint8_t kind;
	uint8_t flags;
	uint8_t form;
	uint8_t inline_bytes;
	uint64_t call_id, release, token, msg, info;
	uint32_t msg_seq, method;
	uint64_t deadline_ns;
	uint64_t metadata, text, out_code, out_data;
	uint32_t msg_bytes, text_bytes;
	uint8_t out_flags;
	uint64_t peer_inline; /* where the host has the slot's inline area */
	uint64_t area[SLOT_INLINE_BYTES / 8] __attribute__((aligned(16)));
};

static const uint8_t flags_allowed[TO_DAEMON_KINDS] = {
	[TO_DAEMON_INITIAL_METADATA] = SLOT_EXTRA | SLOT_HAS_TOKEN | SLOT_RELEASE_REQUEST,
	[TO_DAEMON_MESSAGE] = SLOT_END_STREAM | SLOT_INLINE | SLOT_HAS_STATUS |
			      SLOT_RELEASE_REQUEST | SLOT_EXTRA | SLOT_HAS_TOKEN |
			      SLOT_HAS_MESSAGE | SLOT_COMPRESSED,
	[TO_DAEMON_STATUS] = SLOT_END_STREAM | SLOT_HAS_STATUS | SLOT_RELEASE_REQUEST | SLOT_EXTRA |
			     SLOT_HAS_TOKEN,
	[TO_DAEMON_RELEASE] = SLOT_RELEASE_REQUEST,
	[TO_DAEMON_REFUSE] = SLOT_RELEASE_REQUEST,
	[TO_DAEMON_CREDIT] = SLOT_RELEASE_REQUEST,
	[TO_DAEMON_WANT] = 0,
	[TO_DAEMON_CALL] = SLOT_END_STREAM | SLOT_INLINE | SLOT_EXTRA | SLOT_HAS_TOKEN |
			   SLOT_HAS_MESSAGE | SLOT_COMPRESSED,
	[TO_DAEMON_HALF_CLOSE] = SLOT_END_STREAM,
	[TO_DAEMON_ABANDON] = 0,
};

static const uint8_t forms_allowed[TO_DAEMON_KINDS] = {
	[TO_DAEMON_MESSAGE] = SLOT_FORM_WIRE,
	[TO_DAEMON_STATUS] = SLOT_FORM_UNDECODED,
};

static void slot_take(const struct slot *s, uint64_t peer, struct taken *t)
{
	uint32_t word;

	/* kind, flags, inline_bytes and form are one aligned word. */
	word = load_relaxed((const uint32_t *)(const void *)&s->kind);
	t->kind = (uint8_t)word;
	t->flags = (uint8_t)(word >> 8);
	t->inline_bytes = (uint8_t)(word >> 16);
	t->form = (uint8_t)(word >> 24);
	t->call_id = load_relaxed(&s->call_id);
	t->release = load_relaxed(&s->release);
	t->token = load_relaxed(&s->token);
	t->msg = load_relaxed(&s->msg);
	t->msg_seq = load_relaxed(&s->msg_seq);
	t->info = load_relaxed(&s->info);
	t->method = load_relaxed(&s->method);
	t->deadline_ns = load_relaxed(&s->deadline_ns);
	t->metadata = t->text = t->out_code = t->out_data = 0;
	t->msg_bytes = t->text_bytes = 0;
	t->out_flags = 0;
	if (t->flags & SLOT_EXTRA) {
		t->metadata = load_relaxed(&s->metadata);
		t->text = load_relaxed(&s->text);
		t->out_code = load_relaxed(&s->out_code);
		t->out_data = load_relaxed(&s->out_data);
		t->msg_bytes = load_relaxed(&s->msg_bytes);
		t->text_bytes = load_relaxed(&s->text_bytes);
		t->out_flags = load_relaxed(&s->out_flags);
	}
	t->peer_inline = peer + offsetof(struct slot, inline_area);
	for (size_t i = 0; i < SLOT_INLINE_BYTES / 8 && i * 8 < t->inline_bytes; i++)
		t->area[i] = load_relaxed(&s->tokens[i]);
}

static bool window_holds(const struct shepherd_window *w, uint64_t address, uint64_t bytes)
{
	return address - w->peer_base < w->bytes && bytes <= w->bytes - (address - w->peer_base);
}

/* NULL when [address, address + bytes) is neither in the host's arena nor, during a callback, in
 * the inline area. The one place where a host's address becomes a pointer. */
static const uint8_t *peer_pointer(const struct endpoint_port *p, uint64_t address, uint64_t bytes)
{
	if (window_holds(&p->window, address, bytes))
		return p->window.mem + (address - p->window.peer_base);
	if (window_holds(&p->inline_window, address, bytes))
		return p->inline_window.mem + (address - p->inline_window.peer_base);
	return NULL;
}

static int nonsense(struct endpoint_port *p, unsigned lane, const char *what, uint64_t value)
{
	return port_fault(p, -SPLIT_E_SHEPHERD_PROTOCOL, "completion %s %u: %s 0x%llx",
			  lane == p->lanes_n ? "foreign lane" : "lane", lane, what,
			  (unsigned long long)value);
}

/* Wire bytes lie whole in the arena, or are the inline area's; a linear message begins there. */
static bool message_holds(const struct endpoint_port *p, const struct taken *t)
{
	const struct shepherd_window *w = t->flags & SLOT_INLINE ? &p->inline_window : &p->window;

	if (!(t->form & SLOT_FORM_WIRE))
		return window_holds(w, t->msg, 1) && t->msg % 8 == 0;
	return t->flags & SLOT_INLINE || window_holds(w, t->msg, t->msg_bytes);
}

static int taken_check(struct endpoint_port *p, unsigned lane, const struct taken *t)
{
	if (t->kind < TO_DAEMON_INITIAL_METADATA || t->kind >= TO_DAEMON_KINDS)
		return nonsense(p, lane, "unknown kind", t->kind);
	if ((t->flags & ~flags_allowed[t->kind]) != 0)
		return nonsense(p, lane, "flags that do not fit the kind:", t->flags);
	if (t->inline_bytes > SLOT_INLINE_BYTES)
		return nonsense(p, lane, "inline bytes", t->inline_bytes);
	if (t->kind == TO_DAEMON_RELEASE &&
	    (t->info < 1 || t->info > SLOT_TOKENS_MAX || t->inline_bytes != t->info * 8))
		return nonsense(p, lane, "count of released tokens", t->info);
	if ((t->form & ~forms_allowed[t->kind]) != 0 ||
	    (t->form & SLOT_FORM_WIRE && !(t->flags & SLOT_HAS_MESSAGE)))
		return nonsense(p, lane, "a form that does not fit the kind:", t->form);
	if (t->flags & SLOT_HAS_MESSAGE && !message_holds(p, t))
		return nonsense(p, lane, "message address", t->msg);
	if (t->metadata != 0 &&
	    (t->metadata % 8 != 0 ||
	     peer_pointer(p, t->metadata, sizeof(struct metadata_block)) == NULL))
		return nonsense(p, lane, "metadata address", t->metadata);
	if (t->text != 0 && peer_pointer(p, t->text, t->text_bytes) == NULL)
		return nonsense(p, lane, "status text address", t->text);
	if ((t->flags & SLOT_HAS_TOKEN) && p->tokens_out == p->tokens_max)
		return nonsense(p, lane, "response tokens past", p->tokens_max);
	return 0;
}

/* Whether a slot may speak of a call out; of a call of the daemon's. */
static bool kind_of_out(uint8_t kind)
{
	return kind == TO_DAEMON_MESSAGE || kind == TO_DAEMON_CREDIT || kind == TO_DAEMON_WANT ||
	       kind == TO_DAEMON_HALF_CLOSE || kind == TO_DAEMON_ABANDON;
}

static bool kind_of_call(uint8_t kind)
{
	return kind != TO_DAEMON_HALF_CLOSE && kind != TO_DAEMON_ABANDON;
}

static int out_check(struct endpoint_port *p, unsigned lane, const struct taken *t)
{
	if (t->kind == TO_DAEMON_CALL) {
		if (t->method >= p->endpoint->methods_n || !p->endpoint->method_out[t->method])
			return nonsense(p, lane, "method of a call out", t->method);
		if (t->msg_seq >= p->lanes_n)
			return nonsense(p, lane, "worker of a call out", t->msg_seq);
		return 0;
	}
	if (call_out_at(p, t->call_id) != NULL) {
		if (!kind_of_out(t->kind) || t->form != 0 ||
		    (t->flags & (SLOT_HAS_STATUS | SLOT_RELEASE_REQUEST)))
			return nonsense(p, lane, "of a call out: kind", t->kind);
	} else if (!kind_of_call(t->kind)) {
		return nonsense(p, lane, "of no call out: kind", t->kind);
	}
	return 0;
}

static void deliver(struct endpoint_port *p, unsigned lane, const struct taken *t, struct call *c,
		    const struct endpoint_events *events, void *ctx)
{
	struct endpoint_completion e = {
		.kind = (enum slot_kind)t->kind,
		.flags = t->flags & (SLOT_END_STREAM | SLOT_HAS_STATUS | SLOT_COMPRESSED),
		.form = t->form,
		.has_message = (t->flags & SLOT_HAS_MESSAGE) != 0,
		.lane = lane,
		.call_id = t->call_id,
		.user = c->user,
		.method = t->method,
		.home = t->msg_seq,
		.parent = t->kind == TO_DAEMON_CALL ? t->info : 0,
		.deadline_ns = t->deadline_ns,
		.waits = t->kind == TO_DAEMON_CALL && (t->out_flags & SLOT_OUT_WAITS) != 0,
		.msg_seq = t->msg_seq,
		.msg_bytes = t->msg_bytes,
		.msg = t->msg,
		.metadata = t->metadata,
		.text = t->text,
		.text_bytes = t->text_bytes,
		.token = t->token,
		.has_token = (t->flags & SLOT_HAS_TOKEN) != 0,
		.window = t->flags & SLOT_INLINE ? p->inline_window : p->window,
	};

	if (t->form & SLOT_FORM_WIRE && t->flags & SLOT_INLINE) {
		e.msg = t->peer_inline;
		e.msg_bytes = t->inline_bytes;
	}
	if (t->kind == TO_DAEMON_STATUS || (t->flags & SLOT_HAS_STATUS)) {
		/* A status that gRPC has not is UNKNOWN (2) at the client. */
		e.status = t->info <= 16 ? (uint32_t)t->info : 2;
		e.flags |= SLOT_HAS_STATUS | SLOT_END_STREAM;
	}
	if (t->kind == TO_DAEMON_CREDIT)
		e.credit = t->info <= UINT32_MAX ? (uint32_t)t->info : UINT32_MAX;
	if ((e.flags & SLOT_HAS_STATUS) || t->kind == TO_DAEMON_REFUSE)
		call_end(p, c);
	events->completion(ctx, p, &e);
}

/* Whether the blocks that come back are those of the request that is refused: until that was
 * delivered its receiver may keep them. */
static bool refused_begin(struct endpoint_port *p, const struct taken *t)
{
	const struct call *c = t->kind == TO_DAEMON_REFUSE ? call_find(p, t->call_id) : NULL;

	if (c == NULL || c->state != CALL_OPEN || c->request_hold == INDEX_NONE ||
	    hold_token(p, c->request_hold) != t->release)
		return false;
	p->refused_hold = c->request_hold;
	return true;
}

static void refused_end(struct endpoint_port *p, const struct taken *t)
{
	if (p->refused_hold == INDEX_NONE)
		return;
	p->refused_hold = INDEX_NONE;
	hold_release(p, t->release);
}

bool endpoint_refused_blocks(struct endpoint_port *p, struct endpoint_blocks *blocks_out)
{
	if (p->refused_hold == INDEX_NONE)
		return false;
	*blocks_out = hold_blocks(p, p->refused_hold);
	p->refused_hold = INDEX_NONE;
	counter_inc(&p->counters->releases_in);
	return true;
}

/* One slot, copied. 0 or the fatal code. */
static int taken_handle(struct endpoint_port *p, unsigned lane, const struct taken *t,
			const struct endpoint_events *events, void *ctx)
{
	struct call *c;
	int rc = taken_check(p, lane, t);

	if (rc == 0)
		rc = t->kind == TO_DAEMON_RELEASE ? 0 : out_check(p, lane, t);
	if (rc < 0)
		return rc;
	if (t->flags & SLOT_RELEASE_REQUEST && !refused_begin(p, t))
		hold_release(p, t->release);
	if (t->kind == TO_DAEMON_RELEASE) {
		for (uint64_t i = 0; i < t->info; i++)
			hold_release(p, t->area[i]);
		return 0;
	}
	if (t->flags & SLOT_HAS_TOKEN)
		p->tokens_out++;
	if (t->kind == TO_DAEMON_CALL) {
		c = call_out_open(p, t->call_id, t->msg_seq);
		if (c == NULL)
			return nonsense(p, lane, "id of a call out", t->call_id);
		c->code = t->out_code;
		c->data = t->out_data;
	} else {
		c = call_find(p, t->call_id);
	}
	if (c == NULL || c->state != CALL_OPEN || c->lane == INDEX_NONE) {
		counter_inc(&p->counters->stale_calls);
		if (t->flags & SLOT_HAS_TOKEN)
			endpoint_token_release(p, lane, t->token);
	} else {
		deliver(p, lane, t, c, events, ctx);
	}
	refused_end(p, t);
	return 0;
}

/* Whether the next completion is there. A sequence that is neither the one awaited nor what the
 * last lap (or the zeroed page) left is nonsense. */
static int lane_ready(struct endpoint_port *p, unsigned lane, uint32_t want, uint32_t seq)
{
	const struct lane *l = &p->lanes[lane];
	uint32_t before = l->head < l->completion_slots ? 0 : want - l->completion_slots;

	if (seq == want)
		return 1;
	return seq == before ? 0 : nonsense(p, lane, "slot sequence", seq);
}

static int lane_poll(struct endpoint_port *p, unsigned lane, unsigned budget,
		     const struct endpoint_events *events, void *ctx)
{
	struct lane *l = &p->lanes[lane];
	unsigned taken = 0;
	struct taken t;
	int rc = 0;

	while (taken < budget) {
		uint32_t index = (uint32_t)l->head & (l->completion_slots - 1);
		const struct slot *s = &l->completions[index];

		rc = lane_ready(p, lane, (uint32_t)l->head + 1, load_acquire(&s->seq));
		if (rc <= 0)
			break;
		peer_taken(port_theirs_at_host(p, &s->seq));
		slot_take(s, l->completions_peer + (uint64_t)index * SLOT_BYTES, &t);
		p->inline_window = (struct shepherd_window){
			.mem = (const uint8_t *)t.area,
			.peer_base = t.peer_inline,
			.bytes = t.inline_bytes <= SLOT_INLINE_BYTES ? t.inline_bytes : 0,
		};
		rc = taken_handle(p, lane, &t, events, ctx);
		p->inline_window = (struct shepherd_window){0};
		if (rc < 0)
			break;
		l->head++;
		taken++;
	}
	if (taken != 0) {
		/* Release: we have read the slots before the host may write them again. */
		peer_published(port_ours_at_host(p, &l->daemon_line->head));
		store_release(&l->daemon_line->head, (uint32_t)l->head);
		counter_add(&p->counters->slots_in, taken);
	}
	return rc < 0 ? rc : (int)taken;
}

static int port_check(struct endpoint_port *p, uint64_t now_ns)
{
	if (p->fault != 0)
		return p->fault;
	if (!p->endpoint->mapped || load_relaxed(&p->endpoint->gone) != 0)
		return port_fault(p, -SPLIT_E_SHEPHERD_GONE, "SIGBUS in its segment");
	if (p->release_timeout_ns != 0 && p->overdue_first != INDEX_NONE) {
		uint64_t since = p->holds[p->overdue_first].since_ns;

		if (now_ns > since && now_ns - since > p->release_timeout_ns)
			return port_fault(p, -SPLIT_E_SHEPHERD_RELEASE,
					  "a request was not released %llu ms after its call ended",
					  (unsigned long long)((now_ns - since) / 1000000));
	}
	return 0;
}

int endpoint_poll(struct endpoint_port *p, unsigned budget, const struct endpoint_events *events,
		  void *ctx, uint64_t now_ns)
{
	unsigned lanes = p->lanes_n + 1, total = 0, lane = p->poll_first;
	int rc = port_check(p, now_ns);

	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < lanes && total < budget; i++) {
		rc = lane_poll(p, lane, budget - total, events, ctx);
		if (rc < 0)
			return rc;
		total += (unsigned)rc;
		lane = lane + 1 == lanes ? 0 : lane + 1;
	}
	/* Begin elsewhere next time, so that a busy lane can't use up every budget. */
	p->poll_first = p->poll_first + 1 >= lanes ? 0 : p->poll_first + 1;
	return p->fault != 0 ? p->fault : (int)total;
}

/* ---- what a completion points at */

int endpoint_metadata_read(const struct endpoint_port *p, uint64_t address,
			   struct metadata_item *items, size_t items_max, uint8_t *buf,
			   size_t buf_bytes)
{
	const struct metadata_block *block =
		(const void *)peer_pointer(p, address, sizeof(struct metadata_block));
	const struct metadata_entry *entry;
	size_t used = 0;
	uint32_t count;

	if (block == NULL || address % 8 != 0)
		return -SPLIT_E_SHEPHERD_ADDRESS;
	count = load_relaxed(&block->count);
	if (count > items_max)
		return -SPLIT_E_BASE_LIMIT;
	entry = (const void *)peer_pointer(p, address + sizeof(*block), count * sizeof(*entry));
	if (count != 0 && entry == NULL)
		return -SPLIT_E_SHEPHERD_ADDRESS;
	for (uint32_t i = 0; i < count; i++, entry++) {
		uint32_t name_bytes = load_relaxed(&entry->name_bytes);
		uint32_t value_bytes = load_relaxed(&entry->value_bytes);
		const uint8_t *name = peer_pointer(p, load_relaxed(&entry->name), name_bytes);
		const uint8_t *value =
			value_bytes == 0
				? buf
				: peer_pointer(p, load_relaxed(&entry->value), value_bytes);

		if (name == NULL || value == NULL)
			return -SPLIT_E_SHEPHERD_ADDRESS;
		if ((uint64_t)name_bytes + value_bytes + 2 > buf_bytes - used)
			return -SPLIT_E_BASE_LIMIT;
		items[i].name = (char *)buf + used;
		items[i].name_bytes = name_bytes;
		memcpy(buf + used, name, name_bytes);
		used += name_bytes;
		buf[used++] = '\0';
		items[i].value = buf + used;
		items[i].value_bytes = value_bytes;
		if (value_bytes != 0)
			memcpy(buf + used, value, value_bytes);
		used += value_bytes;
		buf[used++] = '\0';
	}
	return (int)count;
}

int endpoint_text_read(const struct endpoint_port *p, uint64_t address, uint32_t bytes, char *buf,
		       size_t max)
{
	size_t n = bytes < max ? bytes : max;
	const uint8_t *text = peer_pointer(p, address, n);

	if (n == 0)
		return 0;
	if (text == NULL)
		return -SPLIT_E_SHEPHERD_ADDRESS;
	memcpy(buf, text, n);
	return (int)n;
}

/* ---- our own sleep: the host's park, mirrored. We store the odd word, fence, look once more; the
 * host stores a slot, fences, loads the word. */

bool endpoint_arm_sleep(struct endpoint_port *p)
{
	if (p->sleep_value % 2 == 0)
		store_relaxed(p->sleep_word, ++p->sleep_value);
	shepherd_fence();
	for (unsigned i = 0; p->fault == 0 && i <= p->lanes_n; i++) {
		const struct lane *l = &p->lanes[i];
		const struct slot *s =
			&l->completions[(uint32_t)l->head & (l->completion_slots - 1)];

		if (load_acquire(&s->seq) == (uint32_t)l->head + 1) {
			endpoint_disarm_sleep(p);
			counter_inc(&p->counters->sleeps_refused);
			return false;
		}
	}
	counter_inc(&p->counters->sleeps);
	return true;
}

bool endpoint_shares_core(const struct endpoint_port *p)
{
	for (unsigned i = 0; p->core != 0 && i < p->lanes_n; i++) {
		const struct control_line *c = p->lanes[i].control;

		if (load_relaxed(&c->core) == p->core &&
		    (uint32_t)load_relaxed(&c->state) != HOST_RETIRED)
			return true;
	}
	return false;
}

void endpoint_disarm_sleep(struct endpoint_port *p)
{
	if (p->sleep_value % 2 != 0)
		store_relaxed(p->sleep_word, ++p->sleep_value);
}
