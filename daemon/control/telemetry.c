/* The daemon's commands on DPDK's telemetry socket. They run on threads of the telemetry library,
 * one for each client, and read only: counters with relaxed loads, hosts under control's lock (the
 * control thread holds it for moments). The data path notices nothing.
 *
 * docs/man/splitctl.8 lists them for people; answers are bounded by the library (256 entries a
 * dictionary, 16 KiB an answer), so counters come one layer of one worker at a time. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_telemetry.h>

#include "daemon/balance/picker.h"
#include "daemon/control/control_internal.h"

/* Layers of one worker: its own blocks and "port". */
#define BLOCKS_MAX 240

/* The library can't unregister a command, so they outlive a control. */
static struct {
	pthread_mutex_t lock;
	struct control *control;
	bool registered;
} telemetry = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* "LAYER,WORKER" or "WORKER"; false when it isn't one. */
static bool number_parse(const char *text, unsigned long max, unsigned long *out)
{
	char *end;

	if (text == NULL || text[0] < '0' || text[0] > '9')
		return false;
	*out = strtoul(text, &end, 10);
	return *end == '\0' && *out < max;
}

static const char *state_name(enum control_state state)
{
	switch (state) {
	case CONTROL_RUNNING:
		return "running";
	case CONTROL_DRAINING:
		return "draining";
	case CONTROL_CLEARING:
	case CONTROL_STOPPED:
		break;
	}
	return "stopping";
}

static int info_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	(void)params;
	rte_tel_data_start_dict(d);
	rte_tel_data_add_dict_string(d, "version", SPLITD_VERSION);
	rte_tel_data_add_dict_string(d, "state", state_name(control->state));
	rte_tel_data_add_dict_u64(d, "pid", (uint64_t)getpid());
	rte_tel_data_add_dict_u64(d, "uptime_ns", clock_ns() - control->started_ns);
	rte_tel_data_add_dict_u64(d, "workers", control->p.workers_n);
	rte_tel_data_add_dict_u64(d, "ports", port_set_count(control->p.ports));
	rte_tel_data_add_dict_u64(d, "hosts", list_count(&control->hosts));
	rte_tel_data_add_dict_string(d, "memory",
				     port_eal_hugepages() ? "hugepages" : "normal pages");
	return 0;
}

static size_t worker_blocks(struct control *control, struct worker_counter_block *blocks)
{
	return worker_counters(control->p.workers[0], blocks, BLOCKS_MAX);
}

static int layers_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	struct worker_counter_block blocks[BLOCKS_MAX];
	size_t n = worker_blocks(control, blocks);

	(void)params;
	rte_tel_data_start_array(d, RTE_TEL_STRING_VAL);
	rte_tel_data_add_array_string(d, "port");
	for (size_t i = 0; i < n; i++)
		rte_tel_data_add_array_string(d, blocks[i].layer);
	rte_tel_data_add_array_string(d, "control");
	rte_tel_data_add_array_string(d, "relay");
	return 0;
}

static void counters_add(struct rte_tel_data *d, const struct counter_desc *desc,
			 const uint64_t *values)
{
	for (size_t i = 0; i < desc->count && i < RTE_TEL_MAX_DICT_ENTRIES; i++)
		rte_tel_data_add_dict_u64(d, desc->names[i].name, counter_get(&values[i]));
}

/* A worker's ends of all ports, summed. */
static void port_counters_add(struct control *control, unsigned worker, struct rte_tel_data *d)
{
	uint64_t sums[sizeof(struct port_counters) / sizeof(uint64_t)] = {0};

	for (unsigned i = 0; i < port_set_count(control->p.ports); i++)
		counter_sum(sums, port_queue_counters(port_queue_of(control->p.ports, i, worker)),
			    &port_counter_desc);
	counters_add(d, &port_counter_desc, sums);
}

