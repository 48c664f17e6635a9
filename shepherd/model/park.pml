/* Park and wake between one host worker and several daemon workers, and each daemon worker's own
 * sleep, which is the mirror image.
 *
 * Every plain store goes through a store buffer, one for each word, that lets it out at any later
 * time (x86's store buffer, and with one for each word also the order among stores that Arm leaves
 * open); so a missing fence shows. A fence waits until the process's own buffers are empty.
 *
 * A daemon worker publishes CALLS requests, each followed by its doorbell: fence, read the control
 * word, compare-and-swap the wake word, futex wake; it skips the wake while the host has not taken
 * what it was last woken for. When nothing is answered it sleeps: store odd, fence, look once more,
 * wait for the eventfd.
 * The host worker takes requests of all lanes; for each it answers and rings that daemon worker's
 * bell: fence, read the sleep word, write the eventfd. With nothing there it parks: read the wake
 * word, store PARKED with its value, fence, look at all lanes, futex wait. The futex compares and
 * sleeps in one step, as the kernel does.
 *
 * The properties: there is no state in which only sleepers are left (spin reports a lost wake as an
 * invalid end state); and a parked worker is woken once, however many daemon workers have something
 * for it.
 *
 *   -DNO_HOST_FENCE    the parking worker does not fence               must fail
 *   -DNO_DAEMON_FENCE  the doorbell does not fence                     must fail
 *   -DNO_ARM_FENCE     the daemon's sleep does not fence               must fail
 *   -DNO_RING_FENCE    the host's bell does not fence                  must fail
 *   -DWAKE_READ_LATE   the futex's value is read after the last look   must fail
 *   -DNO_LAST_LOOK     the host does not look again after PARKED       must fail
 *   -DNO_SWAP          the wake word is raised without compare-and-swap must fail
 *   -DDAMP_BLIND       a woken host is never woken again               must fail
 *
 * Run with 2 daemon workers of 1 call and 1 of 3 calls (seconds); 2 of 2 is exhaustive too, but
 * takes minutes and gigabytes.
 */
#ifndef DAEMONS
#define DAEMONS 2
#endif
#ifndef CALLS
#define CALLS 1
#endif

/* Shared words, as memory has them. */
byte published[DAEMONS]; /* sequence of the last request slot */
byte head[DAEMONS];      /* request slots the host says it took */
byte answered[DAEMONS];  /* sequence of the last completion slot */
bool asleep[DAEMONS];    /* the daemon worker's sleep word is odd */
bool parked;             /* the control word: PARKED … */
byte parked_at;          /* … and at which wake value, one word */
byte wake;               /* read-modify-write only */
bool rung;               /* somebody has woken it since it began to park; not a shared word */

/* Store buffers. */
bool published_p[DAEMONS], head_p[DAEMONS], answered_p[DAEMONS], asleep_p[DAEMONS], parked_p;
byte published_b[DAEMONS], head_b[DAEMONS], answered_b[DAEMONS];
bool asleep_b[DAEMONS], parked_b;
byte parked_at_b;

/* The kernel. */
bool in_futex;
bool eventfd[DAEMONS];

proctype flusher(byte me)
{
end:	do
	:: d_step { published_p[me] -> published[me] = published_b[me]; published_p[me] = false }
	:: d_step { head_p[me] -> head[me] = head_b[me]; head_p[me] = false }
	:: d_step { answered_p[me] -> answered[me] = answered_b[me]; answered_p[me] = false }
	:: d_step { asleep_p[me] -> asleep[me] = asleep_b[me]; asleep_p[me] = false }
	:: d_step { me == 0 && parked_p -> parked = parked_b; parked_at = parked_at_b; parked_p = false }
	od
}

/* ---- daemon worker */

inline daemon_fence()
{
	(!published_p[me] && !asleep_p[me])
}

inline doorbell()
{
#ifndef NO_DAEMON_FENCE
	daemon_fence();
#endif
	d_step { saw = parked; at = parked_at }
	if
#ifdef DAMP_BLIND
	:: saw && !woken ->
#else
	:: saw && !(woken && head[me] < woken_tail) ->
#endif
		if
#ifdef NO_SWAP
		:: d_step { wake = wake + 1; woken = true; woken_tail = sent; assert(!rung); rung = true }
			in_futex = false
#else
		:: d_step { wake == at -> wake = wake + 1; woken = true; woken_tail = sent; assert(!rung); rung = true }
			in_futex = false
		:: wake != at /* somebody has woken it since */
#endif
		fi
	:: else
	fi
}

inline daemon_sleep()
{
	d_step { !asleep_p[me] -> asleep_b[me] = true; asleep_p[me] = true }
#ifndef NO_ARM_FENCE
	daemon_fence();
#endif
	if
	:: answered[me] == taken -> d_step { eventfd[me] -> eventfd[me] = false }
	:: else
	fi
	d_step { !asleep_p[me] -> asleep_b[me] = false; asleep_p[me] = true }
}

proctype daemon(byte me)
{
	byte sent = 0, taken = 0, at, woken_tail;
	bool saw, woken;

	do
	:: sent < CALLS ->
		d_step { !published_p[me] -> published_b[me] = sent + 1; published_p[me] = true; sent++ }
		doorbell()
	:: answered[me] > taken -> taken++
	:: sent > taken && answered[me] == taken -> daemon_sleep()
	:: taken == CALLS -> break
	od
}

/* ---- host worker */

inline host_fence()
{
	(!parked_p && !answered_p[0] && !head_p[0]);
#if DAEMONS > 1
	(!answered_p[1] && !head_p[1]);
#endif
#if DAEMONS > 2
	(!answered_p[2] && !head_p[2]);
#endif
	skip
}

inline serve(d)
{
	d_step { !answered_p[d] -> total++; taken[d] = taken[d] + 1; answered_b[d] = taken[d]; answered_p[d] = true }
	d_step { !head_p[d] -> head_b[d] = taken[d]; head_p[d] = true }
#ifndef NO_RING_FENCE
	host_fence();
#endif
	if
	:: asleep[d] -> eventfd[d] = true
	:: else
	fi
}

inline look()
{
	found = published[0] > taken[0];
#if DAEMONS > 1
	found = found || published[1] > taken[1];
#endif
#if DAEMONS > 2
	found = found || published[2] > taken[2];
#endif
	skip
}

inline park()
{
	d_step { w = wake; rung = false }
	d_step { !parked_p -> parked_b = true; parked_at_b = w; parked_p = true }
#ifndef NO_HOST_FENCE
	host_fence();
#endif
#ifdef NO_LAST_LOOK
	found = false;
#else
	look();
#endif
#ifdef WAKE_READ_LATE
	w = wake;
#endif
	if
	:: !found ->
		if
		:: d_step { wake == w -> in_futex = true }
			(!in_futex)
		:: wake != w
		fi
	:: else
	fi
	d_step { !parked_p -> parked_b = false; parked_p = true }
}

proctype host()
{
	byte taken[DAEMONS], total = 0, w;
	bool found;

	do
	:: published[0] > taken[0] -> serve(0)
#if DAEMONS > 1
	:: published[1] > taken[1] -> serve(1)
#endif
#if DAEMONS > 2
	:: published[2] > taken[2] -> serve(2)
#endif
	:: total < DAEMONS * CALLS -> park()
	:: total == DAEMONS * CALLS -> break
	od
}

init
{
	byte i = 0;

	atomic {
		do
		:: i < DAEMONS -> run flusher(i); run daemon(i); i++
		:: else -> break
		od;
		run host()
	}
}
