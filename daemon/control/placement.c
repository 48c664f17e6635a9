/* What is where: threads on cores, memory on nodes; and what that costs. splitctl placement.
 *
 * The kernel is asked where pages are (move_pages(2) without a target), not what was wished for. A
 * host's cores are the host's word.
 */
#include <numa.h>
#include <numaif.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/control/control_internal.h"

#define PAGES_ASKED 64 /* of a segment, spread over it */
#define ON_SEVERAL  (-2)

static int node_of_core(int core)
{
	return core >= 0 && numa_available() >= 0 ? numa_node_of_cpu(core) : core >= 0 ? 0 : -1;
}

/* The node that all of the pages asked for are on. */
static int node_of_memory(const void *mem, size_t bytes)
{
	size_t step = bytes / PAGES_ASKED & ~(size_t)4095;
	void *pages[PAGES_ASKED];
	int status[PAGES_ASKED], node = -1;
	unsigned n = 0;

	if (mem == NULL || bytes == 0)
		return -1;
	do {
		pages[n] = (char *)(uintptr_t)mem + n * step;
		status[n++] = -1;
	} while (step != 0 && n < PAGES_ASKED);
	if (move_pages(0, n, pages, NULL, status, 0) != 0)
		return numa_available() < 0 ? 0 : -1;
	for (unsigned i = 0; i < n; i++) {
		if (status[i] < 0)
			continue;
		if (node >= 0 && node != status[i])
			return ON_SEVERAL;
		node = status[i];
	}
	return node;
}

/* The other hardware threads of a core, as the kernel lists them ("0,2" or "0-1"). */
static bool siblings(int core, int other)
{
	char path[96], line[128] = "", *at = line;
	FILE *file;

	if (core < 0 || other < 0 || core == other)
		return false;
	(void)snprintf(path, sizeof(path),
		       "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", core);
	file = fopen(path, "re");
	if (file == NULL)
		return false;
	if (fgets(line, sizeof(line), file) == NULL)
		line[0] = '\0';
	(void)fclose(file);
	while (*at >= '0' && *at <= '9') {
		long first = strtol(at, &at, 10), last = first;

		if (*at == '-')
			last = strtol(at + 1, &at, 10);
		if (other >= first && other <= last)
			return true;
		at += *at == ',';
	}
	return false;
}

