#include "bench/load.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/random.h"
#include "bench/h2.h"

#define WAIT_MAX_NS CLOCK_NS_PER_MS
#define PATIENCE_NS (10 * CLOCK_NS_PER_SEC)
/* Bytes offered to a link at a time; what it does not take waits. */
#define SEND_ROUNDS 8

struct load_conn {
	struct load *load;
	struct h2_conn h2;
	struct link *link; /* NULL: closed */
	struct list due;
	bool up, counted; /* counted: among load.failed */
};

struct load {
	struct load_params params;
	struct link_set *set;
	struct h2_template template;
	struct load_conn *conns;
	unsigned conns_n, failed, next_conn;
	struct list due;
	struct random random;
	bool running;    /* new calls begin */
	uint64_t now_ns; /* when the bytes at hand were seen */
	double next_ns;  /* open loop: when the next call is meant to begin */
	bool full;       /* it is due, and no connection has room for it */
	uint64_t under_way;
	struct load_window *window;
	uint64_t said_ns, said_calls, said_errors;
	struct perf_histogram said; /* since the last line */
};

static void due(struct load_conn *c)
{
	if (list_empty(&c->due))
		list_add_tail(&c->load->due, &c->due);
}

/* ---- calls ---------------------------------------------------------------------------------- */

static void call_start(struct load_conn *c, uint64_t begin_ns)
{
	h2_start(&c->h2, begin_ns);
	c->load->under_way++;
	due(c);
}

static void fill(struct load_conn *c)
{
	while (h2_room(&c->h2))
		call_start(c, c->load->now_ns);
}

static void on_done(void *ctx, struct h2_conn *h2, struct h2_call *call, bool ok)
{
	struct load *l = ctx;
	struct load_window *w = l->window;
	uint64_t ns = l->now_ns > call->begin_ns ? l->now_ns - call->begin_ns : 0;

	l->under_way--;
	if (ok) {
		l->said_calls++;
		perf_histogram_add(&l->said, ns);
	} else {
		l->said_errors++;
	}
	if (w != NULL && ok) {
		w->calls++;
		perf_histogram_add(&w->latency, ns);
	} else if (w != NULL) {
		w->errors++;
	}
	if (l->running && l->params.rate == 0 && h2_room(h2))
		call_start(h2->user, l->now_ns);
}

/* Time between two calls of a Poisson process. */
static double interval_ns(struct load *l)
{
	double u = ((double)(random_next(&l->random) >> 11) + 1) * 0x1p-53;

	return -log(u) * 1e9 / l->params.rate;
}

/* Calls that are due begin where there is room; the rest waits, and its time counts. */
static void arrivals(struct load *l)
{
	unsigned full = 0;

	while (l->next_ns <= (double)l->now_ns && full < l->conns_n) {
		struct load_conn *c = &l->conns[l->next_conn];

		l->next_conn = (l->next_conn + 1) % l->conns_n;
		if (!h2_room(&c->h2)) {
			full++;
			continue;
		}
		full = 0;
		call_start(c, (uint64_t)l->next_ns);
		l->next_ns += interval_ns(l);
	}
	l->full = full == l->conns_n;
}

/* ---- links ---------------------------------------------------------------------------------- */

static void on_up(void *user)
{
	struct load_conn *c = user;

	c->up = true;
	due(c);
}

static void on_data(void *user, const uint8_t *bytes, size_t n)
{
	struct load_conn *c = user;
	bool was_ready = c->h2.ready;

	c->load->now_ns = clock_ns();
	h2_input(&c->h2, bytes, n);
	if (c->load->running && c->load->params.rate == 0 && c->h2.ready && !was_ready)
		fill(c);
	due(c);
}

static void on_down(void *user)
{
	struct load_conn *c = user;

	c->link = NULL;
	h2_fail(&c->h2, "the connection was closed by the server");
	due(c);
}

