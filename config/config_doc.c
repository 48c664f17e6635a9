/* jansson tells where a syntax error is, and nothing about where a value was. So after jansson has
 * accepted the text, a second walk over it builds a tree of nodes with lines, and then each node is
 * joined with jansson's value by key or index. The walk trusts jansson's verdict on syntax, yet
 * never leaves the text: it stops at its terminating NUL (jansson refuses NUL bytes within).
 *
 * A linear scan before both bounds depth and number of values, so that neither recursion nor memory
 * follows what a hostile file asks for.
 */
#include <stdlib.h>
#include <string.h>

#include "config/config_internal.h"

struct walk {
	char *p; /* next byte; text is ours and mutable */
	unsigned line;
	struct doc_node *nodes;
	uint32_t used, size;
	const struct config_sink *sink;
	bool nomem;
};

/* Count what could be values and find the depth, outside strings. 0 or the finding is made. */
static int doc_prescan(const char *text, size_t len, const struct config_sink *sink,
		       uint32_t *values_out)
{
	uint32_t values = 1;
	unsigned depth = 0, line = 1;
	bool string = false;

	for (size_t i = 0; i < len; i++) {
		char c = text[i];

		if (c == '\n')
			line++;
		if (string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				string = false;
			continue;
		}
		if (c == '"') {
			string = true;
		} else if (c == '{' || c == '[') {
			values++;
			if (++depth > CONFIG_DEPTH_MAX) {
				config_sink_add(sink, line, NULL,
						"nested too deep, expected at most %d levels",
						CONFIG_DEPTH_MAX);
				return -SPLIT_E_CONFIG_INVALID;
			}
		} else if ((c == '}' || c == ']') && depth > 0) {
			depth--;
		} else if (c == ',') {
			values++;
		}
		if (values > CONFIG_NODES_MAX) {
			config_sink_add(sink, line, NULL, "too many values, expected at most %d",
					CONFIG_NODES_MAX);
			return -SPLIT_E_CONFIG_INVALID;
		}
	}
	*values_out = values;
	return 0;
}

static void walk_blanks(struct walk *w)
{
	for (; *w->p == ' ' || *w->p == '\t' || *w->p == '\r' || *w->p == '\n'; w->p++)
		w->line += *w->p == '\n';
}

/* Past a string; w->p is at its opening quote. Returns the byte behind the closing one. */
static char *walk_string(struct walk *w)
{
	w->p++;
	while (*w->p != '"' && *w->p != '\0') {
		if (*w->p == '\\' && w->p[1] != '\0')
			w->p++;
		w->p++;
	}
	if (*w->p == '"')
		w->p++;
	return w->p;
}

/* A member name, terminated in place. An escaped one is never longer decoded than as it stands. */
static const char *walk_key(struct walk *w)
{
	char *start = w->p;
	char *end = walk_string(w);

	if (memchr(start, '\\', (size_t)(end - start)) != NULL) {
		json_t *s = json_loadb(start, (size_t)(end - start), JSON_DECODE_ANY, NULL);

		if (s == NULL) {
			w->nomem = true;
			return "";
		}
		memcpy(start + 1, json_string_value(s), json_string_length(s) + 1);
		json_decref(s);
	} else {
		end[-1] = '\0';
	}
	return start + 1;
}

static struct doc_node *walk_value(struct walk *w, struct doc_node *parent);

static void walk_children(struct walk *w, struct doc_node *node, bool object)
{
	struct doc_node **tail = &node->first;

	w->p++;
	for (;;) {
		const char *key = NULL;
		struct doc_node *child;
		unsigned line;

		walk_blanks(w);
		if (*w->p == ',') {
			w->p++;
			walk_blanks(w);
		}
		if (*w->p == '}' || *w->p == ']') {
			w->p++;
			return;
		}
		line = w->line;
		if (object && *w->p == '"') {
			key = walk_key(w);
			walk_blanks(w);
			if (*w->p == ':')
				w->p++;
			walk_blanks(w);
		}
		child = walk_value(w, node);
		if (child == NULL)
			return;
		if (object) {
			child->key = key;
			child->line = line; /* the key's, where people look */
		}
		child->index = node->children++;
		*tail = child;
		tail = &child->next;
	}
}

/* One value; depth is bounded by the scan before. NULL at the end of the text or of the nodes,
 * which text that jansson took does not reach. */
static struct doc_node *walk_value(struct walk *w, struct doc_node *parent)
{
	struct doc_node *node;

	if (*w->p == '\0' || w->used == w->size || w->nomem)
		return NULL;
	node = &w->nodes[w->used++];
	node->parent = parent;
	node->line = w->line;
	if (*w->p == '{' || *w->p == '[')
		walk_children(w, node, *w->p == '{');
	else if (*w->p == '"')
		walk_string(w);
	else
		w->p += strcspn(w->p, " \t\r\n,]}");
	return node;
}

static int node_compare(const void *a, const void *b)
{
	const struct doc_node *x = *(const struct doc_node *const *)a;
	const struct doc_node *y = *(const struct doc_node *const *)b;
	int c = strcmp(x->key, y->key);

	return c != 0 ? c : x->index < y->index ? -1 : 1;
}

