/* Intrusive doubly linked list with a sentinel head.
 *
 * Thread rule: none of its own; the owner of the head serialises.
 * Ownership: a list owns nothing. A node is on at most one list; a node that is on none points at
 * itself (list_init) so that list_del is idempotent. All operations are O(1) but list_count.
 */
#ifndef SPLITD_BASE_LIST_H
#define SPLITD_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *prev;
	struct list *next;
};

/* The object of `type` whose member `member` is at `ptr`. */
#ifndef container_of
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#endif

#define list_entry(ptr, type, member) container_of(ptr, type, member)

/* Make `l` an empty head, or a node that is on no list. */
static inline void list_init(struct list *l)
{
	l->prev = l;
	l->next = l;
}

/* Head: nothing on it. Node: on no list. */
static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

/* Insert `node` (on no list) between two neighbours. */
static inline void list_insert(struct list *node, struct list *prev, struct list *next)
{
	node->prev = prev;
	node->next = next;
	prev->next = node;
	next->prev = node;
}

/* Insert at the front / at the back of `head`. */
static inline void list_add_head(struct list *head, struct list *node)
{
	list_insert(node, head, head->next);
}

static inline void list_add_tail(struct list *head, struct list *node)
{
	list_insert(node, head->prev, head);
}

/* Take `node` off whatever list it is on; harmless on an initialised node that is on none. */
static inline void list_del(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

/* First or last node, NULL when empty. */
static inline struct list *list_first(const struct list *head)
{
	return head->next == head ? NULL : head->next;
}

static inline struct list *list_last(const struct list *head)
{
	return head->prev == head ? NULL : head->prev;
}

/* Take the first node off, NULL when empty. */
static inline struct list *list_pop_head(struct list *head)
{
	struct list *node = list_first(head);

	if (node != NULL)
		list_del(node);
	return node;
}

/* Move everything on `from` to the back of `to`; `from` is empty afterwards. */
static inline void list_splice_tail(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

/* Nodes on `head`; O(n), for tests and telemetry. */
static inline size_t list_count(const struct list *head)
{
	size_t n = 0;

	for (const struct list *p = head->next; p != head; p = p->next)
		n++;
	return n;
}

/* A declared name cannot stand in parentheses. NOLINTBEGIN(bugprone-macro-parentheses) */

/* Walk the nodes; the body must not remove `pos`. */
#define list_for_each(pos, head)                                                                   \
	for (struct list *pos = (head)->next; (pos) != (head); (pos) = (pos)->next)

/* Walk the nodes; the body may remove `pos`, and no other node. */
#define list_for_each_safe(pos, head)                                                              \
	for (struct list *pos = (head)->next, *pos##_next = pos->next; (pos) != (head);            \
	     (pos) = pos##_next, pos##_next = (pos)->next)

/* NOLINTEND(bugprone-macro-parentheses) */

#endif
