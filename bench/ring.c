/* split-perf ring: what a lane costs, beside the cache line it cannot beat and the peers it
 * replaces.
 *
 * line_rtt is the floor: one line goes to the other core and back, nothing else. lane_rtt is a slot
 * published by the daemon's code, claimed by the host's code, answered and polled: two lines at the
 * least. Both run on the same two cores, in turns, in one run.
 */
#include "bench/ring.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "bench/pair.h"

#define RING_SLOTS 256
/* A burst between doorbells, one way; what a busy daemon worker does in a poll. */
#define RING_BURST 32
#define RING_AHEAD 3 /* lines asked for ahead */

static const uint64_t sizes_default[] = {0, 64, 112, 1024, 16384};

/* ---- the floor: one line, there and back */

struct line {
	_Alignas(128) _Atomic uint64_t there;
	_Alignas(128) _Atomic uint64_t back;
	_Alignas(128) atomic_bool stop;
};

struct line_echo {
	struct line *line;
	unsigned core;
};

static void *line_echo_run(void *arg)
{
	struct line_echo *e = arg;
	uint64_t seen = 0;

	(void)perf_pin(e->core);
	while (!atomic_load_explicit(&e->line->stop, memory_order_relaxed)) {
		uint64_t v = atomic_load_explicit(&e->line->there, memory_order_acquire);

		if (v != seen) {
			seen = v;
			atomic_store_explicit(&e->line->back, v, memory_order_release);
		}
	}
	return NULL;
}

#define LINE_BATCHES 8192
#define LINE_BATCH   256
#define LANE_BATCH   250
#define LANE_WARM    4 /* batches */

/* Nanoseconds of one round trip: the median of batches over about `seconds`, so that a core taken
 * away for a while does not move the floor that others are measured against. */
double ring_line_rtt(const struct perf_options *options, double seconds)
{
	struct line *line = aligned_alloc(128, sizeof(*line));
	struct line_echo echo = {.line = line, .core = options->core_b};
	pthread_t thread;
	uint64_t n = 0, begin, last, now;
	double *batches = malloc(LINE_BATCHES * sizeof(*batches)), median;
	size_t batches_n = 0;

	if (!line || !batches) {
		free(line);
		free(batches);
		return 0;
	}
	atomic_init(&line->there, 0);
	atomic_init(&line->back, 0);
	atomic_init(&line->stop, false);
	if (pthread_create(&thread, NULL, line_echo_run, &echo) != 0) {
		free(line);
		free(batches);
		return 0;
	}
	for (uint64_t warm = 1; warm <= 1000; warm++, n++) {
		atomic_store_explicit(&line->there, warm, memory_order_release);
		while (atomic_load_explicit(&line->back, memory_order_acquire) != warm)
			;
	}
	begin = last = clock_ns();
	do {
		for (unsigned i = 0; i < LINE_BATCH; i++) {
			n++;
			atomic_store_explicit(&line->there, n, memory_order_release);
			while (atomic_load_explicit(&line->back, memory_order_acquire) != n)
				;
		}
		now = clock_ns();
		if (batches_n < LINE_BATCHES)
			batches[batches_n++] = (double)(now - last) / LINE_BATCH;
		last = now;
	} while (now - begin < (uint64_t)(seconds * 1e9));
	atomic_store(&line->stop, true);
	pthread_join(thread, NULL);
	median = perf_median(batches, batches_n);
	free(batches);
	free(line);
	return median;
}

/* ---- the limit of one way: lines with a number and nothing else, as many slots and as large
 * bursts */

#define LINE_STRIDE (SLOT_BYTES / SHEPHERD_LINE)

struct line_ring {
	_Alignas(128) _Atomic uint64_t head;
	_Alignas(128) atomic_bool stop;
	_Alignas(128) struct {
		_Alignas(SHEPHERD_LINE) _Atomic uint64_t seq;
	} lines[RING_SLOTS * LINE_STRIDE]; /* those between are what a slot has besides */
	unsigned core;
};

