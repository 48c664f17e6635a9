/* The daemon's reading of the to-daemon segment: whatever a host may write there, mixed with what
 * the daemon does meanwhile. The input is a program of one-byte operations with their arguments;
 * after it the daemon's own books must agree: every block is either held by a message or free, and
 * nothing outside the segment was touched (ASan sees to that).
 *
 *   0 raw bytes anywhere in the segment      4 close a call          8 release a response token
 *   1 a completion slot, sequence made right  5 poll                 9 read metadata and text
 *   2 open and submit a request              6 flush                10 the host takes a request
 * slot 3 the same, inline                       7 lane state, sleep    11 revoke
 * 12 a further slot of a call: message, half-close, room       13 answer a call out of the host
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shepherd/shepherd_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CALLS 8
#define OUTS  4

struct program {
	const uint8_t *at, *end;
	struct endpoint *e;
	struct endpoint_port *port;
	uint64_t call_id[CALLS];
	uint64_t out_id[OUTS]; /* calls out that were accepted */
	uint32_t host_tail[3], host_head[2];
	unsigned owed_n;
	struct {
		unsigned lane;
		uint64_t token;
	} owed[64];
	uint64_t now_ns;
};

static uint8_t byte(struct program *p)
{
	return p->at < p->end ? *p->at++ : 0;
}

static uint32_t word(struct program *p)
{
	uint32_t v = byte(p);

	v |= (uint32_t)byte(p) << 8;
	v |= (uint32_t)byte(p) << 16;
	return v | (uint32_t)byte(p) << 24;
}

static void bytes(struct program *p, void *to, size_t n)
{
	size_t have = (size_t)(p->end - p->at);

	n = n < have ? n : have;
	memcpy(to, p->at, n);
	p->at += n;
}

static void read_behind(struct endpoint_port *port, uint64_t metadata, uint64_t text, uint32_t n)
{
	struct metadata_item items[8];
	uint8_t buf[512];
	char line[64];
	int rc = endpoint_metadata_read(port, metadata, items, 8, buf, sizeof(buf));

	for (int i = 0; i < rc; i++)
		if (strlen(items[i].name) > items[i].name_bytes)
			abort();
	rc = endpoint_text_read(port, text, n, line, sizeof(line));
	if (rc > (int)sizeof(line))
		abort();
}

static volatile uint8_t byte_seen; /* so that the load is not optimised away */

static void completion(void *ctx, struct endpoint_port *port, const struct endpoint_completion *c)
{
	struct program *p = ctx;

	if (c->kind == TO_DAEMON_CALL) {
		unsigned place = (unsigned)(c->call_id & SLOT_OUT_INDEX);

		if (place >= OUTS || c->method != 1 || c->home >= 2 || c->user != NULL)
			abort();
		if (c->deadline_ns & 1) {
			endpoint_out_refuse(port, c->call_id, (uint32_t)c->parent);
		} else {
			p->out_id[place] = c->call_id;
			endpoint_out_accept(port, c->call_id, p);
		}
	} else if ((c->call_id & SLOT_OUT) != 0 && c->user != p) {
		abort();
	}
	if (c->has_message) {
		uint64_t offset = c->msg - c->window.peer_base;

		if (c->form & SLOT_FORM_WIRE) {
			if (offset > c->window.bytes || c->msg_bytes > c->window.bytes - offset)
				abort();
			if (c->msg_bytes != 0)
				byte_seen = c->window.mem[offset + c->msg_bytes - 1];
		} else if (offset >= c->window.bytes) {
			abort();
		} else {
			byte_seen = c->window.mem[offset];
		}
	}
	read_behind(port, c->metadata, c->text, c->text_bytes);
	if (!c->has_token)
		return;
	if (p->owed_n == 64) {
		endpoint_token_release(port, c->lane, c->token);
		return;
	}
	p->owed[p->owed_n].lane = c->lane;
	p->owed[p->owed_n++].token = c->token;
}

static const struct endpoint_events events = {completion};

static void raw(struct program *p)
{
	/* Mostly where the words are: control and host lines, then the rings. */
	size_t offset = word(p) % p->e->to_daemon.bytes, n = byte(p) % 64 + 1;

	if (offset + n > p->e->to_daemon.bytes)
		n = p->e->to_daemon.bytes - offset;
	bytes(p, p->e->to_daemon.mem + offset, n);
}

