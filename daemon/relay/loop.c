/* One connection at work: look at the socket, look at the rings, send, sleep.
 *
 * Two things can wake it, a socket and a futex word that the workers raise (docs/SHARED-MEMORY.md,
 * "Park and wake"). No call waits for both, so a second thread waits for the word and raises an
 * eventfd. It is told to whenever this thread says PARKED; while there is work nobody parks and it
 * sleeps on.
 */
#include "daemon/relay/relay_internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define FRAMES_BUDGET 256
#define ROOM_RETRY_MS 1 /* while arrivals wait for room that no event announces */

static void *waker_main(void *arg)
{
	struct guest *g = arg;
	uint64_t one = 1;

	(void)pthread_setname_np(pthread_self(), "relay-waker");
	for (;;) {
		while (sem_wait(&g->waker_go) != 0)
			;
		if (__atomic_load_n(&g->waker_stop, __ATOMIC_ACQUIRE))
			return NULL;
		host_park_wait(g->a, 0, g->wake);
		(void)!write(g->wake_fd, &one, sizeof(one));
	}
}

static bool waker_start(struct guest *g)
{
	if (sem_init(&g->waker_go, 0, 0) != 0)
		return false;
	if (pthread_create(&g->waker, NULL, waker_main, g) != 0) {
		sem_destroy(&g->waker_go);
		return false;
	}
	g->waker_runs = true;
	return true;
}

static void waker_stop(struct guest *g)
{
	if (!g->waker_runs)
		return;
	__atomic_store_n(&g->waker_stop, true, __ATOMIC_RELEASE);
	host_kick(g->a, 0);
	sem_post(&g->waker_go);
	(void)pthread_join(g->waker, NULL);
	sem_destroy(&g->waker_go);
	g->waker_runs = false;
}

/* ------------------------------------------------------------------ frames */

static int frame_take(struct guest *g, const struct remote_frame *f, uint64_t now_ns)
{
	uint64_t bytes;
	int rc;

	switch (f->type) {
	case REMOTE_SLOT:
		return guest_slot(g, f, now_ns);
	case REMOTE_WINDOW:
		rc = remote_window_parse(f, &bytes);
		if (rc == 0 && bytes > g->flow.peer_window - g->flow.left)
			rc = -SPLIT_E_REMOTE_FRAME;
		if (rc == 0)
			g->flow.left += bytes;
		return rc;
	case REMOTE_LEAVING:
		if (f->bytes != 0)
			return -SPLIT_E_REMOTE_FRAME;
		if (attachment_leave(g->a) != 0)
			g->over = true; /* control has closed its end */
		return 0;
	case REMOTE_PULSE:
		return f->bytes != 0 ? -SPLIT_E_REMOTE_FRAME : link_pulse_answer(g->remote, f);
	case REMOTE_GOODBYE:
		g->over = true;
		return 0;
	default:
		return -SPLIT_E_REMOTE_FRAME;
	}
}

void guest_fault(struct guest *g)
{
	if (!g->faulted)
		RELAY_COUNT(g, faults);
	g->faulted = true;
}

/* True: something came. */
static bool frames_take(struct guest *g, uint64_t now_ns)
{
	struct remote_frame f;
	int rc = 0, n;

	if (link_read_seen(g->remote, now_ns) < 0)
		g->over = true;
	for (n = 0; n < FRAMES_BUDGET && !g->over; n++) {
		rc = link_frame(g->remote, &f);
		if (rc == 1)
			rc = frame_take(g, &f, now_ns);
		else if (rc == 0)
			break;
		if (rc < 0) {
			guest_fault(g);
			log_warn("remote host %s (\"%s\"): %s", g->peer, g->hello.name,
				 error_text(rc));
			g->over = true;
		}
	}
	return n != 0;
}

/* ------------------------------------------------------------------ the loop */

static void attachment_look(struct guest *g)
{
	int rc = attachment_take(g->a);

	if (rc < 0)
		g->over = true;
	else if (rc == 1)
		(void)link_say(g->remote, REMOTE_DRAINED, NULL, 0);
}

/* Sleep until the socket, the rings, control or the time wants something. */
static void rest(struct guest *g, uint64_t next_ns, bool busy)
{
	struct pollfd p[4] = {
		{.fd = link_fd(g->remote), .events = link_events(g->remote)},
		{.fd = g->wake_fd, .events = POLLIN},
		{.fd = attachment_fd(g->a), .events = POLLIN},
		{.fd = g->stop_fd, .events = POLLIN},
	};
	uint64_t now_ns, count;
	int ms = 0;

	if (link_goes_on(g->remote, busy))
		return;
	if (!busy && !g->parked && host_park_begin(g->a, 0, &g->wake)) {
		g->parked = true;
		sem_post(&g->waker_go);
	}
	if (!busy && g->parked) {
		now_ns = clock_ns();
		ms = next_ns <= now_ns ? 0 : (int)((next_ns - now_ns) / CLOCK_NS_PER_MS) + 1;
		if (g->waiting != NULL && ms > ROOM_RETRY_MS)
			ms = ROOM_RETRY_MS;
	}
	if (poll(p, 4, ms) <= 0)
		return;
	link_polled(g->remote, p[0].revents);
	if (p[1].revents != 0 && read(g->wake_fd, &count, sizeof(count)) > 0) {
		g->parked = false;
		host_state_set(g->a, 0, HOST_POLLING);
	}
	if (p[2].revents != 0)
		attachment_look(g);
	if (p[3].revents != 0)
		g->over = true;
}

static void turn(struct guest *g)
{
	uint64_t now_ns = clock_ns(), next_ns = UINT64_MAX, used;
	bool busy = frames_take(g, now_ns);

	if (guest_waiting_retry(g) < 0) {
		guest_fault(g);
		g->over = true;
	}
	busy |= guest_lanes_take(g, now_ns);
	guest_queue_send(g, now_ns);
	guest_releases_flush(g);
	for (unsigned d = 0; d < g->daemon_workers; d++) {
		if (g->dirty[d])
			host_lane_ring(attachment_lane(g->a, d, 0));
		g->dirty[d] = false;
	}
	used = arena_used(g->arena) + g->waiting_charge;
	if (remote_flow_give(&g->flow, g->remote, used) < 0 ||
	    link_pulse(g->remote, now_ns, g->relay->p.config->timeout_ns, &next_ns) < 0 ||
	    link_flush(g->remote) < 0 || !attachment_alive(g->a))
		g->over = true;
	if (g->over)
		return;
	host_heartbeat(g->a, 0);
	rest(g, next_ns, busy);
}

void guest_serve(struct guest *g)
{
	const char *why;

	/* The host said HELLO and waited for the attach, however long that took. */
	link_silence_begin(g->remote, clock_ns());
	if (waker_start(g)) {
		host_state_set(g->a, 0, HOST_POLLING);
		while (!g->over)
			turn(g);
	}
	waker_stop(g);
	/* Control has let us go: say so, if the host hears it at once. */
	if (link_cause(g->remote)[0] == '\0' && link_say(g->remote, REMOTE_GOODBYE, NULL, 0) == 0)
		(void)!link_flush(g->remote);
	why = link_cause(g->remote);
	if (link_fault(g->remote) == -SPLIT_E_REMOTE_SILENT)
		guest_fault(g);
	log_info("remote host %s (\"%s\"): connection closed: %s", g->peer, g->hello.name,
		 why[0] != '\0' ? why : "one side wanted it");
	guest_fini(g);
}