static void *line_ring_run(void *arg)
{
	struct line_ring *r = arg;
	uint64_t head = 0;

	(void)perf_pin(r->core);
	while (!atomic_load_explicit(&r->stop, memory_order_relaxed)) {
		uint64_t from = head;

		while (head - from < RING_BURST &&
		       atomic_load_explicit(&r->lines[head % RING_SLOTS * LINE_STRIDE].seq,
					    memory_order_acquire) == head + 1)
			head++;
		if (head != from)
			atomic_store_explicit(&r->head, head, memory_order_release);
	}
	return NULL;
}

/* Messages a second. */
static double ring_line_rate(const struct perf_options *options, double seconds)
{
	struct line_ring *r = aligned_alloc(128, align_up(sizeof(*r), 128));
	uint64_t begin, now, seen = 0, tail = 0, end;
	pthread_t thread;
	double rate = 0;

	if (r == NULL)
		return 0;
	memset(r, 0, sizeof(*r));
	r->core = options->core_b;
	if (pthread_create(&thread, NULL, line_ring_run, r) == 0) {
		begin = now = clock_ns();
		while (now - begin < (uint64_t)(seconds * 1e9)) {
			for (unsigned i = 0; i < RING_BURST; i++) {
				if (tail - seen == RING_SLOTS)
					seen = atomic_load_explicit(&r->head, memory_order_acquire);
				if (tail - seen == RING_SLOTS)
					break;
				tail++;
				atomic_store_explicit(
					&r->lines[(tail - 1) % RING_SLOTS * LINE_STRIDE].seq, tail,
					memory_order_release);
			}
			now = clock_ns();
		}
		end = atomic_load(&r->head);
		atomic_store(&r->stop, true);
		pthread_join(thread, NULL);
		rate = (double)end * 1e9 / (double)(now - begin);
	}
	free(r);
	return rate;
}

/* ---- the lane */

struct lane_host {
	struct pair *pair;
	unsigned core;
	bool answers; /* false: only takes (one way) */
	atomic_bool stop;
	_Atomic uint64_t taken;
	uint64_t sum; /* the messages were really read */
};

/* Reads the message as a handler would: each line once. */
static uint64_t message_touch(const struct slot *slot)
{
	const uint8_t *p = (const uint8_t *)(uintptr_t)slot->msg;
	uint64_t sum = 0;

	for (uint32_t at = 0; at < slot->msg_bytes; at += SHEPHERD_LINE)
		sum += p[at];
	return sum;
}

static void lane_answer(struct host_lane *lane, const struct slot *in)
{
	struct slot *out;

	while (!(out = host_lane_reserve(lane, false)))
		;
	out->kind = TO_DAEMON_MESSAGE;
	out->flags = SLOT_END_STREAM | SLOT_HAS_STATUS;
	out->call_id = in->call_id;
	out->msg_seq = in->msg_seq;
	if (in->flags & SLOT_HAS_TOKEN) {
		out->flags |= SLOT_RELEASE_REQUEST;
		out->release = in->info;
	}
	host_lane_commit(lane, out);
	host_lane_ring(lane);
}

/* One way: the block of a message goes back in a batch of its own, as host-lib does. */
static void lane_release(struct host_lane *lane, uint64_t *tokens, unsigned *n, bool now)
{
	struct slot *out;

	if (*n == 0 || (*n < SLOT_TOKENS_MAX && !now))
		return;
	while (!(out = host_lane_reserve(lane, false)))
		;
	out->kind = TO_DAEMON_RELEASE;
	out->info = *n;
	out->inline_bytes = (uint8_t)(*n * sizeof(*tokens));
	memcpy(out->tokens, tokens, *n * sizeof(*tokens));
	host_lane_commit(lane, out);
	*n = 0;
}

