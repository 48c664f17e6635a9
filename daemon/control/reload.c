/* SIGHUP: read the configuration file again. What a running splitd can take over is the log level
 * and the certificates; for the rest it says which sections differ, so that nobody believes they
 * are in force. */
#include <stdio.h>
#include <string.h>

#include "daemon/control/control_internal.h"

#define SAME(a, b, section) (memcmp(&(a)->section, &(b)->section, sizeof((a)->section)) == 0)
#define SAME_ARRAY(a, b, array)                                                                    \
	((a)->array##_n == (b)->array##_n &&                                                       \
	 ((a)->array##_n == 0 ||                                                                   \
	  memcmp((a)->array, (b)->array, (a)->array##_n * sizeof((a)->array[0])) == 0))

static bool eal_same(const struct config_eal *a, const struct config_eal *b)
{
	return a->main_core == b->main_core && a->memory == b->memory &&
	       a->hugepages == b->hugepages && a->hugepages_fallback == b->hugepages_fallback &&
	       strcmp(a->file_prefix, b->file_prefix) == 0 && SAME_ARRAY(a, b, devices) &&
	       SAME_ARRAY(a, b, args);
}

static bool items_same(const struct config_item *a, uint32_t a_n, const struct config_item *b,
		       uint32_t b_n)
{
	if (a_n != b_n)
		return false;
	for (uint32_t i = 0; i < a_n; i++)
		if (strcmp(a[i].text, b[i].text) != 0)
			return false;
	return true;
}

/* TLS apart, which is taken over; that there is any is not. */
static bool listeners_same(const struct config *a, const struct config *b)
{
	if (a->listeners_n != b->listeners_n)
		return false;
	for (uint32_t i = 0; i < a->listeners_n; i++) {
		const struct config_listener *x = &a->listeners[i], *y = &b->listeners[i];

		if (strcmp(x->name, y->name) != 0 || !SAME(x, y, address) || x->port != y->port ||
		    x->all_services != y->all_services || !SAME_ARRAY(x, y, services) ||
		    (x->tls.certificates_n != 0) != (y->tls.certificates_n != 0) ||
		    x->tls.handshake_timeout_ns != y->tls.handshake_timeout_ns ||
		    x->backlog != y->backlog || x->connections_max != y->connections_max)
			return false;
	}
	return true;
}

static bool services_same(const struct config *a, const struct config *b)
{
	if (a->services_n != b->services_n)
		return false;
	for (uint32_t i = 0; i < a->services_n; i++) {
		struct config_service x = a->services[i], y = b->services[i];

		if (!items_same(x.allow, x.allow_n, y.allow, y.allow_n))
			return false;
		x.allow = y.allow = NULL;
		if (memcmp(&x, &y, sizeof(x)) != 0) /* NOLINT: see differences_log */
			return false;
	}
	return true;
}

static void differences_log(const struct config *a, const struct config *b)
{
	/* Both trees come from calloc and are filled alike, so padding is equal where values are; a
	 * wrong answer would only be a line too many.
	 * NOLINTBEGIN(bugprone-suspicious-memory-comparison) */
	const struct {
		const char *name;
		bool same;
	} sections[] = {
		{"eal", eal_same(&a->eal, &b->eal)},
		{"workers", SAME_ARRAY(a, b, workers)},
		{"idle", SAME(a, b, idle)},
		{"ports", SAME_ARRAY(a, b, ports)},
		{"ip", SAME(a, b, ip)},
		{"tcp", SAME(a, b, tcp)},
		{"listeners", listeners_same(a, b)},
		{"tls", SAME(a, b, tls)},
		{"http2", SAME(a, b, http2)},
		{"grpc", SAME(a, b, grpc)},
		{"linearize", SAME(a, b, linearize)},
		{"control", SAME(a, b, control)},
		{"hosts", SAME_ARRAY(a, b, hosts)},
		{"services", services_same(a, b)},
		{"shutdown", SAME(a, b, shutdown)},
		{"telemetry", SAME(a, b, telemetry)},
	};
	/* NOLINTEND(bugprone-suspicious-memory-comparison) */

	for (size_t i = 0; i < ARRAY_LEN(sections); i++)
		if (!sections[i].same)
			log_warn("reload: \"%s\" has changed; this needs a restart",
				 sections[i].name);
}

/* config_load asks on which cores this thread may run: more than the one it is pinned to. */
static int load(const struct control *control, struct config **out, struct config_report *report)
{
	cpu_set_t pinned;
	bool widened = control->p.cores != NULL &&
		       sched_getaffinity(0, sizeof(pinned), &pinned) == 0 &&
		       sched_setaffinity(0, sizeof(*control->p.cores), control->p.cores) == 0;
	int result = config_load(control->p.config_path, out, report);

	if (widened && sched_setaffinity(0, sizeof(pinned), &pinned) != 0)
		log_warn("reload: the control thread could not be pinned again");
	return result;
}

/* The first line of what is wrong, for who asked; the control thread's own. */
static char first_wrong[512];

static void tell(const char *line)
{
	log_error("%s", line);
	if (first_wrong[0] == '\0')
		(void)snprintf(first_wrong, sizeof(first_wrong), "%s", line);
}

static int reload(struct control *control)
{
	struct config_report report;
	struct config *fresh;
	int result;

	config_report_init(&report);
	result = load(control, &fresh, &report);
	for (size_t i = 0; i < report.count; i++)
		tell(report.findings[i].text);
	config_report_fini(&report);
	if (result == 0) {
		result = certificates_reload(control, fresh, tell);
		if (result != 0)
			config_free(fresh);
	}
	if (result != 0) {
		counter_inc(&control->counters.reloads_failed);
		log_error("reload: %s is not valid, nothing was changed", control->p.config_path);
		return result;
	}
	counter_inc(&control->counters.reloads);
	log_level_set((enum log_level)fresh->log.level);
	log_info("reload: %s is valid; log level is %s", control->p.config_path,
		 log_level_name((enum log_level)fresh->log.level));
	differences_log(control->p.config, fresh);
	config_free(fresh);
	return 0;
}

void control_reload(struct control *control)
{
	first_wrong[0] = '\0';
	(void)reload(control);
}

void reload_tick(struct control *control)
{
	uint64_t asked;
	int result;

	pthread_mutex_lock(&control->lock);
	asked = control->reload.asked;
	pthread_mutex_unlock(&control->lock);
	if (asked == control->reload.done)
		return;
	first_wrong[0] = '\0';
	result = reload(control);
	pthread_mutex_lock(&control->lock);
	control->reload.done = asked;
	control->reload.result = result;
	(void)snprintf(control->reload.text, sizeof(control->reload.text), "%s",
		       result == 0              ? ""
		       : first_wrong[0] != '\0' ? first_wrong
						: error_text(result));
	pthread_mutex_unlock(&control->lock);
}