static int counters_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	struct worker_counter_block blocks[BLOCKS_MAX];
	unsigned long worker = 0;
	size_t layer_len, n;
	bool found = false;

	if (params == NULL)
		return -1;
	layer_len = strcspn(params, ",");
	rte_tel_data_start_dict(d);
	if (strcmp(params, "control") == 0) {
		counters_add(d, &control_counter_desc, (const uint64_t *)&control->counters);
		return 0;
	}
	if (strcmp(params, "relay") == 0) {
		static const struct relay_counters none;

		counters_add(d, &relay_counter_desc,
			     (const uint64_t *)(control->relay != NULL
							? relay_counters_get(control->relay)
							: &none));
		return 0;
	}
	if (params[layer_len] != ',' ||
	    !number_parse(params + layer_len + 1, control->p.workers_n, &worker))
		return -1;
	if (layer_len == 4 && memcmp(params, "port", 4) == 0) {
		port_counters_add(control, (unsigned)worker, d);
		return 0;
	}
	n = worker_counters(control->p.workers[worker], blocks, BLOCKS_MAX);
	for (size_t i = 0; i < n; i++) {
		if (strlen(blocks[i].layer) != layer_len ||
		    memcmp(blocks[i].layer, params, layer_len) != 0)
			continue;
		counters_add(d, blocks[i].desc, blocks[i].values);
		found = true;
	}
	return found ? 0 : -1;
}

static int gauges_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	struct worker_gauges gauges;
	unsigned long worker;
	uint64_t rx_used = 0, tx_used = 0;

	if (!number_parse(params, control->p.workers_n, &worker))
		return -1;
	worker_gauges_read(control->p.workers[worker], &gauges);
	for (unsigned i = 0; i < port_set_count(control->p.ports); i++) {
		struct port_pool_usage usage;

		port_queue_pool_usage(port_queue_of(control->p.ports, i, (unsigned)worker), &usage);
		rx_used += usage.rx_used;
		tx_used += usage.tx_used;
	}
	rte_tel_data_start_dict(d);
	rte_tel_data_add_dict_u64(d, "connections", gauges.connections);
	rte_tel_data_add_dict_u64(d, "calls", gauges.calls);
	rte_tel_data_add_dict_u64(d, "calls_queued", gauges.calls_queued);
	rte_tel_data_add_dict_u64(d, "endpoints", gauges.endpoints);
	rte_tel_data_add_dict_u64(d, "pages", gauges.pages);
	rte_tel_data_add_dict_u64(d, "sleep_ns", gauges.sleep_ns);
	rte_tel_data_add_dict_u64(d, "mbufs_rx", rx_used);
	rte_tel_data_add_dict_u64(d, "mbufs_tx", tx_used);
	return 0;
}

static int stages_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	uint64_t cycles[WORKER_STAGE_COUNT];
	unsigned long worker;

	if (!number_parse(params, control->p.workers_n, &worker))
		return -1;
	worker_stages_read(control->p.workers[worker], cycles);
	rte_tel_data_start_dict(d);
	for (int i = 0; i < WORKER_STAGE_COUNT; i++)
		rte_tel_data_add_dict_u64(d, worker_stage_name((enum worker_stage)i), cycles[i]);
	return 0;
}

static int ports_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	unsigned long index;
	struct port_info info;
	struct port_link link;
	char mac[RTE_ETHER_ADDR_FMT_SIZE];

	if (!number_parse(params, port_set_count(control->p.ports), &index))
		return -1;
	port_info_get(control->p.ports, (unsigned)index, &info);
	port_link_get(control->p.ports, (unsigned)index, &link);
	rte_ether_format_addr(mac, sizeof(mac), &info.mac);
	rte_tel_data_start_dict(d);
	rte_tel_data_add_dict_string(d, "name", info.name);
	rte_tel_data_add_dict_string(d, "device", info.device);
	rte_tel_data_add_dict_string(d, "driver", info.driver);
	rte_tel_data_add_dict_string(d, "mac", mac);
	rte_tel_data_add_dict_string(d, "link", link.up ? "up" : "down");
	rte_tel_data_add_dict_u64(d, "speed_mbps", link.speed_mbps);
	rte_tel_data_add_dict_u64(d, "mtu", info.mtu);
	rte_tel_data_add_dict_u64(d, "rx_queues", info.rx_queues);
	rte_tel_data_add_dict_u64(d, "tx_queues", info.tx_queues);
	rte_tel_data_add_dict_string(d, "rx_checksums",
				     info.flags & PORT_RX_NO_CKSUM     ? "unverified"
				     : info.flags & PORT_RX_L4_CHECKED ? "device"
								       : "software");
	rte_tel_data_add_dict_string(d, "tx_checksums",
				     info.flags & PORT_TX_TCP_CKSUM ? "device" : "software");
	rte_tel_data_add_dict_string(d, "chains",
				     info.flags & PORT_TX_MULTI_SEGS ? "device" : "copied");
	return 0;
}

