/* SIGHUP: look at the configuration file again. What a running splitd can take over is the log
 * level; for the rest it says which sections differ, so that nobody believes they are in force. */
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
		{"listeners", SAME_ARRAY(a, b, listeners)},
		{"http2", SAME(a, b, http2)},
		{"grpc", SAME(a, b, grpc)},
		{"linearize", SAME(a, b, linearize)},
		{"control", SAME(a, b, control)},
		{"hosts", SAME_ARRAY(a, b, hosts)},
		{"services", SAME_ARRAY(a, b, services)},
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

void control_reload(struct control *control)
{
	struct config_report report;
	struct config *fresh;
	int result;

	config_report_init(&report);
	result = load(control, &fresh, &report);
	for (size_t i = 0; i < report.count; i++)
		log_error("%s", report.findings[i].text);
	config_report_fini(&report);
	if (result != 0) {
		log_error("reload: %s is not valid, nothing was changed", control->p.config_path);
		return;
	}
	log_level_set((enum log_level)fresh->log.level);
	log_info("reload: %s is valid; log level is %s", control->p.config_path,
		 log_level_name((enum log_level)fresh->log.level));
	differences_log(control->p.config, fresh);
	config_free(fresh);
}
