/* What the workers say, to splitd. An answer's blocks go back to its worker when it was copied for
 * the socket; until then it waits, in order, and the worker's own segment bounds what can. */
#include <stdlib.h>
#include <string.h>

#include "host-lib/pump.h"

static void item_done(struct pump *p, struct remote_item *item)
{
	if (item->has_token)
		endpoint_token_release(p->ports[item->d], item->lane, item->token);
	remote_item_free(&p->queue, item);
}

/* A message that can never go: the call ends without it. */
static void item_impossible(struct pump *p, const struct remote_item *item, int rc, uint64_t now_ns)
{
	const char *text =
		remote_item_text(rc, "the message is too large for the connection to splitd");
	struct remote_item *end;
	bool out = (item->slot.call_id & SLOT_OUT) != 0;

	/* No memory for the link: what ends the call would find none either, again and again. */
	if (link_fault(p->remote) != 0) {
		p->over = true;
		return;
	}
	if (item->slot.kind == TO_DAEMON_CALL) {
		pump_out_end(p, item->slot.call_id, remote_item_status(rc));
		return; /* splitd has never heard of it */
	}
	if (out)
		pump_out_fail(p, item->slot.call_id, remote_item_status(rc));
	else
		pump_call_end(p, item->slot.call_id, now_ns);
	end = remote_item_get(&p->queue);
	if (end == NULL) {
		p->over = true;
		return;
	}
	end->slot.call_id = item->slot.call_id;
	if (out) {
		end->slot.kind = TO_DAEMON_ABANDON;
	} else {
		end->slot.kind = TO_DAEMON_STATUS;
		end->slot.flags = SLOT_HAS_STATUS | SLOT_END_STREAM;
		end->slot.status = remote_item_status(rc);
		end->text = text;
		end->text_bytes = (uint32_t)strlen(text);
	}
	/* The next to go, and charged to the window like any other. */
	remote_queue_put_back(&p->queue, end);
}

/* False: it must wait. */
static bool item_send(struct pump *p, struct remote_item *item, uint64_t now_ns)
{
	int rc = remote_item_send(&p->flow, p->remote, item, now_ns);

	if (rc > 0)
		return false;
	if (rc < 0)
		item_impossible(p, item, rc, now_ns);
	item_done(p, item);
	return true;
}

void pump_queue_send(struct pump *p, uint64_t now_ns)
{
	struct remote_item *item;

	while ((item = remote_queue_take(&p->queue)) != NULL)
		if (!item_send(p, item, now_ns)) {
			remote_queue_put_back(&p->queue, item);
			return;
		}
}

/* ------------------------------------------------------------------ completions */

/* The call of a completion, which is one of these rings. A call out is made by its CALL. */
static struct pump_call *call_of(struct pump *p, struct endpoint_port *port,
				 const struct endpoint_completion *c)
{
	struct pump_call *call = c->user;

	if (c->kind != TO_DAEMON_CALL)
		return call;
	call = pump_call_new(p, c->call_id, c->method);
	if (call == NULL) {
		endpoint_out_refuse(port, c->call_id, 8);
		return NULL;
	}
	call->id = c->call_id;
	call->lane = c->home;
	call->begun = true;
	endpoint_out_accept(port, c->call_id, call);
	return call;
}

static void item_fill(struct pump *p, struct endpoint_port *port, const struct pump_call *call,
		      const struct endpoint_completion *c, struct remote_item *item)
{
	const struct attach_method *m = &p->methods[call->method];
	const struct pump_call *parent;

	item->d = call->d;
	item->lane = c->lane;
	item->has_token = c->has_token;
	item->token = c->token;
	item->slot.kind = (uint8_t)c->kind;
	item->slot.flags = c->flags | (c->has_message ? SLOT_HAS_MESSAGE : 0);
	item->slot.call_id = call->wire_id;
	item->slot.msg_seq = c->kind == TO_DAEMON_CALL ? 0 : c->msg_seq;
	item->slot.status = c->status;
	if (c->kind == TO_DAEMON_CREDIT)
		item->slot.info = c->credit;
	if (c->kind == TO_DAEMON_CALL) {
		item->slot.method = c->method;
		item->slot.peer_flags = c->waits ? SLOT_OUT_WAITS : 0;
		item->deadline_ns = c->deadline_ns;
		parent = endpoint_call_user(port, c->parent);
		item->slot.info = parent != NULL ? parent->wire_id : 0;
	}
	item->metadata = (const struct metadata_block *)(uintptr_t)c->metadata;
	item->text = (const char *)(uintptr_t)c->text;
	item->text_bytes = c->text != 0 ? c->text_bytes : 0;
	if (!c->has_message)
		return;
	item->type = schema_message_at(p->schema, call->out ? m->input_schema : m->output_schema);
	item->root = c->msg;
	item->source = (struct linear_source){c->window.mem, c->window.peer_base, c->window.bytes};
	if (c->window.bytes <= SLOT_INLINE_BYTES) {
		memcpy(item->area, c->window.mem, c->window.bytes);
		item->source.mem = (const uint8_t *)item->area;
	}
}

static void item_go(struct pump *p, struct remote_item *item, uint64_t now_ns)
{
	/* WANT asks about the messages in front of it. */
	bool direct = remote_slot_is_free(&item->slot) && item->slot.kind != TO_DAEMON_WANT &&
		      !remote_queue_opens(&p->queue, item->slot.call_id);

	if ((direct || p->queue.first == NULL) && item_send(p, item, now_ns))
		return;
	/* The slot that it points into is given back now. */
	if (!remote_item_keep(item)) {
		item_impossible(p, item, -SPLIT_E_BASE_NOMEM, now_ns);
		item_done(p, item);
		return;
	}
	remote_queue_add(&p->queue, item);
}

static bool call_ends(const struct endpoint_completion *c)
{
	return (c->flags & SLOT_HAS_STATUS) != 0 || c->kind == TO_DAEMON_REFUSE;
}

static void completion(void *ctx, struct endpoint_port *port, const struct endpoint_completion *c)
{
	struct pump *p = ctx;
	struct pump_call *call = call_of(p, port, c);
	bool wanted = call != NULL && !call->forgotten;
	struct remote_item *item = wanted ? remote_item_get(&p->queue) : NULL;
	uint64_t now_ns = clock_ns();

	if (item == NULL) {
		if (c->has_token)
			endpoint_token_release(port, c->lane, c->token);
		if (call != NULL && call->forgotten && call_ends(c)) {
			endpoint_call_close(port, call->id, now_ns);
			pump_call_free(p, call);
		}
		/* Without memory the session is of no use. */
		p->over |= wanted;
		return;
	}
	call->alone = false;
	item_fill(p, port, call, c, item);
	if (call_ends(c)) {
		endpoint_call_close(port, call->id, now_ns);
		pump_call_free(p, call);
	}
	item_go(p, item, now_ns);
}

const struct endpoint_events pump_events = {.completion = completion};

void pump_refuse(struct pump *p, struct pump_call *call)
{
	struct remote_item *item = remote_item_get(&p->queue);

	if (item == NULL) {
		p->over = true;
		return;
	}
	item->slot.kind = TO_DAEMON_REFUSE;
	item->slot.call_id = call->wire_id;
	pump_call_free(p, call);
	item_go(p, item, clock_ns());
}
