/* TLS of the listeners: contexts from the configuration at start and again at reload, the ticket
 * keys and their rotation, the helper threads.
 *
 * A reload makes every context anew, or none: only when all files are good the workers get theirs,
 * by message. The old ones live on until no handshake uses them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/control/control_internal.h"
#include "daemon/tls/tls.h"

/* Helpers give way to whoever shares a core with them: a handshake can wait for milliseconds. */
#define HELPER_NICE 5

struct past {
	struct list link;
	struct tls_context *context;
};

struct control_tls {
	const struct config *config;
	struct tls_tickets *tickets;
	struct tls_helpers *helpers;
	struct tls_context *contexts[CONFIG_LISTENERS_MAX];
	uint64_t todo[CONFIG_LISTENERS_MAX]; /* workers that have not got theirs yet */
	struct list past;                    /* contexts not in use any more */
	uint64_t next_rotation_ns;
};

/* ---- contexts that are not in use any more -----------------------------------------------------
 */

/* Handshakes may still have it. A worker frees nothing: the last reference is ours. Without memory
 * for that it is the worker's. */
void context_past_add(struct list *past, struct tls_context *context)
{
	struct past *p = malloc(sizeof(*p));

	if (p == NULL) {
		tls_context_put(context);
		return;
	}
	p->context = context;
	list_init(&p->link);
	list_add_tail(past, &p->link);
}

static void past_free(struct past *p)
{
	list_del(&p->link);
	tls_context_put(p->context);
	free(p);
}

void contexts_past_reap(struct list *past)
{
	list_for_each_safe (pos, past) {
		struct past *p = list_entry(pos, struct past, link);

		if (tls_context_last(p->context))
			past_free(p);
	}
}

void contexts_past_fini(struct list *past)
{
	list_for_each_safe (pos, past)
		past_free(list_entry(pos, struct past, link));
}

/* ---- from the configuration -------------------------------------------------------------------
 */

static const char *given(const char *text)
{
	return text[0] != '\0' ? text : NULL;
}

static int context_make(const struct config *cfg, const struct config_listener *l,
			struct tls_tickets *tickets, struct tls_context **out,
			struct tls_error *error)
{
	static const enum tls_client_auth auths[] = {
		[CONFIG_CLIENT_NONE] = TLS_CLIENT_NONE,
		[CONFIG_CLIENT_OPTIONAL] = TLS_CLIENT_OPTIONAL,
		[CONFIG_CLIENT_REQUIRED] = TLS_CLIENT_REQUIRED,
	};
	const struct config_listener_tls *t = &l->tls;
	struct tls_certificate certificates[CONFIG_CERTIFICATES_MAX];
	const char *names[CONFIG_CERTIFICATES_MAX][CONFIG_CERT_NAMES_MAX];
	struct tls_context_config c = {
		.name = l->name,
		.certificates = certificates,
		.certificates_n = t->certificates_n,
		.client_ca_file = given(t->client_ca),
		.client_auth = auths[t->client_auth],
		.min_version = t->min_version == CONFIG_TLS_1_3 ? TLS_VERSION_1_3 : TLS_VERSION_1_2,
		.ciphers = given(t->ciphers),
		.ciphersuites = given(t->ciphersuites),
		.groups = given(t->groups),
		.ticket_seconds =
			t->tickets ? 2 * cfg->tls.ticket_rotation_ns / CLOCK_NS_PER_SEC : 0,
	};

	for (uint32_t i = 0; i < t->certificates_n; i++) {
		const struct config_certificate *from = &t->certificates[i];

		for (uint32_t j = 0; j < from->names_n; j++)
			names[i][j] = from->names[j].text;
		certificates[i] = (struct tls_certificate){
			.cert_file = from->cert,
			.key_file = from->key,
			.ocsp_file = given(from->ocsp),
			.names = names[i],
			.names_n = from->names_n,
		};
	}
	return tls_context_create(&c, tickets, out, error);
}

/* Contexts of all listeners of `cfg` that speak TLS; all of them, or none and what is wrong. */
static int contexts_make(const struct config *cfg, struct tls_tickets *tickets,
			 struct tls_context *out[CONFIG_LISTENERS_MAX],
			 void (*tell)(const char *line), const char *path)
{
	int result = 0;

	memset(out, 0, CONFIG_LISTENERS_MAX * sizeof(void *));
	for (uint32_t i = 0; i < cfg->listeners_n; i++) {
		struct tls_error error;
		char line[1024];
		int err;

		if (cfg->listeners[i].tls.certificates_n == 0)
			continue;
		err = context_make(cfg, &cfg->listeners[i], tickets, &out[i], &error);
		if (err == 0)
			continue;
		(void)snprintf(line, sizeof(line), "%s: listeners[%u].tls: %s", path, i,
			       err == -SPLIT_E_TLS_CONFIG ? error.text : error_text(err));
		tell(line);
		result = err;
	}
	for (uint32_t i = 0; i < cfg->listeners_n && result != 0; i++) {
		tls_context_put(out[i]);
		out[i] = NULL;
	}
	return result;
}

static void context_log(const struct config_listener *l, const struct tls_context *context)
{
	const char *warning;
	char text[256];

	log_info("listener %s: TLS: %s", l->name,
		 tls_context_describe(context, text, sizeof(text)));
	for (size_t i = 0; (warning = tls_context_warning(context, i)) != NULL; i++)
		log_warn("listener %s: %s", l->name, warning);
}

/* ---- life -------------------------------------------------------------------------------------
 */

