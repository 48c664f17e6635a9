/* Tables for people. */
#include <inttypes.h>
#include <string.h>

#include "ctl/ctl.h"

#define WORKER_COLUMNS_MAX 8 /* more don't fit a line: only the total is shown */
#define COLUMNS_MAX        16
#define TEXT_WIDTH_MAX     512

struct column {
	const char *title, *key;
	int width; /* negative: to the left */
};

static void cell_print(FILE *to, const json_t *value, int width)
{
	if (json_is_string(value))
		fprintf(to, "%*s", width, json_string_value(value));
	else if (json_is_integer(value))
		fprintf(to, "%*" JSON_INTEGER_FORMAT, width, json_integer_value(value));
	else
		fprintf(to, "%*s", width, "-");
}

/* Ages and sleeps in seconds. */
static void age_print(FILE *to, const json_t *value, int width)
{
	if (json_is_integer(value))
		fprintf(to, "%*" PRIu64, width,
			(uint64_t)json_integer_value(value) / UINT64_C(1000000000));
	else
		fprintf(to, "%*s", width, "-");
}

/* A column of text is as wide as its longest cell; numbers have their widths. */
static int width_of(const struct column *column, const json_t *rows)
{
	int width = column->width;
	const json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
	{
		const char *text = json_string_value(json_object_get(row, column->key));

		if (text != NULL && width < 0 && strlen(text) > (size_t)-width)
			width = -(int)strnlen(text, TEXT_WIDTH_MAX);
	}
	return width;
}

static void rows_print(FILE *to, const json_t *rows, const struct column *columns, size_t n)
{
	int widths[COLUMNS_MAX];
	const json_t *row;
	size_t i;

	for (size_t k = 0; k < n; k++) {
		/* Nothing stands behind the last one. */
		widths[k] = k + 1 == n && columns[k].width < 0 ? 0 : width_of(&columns[k], rows);
		fprintf(to, "%*s%s", widths[k], columns[k].title, k + 1 < n ? "  " : "\n");
	}
	json_array_foreach(rows, i, row)
	{
		for (size_t k = 0; k < n; k++) {
			const json_t *value = json_object_get(row, columns[k].key);

			if (strstr(columns[k].key, "_ns") != NULL)
				age_print(to, value, widths[k]);
			else
				cell_print(to, value, widths[k]);
			fputs(k + 1 < n ? "  " : "\n", to);
		}
	}
}

static void table_print(FILE *to, const char *layer, const json_t *table, bool all)
{
	const char *name;
	json_t *row;

	json_object_foreach((json_t *)table, name, row)
	{
		const json_t *workers = json_object_get(row, "workers");
		const json_t *total = json_object_get(row, "total");
		size_t n = json_array_size(workers);
		char full[96];

		if (!all && json_integer_value(total) == 0)
			continue;
		snprintf(full, sizeof(full), "%s.%s", layer, name);
		fprintf(to, "%-40s", full);
		cell_print(to, total, 18);
		for (size_t i = 0; n > 1 && n <= WORKER_COLUMNS_MAX && i < n; i++)
			cell_print(to, json_array_get(workers, i), 16);
		fputc('\n', to);
	}
}

void ctl_show_stats(FILE *to, const json_t *stats, bool all)
{
	const json_t *info = json_object_get(stats, "info");
	const char *version = json_string_value(json_object_get(info, "version"));
	const char *state = json_string_value(json_object_get(info, "state"));
	json_int_t workers = json_integer_value(json_object_get(info, "workers"));
	const char *layer;
	json_t *table;

	fprintf(to, "splitd %s, pid %" JSON_INTEGER_FORMAT ", %s, up ",
		version != NULL ? version : "-", json_integer_value(json_object_get(stats, "pid")),
		state != NULL ? state : "-");
	age_print(to, json_object_get(info, "uptime_ns"), 0);
	fprintf(to, " s\n%-40s%18s", "counter", "total");
	for (json_int_t w = 0; workers > 1 && workers <= WORKER_COLUMNS_MAX && w < workers; w++)
		fprintf(to, "%15s%" JSON_INTEGER_FORMAT, "w", w);
	fputc('\n', to);
	json_object_foreach(json_object_get(stats, "layers"), layer, table)
		table_print(to, layer, table, all);
	table_print(to, "now", json_object_get(stats, "gauges"), true);
}

