/* What frames say. Parsing copies the fixed part into a local, checks it, and only then looks at
 * what lies behind it. */
#include <string.h>

#include "remote/remote.h"

static size_t up8(size_t n)
{
	return (n + 7) & ~(size_t)7;
}

/* ------------------------------------------------------------------ greeting */

int remote_hello_parse(const struct remote_frame *f, struct remote_hello *out, const uint8_t **blob)
{
	if (f->type != REMOTE_HELLO || f->bytes < sizeof(*out))
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	memcpy(out, f->body, sizeof(*out));
	if (out->magic != REMOTE_MAGIC)
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	if (out->version != REMOTE_VERSION)
		return -SPLIT_E_SHEPHERD_ATTACH_VERSION;
	if (out->layout != 1)
		return -SPLIT_E_SHEPHERD_ATTACH_LAYOUT;
	if (out->workers < 1 || out->workers > SHEPHERD_HOST_WORKERS_MAX ||
	    up8(out->blob_bytes) != f->bytes - sizeof(*out) || out->blob_bytes > ATTACH_BLOB_MAX ||
	    out->window < REMOTE_WINDOW_MIN || out->window > REMOTE_WINDOW_MAX ||
	    memchr(out->name, '\0', sizeof(out->name)) == NULL)
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	*blob = f->body + sizeof(*out);
	return 0;
}

int remote_welcome_parse(const struct remote_frame *f, struct remote_welcome *out)
{
	if (f->type != REMOTE_WELCOME || f->bytes != sizeof(*out))
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	memcpy(out, f->body, sizeof(*out));
	if (out->magic != REMOTE_MAGIC)
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	if (out->version != REMOTE_VERSION)
		return -SPLIT_E_SHEPHERD_ATTACH_VERSION;
	if (out->daemon_workers < 1 || out->daemon_workers > SHEPHERD_DAEMON_WORKERS_MAX ||
	    out->calls_max < 1 || out->calls_max > 65536 || out->tokens_max < 1 ||
	    out->tokens_max > 4u * 65536 || out->outs_max > 65536 ||
	    out->stream_window != SHEPHERD_STREAM_WINDOW || out->window < REMOTE_WINDOW_MIN ||
	    out->window > REMOTE_WINDOW_MAX || out->timeout_ns < 1000000)
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	return 0;
}

