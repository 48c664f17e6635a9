/* Once as two processes, as it is; once as threads over one mapping, which is what ThreadSanitizer
 * can follow (tests/shepherd/meson.build builds a second program for that).
 *
 * Two processes, two host workers and a foreign thread against one daemon worker that also sleeps:
 * every request is handed over once, every answer comes back once with the right bytes, all blocks
 * and tokens go home, and nobody sleeps through work. Small rings, so that everything runs full.
 *
 * Now and then a request is taken back: then it never runs, or is refused, or is answered, and only
 * one of these. */
#include "tests/shepherd/harness.h"

#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/random.h"
#include "shepherd/shepherd_internal.h"

#ifdef STRESS_THREADS_ONLY
#define CALLS 8000
#else
#define CALLS 40000
#endif
#define IN_FLIGHT 24
#define BLOCKS    64

/* ---- the host: each worker answers by a block or inline; some answers go by the foreign lane. */

struct host {
	struct attachment *a;
	pthread_mutex_t lock; /* arena and foreign lane */
	struct arena *arena;
	uint64_t handled, refused;
	int failed;
};

static void *block_get(struct host *h, size_t bytes)
{
	struct shepherd_chunk c = {0};

	pthread_mutex_lock(&h->lock);
	if (arena_get(h->arena, bytes, &c) < 0)
		c.mem = NULL;
	pthread_mutex_unlock(&h->lock);
	return c.mem;
}

/* The token is the block's address. */
static void released(struct host *h, struct host_lane *lane, const struct slot *s)
{
	uint64_t tokens[SLOT_TOKENS_MAX];
	unsigned n = host_lane_released(lane, s, tokens);

	pthread_mutex_lock(&h->lock);
	for (unsigned i = 0; i < n; i++)
		if (arena_put(h->arena, (void *)(uintptr_t)tokens[i]) < 0)
			h->failed = 1;
	pthread_mutex_unlock(&h->lock);
}

static bool respond(struct host *h, struct host_lane *lane, const struct slot *in, void *block)
{
	struct slot *s = host_lane_reserve(lane, block != NULL);
	const uint64_t *request = (const void *)(uintptr_t)in->msg;
	uint64_t *reply;

	(void)h;
	if (s == NULL)
		return false;
	s->kind = TO_DAEMON_MESSAGE;
	s->flags = SLOT_END_STREAM | SLOT_HAS_STATUS | SLOT_HAS_MESSAGE;
	if (block != NULL) {
		s->flags |= SLOT_HAS_TOKEN;
		s->token = (uint64_t)(uintptr_t)block;
		reply = block;
	} else {
		s->flags |= SLOT_INLINE;
		s->inline_bytes = 16;
		reply = (void *)s->inline_area;
	}
	if (in->flags & SLOT_HAS_TOKEN) {
		s->flags |= SLOT_RELEASE_REQUEST;
		s->release = in->info;
	}
	reply[0] = request[0];
	reply[1] = ~request[0];
	s->msg = (uint64_t)(uintptr_t)reply;
	s->call_id = in->call_id;
	host_lane_commit(lane, s);
	host_lane_ring(lane);
	return true;
}

/* Out of tokens or of ring: what would bring some back may lie behind this request in our own ring
 * (host-lib looks ahead for it); here a smaller answer does, which needs no token. */
static void *block_drop(struct host *h, void *block)
{
	if (block != NULL && arena_put(h->arena, block) < 0)
		h->failed = 1;
	return NULL;
}

static void handle(struct host *h, struct host_lane *lane, const struct slot *s, uint64_t n)
{
	void *block = n % 3 != 0 ? block_get(h, 16 + n % 700) : NULL;
	bool foreign = n % 5 == 0, done = false;

	while (!done && attachment_alive(h->a)) {
		if (foreign)
			pthread_mutex_lock(&h->lock);
		done = respond(h, foreign ? attachment_foreign(h->a, 0) : lane, s, block);
		if (!foreign)
			pthread_mutex_lock(&h->lock);
		if (!done)
			block = block_drop(h, block);
		pthread_mutex_unlock(&h->lock);
	}
}

