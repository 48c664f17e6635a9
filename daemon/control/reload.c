/* The configuration read again while calls go on (SIGHUP, splitctl reload).
 *
 * All or nothing: a file that is not valid, a key that cannot change without a restart, or a
 * certificate that cannot be used, and splitd goes on as it was, with a line for each. Else the new
 * tree takes the old one's place: on the control thread at once, on each worker by a message,
 * between two of its turns. The old one is freed when the last worker says that it is through. One
 * reload at a time; who asks meanwhile is heard after it.
 */
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "daemon/control/control_internal.h"

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

static void tell_restart(void *ctx, const char *path)
{
	const struct control *control = ctx;
	char line[512];

	(void)snprintf(line, sizeof(line), "%s: %s has changed; this needs a restart",
		       control->p.config_path, path);
	tell(line);
}

/* The file as a tree that may follow the one in force. */
static int fresh_make(struct control *control, struct config **out)
{
	struct config_report report;
	int result;

	config_report_init(&report);
	result = load(control, out, &report);
	for (size_t i = 0; i < report.count; i++)
		tell(report.findings[i].text);
	config_report_fini(&report);
	if (result != 0)
		return result;
	result = config_succeed(control->p.config, *out, tell_restart, control);
	if (result == 0 &&
	    worker_endpoints_wanted(*out) > worker_endpoints_max(control->p.workers[0])) {
		tell_restart(control, "hosts");
		result = -SPLIT_E_BASE_LIMIT;
	}
	if (result == 0 && !manifests_resize(control, (*out)->services_n))
		result = -SPLIT_E_BASE_NOMEM;
	if (result == 0)
		result = channels_prepare(control, *out, tell);
	if (result == 0)
		result = certificates_reload(control, *out, tell);
	if (result != 0) {
		channels_prepare_undo(control);
		config_free(*out);
	}
	return result;
}

static void config_post(struct control *control)
{
	const struct worker_msg msg = {.kind = WORKER_MSG_CONFIG, .config = control->p.config};

	for (unsigned w = 0; w < control->p.workers_n; w++) {
		uint64_t bit = UINT64_C(1) << w;

		if ((control->config_todo & bit) == 0)
			continue;
		if (worker_post(control->p.workers[w], &msg) == 0)
			control->config_todo &= ~bit;
		else
			counter_inc(&control->counters.worker_post_full);
	}
}

static void config_take(struct control *control, struct config *fresh)
{
	bool stages = control->p.config->telemetry.stages;

	hosts_configure(control, fresh);
	pthread_mutex_lock(&control->lock);
	control->config_past = control->config_own;
	control->config_own = fresh;
	control->p.config = fresh;
	pthread_mutex_unlock(&control->lock);
	certificates_configure(control);
	channels_configure(control);
	log_level_set((enum log_level)fresh->log.level);
	if (fresh->telemetry.stages != stages)
		for (unsigned w = 0; w < control->p.workers_n; w++)
			worker_stages_enable(control->p.workers[w], fresh->telemetry.stages);
	control->config_todo = control->config_wait = control_workers_mask(control);
	config_post(control);
}

static int reload(struct control *control)
{
	struct config *fresh;
	int result;

	first_wrong[0] = '\0';
	control_notify("RELOADING=1");
	result = fresh_make(control, &fresh);
	control_notify("READY=1"); /* by the old one or the new: we go on */
	if (result != 0) {
		counter_inc(&control->counters.reloads_failed);
		log_error("reload: %s was not taken over, nothing was changed",
			  control->p.config_path);
		return result;
	}
	counter_inc(&control->counters.reloads);
	config_take(control, fresh);
	log_info("reload: %s is in force; log level is %s", control->p.config_path,
		 log_level_name((enum log_level)fresh->log.level));
	return 0;
}

void reload_report(struct control *control, unsigned worker)
{
	control->config_wait &= ~(UINT64_C(1) << worker);
	if (control->config_wait != 0)
		return;
	config_free(control->config_past);
	control->config_past = NULL;
}

void reload_fini(struct control *control)
{
	control->p.config = control->config_first;
	certificates_configure(control);
	config_free(control->config_past);
	config_free(control->config_own);
}

void reload_tick(struct control *control)
{
	uint64_t asked;
	int result;

	config_post(control);
	if (control->config_wait != 0)
		return;
	if (control->reload_wanted) {
		control->reload_wanted = false;
		(void)reload(control);
		return;
	}
	pthread_mutex_lock(&control->lock);
	asked = control->reload.asked;
	pthread_mutex_unlock(&control->lock);
	if (asked == control->reload.done)
		return;
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