void ctl_show_endpoints(FILE *to, const json_t *endpoints)
{
	static const struct column columns[] = {
		{"id", "id", 5},
		{"name", "name", -20},
		{"state", "state", -9},
		{"pid", "pid", 8},
		{"uid", "uid", 6},
		{"workers", "workers", 7},
		{"methods", "methods", 7},
		{"share", "share", 5},
		{"open", "open", 7},
		{"queued", "queued", 7},
		{"bytes", "bytes", 10},
		{"calls", "calls", 12},
		{"failed", "failed", 8},
		{"to-host B", "to_host_bytes", 12},
		{"to-daemon B", "to_daemon_bytes", 12},
		{"age s", "age_ns", 8},
	};

	rows_print(to, endpoints, columns, sizeof(columns) / sizeof(columns[0]));
}

void ctl_show_services(FILE *to, const json_t *services)
{
	static const struct column columns[] = {
		{"name", "name", -32},   {"policy", "policy", -17},     {"members", "members", 7},
		{"usable", "usable", 6}, {"ejected", "ejected", 7},     {"warming", "warming", 7},
		{"picks", "picks", 12},  {"no member", "no_member", 9}, {"good", "good", 12},
		{"failed", "failed", 8},
	};

	static const struct column sides[] = {
		{"method", "method", -32},          {"decode", "decode", -6},
		{"encode", "encode", -6},           {"decoded", "decoded", 12},
		{"handed over", "handed_over", 12}, {"encoded", "encoded", 12},
		{"taken over", "taken_over", 12},
	};
	const json_t *service;
	size_t i;

	rows_print(to, services, columns, sizeof(columns) / sizeof(columns[0]));
	json_array_foreach(services, i, service)
	{
		const json_t *methods = json_object_get(service, "methods");

		if (json_array_size(methods) == 0)
			continue;
		fputc('\n', to);
		cell_print(to, json_object_get(service, "name"), 0);
		fputc('\n', to);
		rows_print(to, methods, sides, sizeof(sides) / sizeof(sides[0]));
	}
}

void ctl_show_ports(FILE *to, const json_t *ports)
{
	static const struct column columns[] = {
		{"name", "name", -8},
		{"device", "device", -16},
		{"driver", "driver", -14},
		{"mac", "mac", -17},
		{"link", "link", -4},
		{"mtu", "mtu", 5},
		{"rxq", "rx_queues", 3},
		{"txq", "tx_queues", 3},
		{"rx sums", "rx_checksums", -10},
		{"tx sums", "tx_checksums", -8},
		{"chains", "chains", -6},
	};

	rows_print(to, ports, columns, sizeof(columns) / sizeof(columns[0]));
}

void ctl_show_placement(FILE *to, const json_t *rows)
{
	static const struct column columns[] = {
		{"what", "what", -8}, {"name", "name", -28},        {"core", "core", 4},
		{"node", "node", 4},  {"memory", "memory_node", 6}, {"what else", "more", -16},
	};
	const json_t *row;
	size_t i;

	rows_print(to, rows, columns, sizeof(columns) / sizeof(columns[0]));
	json_array_foreach(rows, i, row)
	{
		const char *warning = json_string_value(json_object_get(row, "warning"));

		if (warning == NULL || warning[0] == '\0')
			continue;
		fputs("poor: ", to);
		cell_print(to, json_object_get(row, "what"), 0);
		fputc(' ', to);
		cell_print(to, json_object_get(row, "name"), 0);
		fputs(": ", to);
		cell_print(to, json_object_get(row, "warning"), 0);
		fputc('\n', to);
	}
}