static const char *host_state_name(enum host_state_control state)
{
	switch (state) {
	case HOST_GREETING:
		return "greeting";
	case HOST_ADDING:
		return "adding";
	case HOST_ACTIVE:
		return "active";
	case HOST_REMOVING:
		break;
	}
	return "removing";
}

/* What an active host is shown as. */
static const char *host_health_name(const struct control_host *host)
{
	if (host->state != HOST_ACTIVE)
		return host_state_name(host->state);
	if (host->drain != 0)
		return host_drained(host) ? "drained" : "draining";
	if (host_told(host, offsetof(struct endpoint_counters, gauge_stalled)) != 0)
		return "stalled";
	if (host_told(host, offsetof(struct endpoint_counters, gauge_failing)) != 0)
		return "ejected";
	return "active";
}

static void told_add(struct rte_tel_data *d, const struct control_host *host)
{
	static const struct {
		const char *name;
		size_t offset;
	} told[] = {
		{"open", offsetof(struct endpoint_counters, gauge_open)},
		{"queued", offsetof(struct endpoint_counters, gauge_queued)},
		{"bytes", offsetof(struct endpoint_counters, gauge_bytes)},
		{"calls", offsetof(struct endpoint_counters, calls)},
		{"failed", offsetof(struct endpoint_counters, failed)},
		{"units", offsetof(struct endpoint_counters, units)},
		{"deferred", offsetof(struct endpoint_counters, deferred)},
	};

	for (size_t i = 0; i < ARRAY_LEN(told); i++)
		rte_tel_data_add_dict_u64(d, told[i].name, host_told(host, told[i].offset));
}

static int endpoints_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	unsigned n = 0;

	(void)params;
	rte_tel_data_start_array(d, RTE_TEL_U64_VAL);
	list_for_each (pos, &control->hosts) {
		if (n++ == RTE_TEL_MAX_ARRAY_ENTRIES)
			break;
		rte_tel_data_add_array_u64(d, list_entry(pos, struct control_host, link)->id);
	}
	return 0;
}

/* What the workers measure, and what the broker gave. */
static void load_add(const struct control_host *host, struct rte_tel_data *d)
{
	uint64_t queue_ns = 0;

	for (unsigned w = 0; w < host->control->p.workers_n; w++) {
		uint64_t ns = __atomic_load_n(&host->load[w].queue_ns, __ATOMIC_RELAXED);

		queue_ns = ns > queue_ns ? ns : queue_ns;
	}
	rte_tel_data_add_dict_u64(d, "workers_active",
				  __atomic_load_n(&host->load[0].active, __ATOMIC_RELAXED));
	rte_tel_data_add_dict_u64(d, "busy_permille",
				  __atomic_load_n(&host->load[0].busy_permille, __ATOMIC_RELAXED));
	rte_tel_data_add_dict_u64(d, "queue_ns", queue_ns);
	rte_tel_data_add_dict_u64(d, "cores", host->cores_n);
}