const struct link_events load_link_events = {.up = on_up, .data = on_data, .down = on_down};

static void conn_failed(struct load_conn *c)
{
	struct load *l = c->load;

	if (!c->counted && l->failed++ == 0)
		perf_warn("connection %u: %s", (unsigned)(c - l->conns), c->h2.why);
	c->counted = true;
	if (c->link != NULL)
		link_close(l->set, c->link);
	c->link = NULL;
}

/* False: some of it has to wait. */
static bool conn_send(struct load_conn *c)
{
	for (unsigned i = 0; i < SEND_ROUNDS; i++) {
		size_t n, taken;
		const uint8_t *bytes = h2_output(&c->h2, &n);

		if (n == 0)
			return true;
		taken = link_send(c->load->set, c->link, bytes, n);
		h2_output_taken(&c->h2, taken);
		if (taken < n)
			return false;
	}
	return false;
}

static void conns_send(struct load *l)
{
	struct list later;
	struct list *node;

	list_init(&later);
	while ((node = list_pop_head(&l->due)) != NULL) {
		struct load_conn *c = list_entry(node, struct load_conn, due);

		if (c->h2.failed)
			conn_failed(c);
		else if (c->up && !conn_send(c))
			list_add_tail(&later, &c->due);
	}
	list_splice_tail(&l->due, &later);
}

/* ---- the loop ------------------------------------------------------------------------------- */

static void live(struct load *l)
{
	double seconds = (double)(l->now_ns - l->said_ns) / 1e9;

	perf_progress("%9.0f calls/s  p50 %7.1f us  p99 %7.1f us  max %8.1f us  %llu errors",
		      (double)l->said_calls / seconds,
		      (double)perf_histogram_at(&l->said, 0.5) / 1e3,
		      (double)perf_histogram_at(&l->said, 0.99) / 1e3, (double)l->said.max / 1e3,
		      (unsigned long long)l->said_errors);
	memset(&l->said, 0, sizeof(l->said));
	l->said_calls = l->said_errors = 0;
	l->said_ns = l->now_ns;
}

/* A call that is due and finds no room waits for an answer, not for a time: looking for one again
 * and again would take the core from a server that shares it. */
static uint64_t wait_ns(const struct load *l, uint64_t end_ns)
{
	uint64_t until = end_ns;

	if (!list_empty(&l->due))
		return 0;
	if (l->running && l->params.rate != 0 && !l->full && l->next_ns < (double)until)
		until = (uint64_t)l->next_ns;
	if (until <= l->now_ns)
		return 0;
	until -= l->now_ns;
	return until < WAIT_MAX_NS ? until : WAIT_MAX_NS;
}

static void turn(struct load *l, uint64_t end_ns)
{
	(void)links_poll(l->set, l->now_ns, wait_ns(l, end_ns));
	l->now_ns = clock_ns();
	if (l->running && l->params.rate != 0)
		arrivals(l);
	conns_send(l);
	links_flush(l->set, l->now_ns);
}

static bool over(const struct load *l)
{
	if (l->failed == l->conns_n) {
		perf_warn("every connection has failed");
		return true;
	}
	return l->params.stopped != NULL && l->params.stopped(l->params.ctx);
}

