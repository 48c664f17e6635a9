/* Asking splitd for everything a command shows. */
#include <stdio.h>
#include <string.h>

#include "ctl/ctl.h"

/* More workers, hosts or ports than any splitd has: an answer that says so is wrong. */
#define COUNT_MAX 1024
/* "channel_NAME_balance", a NAME of the configuration having 63 bytes at most. */
#define LAYER_NAME_MAX 127

static int ask_index(struct ctl_client *c, const char *command, size_t index, json_t **out)
{
	char request[128];

	snprintf(request, sizeof(request), "%s,%zu", command, index);
	return ctl_ask(c, request, out);
}

/* info[key] as a count; -1 when it is none. */
static int info_count(struct ctl_client *c, const json_t *info, const char *key)
{
	const json_t *value = json_object_get(info, key);

	if (!json_is_integer(value) || json_integer_value(value) < 0 ||
	    json_integer_value(value) > COUNT_MAX) {
		snprintf(c->error, sizeof(c->error), "odd answer from the daemon: %s", key);
		return -1;
	}
	return (int)json_integer_value(value);
}

/* One worker's values into the table: {"name":{"total":…,"workers":[…]}}. */
static void table_add(json_t *table, const json_t *values)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)values, name, value)
	{
		json_t *row = json_object_get(table, name);
		json_int_t total;

		if (!json_is_integer(value))
			continue;
		if (row == NULL) {
			row = json_pack("{s:i, s:[]}", "total", 0, "workers");
			if (row == NULL || json_object_set_new(table, name, row) != 0)
				continue;
		}
		total = json_integer_value(json_object_get(row, "total"));
		json_object_set_new(row, "total", json_integer(total + json_integer_value(value)));
		json_array_append(json_object_get(row, "workers"), value);
	}
}

/* `command` of each worker, added up. */
static int table_gather(struct ctl_client *c, const char *command, int workers, json_t **out)
{
	json_t *table = json_object();
	int result = 0;

	for (int w = 0; w < workers && result == 0; w++) {
		json_t *values;

		result = ask_index(c, command, (size_t)w, &values);
		if (result == 0)
			table_add(table, values);
		json_decref(values);
	}
	if (result != 0) {
		json_decref(table);
		table = NULL;
	}
	*out = table;
	return result;
}

static int layer_gather(struct ctl_client *c, const char *layer, int workers, json_t *layers)
{
	char command[32 + LAYER_NAME_MAX];
	json_t *table = NULL, *values = NULL;
	int result;

	snprintf(command, sizeof(command), "/splitd/counters,%s", layer);
	if (strcmp(layer, "control") == 0 || strcmp(layer, "relay") == 0) {
		result = ctl_ask(c, command, &values);
		table = json_object();
		if (result == 0)
			table_add(table, values);
		json_decref(values);
	} else {
		result = table_gather(c, command, workers, &table);
	}
	if (result == 0)
		json_object_set(layers, layer, table);
	json_decref(table);
	return result;
}

/* "no layer …, expected one of …" */
static void layer_unknown(struct ctl_client *c, const char *only, const json_t *names)
{
	size_t len, i;
	json_t *name;

	len = (size_t)snprintf(c->error, sizeof(c->error), "no layer \"%.64s\", expected one of",
			       only);
	json_array_foreach(names, i, name)
	{
		const char *layer = json_string_value(name);
		size_t room = sizeof(c->error) - len;

		if (layer == NULL || strlen(layer) + 3 > room)
			continue;
		len += (size_t)snprintf(c->error + len, room, "%s %s", i == 0 ? "" : ",", layer);
	}
}

static int layers_gather(struct ctl_client *c, const char *only, int workers, json_t *layers)
{
	bool found = only == NULL;
	json_t *names, *name;
	size_t i;
	int result = ctl_ask(c, "/splitd/layers", &names);

	json_array_foreach(names, i, name)
	{
		const char *layer = json_string_value(name);

		if (result != 0 || layer == NULL || i >= COUNT_MAX ||
		    strlen(layer) > LAYER_NAME_MAX || (only != NULL && strcmp(only, layer) != 0))
			continue;
		found = true;
		result = layer_gather(c, layer, workers, layers);
	}
	if (result == 0 && !found) {
		layer_unknown(c, only, names);
		result = -SPLIT_E_BASE_INVALID;
	}
	json_decref(names);
	return result;
}

int ctl_gather_stats(struct ctl_client *c, const char *layer, json_t **out)
{
	json_t *info = NULL, *gauges = NULL, *layers = json_object();
	int workers, result = ctl_ask(c, "/splitd/info", &info);

	*out = NULL;
	if (result != 0)
		goto out;
	workers = info_count(c, info, "workers");
	if (workers < 0) {
		result = -SPLIT_E_BASE_INVALID;
		goto out;
	}
	result = layers_gather(c, layer, workers, layers);
	if (result == 0)
		result = table_gather(c, "/splitd/gauges", workers, &gauges);
	if (result == 0)
		*out = json_pack("{s:i, s:O, s:O, s:O}", "pid", c->pid, "info", info, "layers",
				 layers, "gauges", gauges);
	if (result == 0 && *out == NULL)
		result = -SPLIT_E_BASE_NOMEM;
out:
	json_decref(info);
	json_decref(gauges);
	json_decref(layers);
	return result;
}