/* What is there now, as one batch: given back and counted at its end. */
static unsigned lane_batch(struct lane_host *h, struct host_lane *lane, uint64_t *tokens,
			   unsigned *held)
{
	const struct slot *slot;
	unsigned n = 0;

	while (n < RING_BURST && (slot = host_lane_peek(lane)) != NULL) {
		/* Only where more lies ready: a line that the daemon is about to write is its. */
		if (n != 0)
			host_lane_prefetch(lane, RING_AHEAD);
		if (slot->flags & SLOT_HAS_MESSAGE)
			h->sum += message_touch(slot);
		if (h->answers)
			lane_answer(lane, slot);
		else if (slot->flags & SLOT_HAS_TOKEN)
			tokens[(*held)++] = slot->info;
		host_lane_skip(lane);
		n++;
		lane_release(lane, tokens, held, false);
	}
	if (n != 0)
		host_lane_give_back(lane);
	return n;
}

static void *lane_host_run(void *arg)
{
	struct lane_host *h = arg;
	struct host_lane *lane = h->pair->lane;
	uint64_t taken = 0, tokens[SLOT_TOKENS_MAX];
	unsigned held = 0;

	(void)perf_pin(h->core);
	host_state_set(h->pair->attachment, 0, HOST_POLLING);
	while (!atomic_load_explicit(&h->stop, memory_order_relaxed)) {
		unsigned n = lane_batch(h, lane, tokens, &held);

		if (n == 0)
			lane_release(lane, tokens, &held, true);
		else
			atomic_store_explicit(&h->taken, taken += n, memory_order_relaxed);
	}
	return NULL;
}

static void answered(void *ctx, struct endpoint_port *port, const struct endpoint_completion *c)
{
	(void)port;
	(void)c;
	++*(uint64_t *)ctx;
}

static const struct endpoint_events events = {.completion = answered};

/* Publish one message of `bytes`: in the slot when it fits, else in a block written anew. 0, or the
 * code that says no room now. */
static int lane_publish(struct pair *pair, enum slot_kind kind, uint64_t call, uint32_t seq,
			size_t bytes, uint64_t now_ns)
{
	struct endpoint_blocks blocks = {0};
	struct endpoint_request request = {.kind = kind,
					   .call_id = call,
					   .msg_seq = seq,
					   .has_message = bytes > 0,
					   .msg_bytes = (uint32_t)bytes};
	struct shepherd_chunk room = {0};
	int error = 0;

	if (bytes > 0 && bytes <= SLOT_INLINE_BYTES) {
		error = endpoint_inline_area(pair->port, 0, &room);
		request.inline_bytes = (uint8_t)bytes;
	} else if (bytes > 0) {
		error = endpoint_block_get(pair->port, &blocks, bytes, &room);
		request.blocks = &blocks;
	}
	if (error != 0)
		return error;
	if (bytes > 0) {
		memset(room.mem, (int)seq & 0xff, bytes);
		request.msg = (uint64_t)((int64_t)(uintptr_t)room.mem + endpoint_delta(pair->port));
	}
	error = endpoint_submit(pair->port, 0, &request, now_ns);
	if (error != 0)
		endpoint_blocks_put(pair->port, &blocks);
	return error;
}

/* One null call: opened, published, answered with a status, closed. 0 or what failed. */
static int lane_call(struct pair *pair, size_t bytes, uint64_t *answers, uint64_t now)
{
	uint64_t call, want = *answers + 1;
	int error = endpoint_call_open(pair->port, NULL, &call);

	if (error == 0)
		error = lane_publish(pair, TO_HOST_REQUEST, call, 0, bytes, now);
	if (error != 0)
		return error;
	endpoint_flush(pair->port, now);
	while (*answers != want) {
		error = endpoint_poll(pair->port, RING_BURST, &events, answers, now);
		if (error < 0)
			return error;
	}
	endpoint_call_close(pair->port, call, now);
	return 0;
}

/* Calls, one after the other. Nanoseconds each, the median of batches as for the bare line; or 0 on
 * a fault. */
