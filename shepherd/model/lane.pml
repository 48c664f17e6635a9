/* A lane: one producer, one consumer, slots valid by their sequence, head in the consumer's segment.
 *
 * Memory is weaker than x86: a process's stores go through a buffer of its own that may let them out
 * in any order between two words (as Arm may), but a release store waits until everything before it
 * is out. Loads are of memory, or of what the process itself has in its buffer; a load is never early
 * (acquire). Each payload word is checked to be the ticket's.
 *
 *   -DRELAXED_SEQ   the slot's sequence is stored without release    must fail
 *   -DRELAXED_HEAD  the consumer gives slots back before it has read   must fail
 *   -DNO_ROOM_CHECK the producer does not look at the head          must fail
 */
#define SLOTS   2
#define TICKETS 5

byte seq[SLOTS];
byte payload[SLOTS];
byte head; /* slots taken, consumer's word */

/* The producer's store buffer: at most one pending store for each word. */
bool payload_pending[SLOTS], seq_pending[SLOTS];
byte payload_buffer[SLOTS], seq_buffer[SLOTS];
byte received;

/* Lets pending stores out, one at a time, in any order. */
active proctype flusher()
{
end:	do
	:: atomic { payload_pending[0] -> payload[0] = payload_buffer[0]; payload_pending[0] = false }
	:: atomic { payload_pending[1] -> payload[1] = payload_buffer[1]; payload_pending[1] = false }
	:: atomic { seq_pending[0] -> seq[0] = seq_buffer[0]; seq_pending[0] = false }
	:: atomic { seq_pending[1] -> seq[1] = seq_buffer[1]; seq_pending[1] = false }
	od
}

active proctype producer()
{
	byte ticket = 0, at;

	do
	:: ticket < TICKETS ->
		at = ticket % SLOTS;
#ifndef NO_ROOM_CHECK
		(ticket - head < SLOTS);
#endif
		/* write the payload (plain store) */
		atomic { !payload_pending[at] -> payload_buffer[at] = ticket + 10; payload_pending[at] = true }
#ifndef RELAXED_SEQ
		(!payload_pending[0] && !payload_pending[1]); /* release */
#endif
		atomic { !seq_pending[at] -> seq_buffer[at] = ticket + 1; seq_pending[at] = true }
		ticket++
	:: else -> break
	od
}

active proctype consumer()
{
	byte ticket = 0, at, got;

	do
	:: ticket < TICKETS ->
		at = ticket % SLOTS;
		(seq[at] == ticket + 1);
#ifdef RELAXED_HEAD
		head = ticket + 1;
#endif
		got = payload[at];
		assert(got == ticket + 10);
		received++;
#ifndef RELAXED_HEAD
		head = ticket + 1; /* release: the slot was read before */
#endif
		ticket++
	:: else -> break
	od;
	assert(received == TICKETS)
}
