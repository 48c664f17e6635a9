/* split-perf tcp: the client and the mode. */
#include "bench/tcp.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/list.h"

#define REQUEST_BYTES     64u
#define BULK_BYTES        65536u
#define OPENING_MAX       64u                     /* connections opened at once */
#define CONNECT_NS        (20 * CLOCK_NS_PER_SEC) /* and a millisecond for each connection */
#define CLOSE_MIN_NS      (20 * CLOCK_NS_PER_MS)
#define PATIENCE_NS       (10 * CLOCK_NS_PER_SEC)
#define CLOSE_MAX_NS      CLOCK_NS_PER_SEC
#define RR_MAX            8
#define SMALL_CONNECTIONS 8192u /* more need more packet buffers: small ones */

enum job { JOB_RR, JOB_CONNECT, JOB_BULK };

struct tcp_client;

struct client_conn {
	struct tcp_client *client;
	struct link *link; /* NULL: none */
	struct list due;   /* has something to send, or is to be closed */
	uint64_t serial;
	unsigned got, sent; /* bytes of the answer, of the request */
	bool up, over;
	uint8_t request[REQUEST_BYTES];
};

struct tcp_client {
	struct link_set *set;
	enum job job;
	bool running;
	struct client_conn *conns;
	unsigned conns_n, up, lost;
	struct list due;
	uint64_t done, wrong; /* requests, or connections */
	uint64_t now_ns;
	uint8_t *bulk;
};

static void due(struct client_conn *c)
{
	if (list_empty(&c->due))
		list_add_tail(&c->client->due, &c->due);
}

static void request_next(struct client_conn *c)
{
	c->serial++;
	memcpy(c->request, &c->serial, sizeof(c->serial));
	c->got = c->sent = 0;
	due(c);
}

static void on_up(void *user)
{
	struct client_conn *c = user;

	c->up = true;
	c->client->up++;
	if (c->client->job == JOB_CONNECT) {
		c->client->done++;
		c->over = true;
		due(c);
	} else if (c->client->running) {
		request_next(c);
	}
}

static void on_data(void *user, const uint8_t *bytes, size_t n)
{
	struct client_conn *c = user;

	if (c->client->job != JOB_RR || c->got + n > REQUEST_BYTES ||
	    memcmp(bytes, c->request + c->got, n) != 0) {
		c->client->wrong++;
		return;
	}
	c->got += (unsigned)n;
	if (c->got < REQUEST_BYTES)
		return;
	c->client->done++;
	if (c->client->running)
		request_next(c);
}

static void on_down(void *user)
{
	struct client_conn *c = user;

	c->link = NULL;
	if (c->up)
		c->client->up--;
	c->up = false;
	c->client->lost++;
}

static const struct link_events events = {.up = on_up, .data = on_data, .down = on_down};

static void conn_close(struct client_conn *c)
{
	if (c->link != NULL)
		link_close(c->client->set, c->link);
	if (c->up)
		c->client->up--;
	c->link = NULL;
	c->up = c->over = false;
	list_del(&c->due);
}

/* True: there is more to send. */
static bool conn_send(struct client_conn *c)
{
	struct tcp_client *t = c->client;

	if (t->job == JOB_BULK) {
		for (unsigned i = 0; i < 4; i++) {
			if (link_send(t->set, c->link, t->bulk, BULK_BYTES) < BULK_BYTES)
				break;
		}
		return t->running;
	}
	c->sent +=
		(unsigned)link_send(t->set, c->link, c->request + c->sent, REQUEST_BYTES - c->sent);
	return c->sent < REQUEST_BYTES;
}

static void turn(struct tcp_client *t, uint64_t wait_ns)
{
	struct list later, *node;

	list_init(&later);
	(void)links_poll(t->set, t->now_ns, list_empty(&t->due) ? wait_ns : 0);
	t->now_ns = clock_ns();
	while ((node = list_pop_head(&t->due)) != NULL) {
		struct client_conn *c = list_entry(node, struct client_conn, due);

		if (c->over)
			conn_close(c);
		else if (c->up && c->link != NULL && conn_send(c))
			list_add_tail(&later, &c->due);
	}
	list_splice_tail(&t->due, &later);
	links_flush(t->set, t->now_ns);
}