int control_tls_create(const struct config *config, const char *path,
		       void (*tell)(const char *line), struct control_tls **out)
{
	struct control_tls *tls;
	bool wanted = false;
	int err;

	*out = NULL;
	for (uint32_t i = 0; i < config->listeners_n; i++)
		wanted |= config->listeners[i].tls.certificates_n != 0;
	if (!wanted)
		return 0;
	tls = calloc(1, sizeof(*tls));
	if (tls == NULL)
		return -SPLIT_E_BASE_NOMEM;
	tls->config = config;
	list_init(&tls->past);
	err = tls_tickets_create(&tls->tickets);
	if (err == 0)
		err = contexts_make(config, tls->tickets, tls->contexts, tell, path);
	if (err != 0) {
		control_tls_destroy(tls);
		return err;
	}
	tls->next_rotation_ns = clock_ns() + config->tls.ticket_rotation_ns;
	*out = tls;
	return 0;
}

/* The configured cores; else those of `cores` that no worker has; else all of these. */
static size_t helper_cores(const struct config *cfg, const cpu_set_t *cores,
			   unsigned out[CPU_SETSIZE])
{
	cpu_set_t left = *cores;
	size_t n = 0;

	for (; n < cfg->tls.helper_cores_n; n++)
		out[n] = cfg->tls.helper_cores[n];
	if (n != 0)
		return n;
	for (uint32_t i = 0; i < cfg->workers_n; i++)
		if (cfg->workers[i].core < CPU_SETSIZE)
			CPU_CLR(cfg->workers[i].core, &left);
	if (CPU_COUNT(&left) == 0)
		left = *cores;
	for (unsigned core = 0; core < CPU_SETSIZE; core++)
		if (CPU_ISSET(core, &left))
			out[n++] = core;
	return n;
}

int control_tls_start(struct control_tls *tls, const cpu_set_t *cores)
{
	unsigned list[CPU_SETSIZE];
	struct tls_helpers_config helpers;

	if (tls == NULL)
		return 0;
	for (uint32_t i = 0; i < tls->config->listeners_n; i++)
		if (tls->contexts[i] != NULL)
			context_log(&tls->config->listeners[i], tls->contexts[i]);
	if (tls->config->tls.helpers == 0)
		return 0;
	helpers = (struct tls_helpers_config){
		.threads = tls->config->tls.helpers,
		.engines = tls->config->workers_n,
		.cores = list,
		.cores_n = helper_cores(tls->config, cores, list),
		.nice = HELPER_NICE,
	};
	return tls_helpers_create(&helpers, &tls->helpers);
}

void control_tls_destroy(struct control_tls *tls)
{
	if (tls == NULL)
		return;
	tls_helpers_destroy(tls->helpers);
	contexts_past_fini(&tls->past);
	for (uint32_t i = 0; i < CONFIG_LISTENERS_MAX; i++)
		tls_context_put(tls->contexts[i]);
	tls_tickets_destroy(tls->tickets);
	free(tls);
}

struct tls_context *const *control_tls_contexts(const struct control_tls *tls)
{
	return tls != NULL ? tls->contexts : NULL;
}

struct tls_helpers *control_tls_helpers(const struct control_tls *tls)
{
	return tls != NULL ? tls->helpers : NULL;
}

/* ---- reload -----------------------------------------------------------------------------------
 */

int certificates_reload(struct control *control, const struct config *fresh,
			void (*tell)(const char *line))
{
	struct control_tls *tls = control->p.tls;
	struct tls_context *contexts[CONFIG_LISTENERS_MAX];
	int err;

	if (tls == NULL)
		return 0;
	err = contexts_make(fresh, tls->tickets, contexts, tell, control->p.config_path);
	if (err != 0)
		return err;
	for (uint32_t i = 0; i < fresh->listeners_n; i++) {
		if (contexts[i] == NULL)
			continue;
		/* config_succeed lets no listener change its name, nor TLS come or go. */
		if (i >= tls->config->listeners_n || tls->contexts[i] == NULL ||
		    strcmp(tls->config->listeners[i].name, fresh->listeners[i].name) != 0) {
			tls_context_put(contexts[i]);
			continue;
		}
		context_log(&fresh->listeners[i], contexts[i]);
		context_past_add(&tls->past, tls->contexts[i]);
		tls->contexts[i] = contexts[i];
		tls->todo[i] = control_workers_mask(control);
	}
	certificates_tick(control, clock_ns());
	return 0;
}

void certificates_configure(struct control *control)
{
	if (control->p.tls != NULL)
		control->p.tls->config = control->p.config;
}

static void contexts_post(struct control *control, uint32_t listener)
{
	struct control_tls *tls = control->p.tls;
	const struct worker_msg msg = {
		.kind = WORKER_MSG_TLS,
		.tls_context = tls->contexts[listener],
		.listener = listener,
	};

	for (unsigned w = 0; w < control->p.workers_n; w++) {
		uint64_t bit = UINT64_C(1) << w;

		if ((tls->todo[listener] & bit) == 0)
			continue;
		if (worker_post(control->p.workers[w], &msg) == 0)
			tls->todo[listener] &= ~bit;
		else
			counter_inc(&control->counters.worker_post_full);
	}
}

void certificates_tick(struct control *control, uint64_t now_ns)
{
	struct control_tls *tls = control->p.tls;

	if (tls == NULL)
		return;
	for (uint32_t i = 0; i < tls->config->listeners_n; i++)
		if (tls->todo[i] != 0)
			contexts_post(control, i);
	contexts_past_reap(&tls->past);
	if (now_ns < tls->next_rotation_ns)
		return;
	tls->next_rotation_ns = now_ns + tls->config->tls.ticket_rotation_ns;
	if (tls_tickets_rotate(tls->tickets) == 0)
		counter_inc(&control->counters.ticket_keys);
	else
		log_warn("no randomness for a new ticket key; the old one stays");
}
