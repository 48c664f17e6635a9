/* Answers that are small in memory and endless, or nearly, when they are walked. Linear messages
 * written straight into the segment: host-lib would not make them. */
#include "bomb.pb-c.h"
#include "tests/hostile/hostile.h"

#include <string.h>

#define FAN    1000
#define LEVELS 60
#define WIDE   (3u << 19)
#define STRING (64u << 10)

/* Must be as many as bomb_test.py asks for. */
enum bomb_kind {
	BOMB_CYCLE,      /* its own child */
	BOMB_CYCLE_WIDE, /* a thousand children, each itself */
	BOMB_SHARED,     /* sixty levels, each twice the next: 2^60 nodes */
	BOMB_COUNT,      /* a count of 2^60 */
	BOMB_WIDE,       /* a million pointers to one empty message */
	BOMB_WORDS,      /* a thousand pointers to one string of 64 KiB */
	BOMB_ENDLESS,    /* a string without an end */
	BOMB_KINDS,
};

/* Room for the largest of them. */
size_t bomb_bytes(unsigned kind)
{
	switch (kind) {
	case BOMB_WIDE:
		return sizeof(Split__Tests__Node) + sizeof(Split__Tests__Empty) + WIDE * 8u;
	case BOMB_WORDS:
	case BOMB_ENDLESS:
		return sizeof(Split__Tests__Node) + FAN * 8 + STRING;
	case BOMB_SHARED:
		return LEVELS * (sizeof(Split__Tests__Node) + 16);
	default:
		return sizeof(Split__Tests__Node) + FAN * 8;
	}
}

/* In `mem` of bomb_bytes(); the message begins there. */
void bomb_make(unsigned kind, uint8_t *mem)
{
	Split__Tests__Node *n = (Split__Tests__Node *)(void *)mem;
	void **array = (void **)(void *)(n + 1);

	split__tests__node__init(n);
	switch (kind) {
	case BOMB_CYCLE:
		n->child = n;
		break;
	case BOMB_CYCLE_WIDE:
		n->n_children = FAN;
		n->children = (Split__Tests__Node **)array;
		for (unsigned i = 0; i < FAN; i++)
			array[i] = n;
		break;
	case BOMB_SHARED:
		for (unsigned i = 0; i + 1 < LEVELS; i++) {
			Split__Tests__Node *next = (Split__Tests__Node *)(void *)(array + 2);

			split__tests__node__init(next);
			n->n_children = 2;
			n->children = (Split__Tests__Node **)array;
			array[0] = array[1] = next;
			n = next;
			array = (void **)(void *)(n + 1);
		}
		break;
	case BOMB_COUNT:
		n->n_numbers = (size_t)1 << 60;
		n->numbers = (uint32_t *)(void *)array;
		break;
	case BOMB_WIDE: {
		Split__Tests__Empty *e = (Split__Tests__Empty *)(void *)(array + WIDE);

		split__tests__empty__init(e);
		n->n_empties = WIDE;
		n->empties = (Split__Tests__Empty **)array;
		for (unsigned i = 0; i < WIDE; i++)
			array[i] = e;
		break;
	}
	default: /* the strings: the endless one has no NUL in its block; what follows is luck */
		n->n_words = FAN;
		n->words = (char **)array;
		for (unsigned i = 0; i < FAN; i++)
			array[i] = array + FAN;
		memset(array + FAN, 'a', STRING);
		if (kind == BOMB_WORDS)
			((char *)(array + FAN))[STRING - 1] = '\0';
	}
}

unsigned bomb_kind(const void *request)
{
	return ((const Split__Tests__Node *)request)->kind % BOMB_KINDS;
}

const ProtobufCMessageDescriptor *bomb_descriptor(void)
{
	return &split__tests__node__descriptor;
}