static void slot_write(struct program *p)
{
	unsigned lane = byte(p) % 3, calls = byte(p) % CALLS;
	const struct lane *l = &p->port->lanes[lane];
	struct slot *s = (struct slot *)&l->completions[p->host_tail[lane] & 1];
	uint8_t kind = byte(p), relate = byte(p);
	struct shepherd_window w = endpoint_window(p->port);

	bytes(p, (uint8_t *)s + 4, byte(p));
	s->kind = kind < 128 ? (uint8_t)(TO_DAEMON_INITIAL_METADATA + kind % 11) : kind;
	if (relate & 1)
		s->call_id = p->call_id[calls];
	if (relate & 2)
		s->msg = w.peer_base + (s->msg & 0xffff);
	if (relate & 4)
		s->metadata = w.peer_base + (s->metadata & 0xffff);
	if (relate & 8)
		s->text = w.peer_base + (s->text & 0xffff);
	if (relate & 16)
		s->release = (uint64_t)1 << 32 | (1 + calls);
	if (relate & 32)
		s->msg = l->completions_peer + (p->host_tail[lane] & 1) * SLOT_BYTES + 128;
	if (relate & 64)
		s->call_id = (uint64_t)(relate & 3) << 32 | SLOT_OUT | calls;
	if (relate & 128) {
		s->method = 1;
		s->home = calls & 1;
	}
	p->host_tail[lane]++;
	store_release(&s->seq, p->host_tail[lane]);
}

static void submit(struct program *p, bool inlined)
{
	unsigned call = byte(p) % CALLS, lane = byte(p) % 2;
	struct endpoint_blocks blocks = {0};
	struct endpoint_request r = {
		.kind = TO_HOST_REQUEST, .has_message = true, .blocks = &blocks};
	struct shepherd_chunk c;

	if (p->call_id[call] == 0 &&
	    endpoint_call_open(p->port, &p->call_id[call], &p->call_id[call]) < 0)
		return;
	r.call_id = p->call_id[call];
	if (inlined ? endpoint_inline_area(p->port, lane, &c) < 0
		    : endpoint_block_get(p->port, &blocks, 1 + byte(p) * 16, &c) < 0)
		return;
	memset(c.mem, 0xee, c.bytes);
	r.inline_bytes = inlined ? 64 : 0;
	r.msg = (uint64_t)((int64_t)(uintptr_t)c.mem + endpoint_delta(p->port));
	if (endpoint_submit(p->port, lane, &r, p->now_ns) < 0)
		endpoint_blocks_put(p->port, &blocks);
}

/* What comes for a stream after its request. */
static void follow_up(struct program *p)
{
	static const enum slot_kind kinds[] = {TO_HOST_MESSAGE, TO_HOST_HALF_CLOSE,
					       TO_HOST_WRITABLE, TO_HOST_CANCEL};
	unsigned call = byte(p) % CALLS, lane = byte(p) % 2;
	struct endpoint_blocks blocks = {0};
	struct endpoint_request r = {
		.kind = kinds[byte(p) % 4], .call_id = p->call_id[call], .blocks = &blocks};
	struct shepherd_chunk c;

	if (r.kind == TO_HOST_MESSAGE) {
		if (endpoint_block_get(p->port, &blocks, 1 + byte(p) * 16, &c) < 0)
			return;
		r.has_message = true;
		r.msg = (uint64_t)((int64_t)(uintptr_t)c.mem + endpoint_delta(p->port));
	}
	if (endpoint_submit(p->port, lane, &r, p->now_ns) < 0)
		endpoint_blocks_put(p->port, &blocks);
}

/* A message, its end, or room for requests. */
static void out_answer(struct program *p)
{
	static const enum slot_kind kinds[] = {TO_HOST_MESSAGE, TO_HOST_STATUS, TO_HOST_WRITABLE,
					       TO_HOST_INITIAL_METADATA};
	unsigned place = byte(p) % OUTS, lane = byte(p) % 2;
	struct endpoint_blocks blocks = {0};
	struct endpoint_request r = {
		.kind = kinds[byte(p) % 4], .call_id = p->out_id[place], .blocks = &blocks};
	struct shepherd_chunk c;

	if (r.kind == TO_HOST_STATUS)
		r.flags = SLOT_HAS_STATUS | SLOT_END_STREAM;
	if (r.kind != TO_HOST_WRITABLE && endpoint_block_get(p->port, &blocks, 1 + byte(p), &c) < 0)
		return;
	if (endpoint_submit(p->port, lane, &r, p->now_ns) < 0)
		endpoint_blocks_put(p->port, &blocks);
	else if (r.kind == TO_HOST_STATUS)
		endpoint_call_close(p->port, r.call_id, p->now_ns);
}