/* jansson kept the last of each; drop the others from the tree and say so. */
static int doc_duplicates(struct doc_node *node, const struct config_sink *sink)
{
	struct doc_node **sorted = calloc(node->children, sizeof(struct doc_node *));
	struct doc_node **link = &node->first;
	uint32_t n = 0;

	if (sorted == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (struct doc_node *c = node->first; c != NULL; c = c->next)
		sorted[n++] = c;
	/* Pointers are what is sorted. NOLINTNEXTLINE(bugprone-sizeof-expression) */
	qsort(sorted, n, sizeof(*sorted), node_compare);
	for (uint32_t i = 1; i < n; i++) {
		if (strcmp(sorted[i - 1]->key, sorted[i]->key) != 0)
			continue;
		config_sink_node(sink, sorted[i],
				 "duplicate key, first given in line %u, expected once",
				 sorted[i - 1]->line);
		sorted[i - 1]->parent = NULL; /* marks it for the loop below */
	}
	for (struct doc_node *c = node->first; c != NULL; c = c->next) {
		if (c->parent == NULL)
			continue;
		*link = c;
		link = &c->next;
	}
	*link = NULL;
	free(sorted);
	return 0;
}

/* Give each node jansson's value. False when the trees do not match, which would be our bug. */
static int doc_join(struct doc_node *node, json_t *value, const struct config_sink *sink)
{
	int rc = 0;

	node->value = value;
	if (json_is_object(value) && node->children != json_object_size(value))
		rc = doc_duplicates(node, sink);
	for (struct doc_node *c = node->first; c != NULL && rc == 0; c = c->next) {
		json_t *v = json_is_object(value) ? json_object_get(value, c->key)
						  : json_array_get(value, c->index);

		rc = v != NULL ? doc_join(c, v, sink) : -SPLIT_E_BASE_INTERNAL;
	}
	return rc;
}

int doc_parse(struct doc *doc, const char *text, size_t len, const struct config_sink *sink)
{
	struct walk w = {.line = 1, .sink = sink};
	json_error_t error;
	int rc;

	memset(doc, 0, sizeof(*doc));
	if (len > CONFIG_FILE_BYTES_MAX) {
		config_sink_add(sink, 0, NULL, "file too large, expected at most %u bytes",
				CONFIG_FILE_BYTES_MAX);
		return -SPLIT_E_CONFIG_INVALID;
	}
	rc = doc_prescan(text, len, sink, &w.size);
	if (rc != 0)
		return rc;
	doc->json = json_loadb(text, len, 0, &error);
	if (doc->json == NULL) {
		char quote[CONFIG_QUOTE_TEXT_MAX];

		/* Out of memory jansson mostly fails without a word. */
		if (json_error_code(&error) == json_error_out_of_memory || error.text[0] == '\0')
			return -SPLIT_E_BASE_NOMEM;
		config_sink_add(sink, error.line > 0 ? (unsigned)error.line : 0, NULL,
				"not JSON: %s, column %d", config_quote(error.text, quote),
				error.column);
		return -SPLIT_E_CONFIG_INVALID;
	}
	doc->text = malloc(len + 1);
	doc->nodes = calloc(w.size, sizeof(*doc->nodes));
	if (doc->text == NULL || doc->nodes == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memcpy(doc->text, text, len);
	doc->text[len] = '\0';
	w.p = doc->text;
	w.nodes = doc->nodes;
	walk_blanks(&w);
	doc->root = walk_value(&w, NULL);
	if (w.nomem || doc->root == NULL)
		return -SPLIT_E_BASE_NOMEM;
	return doc_join(doc->root, doc->json, sink);
}

void doc_free(struct doc *doc)
{
	json_decref(doc->json);
	free(doc->text);
	free(doc->nodes);
	memset(doc, 0, sizeof(*doc));
}

const struct doc_node *doc_member(const struct doc_node *node, const char *key)
{
	if (node == NULL || !json_is_object(node->value))
		return NULL;
	for (const struct doc_node *c = node->first; c != NULL; c = c->next)
		if (strcmp(c->key, key) == 0)
			return c;
	return NULL;
}

const struct doc_node *doc_element(const struct doc_node *node, uint32_t index)
{
	if (node == NULL || !json_is_array(node->value))
		return NULL;
	for (const struct doc_node *c = node->first; c != NULL; c = c->next)
		if (c->index == index)
			return c;
	return NULL;
}

const char *doc_path(const struct doc_node *node, char buf[CONFIG_PATH_TEXT_MAX])
{
	size_t start = CONFIG_PATH_TEXT_MAX - 1;

	/* From the leaf to the root, filling buf from its end. */
	buf[start] = '\0';
	for (; node != NULL && node->parent != NULL; node = node->parent) {
		char part[CONFIG_QUOTE_TEXT_MAX + 2], quote[CONFIG_QUOTE_TEXT_MAX];
		size_t len;

		if (node->key == NULL)
			snprintf(part, sizeof(part), "[%u]", node->index);
		else if (config_text_fits(node->key, FORMAT_NAME, 64) ||
			 strcmp(node->key, "$schema") == 0)
			snprintf(part, sizeof(part), "%s%s",
				 node->parent->parent != NULL ? "." : "", node->key);
		else
			snprintf(part, sizeof(part), "%s%s",
				 node->parent->parent != NULL ? "." : "",
				 config_quote(node->key, quote));
		len = strlen(part);
		if (len > start - 3) {
			start -= 3;
			memcpy(buf + start, "...", 3);
			break;
		}
		start -= len;
		memcpy(buf + start, part, len);
	}
	memmove(buf, buf + start, CONFIG_PATH_TEXT_MAX - start);
	return buf;
}