int load_run(struct load *l, uint64_t ns, struct load_window *window)
{
	l->now_ns = clock_ns();
	if (!l->running) {
		l->running = true;
		l->next_ns = (double)l->now_ns;
		l->said_ns = l->now_ns;
		for (unsigned i = 0; i < l->conns_n && l->params.rate == 0; i++)
			fill(&l->conns[i]);
	}
	uint64_t end_ns = l->now_ns + ns;

	if (window != NULL) {
		memset(window, 0, sizeof(*window));
		window->begin_ns = l->now_ns;
	}
	l->window = window;
	/* A run so short that nothing could end in it says nothing: it goes on. */
	while (l->now_ns < end_ns || (window != NULL && window->calls + window->errors == 0 &&
				      l->now_ns < end_ns + PATIENCE_NS)) {
		turn(l, end_ns);
		if (l->now_ns - l->said_ns >= CLOCK_NS_PER_SEC) {
			live(l);
			if (over(l))
				break;
		}
		if (l->failed == l->conns_n)
			break;
	}
	l->window = NULL;
	if (window != NULL) {
		window->end_ns = l->now_ns;
		if (l->params.rate != 0 && l->next_ns < (double)l->now_ns)
			window->behind =
				(uint64_t)(((double)l->now_ns - l->next_ns) / 1e9 * l->params.rate);
	}
	return over(l) ? -SPLIT_E_BASE_SYSTEM : 0;
}

uint64_t load_drain(struct load *l, uint64_t timeout_ns)
{
	uint64_t end_ns = clock_ns() + timeout_ns;

	l->running = false;
	do
		turn(l, end_ns);
	while (l->under_way != 0 && l->now_ns < end_ns && l->failed < l->conns_n);
	return l->under_way;
}

int load_connect(struct load *l, uint64_t timeout_ns)
{
	uint64_t end_ns = clock_ns() + timeout_ns;
	unsigned opened = 0, ready;

	l->now_ns = clock_ns();
	do {
		/* Some at a time: a listener's backlog is no part of this. */
		for (unsigned i = 0; i < 64 && opened < l->conns_n; i++, opened++) {
			struct load_conn *c = &l->conns[opened];
			int err = link_open(l->set, c, &c->link);

			if (err != 0)
				return err;
		}
		turn(l, end_ns);
		ready = 0;
		for (unsigned i = 0; i < l->conns_n; i++)
			ready += l->conns[i].h2.ready;
		if (l->failed != 0 || (l->params.stopped && l->params.stopped(l->params.ctx)))
			return -SPLIT_E_BASE_SYSTEM;
	} while (ready < l->conns_n && l->now_ns < end_ns);
	if (ready == l->conns_n)
		return 0;
	perf_warn("only %u of %u connections came up", ready, l->conns_n);
	return -SPLIT_E_BASE_SYSTEM;
}

int load_create(const struct load_params *params, struct link_set *set, struct load **out)
{
	struct load *l = calloc(1, sizeof(*l));
	int err;

	if (l == NULL)
		return -SPLIT_E_BASE_NOMEM;
	l->params = *params;
	l->set = set;
	list_init(&l->due);
	random_seed(&l->random, params->seed);
	if (params->request != NULL)
		err = h2_template_init_bytes(&l->template, params->path, params->authority,
					     params->request, params->request_bytes, params->reply,
					     params->reply_bytes);
	else
		err = h2_template_init(&l->template, params->path, params->authority, params->kind,
				       params->messages, params->bytes);
	l->template.done = on_done;
	l->template.ctx = l;
	l->conns = calloc(params->connections, sizeof(*l->conns));
	if (err == 0 && l->conns == NULL)
		err = -SPLIT_E_BASE_NOMEM;
	for (unsigned i = 0; i < params->connections && err == 0; i++) {
		struct load_conn *c = &l->conns[i];

		c->load = l;
		list_init(&c->due);
		err = h2_conn_init(&c->h2, &l->template, params->streams, c);
		if (err == 0)
			l->conns_n++;
	}
	if (err != 0) {
		load_destroy(l);
		return err;
	}
	*out = l;
	return 0;
}

void load_destroy(struct load *l)
{
	if (l == NULL)
		return;
	l->running = false;
	for (unsigned i = 0; i < l->conns_n; i++) {
		if (l->conns[i].link != NULL)
			link_close(l->set, l->conns[i].link);
		h2_conn_fini(&l->conns[i].h2);
	}
	links_flush(l->set, clock_ns());
	free(l->conns);
	h2_template_fini(&l->template);
	free(l);
}