static int client_open(struct tcp_client *t, struct tcp_place *place,
		       const struct tcp_server *server, const char *address, enum job job,
		       unsigned connections)
{
	uint16_t port = job == JOB_BULK ? TCP_PORT_DISCARD : TCP_PORT_ECHO;
	const struct link_ring ring = {.tx = place->to_server,
				       .rx = place->to_client,
				       .pool = connections > SMALL_CONNECTIONS ? place->small
									       : place->pool,
				       .local = TCP_RING_PEER,
				       .remote = TCP_OUR_ADDRESS,
				       .port = port,
				       .connections_max = place->connections_max,
				       .connections_n = connections};
	int err;

	memset(t, 0, sizeof(*t));
	list_init(&t->due);
	t->job = job;
	t->conns_n = connections;
	t->conns = calloc(connections, sizeof(*t->conns));
	t->bulk = calloc(1, BULK_BYTES);
	if (t->conns == NULL || t->bulk == NULL)
		err = -SPLIT_E_BASE_NOMEM;
	else if (server->on_ring)
		err = link_ring_create(&ring, &events, &t->set);
	else
		err = link_socket_create(address, port, &events, &t->set);
	for (unsigned i = 0; t->conns != NULL && i < connections; i++) {
		t->conns[i].client = t;
		t->conns[i].serial = (uint64_t)i << 32;
		list_init(&t->conns[i].due);
	}
	if (err != 0) {
		free(t->conns);
		free(t->bulk);
	}
	return err;
}

static void client_close(struct tcp_client *t, const struct tcp_server *server)
{
	uint64_t begin_ns = clock_ns(), now = begin_ns;

	t->running = false;
	for (unsigned i = 0; i < t->conns_n; i++)
		conn_close(&t->conns[i]);
	/* Farewells out, answers in; then until the server has let go of all. */
	while (now - begin_ns < CLOSE_MIN_NS ||
	       (server->ops->connections(server) != 0 && now - begin_ns < CLOSE_MAX_NS)) {
		turn(t, CLOCK_NS_PER_MS);
		now = clock_ns();
	}
	links_destroy(t->set);
	free(t->conns);
	free(t->bulk);
}

static int client_connect(struct tcp_client *t)
{
	uint64_t end_ns = clock_ns() + CONNECT_NS + t->conns_n * CLOCK_NS_PER_MS;
	unsigned opened = 0;

	t->now_ns = clock_ns();
	while (t->up < t->conns_n) {
		for (; opened < t->conns_n && opened < t->up + OPENING_MAX; opened++) {
			struct client_conn *c = &t->conns[opened];
			int err = link_open(t->set, c, &c->link);

			if (err != 0)
				return err;
		}
		turn(t, CLOCK_NS_PER_MS);
		if (t->lost != 0 || t->now_ns > end_ns) {
			perf_warn("%u of %u connections came up, %u were refused", t->up,
				  t->conns_n, t->lost);
			return -SPLIT_E_BASE_SYSTEM;
		}
	}
	return 0;
}

/* ---- what is measured ----------------------------------------------------------------------- */

/* One stretch of load. */
struct stretch {
	uint64_t done;
	double seconds;
	double server_ns;            /* busy time of the server's core less empty polls */
	double system_ns;            /* the same and the client's core */
	double thread_ns;            /* CPU of the server's thread less empty polls */
	uint64_t segments;           /* full ones in, by their bytes, and those sent */
	uint64_t segments_all;       /* in and out, as the stack counted them; 0: not known */
	double stages[TCP_STAGES_N]; /* cycles */
	uint64_t discarded;
};

static bool something(const struct tcp_client *t, struct tcp_server *server, uint64_t done,
		      uint64_t discarded)
{
	struct tcp_sample now;

	if (t->job != JOB_BULK)
		return t->done != done;
	server->ops->sample(server, &now);
	return now.discarded != discarded;
}

static int stretch_run(struct tcp_client *t, struct tcp_server *server, double seconds,
		       struct stretch *out)
{
	struct tcp_sample a, b;
	uint64_t done, end_ns, idle;