/* Taken back: say that it was not begun. */
static void refuse(struct host *h, struct host_lane *lane, const struct slot *in)
{
	struct slot *s;

	while ((s = host_lane_reserve(lane, false)) == NULL)
		if (!attachment_alive(h->a))
			return;
	s->kind = TO_DAEMON_REFUSE;
	s->call_id = in->call_id;
	if (in->flags & SLOT_HAS_TOKEN) {
		s->flags |= SLOT_RELEASE_REQUEST;
		s->release = in->info;
	}
	host_lane_commit(lane, s);
	host_lane_ring(lane);
	__atomic_fetch_add(&h->refused, 1, __ATOMIC_RELAXED);
}

struct host_thread {
	struct host *host;
	unsigned index;
};

static void *host_worker_run(void *arg)
{
	struct host_thread *t = arg;
	struct host *h = t->host;
	struct host_lane *lane = attachment_lane(h->a, 0, t->index);
	unsigned idle = 0;
	uint64_t n = 0;

	host_state_set(h->a, t->index, HOST_POLLING);
	while (attachment_alive(h->a)) {
		const struct slot *s = host_lane_peek(lane);

		if (s == NULL) {
			/* 20 s: a lost wake shows as a failure, not as a hang. */
			if (++idle > 50 && !host_park(h->a, t->index, HOST_PARKED, 20000 * MS)) {
				h->failed = 2;
				return NULL;
			}
			continue;
		}
		idle = 0;
		if (s->kind == TO_HOST_RELEASE) {
			released(h, lane, s);
		} else if (s->kind == TO_HOST_REQUEST) {
			if (host_lane_claim(lane, s)) {
				handle(h, lane, s, n++);
				__atomic_fetch_add(&h->handled, 1, __ATOMIC_RELAXED);
			} else {
				refuse(h, lane, s);
			}
		} else {
			h->failed = 3;
		}
		host_lane_advance(lane);
	}
	return NULL;
}

static int host_run(struct attachment *a, void *arg)
{
	struct host h = {.a = a, .lock = PTHREAD_MUTEX_INITIALIZER};
	struct shepherd_chunk arena = attachment_arena(a);
	struct host_thread t[2] = {{&h, 0}, {&h, 1}};
	pthread_t threads[2];

	(void)arg;
	if (arena_create(arena.mem, 64 * 1024, &h.arena) < 0)
		return 10;
	for (int i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, host_worker_run, &t[i]) != 0)
			return 11;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	arena_destroy(h.arena);
	if (h.failed != 0)
		return h.failed;
	if (a->geometry.revocable && h.refused == 0)
		return 13; /* nothing was ever taken back: that was not tried */
	return h.handled + h.refused == CALLS ? 0 : 12;
}

/* ---- the daemon worker */

struct held {
	unsigned lane;
	uint64_t token;
};

struct daemon {
	struct pair p;
	struct random rnd;
	uint64_t expected[IN_FLIGHT]; /* by user index; 0: free */
	uint64_t call_id[IN_FLIGHT];
	bool has_blocks[IN_FLIGHT];
	unsigned in_flight;
	uint64_t opened, answered, refused;
	uint64_t revoked, revoked_blocks;
	struct held held[BLOCKS]; /* tokens given back late and out of order */
	unsigned held_n;
};

static void completion(void *ctx, struct endpoint_port *port, const struct endpoint_completion *c)
{
	struct daemon *d = ctx;
	uint64_t *slot = c->user;
	uint64_t words[2];

	if (c->kind == TO_DAEMON_REFUSE) {
		*slot = 0;
		d->refused++;
		d->in_flight--;
		endpoint_call_close(port, c->call_id, now());
		return;
	}
	memcpy(words, c->window.mem + (c->msg - c->window.peer_base), sizeof(words));
	if (c->kind != TO_DAEMON_MESSAGE || !(c->flags & SLOT_HAS_STATUS) || words[0] != *slot ||
	    words[1] != ~*slot)
		ck_abort_msg("answer %llu of call %llu", (unsigned long long)words[0],
			     (unsigned long long)*slot);
	*slot = 0;
	d->answered++;
	d->in_flight--;
	endpoint_call_close(port, c->call_id, now());
	if (!c->has_token)
		return;
	if (d->held_n == BLOCKS) {
		unsigned i = (unsigned)random_below(&d->rnd, BLOCKS);

		endpoint_token_release(port, d->held[i].lane, d->held[i].token);
		d->held[i] = d->held[--d->held_n];
	}
	d->held[d->held_n++] = (struct held){c->lane, c->token};
}

