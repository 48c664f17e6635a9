/* On which side of the segments the messages of each method are decoded and encoded, and how often
 * that was (docs/PLACEMENT.md). splitctl services, splitctl placement. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_telemetry.h>

#include "daemon/control/control_internal.h"

struct worker_method_told *sides_make(const struct control *control, size_t methods_n)
{
	return calloc((size_t)control->p.workers_n * methods_n, sizeof(struct worker_method_told));
}

static const char *side_name(enum config_side side)
{
	return side == CONFIG_SIDE_HOST ? "host" : "daemon";
}

/* Method `index` of a process, if the configuration knows its service and it is served. */
static const struct config_service *served(const struct control_host *host, size_t index)
{
	const struct config_service *service;

	if (index >= host->shared.methods_n || host->shared.methods[index].channel != NULL ||
	    host->services[index] < 0)
		return NULL;
	service = &host->control->p.config->services[host->services[index]];
	return service->gone ? NULL : service;
}

static void sides_of(const struct control_host *host, size_t index, const char **decode_out,
		     const char **encode_out)
{
	const struct attach_method *m = &host->shared.methods[index];
	const struct config_service *service = served(host, index);

	*decode_out = *encode_out = side_name(CONFIG_SIDE_DAEMON);
	if (host->remote)
		return; /* its messages cross the relay's stream as structs */
	*decode_out = side_name(config_decode_side(service, m->method, m->options.decode));
	*encode_out = side_name(config_encode_side(service, m->method, m->options.encode));
}

bool side_row(const struct control_host *host, size_t index, struct placement_row *row)
{
	const struct attach_method *m = &host->shared.methods[index];
	const char *decode, *encode;

	(void)snprintf(row->what, sizeof(row->what), "method");
	(void)snprintf(row->name, sizeof(row->name), "%s %s/%s", host->name, m->service, m->method);
	if (served(host, index) == NULL) {
		(void)snprintf(row->more, sizeof(row->more),
			       m->channel != NULL ? "calls out" : "not served");
		return true;
	}
	sides_of(host, index, &decode, &encode);
	(void)snprintf(row->more, sizeof(row->more), "decode: %s, encode: %s", decode, encode);
	return true;
}

static void told_add(const struct control_host *host, size_t index, struct rte_tel_data *d)
{
	struct worker_method_told sum = {0};

	for (unsigned w = 0; host->shared.methods_told != NULL && w < host->control->p.workers_n;
	     w++) {
		const struct worker_method_told *t =
			&host->shared.methods_told[w * host->shared.methods_n + index];

		sum.decoded += counter_get(&t->decoded);
		sum.handed_over += counter_get(&t->handed_over);
		sum.encoded += counter_get(&t->encoded);
		sum.taken_over += counter_get(&t->taken_over);
	}
	rte_tel_data_add_dict_u64(d, "decoded", sum.decoded);
	rte_tel_data_add_dict_u64(d, "handed_over", sum.handed_over);
	rte_tel_data_add_dict_u64(d, "encoded", sum.encoded);
	rte_tel_data_add_dict_u64(d, "taken_over", sum.taken_over);
}

int method_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	const char *decode = "", *encode = "";
	unsigned long id, index;
	char end;

	if (params == NULL || sscanf(params, "%lu,%lu%c", &id, &index, &end) != 2)
		return -1;
	list_for_each (pos, &control->hosts) {
		const struct control_host *host = list_entry(pos, struct control_host, link);
		const struct attach_method *m;

		if (host->id != id)
			continue;
		if (index >= host->shared.methods_n || host->state == HOST_REMOVING)
			return -1;
		m = &host->shared.methods[index];
		if (served(host, index) != NULL)
			sides_of(host, index, &decode, &encode);
		rte_tel_data_start_dict(d);
		rte_tel_data_add_dict_string(d, "service", m->service);
		rte_tel_data_add_dict_string(d, "method", m->method);
		rte_tel_data_add_dict_string(d, "decode", decode);
		rte_tel_data_add_dict_string(d, "encode", encode);
		told_add(host, index, d);
		return 0;
	}
	return -1;
}