	server->ops->sample(server, &a);
	done = t->done;
	t->now_ns = clock_ns();
	end_ns = t->now_ns + (uint64_t)(seconds * 1e9);
	/* A stretch so short that nothing could end in it says nothing: it goes on. */
	while (t->now_ns < end_ns ||
	       (!something(t, server, done, a.discarded) && t->now_ns < end_ns + PATIENCE_NS)) {
		if (t->job == JOB_CONNECT) {
			for (unsigned i = 0; i < t->conns_n; i++) {
				struct client_conn *c = &t->conns[i];

				/* No port left, say: tried again in the next turn. */
				if (c->link == NULL && list_empty(&c->due) &&
				    link_open(t->set, c, &c->link) != 0)
					c->link = NULL;
			}
		}
		turn(t, CLOCK_NS_PER_MS);
		if (t->job != JOB_CONNECT && t->lost != 0)
			break;
	}
	server->ops->sample(server, &b);
	idle = b.idle_poll_ns - a.idle_poll_ns;
	*out = (struct stretch){
		.done = t->done - done,
		.seconds = (double)(b.ns - a.ns) / 1e9,
		.server_ns = (double)(b.core_busy_ns - a.core_busy_ns) - (double)idle,
		.thread_ns = (double)(b.thread_cpu_ns - a.thread_cpu_ns) - (double)idle,
		.segments = (b.discarded - a.discarded) / TCP_SEGMENT_BYTES + b.segments_out -
			    a.segments_out,
		.discarded = b.discarded - a.discarded,
	};
	if (b.segments_in != 0)
		out->segments_all = b.segments_in - a.segments_in + b.segments_out - a.segments_out;
	for (unsigned i = 0; i < TCP_STAGES_N; i++)
		out->stages[i] = (double)(b.cycles[i] - a.cycles[i]);
	if (out->server_ns < 0)
		out->server_ns = 0; /* a tick's worth */
	if (out->thread_ns < 0)
		out->thread_ns = 0;
	out->system_ns = out->server_ns + (double)(b.client_busy_ns - a.client_busy_ns);
	if (t->wrong != 0 || (t->job != JOB_CONNECT && t->lost != 0)) {
		perf_warn("%s: %llu wrong answers, %u connections lost", server->name,
			  (unsigned long long)t->wrong, t->lost);
		return -SPLIT_E_BASE_INTERNAL;
	}
	return 0;
}

static int measure(struct tcp_place *place, struct tcp_server *server, const char *address,
		   enum job job, unsigned connections, double seconds, struct stretch *out)
{
	struct tcp_client t;
	int err = client_open(&t, place, server, address, job, connections);

	if (err != 0)
		return err;
	err = server->ops->start(server);
	if (err == 0 && job != JOB_CONNECT)
		err = client_connect(&t);
	if (err != 0)
		server->ops->complain(server);
	t.running = true;
	for (unsigned i = 0; i < t.conns_n && job != JOB_CONNECT; i++)
		request_next(&t.conns[i]);
	if (err == 0)
		err = stretch_run(&t, server, seconds / 4, out); /* warm */
	if (err == 0)
		err = stretch_run(&t, server, seconds, out);
	client_close(&t, server);
	server->ops->stop(server);
	return err;
}

/* All of one server, one run. */
struct system_run {
	struct stretch rr[RR_MAX], connect, bulk;
	struct stretch plain; /* bulk without offloads on the way; zero: not measured */
};

struct tcp_options {
	const struct perf_options *perf;
	uint64_t connections[RR_MAX];
	unsigned connections_n;
	const char *device;
};

struct tcp_system {
	struct tcp_server *server;
	struct system_run *runs; /* perf->runs */
};

/* Kernel clients have only so many ports. */
static bool row_wanted(const struct tcp_server *server, uint64_t connections)
{
	return server->on_ring || connections <= TCP_SOCKETS_MAX;
}

static int system_run(const struct tcp_options *o, struct tcp_place *place,
		      struct tcp_system *system, unsigned run)
{
	struct system_run *r = &system->runs[run];
	/* A stretch each for request-response, connects and bulk. */
	double seconds = o->perf->seconds / 2;
	int err = 0;