static bool open_one(struct daemon *d)
{
	struct endpoint_port *port = d->p.port;
	unsigned lane = (unsigned)(d->opened & 1), i = 0;
	struct endpoint_blocks blocks = {0};
	struct endpoint_request r = {
		.kind = TO_HOST_REQUEST, .has_message = true, .blocks = &blocks};
	struct shepherd_chunk c;
	bool inlined = random_below(&d->rnd, 2) == 0;

	while (d->expected[i] != 0)
		i++;
	if (endpoint_call_open(port, &d->expected[i], &r.call_id) < 0)
		return false;
	if (inlined ? endpoint_inline_area(port, lane, &c) < 0
		    : endpoint_block_get(port, &blocks, 8 + random_below(&d->rnd, 5000), &c) < 0)
		goto no_room;
	d->expected[i] = d->opened + 1;
	memcpy(c.mem, &d->expected[i], 8);
	r.inline_bytes = inlined ? 16 : 0;
	r.msg = (uint64_t)((int64_t)(uintptr_t)c.mem + endpoint_delta(port));
	if (endpoint_submit(port, lane, &r, now()) < 0)
		goto no_room;
	d->call_id[i] = r.call_id;
	d->has_blocks[i] = !inlined;
	d->opened++;
	d->in_flight++;
	return true;
no_room:
	d->expected[i] = 0;
	endpoint_blocks_put(port, &blocks);
	endpoint_call_close(port, r.call_id, now());
	return false;
}

/* Try to take one of those back that are out. */
static void revoke_one(struct daemon *d)
{
	unsigned i = (unsigned)random_below(&d->rnd, IN_FLIGHT);
	struct endpoint_blocks blocks;

	if (d->expected[i] == 0 || endpoint_revoke(d->p.port, d->call_id[i], now(), &blocks) != 0)
		return;
	ck_assert_uint_eq(blocks.head != 0, d->has_blocks[i]);
	endpoint_blocks_put(d->p.port, &blocks);
	d->expected[i] = 0;
	d->in_flight--;
	d->revoked++;
	d->revoked_blocks += d->has_blocks[i];
}

/* ---- both ends over one mapping */

struct joined {
	struct attachment a;
	struct endpoint *e;
	int eventfd;
	int result;
	pthread_t thread;
};

static void *joined_run(void *arg)
{
	struct joined *j = arg;

	j->result = host_run(&j->a, NULL);
	return NULL;
}

static void joined_open(struct joined *j, struct pair *p, const struct endpoint_config *config)
{
	static const struct attach_method method = {.service = "a", .method = "b"};
	struct attach_request request = {
		.name = "test", .pid = getpid(), .methods = &method, .methods_n = 1};
	struct endpoint *e;

	ck_assert_int_eq(endpoint_create(config, &request, &e), 0);
	e->to_daemon.mem = mmap(NULL, e->to_daemon.bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
				e->to_daemon.fd, 0);
	ck_assert_ptr_ne(e->to_daemon.mem, MAP_FAILED);
	port_map(e->ports[0], (uint64_t)(uintptr_t)e->to_host.mem,
		 (uint64_t)(uintptr_t)e->to_daemon.mem);
	e->mapped = true;
	j->e = e;
	j->a = (struct attachment){.fd = -1,
				   .geometry = e->geometry,
				   .life.shared = e->shared,
				   .to_host = e->to_host,
				   .to_daemon = e->to_daemon};
	j->eventfd = endpoint_eventfd(e->ports[0]);
	ck_assert_int_eq(attachment_wire(&j->a, &j->eventfd), 0);
	p->endpoint = e;
	p->port = e->ports[0];
	endpoint_port_adopt(p->port, &p->counters);
	ck_assert_int_eq(pthread_create(&j->thread, NULL, joined_run, j), 0);
}