static int endpoint_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	unsigned long id;

	if (!number_parse(params, ULONG_MAX, &id))
		return -1;
	list_for_each (pos, &control->hosts) {
		const struct control_host *host = list_entry(pos, struct control_host, link);

		if (host->id != id)
			continue;
		rte_tel_data_start_dict(d);
		rte_tel_data_add_dict_u64(d, "id", host->id);
		rte_tel_data_add_dict_string(d, "name", host->name);
		rte_tel_data_add_dict_string(d, "state", host_health_name(host));
		rte_tel_data_add_dict_u64(d, "pid", (uint64_t)host->pid);
		rte_tel_data_add_dict_u64(d, "uid", host->uid);
		rte_tel_data_add_dict_u64(d, "age_ns", clock_ns() - host->since_ns);
		if (host->endpoint != NULL && host->shared.host != NULL) {
			const struct geometry *g = endpoint_geometry(host->endpoint);

			rte_tel_data_add_dict_u64(d, "workers", g->host_workers);
			load_add(host, d);
			rte_tel_data_add_dict_u64(d, "methods", host->shared.methods_n);
			rte_tel_data_add_dict_u64(d, "share", host->config.share);
			told_add(d, host);
			rte_tel_data_add_dict_u64(d, "to_host_bytes", host->config.to_host);
			rte_tel_data_add_dict_u64(d, "to_daemon_bytes", host->config.to_daemon);
		}
		return 0;
	}
	return -1;
}

static int placement_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	struct placement_row row;
	unsigned long index;

	if (!number_parse(params, ULONG_MAX, &index) || !placement_row(control, index, &row))
		return -1;
	rte_tel_data_start_dict(d);
	rte_tel_data_add_dict_string(d, "what", row.what);
	rte_tel_data_add_dict_string(d, "name", row.name);
	rte_tel_data_add_dict_int(d, "core", row.core);
	rte_tel_data_add_dict_int(d, "node", row.node);
	rte_tel_data_add_dict_int(d, "memory_node", row.memory_node);
	rte_tel_data_add_dict_string(d, "more", row.more);
	rte_tel_data_add_dict_string(d, "warning", row.warning);
	return 0;
}

/* ---- services ------------------------------------------------------------------------------- */

static int services_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	const struct config *cfg = control->p.config;

	(void)params;
	rte_tel_data_start_array(d, RTE_TEL_STRING_VAL);
	for (uint32_t i = 0; i < cfg->services_n && i < RTE_TEL_MAX_ARRAY_ENTRIES; i++)
		rte_tel_data_add_array_string(d, cfg->services[i].name);
	return 0;
}

/* Counters of all workers' pickers added up; of gauges the greatest, for all workers have the same
 * processes. */
static int service_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	static const char gauge[] = "gauge_";
	const struct config *cfg = control->p.config;
	unsigned long index;

	if (!number_parse(params, cfg->services_n, &index))
		return -1;
	rte_tel_data_start_dict(d);
	rte_tel_data_add_dict_string(d, "name", cfg->services[index].name);
	rte_tel_data_add_dict_string(d, "policy",
				     config_policy_name(cfg->services[index].balance.policy));
	for (size_t i = 0; i < picker_counter_desc.count; i++) {
		const char *name = picker_counter_desc.names[i].name;
		bool is_gauge = strncmp(name, gauge, sizeof(gauge) - 1) == 0;
		uint64_t value = 0;

		for (unsigned w = 0; w < control->p.workers_n; w++) {
			uint64_t v =
				counter_read(worker_service_counters(control->p.workers[w], index),
					     &picker_counter_desc, i);

			value = !is_gauge ? value + v : v > value ? v : value;
		}
		rte_tel_data_add_dict_u64(d, is_gauge ? name + sizeof(gauge) - 1 : name, value);
	}
	return 0;
}

/* ---- what changes something: the control thread will look ------------------------------------ */

/* All attached processes of that name, or the one with that number. */
static int drain_set(struct control *control, const char *params, struct rte_tel_data *d, bool on)
{
	unsigned long id = 0;
	bool numbered = number_parse(params, ULONG_MAX, &id);
	uint64_t n = 0;

	if (params == NULL)
		return -1;
	list_for_each (pos, &control->hosts) {
		struct control_host *host = list_entry(pos, struct control_host, link);

		if (host->state != HOST_ACTIVE ||
		    (strcmp(host->name, params) != 0 && !(numbered && host->id == id)))
			continue;
		host->drain_asked = on;
		n++;
	}
	rte_tel_data_start_dict(d);
	rte_tel_data_add_dict_u64(d, "endpoints", n);
	return 0;
}