	for (unsigned i = 0; i < o->connections_n && err == 0; i++) {
		if (!row_wanted(system->server, o->connections[i]))
			continue;
		err = measure(place, system->server, system->server->address, JOB_RR,
			      (unsigned)o->connections[i], seconds, &r->rr[i]);
		if (err == 0)
			perf_progress("run %u %-8s %6llu connections: %9.0f requests/s", run + 1,
				      system->server->name, (unsigned long long)o->connections[i],
				      (double)r->rr[i].done / r->rr[i].seconds);
	}
	if (err == 0)
		err = measure(place, system->server, system->server->address, JOB_CONNECT, 16,
			      seconds, &r->connect);
	if (err == 0)
		err = measure(place, system->server, system->server->address, JOB_BULK, 1, seconds,
			      &r->bulk);
	if (err == 0 && system->server->plain != NULL)
		err = measure(place, system->server, system->server->plain, JOB_BULK, 1, seconds,
			      &r->plain);
	if (err == 0)
		perf_progress("run %u %-8s %9.0f connects/s, %6.1f MB/s", run + 1,
			      system->server->name, (double)r->connect.done / r->connect.seconds,
			      (double)r->bulk.discarded / r->bulk.seconds / 1e6);
	return err;
}

/* ---- the report ----------------------------------------------------------------------------- */

static double per(double what, uint64_t n)
{
	return n != 0 ? what / (double)n : 0;
}

/* Median over runs of one figure of the stretch at `offset` in struct system_run. */
enum figure {
	F_RATE,
	F_CYCLES,
	F_CPU,
	F_SYSTEM,
	F_THREAD,
	F_SEGMENT,
	F_BYTES,
	F_STAGES,    /* cycles of a segment, all stages */
	F_STAGE_ONE, /* and one's: F_STAGE_ONE + enum tcp_stage */
};

static double figure(const struct stretch *s, unsigned f)
{
	double hz = (double)clock_cycles_hz() / 1e9, sum = 0;

	switch (f) {
	case F_RATE:
		return (double)s->done / s->seconds;
	case F_CYCLES:
		return per(s->server_ns, s->done) * hz;
	case F_CPU:
		return per(s->server_ns, s->done);
	case F_SYSTEM:
		return per(s->system_ns, s->done);
	case F_THREAD:
		return per(s->thread_ns, s->done) * hz;
	case F_SEGMENT:
		return per(s->server_ns, s->segments) * hz;
	case F_BYTES:
		return (double)s->discarded / s->seconds;
	case F_STAGES:
		for (unsigned i = 0; i < TCP_STAGES_N; i++)
			sum += s->stages[i];
		return per(sum, s->segments_all);
	default:
		return per(s->stages[f - F_STAGE_ONE], s->segments_all);
	}
}

static double median_of(const struct tcp_options *o, const struct tcp_system *system, size_t offset,
			unsigned f)
{
	double values[101];

	for (unsigned i = 0; i < o->perf->runs; i++)
		values[i] = figure(
			(const struct stretch *)(const void *)((const char *)&system->runs[i] +
							       offset),
			f);
	return perf_median(values, o->perf->runs);
}

static json_t *number_or_null(double value)
{
	return value >= 0 ? json_real(value) : json_null();
}

static const char *const stage_names[] = {
#define X(name, text) #name,
	TCP_STAGES(X)
#undef X
};

/* Cycles of a segment, in or out, by stage; into `out`. Nothing where they are not counted. */
static void stages_report(const struct tcp_options *o, const struct tcp_system *system,
			  size_t offset, json_t *out)
{
	json_t *stages;

	if (median_of(o, system, offset, F_STAGES) == 0)
		return;
	stages = json_object();
	for (unsigned i = 0; i < TCP_STAGES_N; i++)
		json_object_set_new(stages, stage_names[i],
				    json_real(median_of(o, system, offset, F_STAGE_ONE + i)));
	json_object_set_new(out, "stages", stages);
	perf_say(o->perf, "%12s", "");
	for (unsigned i = 0; i < TCP_STAGES_N; i++)
		perf_say(o->perf, " %s %.0f", stage_names[i],
			 median_of(o, system, offset, F_STAGE_ONE + i));
	perf_say(o->perf, " cycles a segment\n");
}