int remote_refused_parse(const struct remote_frame *f, struct remote_refused *out)
{
	if (f->type != REMOTE_REFUSED || f->bytes != sizeof(*out))
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	memcpy(out, f->body, sizeof(*out));
	out->text[sizeof(out->text) - 1] = '\0';
	for (char *c = out->text; *c != '\0'; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	return 0;
}

int remote_window_parse(const struct remote_frame *f, uint64_t *bytes_out)
{
	struct remote_window w;

	if (f->type != REMOTE_WINDOW || f->bytes != sizeof(w))
		return -SPLIT_E_REMOTE_FRAME;
	memcpy(&w, f->body, sizeof(w));
	if (w.bytes == 0 || w.bytes > REMOTE_WINDOW_MAX)
		return -SPLIT_E_REMOTE_FRAME;
	*bytes_out = w.bytes;
	return 0;
}

/* ------------------------------------------------------------------ metadata on the wire: a count,
 * then for each entry the two lengths and the two strings, without NUL or padding */

static int metadata_parse(const uint8_t *p, size_t bytes, struct metadata_item *items)
{
	uint32_t n, lengths[2];
	size_t at = sizeof(n);

	if (bytes < sizeof(n))
		return -SPLIT_E_REMOTE_FRAME;
	memcpy(&n, p, sizeof(n));
	if (n > REMOTE_METADATA_ITEMS)
		return -SPLIT_E_REMOTE_FRAME;
	for (uint32_t i = 0; i < n; i++) {
		if (bytes - at < sizeof(lengths))
			return -SPLIT_E_REMOTE_FRAME;
		memcpy(lengths, p + at, sizeof(lengths));
		at += sizeof(lengths);
		if (lengths[0] == 0 || lengths[0] > bytes - at ||
		    lengths[1] > bytes - at - lengths[0])
			return -SPLIT_E_REMOTE_FRAME;
		items[i] = (struct metadata_item){
			.name = (const char *)p + at,
			.name_bytes = lengths[0],
			.value = p + at + lengths[0],
			.value_bytes = lengths[1],
		};
		at += (size_t)lengths[0] + lengths[1];
	}
	return at == bytes ? (int)n : -SPLIT_E_REMOTE_FRAME;
}

static size_t metadata_wire_bytes(const struct metadata_block *block)
{
	size_t bytes = sizeof(uint32_t);

	for (uint32_t i = 0; i < block->count; i++)
		bytes += 8 + (size_t)block->entries[i].name_bytes + block->entries[i].value_bytes;
	return bytes;
}

static void metadata_put(uint8_t *at, const struct metadata_block *block)
{
	memcpy(at, &block->count, sizeof(uint32_t));
	at += sizeof(uint32_t);
	for (uint32_t i = 0; i < block->count; i++) {
		const struct metadata_entry *e = &block->entries[i];

		memcpy(at, &e->name_bytes, sizeof(uint32_t));
		memcpy(at + 4, &e->value_bytes, sizeof(uint32_t));
		memcpy(at + 8, (const void *)(uintptr_t)e->name, e->name_bytes);
		at += 8 + e->name_bytes;
		if (e->value_bytes != 0)
			memcpy(at, (const void *)(uintptr_t)e->value, e->value_bytes);
		at += e->value_bytes;
	}
}

/* Bytes of a metadata_block with what is on the wire, or 0: it is malformed. */
static size_t metadata_room(const uint8_t *p, size_t bytes)
{
	struct metadata_item items[REMOTE_METADATA_ITEMS];
	int n = metadata_parse(p, bytes, items);

	return n < 0 ? 0 : up8(metadata_bytes(items, (size_t)n));
}

/* ------------------------------------------------------------------ slots that arrive */

static const uint8_t to_host_flags[TO_HOST_KINDS] = {
	[TO_HOST_REQUEST] = SLOT_END_STREAM | SLOT_HAS_MESSAGE | SLOT_COMPRESSED,
	[TO_HOST_MESSAGE] = SLOT_END_STREAM | SLOT_HAS_MESSAGE | SLOT_COMPRESSED | SLOT_HAS_STATUS,
	[TO_HOST_HALF_CLOSE] = SLOT_END_STREAM,
	[TO_HOST_STATUS] = SLOT_END_STREAM | SLOT_HAS_STATUS,
};

static const uint8_t to_daemon_flags[TO_DAEMON_KINDS] = {
	[TO_DAEMON_MESSAGE] =
		SLOT_END_STREAM | SLOT_HAS_STATUS | SLOT_HAS_MESSAGE | SLOT_COMPRESSED,
	[TO_DAEMON_STATUS] = SLOT_END_STREAM | SLOT_HAS_STATUS,
	[TO_DAEMON_CALL] = SLOT_END_STREAM | SLOT_HAS_MESSAGE | SLOT_COMPRESSED,
	[TO_DAEMON_HALF_CLOSE] = SLOT_END_STREAM,
};

/* Kinds that a relay passes on; the others are between a worker and its splitd. */
static bool kind_passes(uint8_t kind, bool to_host)
{
	if (to_host)
		return kind == TO_HOST_REQUEST || kind == TO_HOST_MESSAGE ||
		       kind == TO_HOST_HALF_CLOSE || kind == TO_HOST_CANCEL ||
		       kind == TO_HOST_WRITABLE || kind == TO_HOST_STATUS ||
		       kind == TO_HOST_INITIAL_METADATA;
	return kind >= TO_DAEMON_INITIAL_METADATA && kind < TO_DAEMON_KINDS &&
	       kind != TO_DAEMON_RELEASE;
}

static bool slot_sound(const struct remote_slot *s, bool to_host)
{
	uint8_t flags;

	if (!kind_passes(s->kind, to_host))
		return false;
	flags = to_host ? to_host_flags[s->kind] : to_daemon_flags[s->kind];
	if ((s->flags & ~flags) != 0 ||
	    ((s->flags & SLOT_HAS_MESSAGE) != 0) != (s->message_bytes != 0))
		return false;
	/* A message of shared memory may come without one only where it ends the call. */
	if ((s->kind == TO_HOST_MESSAGE || s->kind == TO_DAEMON_MESSAGE) && s->message_bytes == 0 &&
	    (s->flags & SLOT_HAS_STATUS) == 0)
		return false;
	return s->peer_family == 0 || s->peer_family == 4 || s->peer_family == 6;
}

int remote_slot_parse(const struct remote_frame *f, bool to_host, struct remote_arrival *out)
{
	struct remote_slot *s = &out->slot;
	const uint8_t *at = f->body + sizeof(*s);
	uint64_t bytes;
	size_t room;

	if (f->type != REMOTE_SLOT || f->bytes < sizeof(*s))
		return -SPLIT_E_REMOTE_FRAME;
	memcpy(s, f->body, sizeof(*s));
	bytes = ((uint64_t)s->message_bytes + 7) / 8 * 8 +
		((uint64_t)s->metadata_bytes + 7) / 8 * 8 +
		((uint64_t)s->identity_bytes + 7) / 8 * 8 + ((uint64_t)s->text_bytes + 7) / 8 * 8;
	if (bytes != f->bytes - sizeof(*s) || !slot_sound(s, to_host) ||
	    (uint64_t)s->metadata_bytes + s->identity_bytes + s->text_bytes > REMOTE_METADATA_MAX ||
	    (bytes != 0 && remote_slot_is_free(s)))
		return -SPLIT_E_REMOTE_FRAME;
	out->message = s->message_bytes != 0 ? at : NULL;
	at += up8(s->message_bytes);
	out->metadata = s->metadata_bytes != 0 ? at : NULL;
	at += up8(s->metadata_bytes);
	out->identity = s->identity_bytes != 0 ? at : NULL;
	at += up8(s->identity_bytes);
	out->text = s->text_bytes != 0 ? at : NULL;
	out->room = up8(s->message_bytes);
	if (out->metadata != NULL) {
		room = metadata_room(out->metadata, s->metadata_bytes);
		if (room == 0)
			return -SPLIT_E_REMOTE_FRAME;
		out->room += room;
	}
	if (out->identity != NULL) {
		room = metadata_room(out->identity, s->identity_bytes);
		if (room == 0)
			return -SPLIT_E_REMOTE_FRAME;
		out->room += room;
	}
	if (out->text != NULL)
		out->room += up8((size_t)s->text_bytes + 1);
	return 0;
}

static uint64_t land_metadata(const uint8_t *wire, size_t bytes, uint8_t **at, int64_t delta)
{
	struct metadata_item items[REMOTE_METADATA_ITEMS];
	int n = metadata_parse(wire, bytes, items);
	size_t room = n < 0 ? 0 : up8(metadata_bytes(items, (size_t)n));
	uint64_t address = (uint64_t)(uintptr_t)*at + (uint64_t)delta;

	if (n < 0 || metadata_write(items, (size_t)n, *at, room, delta) != 0)
		return 0; /* remote_slot_parse has seen that it is sound */
	*at += room;
	return address;
}

int remote_land(const struct remote_arrival *a, const struct schema_message *m, uint8_t *mem,
		int64_t delta, struct remote_landed *out)
{
	const struct remote_slot *s = &a->slot;
	uint8_t *at = mem;
	int rc;

	*out = (struct remote_landed){0};
	if (a->message != NULL) {
		memcpy(at, a->message, s->message_bytes);
		rc = relocate_in(m, at, s->message_bytes, delta, NULL);
		if (rc < 0)
			return rc;
		out->message = (uint64_t)(uintptr_t)at + (uint64_t)delta;
		at += up8(s->message_bytes);
	}
	if (a->metadata != NULL)
		out->metadata = land_metadata(a->metadata, s->metadata_bytes, &at, delta);
	if (a->identity != NULL)
		out->identity = land_metadata(a->identity, s->identity_bytes, &at, delta);
	if (a->text != NULL) {
		memcpy(at, a->text, s->text_bytes);
		at[s->text_bytes] = '\0';
		out->text = (uint64_t)(uintptr_t)at + (uint64_t)delta;
	}
	return 0;
}

/* ------------------------------------------------------------------ windows */

/* What does not wait for the window, because the window may be waiting for it. */
bool remote_slot_is_free(const struct remote_slot *s)
{
	switch (s->kind) {
	case TO_HOST_CANCEL:
	case TO_HOST_WRITABLE:
	case TO_DAEMON_CREDIT:
	case TO_DAEMON_WANT:
	case TO_DAEMON_REFUSE:
	case TO_DAEMON_ABANDON:
		return true;
	default:
		return false;
	}
}

/* An arena's block is a power of two of units. In memory an entry of metadata takes 26 bytes beside
 * its strings, of which the name has one at least; here 8 beside them: not three times as much. */
uint64_t remote_charge(const struct remote_slot *s)
{
	uint64_t bytes = up8(s->message_bytes) +
			 3 * ((uint64_t)s->metadata_bytes + s->identity_bytes + s->text_bytes) + 64;
	uint64_t charge = REMOTE_CHARGE_MIN;

	if (remote_slot_is_free(s))
		return 0;
	while (charge < bytes)
		charge *= 2;
	return charge;
}

uint64_t remote_message_max(uint64_t window)
{
	uint64_t most = linear_limits_default.linear_bytes_max; /* what relocate_in() takes */

	return window / 2 < most ? window / 2 : most;
}

int remote_flow_take(struct remote_flow *flow, const struct remote_slot *slot)
{
	uint64_t charge = remote_charge(slot);

	if (charge > flow->window - flow->taken)
		return -SPLIT_E_REMOTE_FRAME;
	flow->taken += charge;
	return 0;
}

int remote_flow_give(struct remote_flow *flow, struct remote_link *link, uint64_t used)
{
	struct remote_window w;

	if (flow->taken <= used)
		return 0;
	w.bytes = flow->taken - used;
	if (w.bytes < flow->window / 8)
		return 0;
	flow->taken = used;
	return link_say(link, REMOTE_WINDOW, &w, sizeof(w));
}

/* ------------------------------------------------------------------ slots that go out */

int remote_item_measure(struct remote_item *item, uint64_t message_max)
{
	struct linear_limits limits = linear_limits_default;
	struct remote_slot *s = &item->slot;
	size_t bytes = 0, metadata = 0, identity = 0;
	int rc;

	if (item->measured)
		return 0;
	limits.linear_bytes_max = message_max;
	if (item->type != NULL) {
		rc = relocate_out(item->type, &item->source, item->root, &limits, NULL, 0, &bytes);
		if (rc < 0)
			return rc;
	}
	if (item->metadata != NULL && item->metadata->count != 0)
		metadata = metadata_wire_bytes(item->metadata);
	if (item->identity != NULL && item->identity->count != 0)
		identity = metadata_wire_bytes(item->identity);
	if (metadata + identity + item->text_bytes > REMOTE_METADATA_MAX ||
	    (metadata != 0 && item->metadata->count > REMOTE_METADATA_ITEMS) ||
	    (identity != 0 && item->identity->count > REMOTE_METADATA_ITEMS))
		return -SPLIT_E_BASE_LIMIT;
	s->message_bytes = (uint32_t)bytes;
	s->metadata_bytes = (uint32_t)metadata;
	s->identity_bytes = (uint32_t)identity;
	s->text_bytes = item->text != NULL ? item->text_bytes : 0;
	item->measured = true;
	return 0;
}

int remote_item_put(struct remote_link *link, struct remote_item *item, uint64_t now_ns)
{
	struct remote_slot *s = &item->slot;
	size_t parts = up8(s->message_bytes) + up8(s->metadata_bytes) + up8(s->identity_bytes) +
		       up8(s->text_bytes);
	uint8_t *at = link_put(link, REMOTE_SLOT, sizeof(*s) + parts);
	size_t bytes;
	int rc;

	if (at == NULL)
		return -SPLIT_E_BASE_NOMEM;
	if (item->deadline_ns != 0)
		s->deadline_left_ns = item->deadline_ns > now_ns ? item->deadline_ns - now_ns : 1;
	memcpy(at, s, sizeof(*s));
	at += sizeof(*s);
	if (item->type != NULL) {
		memset(at + up8(s->message_bytes) - 8, 0, 8);
		rc = relocate_out(item->type, &item->source, item->root, NULL, at, s->message_bytes,
				  &bytes);
		if (rc < 0 || bytes != s->message_bytes) {
			link_take_back(link); /* it changed under our eyes */
			return -SPLIT_E_LINEARIZE_SOURCE;
		}
		at += up8(s->message_bytes);
	}
	if (s->metadata_bytes != 0) {
		memset(at + up8(s->metadata_bytes) - 8, 0, 8);
		metadata_put(at, item->metadata);
		at += up8(s->metadata_bytes);
	}
	if (s->identity_bytes != 0) {
		memset(at + up8(s->identity_bytes) - 8, 0, 8);
		metadata_put(at, item->identity);
		at += up8(s->identity_bytes);
	}
	if (s->text_bytes != 0) {
		memset(at + up8(s->text_bytes) - 8, 0, 8);
		memcpy(at, item->text, s->text_bytes);
	}
	return 0;
}

/* Bytes for the socket past which slots wait with their sender. */
#define BACKLOG_MAX (512u << 10)

int remote_item_send(struct remote_flow *flow, struct remote_link *link, struct remote_item *item,
		     uint64_t now_ns)
{
	int rc = remote_item_measure(item, remote_message_max(flow->peer_window));
	uint64_t charge;

	if (rc < 0)
		return rc;
	charge = remote_charge(&item->slot);
	if (charge > flow->peer_window / 2)
		return -SPLIT_E_BASE_LIMIT; /* the window might never be so wide again */
	if (charge > flow->left || (charge != 0 && link_backlog(link) > BACKLOG_MAX))
		return 1;
	rc = remote_item_put(link, item, now_ns);
	if (rc == 0)
		flow->left -= charge;
	return rc;
}

uint32_t remote_item_status(int rc)
{
	uint32_t status = (uint32_t)linearize_map_status(rc);

	return status != 0 ? status : 8; /* RESOURCE_EXHAUSTED */
}

const char *remote_item_text(int rc, const char *large)
{
	return remote_item_status(rc) == 8 ? large : error_text(rc);
}