static int drain_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	return drain_set(control, params, d, true);
}

static int undrain_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	return drain_set(control, params, d, false);
}

static int reload_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	(void)params;
	control->reload.asked++;
	rte_tel_data_start_dict(d);
	rte_tel_data_add_dict_u64(d, "asked", control->reload.asked);
	return 0;
}

static int reloaded_answer(struct control *control, const char *params, struct rte_tel_data *d)
{
	(void)params;
	rte_tel_data_start_dict(d);
	rte_tel_data_add_dict_u64(d, "done", control->reload.done);
	rte_tel_data_add_dict_int(d, "result", control->reload.result);
	rte_tel_data_add_dict_string(d, "text", control->reload.text);
	return 0;
}

static const struct {
	const char *command;
	int (*answer)(struct control *, const char *, struct rte_tel_data *);
	const char *help;
} commands[] = {
	{"/splitd/info", info_answer, "Version, state and size of this splitd. No parameters."},
	{"/splitd/layers", layers_answer, "Names of the layers that count. No parameters."},
	{"/splitd/counters", counters_answer,
	 "Counters of a layer. Parameters: layer,worker (\"control\" has no worker)"},
	{"/splitd/gauges", gauges_answer, "What a worker holds now. Parameters: worker"},
	{"/splitd/stages", stages_answer, "A worker's cycles by stage. Parameters: worker"},
	{"/splitd/port", ports_answer, "A port and its link. Parameters: index"},
	{"/splitd/endpoints", endpoints_answer, "Numbers of the attached hosts. No parameters."},
	{"/splitd/services", services_answer, "Names of the services. No parameters."},
	{"/splitd/service", service_answer, "How a service's calls were spread. Parameters: index"},
	{"/splitd/drain", drain_answer, "No new calls for a host. Parameters: its name or number"},
	{"/splitd/undrain", undrain_answer, "Calls for it again. Parameters: its name or number"},
	{"/splitd/reload", reload_answer, "Read the configuration file again. No parameters."},
	{"/splitd/reloaded", reloaded_answer, "What came of that. No parameters."},
	{"/splitd/placement", placement_answer,
	 "Where a thread, a queue or a segment is. Parameters: index"},
	{"/splitd/endpoint", endpoint_answer, "An attached host. Parameters: its number"},
	{"/splitd/method", method_answer,
	 "Who decodes and encodes for a method of a host. Parameters: host's number,index"},
};

static int command_serve(const char *command, const char *params, struct rte_tel_data *d)
{
	int result = -1;

	pthread_mutex_lock(&telemetry.lock);
	if (telemetry.control != NULL) {
		pthread_mutex_lock(&telemetry.control->lock);
		for (size_t i = 0; i < ARRAY_LEN(commands); i++)
			if (strcmp(commands[i].command, command) == 0)
				result = commands[i].answer(telemetry.control, params, d);
		pthread_mutex_unlock(&telemetry.control->lock);
	}
	pthread_mutex_unlock(&telemetry.lock);
	return result;
}

int telemetry_open(struct control *control)
{
	for (size_t i = 0; i < ARRAY_LEN(commands) && !telemetry.registered; i++) {
		if (rte_telemetry_register_cmd(commands[i].command, command_serve,
					       commands[i].help) != 0) {
			log_error("telemetry: %s can't be registered", commands[i].command);
			return -SPLIT_E_BASE_SYSTEM;
		}
	}
	telemetry.registered = true;
	pthread_mutex_lock(&telemetry.lock);
	telemetry.control = control;
	pthread_mutex_unlock(&telemetry.lock);
	return 0;
}

void telemetry_close(void)
{
	pthread_mutex_lock(&telemetry.lock);
	telemetry.control = NULL;
	pthread_mutex_unlock(&telemetry.lock);
}