static void rr_report(const struct tcp_options *o, const struct tcp_system *system, unsigned i,
		      json_t *rr)
{
	size_t at = offsetof(struct system_run, rr) + i * sizeof(struct stretch);
	double rate = median_of(o, system, at, F_RATE), cpu = median_of(o, system, at, F_CPU);
	double cycles = median_of(o, system, at, F_CYCLES);
	double thread = median_of(o, system, at, F_THREAD);
	json_t *row = json_pack("{s:I, s:f, s:f, s:f, s:f, s:f}", "connections",
				(json_int_t)o->connections[i], "requests_per_s", rate,
				"cycles_per_request", cycles, "cpu_ns_per_request", cpu,
				"thread_cycles_per_request", thread, "system_cpu_ns_per_request",
				median_of(o, system, at, F_SYSTEM));

	perf_say(o->perf, "%12llu %12.0f %14.0f %14.0f %16.0f\n",
		 (unsigned long long)o->connections[i], rate, cpu, cycles, thread);
	if (median_of(o, system, at, F_STAGES) > 0)
		json_object_set_new(row, "cycles_per_segment",
				    json_real(median_of(o, system, at, F_STAGES)));
	stages_report(o, system, at, row);
	json_array_append_new(rr, row);
}

static void system_report(const struct tcp_options *o, const struct tcp_system *system, json_t *out)
{
	json_t *rr = json_array();
	size_t bulk = offsetof(struct system_run, bulk);
	size_t connect = offsetof(struct system_run, connect);

	perf_say(o->perf, "\n%s\n%12s %12s %14s %14s %16s\n", system->server->name, "connections",
		 "requests/s", "CPU ns/req", "cycles/req", "thread cycles/req");
	for (unsigned i = 0; i < o->connections_n; i++) {
		if (row_wanted(system->server, o->connections[i]))
			rr_report(o, system, i, rr);
	}
	json_object_set_new(out, "rr", rr);
	json_object_set_new(out, "cycles_per_segment",
			    json_real(median_of(o, system, bulk, F_SEGMENT)));
	json_object_set_new(out, "bulk_bytes_per_s",
			    json_real(median_of(o, system, bulk, F_BYTES)));
	stages_report(o, system, bulk, out);
	if (system->server->plain != NULL)
		json_object_set_new(
			out, "bulk_plain_bytes_per_s",
			json_real(
				median_of(o, system, offsetof(struct system_run, plain), F_BYTES)));
	json_object_set_new(out, "connects_per_s",
			    json_real(median_of(o, system, connect, F_RATE)));
	json_object_set_new(out, "bytes_per_idle_connection",
			    number_or_null(system->server->idle_bytes));
	if (system->server->plain != NULL)
		perf_say(o->perf, "%12.1f MB/s without offloads\n",
			 median_of(o, system, offsetof(struct system_run, plain), F_BYTES) / 1e6);
	perf_say(o->perf,
		 "%12.0f connects/s %12.1f MB/s %10.0f cycles/segment %8.0f bytes/idle "
		 "connection\n",
		 median_of(o, system, connect, F_RATE), median_of(o, system, bulk, F_BYTES) / 1e6,
		 median_of(o, system, bulk, F_SEGMENT), system->server->idle_bytes);
}

/* ---- the mode ------------------------------------------------------------------------------- */

static int options_take(struct perf_options *perf, struct tcp_options *o)
{
	const char *list = perf_option(perf, "--connections"), *port = perf_option(perf, "--port");
	int n;

	*o = (struct tcp_options){.perf = perf, .device = port != NULL ? port : "af_xdp"};
	n = perf_list("--connections", list != NULL ? list : "1,10,64,1000,100000", o->connections,
		      RR_MAX);
	if (n < 0)
		return n;
	o->connections_n = (unsigned)n;
	for (int i = 0; i < n; i++) {
		if (o->connections[i] < 1 || o->connections[i] > LINK_RING_MAX) {
			perf_warn("--connections: from 1 to %u each", LINK_RING_MAX);
			return -SPLIT_E_BASE_INVALID;
		}
	}
	if (strcmp(o->device, "ring") == 0) {
		o->device = NULL;
	} else if (strcmp(o->device, "af_xdp") != 0 && strcmp(o->device, "af_packet") != 0) {
		perf_warn("--port: expected af_xdp, af_packet or ring, not '%s'", o->device);
		return -SPLIT_E_BASE_INVALID;
	}
	return perf_options_done(perf);
}

