/* One attached process: its two segments, its ports, its life. Control thread, but for the
 * reference count. */
#include "shepherd/shepherd_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

COUNTER_DEFINE(shepherd, SHEPHERD_COUNTERS);

#define CALLS_LIMIT      SLOT_OUT   /* index bits of a call id */
#define RELEASE_DELAY_NS 1000000ull /* tokens are worth a system call after 1 ms, not before */

int futex_wake_shared(uint32_t *word)
{
	return (int)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

int port_fault(struct endpoint_port *port, int code, const char *format, ...)
{
	va_list args;

	if (port->fault != 0)
		return port->fault;
	port->fault = code;
	va_start(args, format);
	vsnprintf(port->cause, sizeof(port->cause), format, args);
	va_end(args);
	counter_inc(&port->counters->faults);
	return code;
}

/* ---- ports */

static int port_tables(struct endpoint_port *p, const struct endpoint_config *config)
{
	p->calls_max = config->calls_max;
	p->holds_max = config->holds_max != 0 ? config->holds_max : config->calls_max * 4;
	p->tokens_max = p->geometry->tokens_max;
	p->outs_max = config->outs_max;
	p->refused_first = p->refused_last = INDEX_NONE;
	p->calls = calloc((size_t)p->calls_max + p->outs_max, sizeof(*p->calls));
	p->holds = calloc(p->holds_max, sizeof(*p->holds));
	p->nodes = calloc(p->tokens_max, sizeof(*p->nodes));
	if (p->calls == NULL || p->holds == NULL || p->nodes == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (uint32_t i = 0; i < p->calls_max; i++) {
		p->calls[i].generation = 1;
		p->calls[i].holds = i + 1 < p->calls_max ? i + 1 : INDEX_NONE;
	}
	for (uint32_t i = 0; i < p->outs_max; i++)
		p->calls[p->calls_max + i].out = true;
	for (uint32_t i = 0; i < p->holds_max; i++) {
		p->holds[i].generation = 1;
		p->holds[i].next = i + 1 < p->holds_max ? i + 1 : INDEX_NONE;
	}
	for (uint32_t i = 0; i < p->tokens_max; i++)
		p->nodes[i].next = i + 1 < p->tokens_max ? i + 1 : INDEX_NONE;
	p->overdue_first = p->overdue_last = INDEX_NONE;
	p->refused_hold = INDEX_NONE;
	return 0;
}

static int port_memory(struct endpoint_port *p, const struct endpoint_config *config)
{
	const struct geometry *g = p->geometry;
	uint64_t partition = g->to_host_partition_bytes;
	size_t power = SHEPHERD_BLOCK_MIN;
	int rc;

	p->arena_mem = p->endpoint->to_host.mem + g->to_host_arena_offset + p->worker * partition;
	rc = arena_create(p->arena_mem, partition, &p->arena);
	if (rc < 0)
		return rc;
	p->block_next = calloc(partition / SHEPHERD_BLOCK_MIN, sizeof(*p->block_next));
	if (p->block_next == NULL)
		return -SPLIT_E_BASE_NOMEM;
	p->quota_bytes = config->quota_bytes != 0 && config->quota_bytes < partition
				 ? config->quota_bytes
				 : partition;
	while (power * 2 <= p->quota_bytes && power * 2 <= arena_largest(p->arena))
		power *= 2;
	p->block_max = power;
	return 0;
}

static int port_lanes(struct endpoint_port *p)
{
	const struct geometry *g = p->geometry;
	uint8_t *base = p->endpoint->to_host.mem;
	struct daemon_line *lines = (struct daemon_line *)(base + g->daemon_line_offset);
	struct host_wake *wakes = (struct host_wake *)(base + g->host_wake_offset);

	p->lanes = calloc(p->lanes_n + 1, sizeof(*p->lanes));
	if (p->lanes == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (unsigned i = 0; i <= p->lanes_n; i++) {
		struct lane *l = &p->lanes[i];
		bool foreign = i == p->lanes_n;
		uint32_t index = foreign ? g->daemon_workers * g->host_workers + p->worker
					 : p->worker * g->host_workers + i;

		l->daemon_line = lines + index;
		l->completion_slots = foreign ? g->foreign_slots : g->completion_slots;
		l->tokens_first = l->tokens_last = INDEX_NONE;
		if (foreign)
			continue;
		l->wake = &wakes[i].word;
		l->request_slots = g->request_slots;
		l->requests = (struct slot *)(base + geometry_request_offset(g, p->worker, i));
		l->published_ns = calloc(g->request_slots, sizeof(uint64_t));
		if (l->published_ns == NULL)
			return -SPLIT_E_BASE_NOMEM;
	}
	return 0;
}

int port_create(struct endpoint *e, const struct endpoint_config *config, unsigned d,
		struct endpoint_port **out)
{
	const struct geometry *g = &e->geometry;
	struct endpoint_port *p = aligned_alloc(
		SHEPHERD_LINE, (sizeof(*p) + SHEPHERD_LINE - 1) / SHEPHERD_LINE * SHEPHERD_LINE);
	int rc;

	if (p == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(p, 0, sizeof(*p));
	p->endpoint = e;
	p->geometry = g;
	p->worker = d;
	p->lanes_n = g->host_workers;
	p->counters = &p->counters_own;
	p->release_timeout_ns = config->release_timeout_ns;
	p->release_delay_ns =
		config->release_delay_ns != 0 ? config->release_delay_ns : RELEASE_DELAY_NS;
	p->sleep_word =
		&((struct daemon_sleep *)(e->to_host.mem + g->daemon_sleep_offset) + d)->word;
	p->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	rc = p->eventfd < 0 ? -SPLIT_E_BASE_SYSTEM : 0;
	if (rc == 0)
		rc = port_tables(p, config);
	if (rc == 0)
		rc = port_memory(p, config);
	if (rc == 0)
		rc = port_lanes(p);
	if (rc < 0) {
		port_destroy(p);
		return rc;
	}
	*out = p;
	return 0;
}

void port_map(struct endpoint_port *p, uint64_t to_host_base, uint64_t to_daemon_base)
{
	const struct geometry *g = p->geometry;
	const struct segment *s = &p->endpoint->to_daemon;
	const struct host_line *lines = (const struct host_line *)(s->mem + g->host_line_offset);

	p->delta = (int64_t)(to_host_base - (uint64_t)(uintptr_t)p->endpoint->to_host.mem);
	p->window = (struct shepherd_window){
		.mem = s->mem + g->to_daemon_arena_offset,
		.peer_base = to_daemon_base + g->to_daemon_arena_offset,
		.bytes = g->to_daemon_arena_bytes,
	};
	for (unsigned i = 0; i <= p->lanes_n; i++) {
		struct lane *l = &p->lanes[i];
		uint64_t at = geometry_completion_offset(g, p->worker, i);

		l->completions = (const struct slot *)(s->mem + at);
		l->completions_peer = to_daemon_base + at;
		if (i == p->lanes_n)
			continue;
		l->host_line = lines + (size_t)p->worker * g->host_workers + i;
		l->control = (const struct control_line *)(s->mem + g->control_offset) + i;
	}
}

void port_destroy(struct endpoint_port *p)
{
	if (p == NULL)
		return;
	if (p->lanes != NULL)
		for (unsigned i = 0; i < p->lanes_n; i++)
			free(p->lanes[i].published_ns);
	if (p->eventfd >= 0)
		close(p->eventfd);
	arena_destroy(p->arena);
	free(p->block_next);
	free(p->lanes);
	free(p->calls);
	free(p->holds);
	free(p->nodes);
	free(p);
}

/* ---- the endpoint */

static void endpoint_destroy(struct endpoint *e)
{
	if (e->ports != NULL)
		for (unsigned d = 0; d < e->geometry.daemon_workers; d++)
			port_destroy(e->ports[d]);
	free(e->ports);
	segment_destroy(&e->to_host);
	segment_destroy(&e->to_daemon);
	if (e->pidfd >= 0)
		close(e->pidfd);
	free(e->method_code);
	free(e->method_data);
	free(e->method_out);
	free(e);
}

static int endpoint_segments(struct endpoint *e, const struct endpoint_config *c)
{
	struct geometry *g = &e->geometry;
	char name[ATTACH_NAME_MAX + 32];
	int rc;

	snprintf(name, sizeof(name), "splitd-%s-to-host", e->name);
	rc = segment_create(&e->to_host, name, c->to_host_bytes, c->hugepages, c->numa_node,
			    c->lazy);
	if (rc < 0)
		return rc;
	snprintf(name, sizeof(name), "splitd-%s-to-daemon", e->name);
	rc = segment_create(&e->to_daemon, name, c->to_daemon_bytes, c->hugepages, c->numa_node,
			    c->lazy);
	if (rc < 0)
		return rc;
	*g = (struct geometry){
		.magic = SHEPHERD_MAGIC,
		.version = SHEPHERD_VERSION,
		.daemon_workers = c->daemon_workers,
		.host_workers = c->host_workers,
		.host_workers_min =
			c->host_workers_min != 0 ? c->host_workers_min : c->host_workers,
		.request_slots = c->request_slots,
		.completion_slots = c->completion_slots,
		.foreign_slots = c->foreign_slots,
		.tokens_max = c->tokens_max != 0 ? c->tokens_max : c->calls_max * 4,
		.revocable = c->revocable,
		.stream_window = SHEPHERD_STREAM_WINDOW,
		.outs_max = c->outs_max,
		.to_host_bytes = e->to_host.bytes,
		.to_daemon_bytes = e->to_daemon.bytes,
	};
	if (getrandom(&g->session, sizeof(g->session), 0) != sizeof(g->session))
		return -SPLIT_E_BASE_SYSTEM;
	rc = geometry_lay_out(g);
	if (rc == 0)
		rc = segment_map(&e->to_host, true, &e->gone);
	if (rc < 0)
		return rc;
	e->shared = (struct geometry *)e->to_host.mem;
	*e->shared = *g;
	return segment_seal(&e->to_host);
}

static int endpoint_methods(struct endpoint *e, const struct attach_request *r)
{
	e->methods_n = (uint32_t)r->methods_n;
	e->method_code = calloc(r->methods_n + 1, sizeof(uint64_t));
	e->method_data = calloc(r->methods_n + 1, sizeof(uint64_t));
	e->method_out = calloc(r->methods_n + 1, sizeof(bool));
	if (e->method_code == NULL || e->method_data == NULL || e->method_out == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (size_t i = 0; i < r->methods_n; i++) {
		e->method_code[i] = r->methods[i].code;
		e->method_data[i] = r->methods[i].data;
		e->method_out[i] = r->methods[i].channel != NULL;
	}
	return 0;
}

int endpoint_create(const struct endpoint_config *c, const struct attach_request *r,
		    struct endpoint **out)
{
	struct endpoint *e;
	bool none;
	int rc;

	if (c->calls_max < 1 || c->calls_max > CALLS_LIMIT || c->daemon_workers < 1 ||
	    c->daemon_workers > SHEPHERD_DAEMON_WORKERS_MAX || c->tokens_max > CALLS_LIMIT * 4 ||
	    c->holds_max > CALLS_LIMIT * 4 || c->outs_max > SLOT_OUT_INDEX)
		return -SPLIT_E_SHEPHERD_GEOMETRY;
	e = calloc(1, sizeof(*e));
	if (e == NULL)
		return -SPLIT_E_BASE_NOMEM;
	e->refs = 1;
	e->to_host.fd = e->to_daemon.fd = -1;
	snprintf(e->name, sizeof(e->name), "%s", c->name);
	e->pid = r->pid;
	e->pidfd = (int)syscall(SYS_pidfd_open, r->pid, 0);
	/* Our own process's is of use only where it is asked for; valgrind has none. */
	none = e->pidfd < 0 && (errno != ENOSYS || r->pid != getpid());
	rc = none ? -SPLIT_E_SHEPHERD_ATTACH_CLOSED : endpoint_methods(e, r);
	if (rc == 0)
		rc = endpoint_segments(e, c);
	if (rc == 0) {
		e->ports = calloc(c->daemon_workers, sizeof(struct endpoint_port *));
		rc = e->ports == NULL ? -SPLIT_E_BASE_NOMEM : 0;
	}
	for (unsigned d = 0; rc == 0 && d < c->daemon_workers; d++)
		rc = port_create(e, c, d, &e->ports[d]);
	if (rc < 0) {
		endpoint_destroy(e);
		return rc;
	}
	*out = e;
	return 0;
}

int endpoint_offer(struct endpoint *e, int fd)
{
	struct attach_offer_packet p = {
		.to_host_bytes = e->to_host.bytes,
		.to_daemon_bytes = e->to_daemon.bytes,
		.daemon_workers = e->geometry.daemon_workers,
		.huge = e->to_host.huge,
	};
	int fds[ATTACH_FDS_MAX] = {e->to_host.fd, e->to_daemon.fd};
	int rc;

	attach_header_fill(&p.header, ATTACH_OFFER, sizeof(p));
	for (unsigned d = 0; d < p.daemon_workers; d++)
		fds[2 + d] = e->ports[d]->eventfd;
	rc = attach_send(fd, &p, sizeof(p), fds, 2 + p.daemon_workers);
	close(e->to_host.fd);
	e->to_host.fd = -1;
	return rc;
}

/* A place in an address space: page-aligned, not null, no wrap, below the kernel's half. */
static bool base_valid(uint64_t base, const struct segment *s)
{
	return base != 0 && base % (s->huge ? SEGMENT_HUGE : 4096) == 0 && base < 1ULL << 56 &&
	       base + s->bytes <= 1ULL << 56;
}

int endpoint_map(struct endpoint *e, uint64_t to_host_base, uint64_t to_daemon_base)
{
	int rc;

	if (!base_valid(to_host_base, &e->to_host) || !base_valid(to_daemon_base, &e->to_daemon) ||
	    (to_host_base < to_daemon_base + e->to_daemon.bytes &&
	     to_daemon_base < to_host_base + e->to_host.bytes))
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	rc = segment_seal(&e->to_daemon);
	if (rc == 0)
		rc = segment_map(&e->to_daemon, false, &e->gone);
	if (rc < 0)
		return rc;
	close(e->to_daemon.fd);
	e->to_daemon.fd = -1;
	for (unsigned d = 0; d < e->geometry.daemon_workers; d++)
		port_map(e->ports[d], to_host_base, to_daemon_base);
	e->mapped = true;
	return 0;
}

void endpoint_get(struct endpoint *e)
{
	__atomic_fetch_add(&e->refs, 1, __ATOMIC_RELAXED);
}

void endpoint_put(struct endpoint *e)
{
	if (__atomic_fetch_sub(&e->refs, 1, __ATOMIC_ACQ_REL) == 1)
		endpoint_destroy(e);
}

unsigned endpoint_refs(const struct endpoint *e)
{
	return load_acquire(&e->refs);
}

const char *endpoint_name(const struct endpoint *e)
{
	return e->name;
}

const struct geometry *endpoint_geometry(const struct endpoint *e)
{
	return &e->geometry;
}

pid_t endpoint_pid(const struct endpoint *e)
{
	return e->pid;
}

int endpoint_pidfd(const struct endpoint *e)
{
	return e->pidfd;
}

/* The epoch is stored before the wake words change, and a worker that parks looks at it after its
 * own fence: either it sees the epoch or its futex sees the new word. */
void endpoint_detach(struct endpoint *e)
{
	struct host_wake *wakes =
		(struct host_wake *)(e->to_host.mem + e->geometry.host_wake_offset);

	store_release(&e->detached, 1);
	store_release(&e->shared->detach_epoch, 1);
	shepherd_fence();
	for (uint32_t h = 0; h < e->geometry.host_workers; h++) {
		__atomic_fetch_add(&wakes[h].word, 1, __ATOMIC_SEQ_CST);
		futex_wake_shared(&wakes[h].word);
	}
}

bool endpoint_alive(const struct endpoint *e)
{
	return load_relaxed(&e->detached) == 0 && load_relaxed(&e->gone) == 0;
}

void endpoint_worker_state(const struct endpoint *e, unsigned h, struct endpoint_worker_state *out)
{
	const struct control_line *c =
		(const struct control_line *)(e->to_daemon.mem + e->geometry.control_offset) + h;
	uint32_t state = (uint32_t)load_relaxed(&c->state), core = load_relaxed(&c->core);

	*out = (struct endpoint_worker_state){
		.state = state < HOST_STATES ? (enum host_state)state : HOST_RUNNING,
		.tid = load_relaxed(&c->tid),
		.core = core <= INT16_MAX ? (int)core - 1 : -1,
	};
}

void endpoint_memory(const struct endpoint *e, const void *mem_out[2], size_t bytes_out[2])
{
	mem_out[0] = e->to_host.mem;
	bytes_out[0] = e->to_host.bytes;
	mem_out[1] = e->to_daemon.mem;
	bytes_out[1] = e->to_daemon.bytes;
}

void endpoint_core_set(struct endpoint *e, unsigned h, int core)
{
	struct host_wake *wakes =
		(struct host_wake *)(e->to_host.mem + e->geometry.host_wake_offset);

	store_release(&wakes[h].core, (uint32_t)(core + 1));
}

struct endpoint_port *endpoint_port_of(struct endpoint *e, unsigned d)
{
	return d < e->geometry.daemon_workers ? e->ports[d] : NULL;
}