static int joined_close(struct joined *j)
{
	endpoint_detach(j->e);
	pthread_join(j->thread, NULL);
	free(j->a.lanes);
	free(j->a.peers);
	free(j->a.workers);
	endpoint_put(j->e);
	return j->result;
}

static struct daemon d;

static void config_stress(struct endpoint_config *config, uint32_t slots)
{
	*config = pair_config();
	config->request_slots = config->completion_slots = config->foreign_slots = slots;
	config->calls_max = IN_FLIGHT;
	config->tokens_max = BLOCKS + 8;
	config->revocable = true;
	d = (struct daemon){0};
	random_seed(&d.rnd, 7 + slots);
}

static void daemon_run(void)
{
	static const struct endpoint_events events = {completion};
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
	int ep = epoll_create1(EPOLL_CLOEXEC), rc, slept_out = 0;
	unsigned idle = 0;

	ck_assert_int_eq(epoll_ctl(ep, EPOLL_CTL_ADD, endpoint_eventfd(d.p.port), &ev), 0);
	/* Each that was taken back is refused by the host all the same, which is stale then. */
	while (d.answered + d.refused + d.revoked < CALLS || d.p.counters.stale_calls < d.revoked) {
		while (d.opened < CALLS && d.in_flight < IN_FLIGHT && open_one(&d))
			;
		if (random_below(&d.rnd, 4) == 0)
			revoke_one(&d);
		rc = endpoint_poll(d.p.port, 16, &events, &d, now());
		if (rc < 0)
			ck_abort_msg("%s", endpoint_cause(d.p.port));
		endpoint_flush(d.p.port, now());
		idle = rc > 0 ? 0 : idle + 1;
		/* Asleep only when all that is open is with the host: its answer must wake us. */
		if (idle > 20 && d.in_flight > 0 && endpoint_arm_sleep(d.p.port)) {
			if (epoll_wait(ep, &ev, 1, 5000) == 0)
				slept_out++;
			endpoint_disarm_sleep(d.p.port);
		}
	}
	ck_assert_int_eq(slept_out, 0);
	while (d.held_n > 0) {
		d.held_n--;
		endpoint_token_release(d.p.port, d.held[d.held_n].lane, d.held[d.held_n].token);
	}
	endpoint_flush(d.p.port, now());
	ck_assert_uint_eq(endpoint_bytes_used(d.p.port), 0);
	ck_assert_uint_eq(endpoint_calls_open(d.p.port), 0);
	ck_assert_uint_eq(d.p.counters.stale_calls, d.revoked);
	ck_assert_uint_eq(d.p.counters.stale_releases, d.revoked_blocks);
	ck_assert_uint_eq(d.p.counters.revoked, d.revoked);
	ck_assert_uint_eq(d.p.counters.requests_out, CALLS);
	printf("taken back %llu, refused %llu, ", (unsigned long long)d.revoked,
	       (unsigned long long)d.refused);
	printf("wakes %llu (saved %llu), sleeps %llu (refused %llu), ring full %llu\n",
	       (unsigned long long)d.p.counters.wakes, (unsigned long long)d.p.counters.wakes_saved,
	       (unsigned long long)d.p.counters.sleeps,
	       (unsigned long long)d.p.counters.sleeps_refused,
	       (unsigned long long)d.p.counters.ring_full);
	close(ep);
}

START_TEST(stress)
{
	struct endpoint_config config;

	config_stress(&config, 2u << _i);
	pair_fork(&d.p, &config, host_run, NULL);
	daemon_run();
	ck_assert_int_eq(pair_close(&d.p), 0);
}
END_TEST

START_TEST(stress_threads)
{
	static struct joined j;
	struct endpoint_config config;

	config_stress(&config, 2u << _i);
	config.revocable = _i % 2 != 0;
	joined_open(&j, &d.p, &config);
	daemon_run();
	ck_assert_int_eq(joined_close(&j), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("shepherd/stress");
	TCase *t = tcase_create("stress");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 110);
#ifndef STRESS_THREADS_ONLY
	tcase_add_loop_test(t, stress, 0, 4);
#else
	(void)stress;
#endif
	tcase_add_loop_test(t, stress_threads, 0, 4);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