int ctl_gather_endpoints(struct ctl_client *c, json_t **out)
{
	json_t *ids, *id, *endpoint;
	size_t i;
	int result = ctl_ask(c, "/splitd/endpoints", &ids);

	*out = NULL;
	if (result != 0)
		return result;
	*out = json_array();
	json_array_foreach(ids, i, id)
	{
		if (!json_is_integer(id) || json_integer_value(id) < 0)
			continue;
		/* One that has gone in the meantime is no error. */
		if (ask_index(c, "/splitd/endpoint", (size_t)json_integer_value(id), &endpoint) ==
		    0)
			json_array_append_new(*out, endpoint);
	}
	json_decref(ids);
	return 0;
}

/* More methods than any process may serve. */
#define METHODS_MAX 65536

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text != NULL ? text : "";
}

/* One process's counters of a method to those of the others. */
static void method_add(json_t *methods, json_t *method)
{
	static const char *const counts[] = {"decoded", "handed_over", "encoded", "taken_over"};
	json_t *known;
	size_t i;

	json_array_foreach(methods, i, known)
	{
		if (strcmp(text_of(known, "service"), text_of(method, "service")) != 0 ||
		    strcmp(text_of(known, "method"), text_of(method, "method")) != 0)
			continue;
		for (size_t k = 0; k < sizeof(counts) / sizeof(counts[0]); k++) {
			json_int_t sum = json_integer_value(json_object_get(known, counts[k])) +
					 json_integer_value(json_object_get(method, counts[k]));

			json_object_set_new(known, counts[k], json_integer(sum));
		}
		return;
	}
	json_array_append(methods, method);
}

/* The methods of all that is attached, each once. Hosts that go meanwhile are no error. */
static json_t *methods_gather(struct ctl_client *c)
{
	json_t *methods = json_array(), *ids, *id, *method;
	char request[96];
	size_t i;

	if (ctl_ask(c, "/splitd/endpoints", &ids) != 0)
		return methods;
	json_array_foreach(ids, i, id)
	{
		if (!json_is_integer(id) || json_integer_value(id) < 0)
			continue;
		for (size_t k = 0; k < METHODS_MAX; k++) {
			snprintf(request, sizeof(request),
				 "/splitd/method,%" JSON_INTEGER_FORMAT ",%zu",
				 json_integer_value(id), k);
			if (ctl_ask(c, request, &method) != 0)
				break;
			if (text_of(method, "decode")[0] != '\0')
				method_add(methods, method);
			json_decref(method);
		}
	}
	json_decref(ids);
	return methods;
}

/* To each service its methods. */
static void methods_place(json_t *services, const json_t *methods)
{
	json_t *service, *method;
	size_t i, k;

	json_array_foreach(services, i, service)
	{
		json_t *own = json_array();

		json_array_foreach(methods, k, method)
		{
			if (strcmp(text_of(service, "name"), text_of(method, "service")) == 0)
				json_array_append(own, method);
		}
		json_object_set_new(service, "methods", own);
	}
}

int ctl_gather_services(struct ctl_client *c, json_t **out)
{
	json_t *names, *service, *methods;
	int result = ctl_ask(c, "/splitd/services", &names);

	*out = NULL;
	if (result != 0)
		return result;
	*out = json_array();
	for (size_t i = 0; i < json_array_size(names) && i < COUNT_MAX && result == 0; i++) {
		result = ask_index(c, "/splitd/service", i, &service);
		if (result == 0)
			json_array_append_new(*out, service);
	}
	json_decref(names);
	if (result != 0) {
		json_decref(*out);
		*out = NULL;
		return result;
	}
	methods = methods_gather(c);
	methods_place(*out, methods);
	json_decref(methods);
	return 0;
}

int ctl_gather_ports(struct ctl_client *c, json_t **out)
{
	json_t *info, *port;
	int result = ctl_ask(c, "/splitd/info", &info);
	int ports = result == 0 ? info_count(c, info, "ports") : -1;

	json_decref(info);
	*out = NULL;
	if (ports < 0)
		return result != 0 ? result : -SPLIT_E_BASE_INVALID;
	*out = json_array();
	for (int i = 0; i < ports && result == 0; i++) {
		result = ask_index(c, "/splitd/port", (size_t)i, &port);
		if (result == 0)
			json_array_append_new(*out, port);
	}
	if (result != 0) {
		json_decref(*out);
		*out = NULL;
	}
	return result;
}

/* More rows than any splitd has: whoever answers for ever is none. */
#define PLACEMENT_MAX 8192

int ctl_gather_placement(struct ctl_client *c, json_t **out)
{
	json_t *row;

	*out = json_array();
	for (size_t i = 0; *out != NULL && i < PLACEMENT_MAX; i++) {
		int result = ask_index(c, "/splitd/placement", i, &row);

		/* There is always a first; the last is before the one that is not there. */
		if (result != 0 && i == 0) {
			json_decref(*out);
			*out = NULL;
			return result;
		}
		if (result != 0)
			break;
		json_array_append_new(*out, row);
	}
	return *out != NULL ? 0 : -SPLIT_E_BASE_NOMEM;
}