static double lane_round_trips(struct pair *pair, size_t bytes, double seconds)
{
	double *batches = malloc(LINE_BATCHES * sizeof(*batches)), median = 0;
	uint64_t answers = 0, begin = 0, last, now = clock_ns();
	size_t batches_n = 0;

	for (unsigned batch = 0; batches; batch++) {
		int error = 0;

		last = now;
		if (batch == LANE_WARM)
			begin = now;
		for (unsigned i = 0; i < LANE_BATCH && error == 0; i++)
			error = lane_call(pair, bytes, &answers, now);
		if (error != 0) {
			perf_warn("a call failed: %s", error_text(error));
			break;
		}
		now = clock_ns();
		if (batch < LANE_WARM)
			continue;
		if (batches_n < LINE_BATCHES)
			batches[batches_n++] = (double)(now - last) / LANE_BATCH;
		if (now - begin >= (uint64_t)(seconds * 1e9)) {
			median = perf_median(batches, batches_n);
			break;
		}
	}
	free(batches);
	return median;
}

/* As many as the ring takes, in bursts; messages taken a second. */
static double lane_one_way(struct pair *pair, struct lane_host *host, size_t bytes, double seconds)
{
	uint64_t call;

	uint64_t answers = 0, begin = clock_ns(), now = begin, first, sent = 0;

	if (endpoint_call_open(pair->port, NULL, &call) != 0 ||
	    lane_publish(pair, TO_HOST_REQUEST, call, 0, 0, now) != 0)
		return 0;
	first = atomic_load(&host->taken);
	/* The other thread may not have had its core yet. */
	while (now - begin < (uint64_t)(seconds * 1e9) ||
	       (atomic_load(&host->taken) == first && now - begin < 5 * CLOCK_NS_PER_SEC)) {
		for (unsigned i = 0; i < RING_BURST; i++) {
			if (lane_publish(pair, TO_HOST_MESSAGE, call, (uint32_t)sent, bytes, now) !=
			    0)
				break;
			sent++;
		}
		endpoint_flush(pair->port, now);
		if (endpoint_poll(pair->port, RING_BURST, &events, &answers, now) < 0)
			return 0;
		now = clock_ns();
	}
	return (double)(atomic_load(&host->taken) - first) * 1e9 / (double)(now - begin);
}

/* Round trips (answers) or one way over a fresh pair. */
static int lane_measure(const struct perf_options *options, size_t bytes, bool answers,
			double seconds, double *result_out)
{
	struct lane_host host = {.core = options->core_b, .answers = answers};
	struct pair *pair = aligned_alloc(64, align_up(sizeof(*pair), 64));
	pthread_t thread;

	*result_out = 0;
	if (!pair)
		return -SPLIT_E_BASE_NOMEM;
	int error = pair_open(pair, RING_SLOTS);

	if (error != 0) {
		free(pair);
		return error;
	}
	host.pair = pair;
	if (pthread_create(&thread, NULL, lane_host_run, &host) != 0)
		error = -SPLIT_E_BASE_SYSTEM;
	if (error == 0) {
		*result_out = answers ? lane_round_trips(pair, bytes, seconds)
				      : lane_one_way(pair, &host, bytes, seconds);
		atomic_store(&host.stop, true);
		pthread_join(thread, NULL);
	}
	if (error == 0 && *result_out == 0) {
		perf_warn("the lane failed: %s", endpoint_cause(pair->port));
		error = -SPLIT_E_BASE_INTERNAL;
	}
	pair_close(pair);
	free(pair);
	return error;
}

/* ---- the mode */

struct row {
	uint64_t bytes;
	double rtt[101], rate[101];
};

