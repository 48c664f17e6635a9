/* Claim and revoke: a request published to one host worker is taken back and given to another, while
 * the first may be beginning it.
 *
 * Stores go through a store buffer, one for each word, that lets them out at any later time and in
 * any order; a release store waits until what was stored before is out; a fence waits until the
 * process's own buffers are empty. Loads are never early.
 *
 * The daemon publishes CALLS requests on the ring (SLOTS slots) of host worker 0, and at any moment
 * may take one back that is published and not known to be taken: it stores the slot's revoke word,
 * fences, and loads the claim. Was the ticket not claimed it publishes the call anew, to worker 1.
 * Else it leaves the call to worker 0, which either runs it or answers REFUSE; a refused call is
 * published to worker 1, too.
 *
 * Host worker 0 takes its slots in order: it stores the ticket as its claim, fences, loads the revoke
 * word: revoked, it refuses, unless the daemon has already seen that it had not claimed (then it is
 * refusing a call that is no longer its own, which the daemon ignores as stale). It gives the slot
 * back before it runs the call, as host-lib does, so that the daemon writes the slot again.
 * Host worker 1 runs what it gets.
 *
 * The properties: no call runs twice; when all have come to rest every call has run once.
 *
 *   -DNO_CLAIM_FENCE   the host does not fence between claim and look       must fail
 *   -DNO_REVOKE_FENCE  the daemon does not fence between revoke and look    must fail
 *   -DCLAIM_LATE       the host looks at revoke before it claims            must fail
 *   -DNO_REFUSE        a host that finds itself revoked drops the call      must fail
 *   -DNO_CLAIM_LOOK    the daemon does not look at the claim                must fail
 *   -DSTALE_COUNTS     a stale REFUSE makes the daemon publish once more    must fail
 */
#define SLOTS 2
#ifndef CALLS
#define CALLS 3
#endif

byte seq[SLOTS], call_of[SLOTS], revoke[SLOTS];
byte head, claim;

/* The daemon's buffers: revoke by slot, and the sequence (release: what the slot holds is out first;
 * modelled by writing call_of at once and clearing revoke before the sequence is let out). */
bool revoke_p[SLOTS], seq_p[SLOTS];
byte revoke_b[SLOTS], seq_b[SLOTS];
/* The host's: claim, and head (release). */
bool claim_p, head_p;
byte claim_b, head_b;

chan refused = [CALLS] of { byte };
chan second = [CALLS] of { byte }; /* the lane of host worker 1 */
byte ran[CALLS];
byte done; /* completions that the daemon has taken, refusals not counted */

active proctype daemon_flusher()
{
end:	do
	:: d_step { revoke_p[0] -> revoke[0] = revoke_b[0]; revoke_p[0] = false }
	:: d_step { revoke_p[1] -> revoke[1] = revoke_b[1]; revoke_p[1] = false }
	:: d_step { seq_p[0] && !revoke_p[0] && !revoke_p[1] -> seq[0] = seq_b[0]; seq_p[0] = false }
	:: d_step { seq_p[1] && !revoke_p[0] && !revoke_p[1] -> seq[1] = seq_b[1]; seq_p[1] = false }
	od
}

active proctype host_flusher()
{
end:	do
	:: d_step { claim_p -> claim = claim_b; claim_p = false }
	:: d_step { head_p && !claim_p -> head = head_b; head_p = false }
	od
}

active proctype daemon()
{
	byte tail = 0, victim = 0, c, at;
	bool away[CALLS]; /* taken back: what worker 0 says of it is stale */
	bool asked[CALLS];

	do
	:: tail < CALLS && tail - head < SLOTS ->
		d_step {
			!seq_p[tail % SLOTS] && !revoke_p[tail % SLOTS] ->
			call_of[tail % SLOTS] = tail;
			revoke_b[tail % SLOTS] = 0; revoke_p[tail % SLOTS] = true;
			seq_b[tail % SLOTS] = tail + 1; seq_p[tail % SLOTS] = true;
			tail++
		}
	:: victim < tail ->
		/* try to take ticket `victim` back, or leave it alone */
		if
		:: victim >= head && !asked[victim] ->
			at = victim % SLOTS;
			d_step { !revoke_p[at] ->
				revoke_b[at] = victim + 1; revoke_p[at] = true; asked[victim] = true }
#ifndef NO_REVOKE_FENCE
			(!revoke_p[0] && !revoke_p[1] && !seq_p[0] && !seq_p[1]);
#endif
			if
#ifdef NO_CLAIM_LOOK
			:: true -> away[victim] = true; second!victim
#else
			:: claim < victim + 1 -> away[victim] = true; second!victim
			:: else
#endif
			fi
		:: true
		fi;
		victim++
	:: refused?c ->
		if
		:: !away[c] -> away[c] = true; second!c
#ifdef STALE_COUNTS
		:: away[c] -> second!c
#else
		:: away[c]
#endif
		fi
	:: done == CALLS && tail == CALLS && empty(refused) -> break
	od
}

active proctype host0()
{
	byte t = 0, c, seen;

	do
	:: t < CALLS ->
		(seq[t % SLOTS] == t + 1);
#ifdef CLAIM_LATE
		seen = revoke[t % SLOTS];
#endif
		d_step { !claim_p -> claim_b = t + 1; claim_p = true }
#ifndef NO_CLAIM_FENCE
		(!claim_p && !head_p);
#endif
#ifndef CLAIM_LATE
		seen = revoke[t % SLOTS];
#endif
		c = call_of[t % SLOTS];
		d_step { !head_p -> head_b = t + 1; head_p = true }
		if
		:: seen == t + 1 ->
#ifndef NO_REFUSE
			refused!c;
#endif
			skip
		:: else -> d_step { ran[c] = ran[c] + 1; assert(ran[c] == 1); done++ }
		fi;
		t++
	:: else -> break
	od
}

active proctype host1()
{
	byte c;

end:	do
	:: second?c -> d_step { ran[c] = ran[c] + 1; assert(ran[c] == 1); done++ }
	od
}
