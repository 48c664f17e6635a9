#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_internal.h"

void config_report_init(struct config_report *rep)
{
	memset(rep, 0, sizeof(*rep));
}

void config_report_fini(struct config_report *rep)
{
	for (size_t i = 0; i < rep->count; i++)
		free(rep->findings[i].text);
	free(rep->findings);
	memset(rep, 0, sizeof(*rep));
}

static void report_add(struct config_report *rep, unsigned line, char *text)
{
	if (text == NULL) {
		rep->out_of_memory = true;
		return;
	}
	if (rep->findings == NULL)
		rep->findings = calloc(CONFIG_FINDINGS_MAX, sizeof(*rep->findings));
	if (rep->findings == NULL || rep->count == CONFIG_FINDINGS_MAX) {
		rep->out_of_memory |= rep->findings == NULL;
		rep->dropped += rep->findings != NULL;
		free(text);
		return;
	}
	rep->findings[rep->count].line = line;
	rep->findings[rep->count++].text = text;
}

static void sink_vadd(const struct config_sink *sink, unsigned line, const char *path,
		      const char *fmt, va_list ap)
{
	char where[32] = "", message[1024];
	char *text = NULL;
	bool has_path = path != NULL && path[0] != '\0';

	if (sink->rep->count == CONFIG_FINDINGS_MAX) {
		sink->rep->dropped++;
		return;
	}
	vsnprintf(message, sizeof(message), fmt, ap);
	if (line != 0)
		snprintf(where, sizeof(where), "%u:", line);
	if (asprintf(&text, "%s:%s %s%s%s", sink->name, where, has_path ? path : "",
		     has_path ? ": " : "", message) < 0)
		text = NULL;
	report_add(sink->rep, line, text);
}

void config_sink_add(const struct config_sink *sink, unsigned line, const char *path,
		     const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	sink_vadd(sink, line, path, fmt, ap);
	va_end(ap);
}

void config_sink_node(const struct config_sink *sink, const struct doc_node *node, const char *fmt,
		      ...)
{
	char path[CONFIG_PATH_TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	sink_vadd(sink, node->line, doc_path(node, path), fmt, ap);
	va_end(ap);
}

/* Insertion sort: stable, and there are at most CONFIG_FINDINGS_MAX. */
void config_report_sort(struct config_report *rep)
{
	for (size_t i = 1; i < rep->count; i++) {
		struct config_finding f = rep->findings[i];
		size_t j = i;

		for (; j > 0 && rep->findings[j - 1].line > f.line; j--)
			rep->findings[j] = rep->findings[j - 1];
		rep->findings[j] = f;
	}
}

const char *config_quote(const char *text, char buf[CONFIG_QUOTE_TEXT_MAX])
{
	size_t n = 0;

	buf[n++] = '"';
	for (; *text != '\0' && n < CONFIG_QUOTE_TEXT_MAX - 10; text++) {
		unsigned char c = (unsigned char)*text;

		if (c >= 0x20 && c < 0x7f)
			buf[n++] = (char)c;
		else
			n += (size_t)snprintf(buf + n, 5, "\\x%02x", c);
	}
	snprintf(buf + n, CONFIG_QUOTE_TEXT_MAX - n, "%s\"", *text != '\0' ? "..." : "");
	return buf;
}