static int measure_all(const struct perf_options *options, struct row *rows, int rows_n,
		       double *line, double *line_rate, struct ring_peer_row *peers)
{
	double each = options->seconds / 4;

	for (unsigned run = 0; run < options->runs; run++) {
		perf_progress("ring: run %u of %u", run + 1, options->runs);
		line[run] = ring_line_rtt(options, each);
		line_rate[run] = ring_line_rate(options, each);
		for (int i = 0; i < rows_n; i++) {
			int error =
				lane_measure(options, rows[i].bytes, true, each, &rows[i].rtt[run]);

			if (error == 0)
				error = lane_measure(options, rows[i].bytes, false, each,
						     &rows[i].rate[run]);
			if (error != 0)
				return error;
		}
		for (int p = 0; p < RING_PEERS; p++) {
			peers[p].rtt[run] = ring_peer_rtt(options, p, each);
			peers[p].rate[run] = ring_peer_rate(options, p, each);
		}
	}
	return 0;
}

static json_t *peers_json(const struct perf_options *options, struct ring_peer_row *peers)
{
	json_t *object = json_object();

	for (int p = 0; p < RING_PEERS; p++) {
		double rtt = perf_median(peers[p].rtt, options->runs);
		double rate = perf_median(peers[p].rate, options->runs);

		perf_say(options, "%-28s %10.0f %12.2f\n", ring_peer_name(p), rtt, rate / 1e6);
		json_object_set_new(object, ring_peer_name(p),
				    json_pack("{s:f, s:f}", "rtt_ns", rtt, "msgs_per_s", rate));
	}
	return object;
}

static int ring_run(const struct perf_options *given, json_t *out)
{
	struct perf_options options = *given;
	const char *list = perf_option(&options, "--bytes");
	uint64_t sizes[PERF_LIST_MAX];
	int n = (int)ARRAY_LEN(sizes_default);
	static struct row rows[PERF_LIST_MAX];
	static struct ring_peer_row peers[RING_PEERS];
	static double line[101], line_rate[101];

	memcpy(sizes, sizes_default, sizeof(sizes_default));
	if (list)
		n = perf_list("--bytes", list, sizes, PERF_LIST_MAX);
	if (n < 0 || perf_options_done(&options) != 0 || perf_pin(options.core_a) != 0)
		return -SPLIT_E_BASE_INVALID;
	for (int i = 0; i < n; i++)
		rows[i].bytes = sizes[i];
	int error = measure_all(&options, rows, n, line, line_rate, peers);

	if (error != 0)
		return error;
	double floor_ns = perf_median(line, options.runs);
	double limit = perf_median(line_rate, options.runs);
	json_t *by_size = json_array();

	perf_say(&options, "%-28s %10s %12s\n", "", "rtt ns", "M msgs/s");
	perf_say(&options, "%-28s %10.0f %12.2f\n", "bare cache line", floor_ns, limit / 1e6);
	for (int i = 0; i < n; i++) {
		double rtt = perf_median(rows[i].rtt, options.runs);
		double rate = perf_median(rows[i].rate, options.runs);

		perf_say(&options, "lane, %8llu B %12s %10.0f %12.2f  (%.2f lines)\n",
			 (unsigned long long)rows[i].bytes, "", rtt, rate / 1e6, rtt / floor_ns);
		json_array_append_new(by_size, json_pack("{s:I, s:f, s:f}", "bytes",
							 (json_int_t)rows[i].bytes, "rtt_ns", rtt,
							 "msgs_per_s", rate));
		if (i == 0) {
			json_object_set_new(out, "lane_rtt_ns", json_real(rtt));
			json_object_set_new(out, "lane_rtt_lines", json_real(rtt / floor_ns));
			json_object_set_new(out, "lane_msgs_per_s", json_real(rate));
		}
	}
	json_object_set_new(out, "line_rtt_ns", json_real(floor_ns));
	json_object_set_new(out, "line_msgs_per_s", json_real(limit));
	json_object_set_new(out, "by_size", by_size);
	json_object_set_new(out, "peers", peers_json(&options, peers));
	return 0;
}

const struct perf_mode perf_mode_ring = {
	.name = "ring",
	.purpose = "a lane between two cores, beside a bare cache line and the peers",
	.usage = "  --bytes N,N,…   message sizes (default 0,64,112,1KiB,16KiB; the first one is\n"
		 "                  lane_rtt and lane_msgs_per_s)\n",
	.run = ring_run,
};