static int bench(const struct tcp_options *o, struct tcp_place *place, struct tcp_system *systems,
		 unsigned n)
{
	int err = 0;

	for (unsigned i = 0; i < n && err == 0; i++) {
		systems[i].runs = calloc(o->perf->runs, sizeof(struct system_run));
		if (systems[i].runs == NULL)
			err = -SPLIT_E_BASE_NOMEM;
	}
	for (unsigned run = 0; run < o->perf->runs && err == 0; run++) {
		/* A B C, C B A, … */
		for (unsigned i = 0; i < n && err == 0; i++)
			err = system_run(o, place, &systems[run % 2 == 0 ? i : n - 1 - i], run);
	}
	return err;
}

static void report(const struct tcp_options *o, const struct tcp_system *systems, unsigned n,
		   json_t *out)
{
	json_t *ring = n == 3 ? json_object() : NULL, *kernel = json_object();

	json_object_set_new(out, "port", json_string(o->device != NULL ? o->device : "net_ring"));
	system_report(o, &systems[0], out);
	if (n == 3) {
		system_report(o, &systems[1], kernel);
		json_object_set_new(out, "kernel", kernel);
		json_object_set_new(ring, "note",
				    json_string("no device, no kernel: both ends are "
						"our stack, frames by pointer"));
		system_report(o, &systems[2], ring);
		json_object_set_new(out, "net_ring", ring);
	} else {
		json_decref(kernel);
		json_object_set_new(out, "kernel", json_null());
		json_object_set_new(out, "net_ring", json_null());
	}
}

static int tcp_run(const struct perf_options *options, json_t *out)
{
	struct perf_options own = *options;
	struct tcp_system systems[3] = {{0}};
	struct tcp_place place = {0};
	struct tcp_options o;
	unsigned n = 0;
	int err;

	if (options_take(&own, &o) != 0)
		exit(2);
	clock_calibrate();
	place.device = o.device;
	place.core_server = own.core_a;
	place.core_client = own.core_b;
	for (unsigned i = 0; i < o.connections_n; i++) {
		if (o.connections[i] > place.connections_max)
			place.connections_max = (unsigned)o.connections[i];
		if (o.connections[i] <= TCP_SOCKETS_MAX && o.connections[i] > place.sockets_max)
			place.sockets_max = (unsigned)o.connections[i];
	}
	/* A reset that got lost leaves its connection behind. */
	place.connections_max = place.connections_max * 2 + 256;
	err = tcp_place_open(&place);
	if (err != 0)
		return err;
	if (o.device != NULL)
		err = tcp_kernel_server(&place, &systems[1].server);
	if (err == 0)
		err = tcp_place_start(&place);
	if (err == 0 && o.device != NULL) {
		err = tcp_stack_server(&place, 1, o.device, &systems[0].server);
		n = 2;
	}
	if (err == 0)
		err = tcp_stack_server(&place, 0, "net_ring", &systems[n++].server);
	if (err == 0)
		err = bench(&o, &place, systems, n);
	if (err == 0)
		report(&o, systems, n, out);
	for (unsigned i = 0; i < 3; i++) {
		if (systems[i].server != NULL)
			systems[i].server->ops->destroy(systems[i].server);
		free(systems[i].runs);
	}
	tcp_place_close(&place);
	return err;
}

const struct perf_mode perf_mode_tcp = {
	.name = "tcp",
	.purpose = "our TCP beside the kernel's: requests, connects, bulk, memory of a connection",
	.usage = "  --connections LIST  request-response at so many; default 1,10,64,1000,100000;\n"
		 "                      more than 50000 on the ring only\n"
		 "  --port P            af_xdp (default), af_packet, or ring (no device, no kernel "
		 "peer)\n",
	.run = tcp_run,
};