static void warn(struct placement_row *row, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void warn(struct placement_row *row, const char *format, ...)
{
	size_t n = strlen(row->warning);
	va_list args;

	if (n != 0)
		n += (size_t)snprintf(row->warning + n, sizeof(row->warning) - n, "; ");
	if (n >= sizeof(row->warning))
		return;
	va_start(args, format);
	(void)vsnprintf(row->warning + n, sizeof(row->warning) - n, format, args);
	va_end(args);
}

/* A thread on `core`, beside the workers: `self` is a worker's own index, or workers_n. */
static void warn_neighbours(const struct control *control, struct placement_row *row, unsigned self)
{
	const struct config *cfg = control->p.config;

	for (uint32_t i = 0; i < cfg->workers_n; i++) {
		int core = (int)cfg->workers[i].core;

		if (i == self)
			continue;
		if (core == row->core)
			warn(row, "shares core %d with worker %u", core, i);
		else if (siblings(row->core, core))
			warn(row, "is on a hardware thread of worker %u's core", i);
	}
}

/* ---- rows ----------------------------------------------------------------------------------- */

static void control_row(const struct control *control, struct placement_row *row)
{
	(void)snprintf(row->what, sizeof(row->what), "control");
	(void)snprintf(row->name, sizeof(row->name), "thread");
	row->core = control->p.config->eal.main_core;
	row->node = node_of_core(row->core);
	warn_neighbours(control, row, control->p.config->workers_n);
}

static void worker_row(const struct control *control, unsigned index, struct placement_row *row)
{
	const struct config *cfg = control->p.config;
	unsigned services = 0;

	for (uint32_t i = 0; i < cfg->services_n; i++)
		services += !cfg->services[i].gone &&
			    config_service_has_worker(&cfg->services[i], index);
	(void)snprintf(row->what, sizeof(row->what), "worker");
	(void)snprintf(row->name, sizeof(row->name), "%u", index);
	(void)snprintf(row->more, sizeof(row->more), "%u services", services);
	row->core = (int)cfg->workers[index].core;
	row->node = node_of_core(row->core);
	row->memory_node = cfg->workers[index].numa_node;
	if (row->memory_node >= 0 && row->node >= 0 && row->memory_node != row->node)
		warn(row, "its pools are wished on node %d, remote to its core", row->memory_node);
	warn_neighbours(control, row, index);
}

static void helper_row(const struct control *control, unsigned index, struct placement_row *row)
{
	const struct config_tls *tls = &control->p.config->tls;

	(void)snprintf(row->what, sizeof(row->what), "helper");
	(void)snprintf(row->name, sizeof(row->name), "TLS %u", index);
	if (tls->helper_cores_n == 0)
		return;
	(void)snprintf(row->more, sizeof(row->more), "on %u cores", tls->helper_cores_n);
	if (tls->helper_cores_n > 1)
		return;
	row->core = (int)tls->helper_cores[0];
	row->node = node_of_core(row->core);
	warn_neighbours(control, row, control->p.config->workers_n);
}

static void port_row(const struct control *control, unsigned index, unsigned queue,
		     struct placement_row *row)
{
	const struct config_port *port = &control->p.config->ports[index];
	unsigned worker = port->queue_workers[queue];
	struct port_info info;

	port_info_get(control->p.ports, index, &info);
	(void)snprintf(row->what, sizeof(row->what), "port");
	(void)snprintf(row->name, sizeof(row->name), "%s queue %u", port->name, queue);
	(void)snprintf(row->more, sizeof(row->more), "worker %u", worker);
	row->core = (int)control->p.config->workers[worker].core;
	row->node = info.numa_node;
	row->memory_node = info.numa_node;
	if (info.numa_node >= 0 && node_of_core(row->core) >= 0 &&
	    info.numa_node != node_of_core(row->core))
		warn(row, "the device is remote to its worker's core");
}

static void segment_row(const struct control_host *host, unsigned which, struct placement_row *row)
{
	static const char *const names[] = {"to-host", "to-daemon"};
	const void *mem[2];
	size_t bytes[2];

	endpoint_memory(host->endpoint, mem, bytes);
	(void)snprintf(row->what, sizeof(row->what), "segment");
	(void)snprintf(row->name, sizeof(row->name), "%s %s", host->name, names[which]);
	(void)snprintf(row->more, sizeof(row->more), "%zu KiB", bytes[which] >> 10);
	row->memory_node = node_of_memory(mem[which], bytes[which]);
	row->node = host->config.numa_node;
	if (row->memory_node == ON_SEVERAL)
		warn(row, "its pages are on several nodes");
	else if (row->node >= 0 && row->memory_node >= 0 && row->memory_node != row->node)
		warn(row, "it was wished on node %d", row->node);
}

int placement_node(const struct control_host *host)
{
	const void *mem[2];
	size_t bytes[2];
	int node;

	endpoint_memory(host->endpoint, mem, bytes);
	node = node_of_memory(mem[0], bytes[0]);
	return node >= 0 ? node : (int)host->config.numa_node;
}

static void host_row(const struct control *control, const struct control_host *host, unsigned h,
		     struct placement_row *row)
{
	struct endpoint_worker_state state;
	const void *mem[2];
	size_t bytes[2];
	int node;

	endpoint_worker_state(host->endpoint, h, &state);
	endpoint_memory(host->endpoint, mem, bytes);
	node = node_of_memory(mem[0], bytes[0]);
	(void)snprintf(row->what, sizeof(row->what), "host");
	(void)snprintf(row->name, sizeof(row->name), "%s worker %u", host->name, h);
	(void)snprintf(row->more, sizeof(row->more), "pid %d", host->pid);
	row->core = state.core <= CONFIG_CORE_MAX ? state.core : -1;
	row->node = node_of_core(row->core);
	row->memory_node = node;
	if (row->node >= 0 && node >= 0 && row->node != node)
		warn(row, "its requests are on node %d, remote to its core", node);
	warn_neighbours(control, row, control->p.config->workers_n);
}

/* Whether row `*index` is one of these `n`; else counts them off. */
static bool among(size_t *index, size_t n)
{
	if (*index < n)
		return true;
	*index -= n;
	return false;
}

/* Processes of one name serve the same: one stands for all. */
static bool first_of_name(const struct control_host *host)
{
	list_for_each (pos, &host->control->hosts) {
		const struct control_host *other = list_entry(pos, struct control_host, link);

		if (other == host)
			return true;
		if (other->endpoint != NULL && other->state != HOST_REMOVING &&
		    strcmp(other->name, host->name) == 0)
			return false;
	}
	return true;
}

static bool host_rows(const struct control *control, size_t index, struct placement_row *row)
{
	list_for_each (pos, &control->hosts) {
		const struct control_host *host = list_entry(pos, struct control_host, link);

		if (host->endpoint == NULL || host->state == HOST_REMOVING)
			continue;
		if (among(&index, 2)) {
			segment_row(host, (unsigned)index, row);
			return true;
		}
		if (among(&index, endpoint_geometry(host->endpoint)->host_workers)) {
			host_row(control, host, (unsigned)index, row);
			return true;
		}
		if (among(&index, first_of_name(host) ? host->shared.methods_n : 0))
			return side_row(host, index, row);
	}
	return false;
}

bool placement_row(const struct control *control, size_t index, struct placement_row *row)
{
	const struct config *cfg = control->p.config;

	*row = (struct placement_row){.core = -1, .node = -1, .memory_node = -1};
	if (among(&index, 1)) {
		control_row(control, row);
		return true;
	}
	if (among(&index, cfg->workers_n)) {
		worker_row(control, (unsigned)index, row);
		return true;
	}
	if (among(&index, control->p.tls != NULL ? cfg->tls.helpers : 0)) {
		helper_row(control, (unsigned)index, row);
		return true;
	}
	for (uint32_t i = 0; i < cfg->ports_n; i++) {
		if (among(&index, cfg->ports[i].queue_workers_n)) {
			port_row(control, i, (unsigned)index, row);
			return true;
		}
	}
	return host_rows(control, index, row);
}

void placement_check(const struct control_host *host)
{
	struct placement_row row;

	for (unsigned which = 0; which < 2; which++) {
		row = (struct placement_row){.core = -1};
		segment_row(host, which, &row);
		if (row.warning[0] != '\0')
			log_warn("host \"%s\" (pid %d): segment %s: %s", host->name, host->pid,
				 row.name, row.warning);
	}
}