static void close_call(struct program *p)
{
	unsigned call = byte(p) % CALLS;

	if (p->call_id[call] != 0)
		endpoint_call_close(p->port, p->call_id[call], p->now_ns);
	p->call_id[call] = 0;
}

static void operate(struct program *p)
{
	struct endpoint_lane_state state;
	struct endpoint_blocks blocks;
	unsigned call;

	switch (byte(p) % 14) {
	case 0:
		raw(p);
		break;
	case 1:
		slot_write(p);
		break;
	case 2:
		submit(p, false);
		break;
	case 3:
		submit(p, true);
		break;
	case 4:
		close_call(p);
		break;
	case 5:
		p->now_ns += 1000;
		if (endpoint_poll(p->port, byte(p) % 8, &events, p, p->now_ns) < 0 &&
		    endpoint_cause(p->port)[0] == '\0')
			abort();
		break;
	case 6:
		endpoint_flush(p->port, p->now_ns += 100000);
		break;
	case 7:
		endpoint_lane_state(p->port, byte(p) % 2, &state);
		if (state.room > 2 || state.queued > 2 || state.state >= HOST_STATES)
			abort();
		if (endpoint_arm_sleep(p->port))
			endpoint_disarm_sleep(p->port);
		break;
	case 8:
		if (p->owed_n == 0)
			break;
		p->owed_n--;
		endpoint_token_release(p->port, p->owed[p->owed_n].lane, p->owed[p->owed_n].token);
		break;
	case 9:
		read_behind(p->port, endpoint_window(p->port).peer_base + word(p) % 0x20000,
			    endpoint_window(p->port).peer_base + word(p) % 0x20000, word(p));
		break;
	case 10:
		call = byte(p) % 2;
		store_release((uint32_t *)&p->port->lanes[call].host_line->head,
			      ++p->host_head[call]);
		break;
	case 12:
		follow_up(p);
		break;
	case 13:
		out_answer(p);
		break;
	case 11:
		call = byte(p) % CALLS;
		if (p->call_id[call] != 0 &&
		    endpoint_revoke(p->port, p->call_id[call], p->now_ns, &blocks) == 0) {
			endpoint_blocks_put(p->port, &blocks);
			p->call_id[call] = 0;
		}
		break;
	}
}

/* What is in blocks is what holds say, whatever the host wrote. */
static void books_check(const struct program *p)
{
	uint64_t units = 0;

	for (uint32_t i = 0; i < p->port->holds_max; i++)
		for (uint32_t b = p->port->holds[i].blocks; b != 0; b = p->port->block_next[b - 1])
			units++;
	if ((units == 0) != (endpoint_bytes_used(p->port) == 0) ||
	    endpoint_bytes_used(p->port) < units * SHEPHERD_BLOCK_MIN)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct endpoint_config small = {
		.name = "fuzz",
		.daemon_workers = 1,
		.host_workers = 2,
		.request_slots = 2,
		.completion_slots = 2,
		.foreign_slots = 2,
		.to_host_bytes = 48 * 1024,
		.to_daemon_bytes = 48 * 1024,
		.numa_node = -1,
		.calls_max = CALLS,
		.release_timeout_ns = 1000000000,
		.revocable = true,
		.outs_max = OUTS,
	};
	static const struct attach_method methods[] = {
		{.service = "s", .method = "m"}, {.service = "s", .method = "c", .channel = "c"}};
	struct attach_request request = {
		.name = "fuzz", .pid = getpid(), .methods = methods, .methods_n = 2};
	struct program p = {.at = data, .end = data + size, .now_ns = 1};

	if (endpoint_create(&small, &request, &p.e) < 0)
		abort();
	p.e->to_daemon.mem = mmap(NULL, p.e->to_daemon.bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
				  p.e->to_daemon.fd, 0);
	if (p.e->to_daemon.mem == MAP_FAILED)
		abort();
	p.port = p.e->ports[0];
	/* Bases of another address space. */
	port_map(p.port, 0x7f0000000000, 0x7e0000000000);
	p.e->mapped = true;
	while (p.at < p.end)
		operate(&p);
	books_check(&p);
	endpoint_put(p.e);
	return 0;
}
