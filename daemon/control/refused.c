/* Lines about refused messages (daemon/worker/refused.c): records of the workers' rings are made
 * into JSON here, where there is time for it. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/control/control_internal.h"
#include "linearize/json/json.h"

/* Lines made of one worker's records in one turn. */
#define LINES_BUDGET 32

static void peer_text(const struct worker_refused *told, char *text, size_t bytes)
{
	char address[INET6_ADDRSTRLEN] = "";
	const struct worker_address *peer = &told->peer;

	if (told->caller != NULL) {
		snprintf(text, bytes, "host %s", endpoint_name(told->caller->endpoint));
		return;
	}
	if (peer->family != 0)
		inet_ntop(peer->family == 6 ? AF_INET6 : AF_INET, peer->bytes, address,
			  sizeof(address));
	snprintf(text, bytes, peer->family == 6 ? "[%s]:%u" : "%s:%u", address, peer->port);
}

static void line_write(struct control *control, unsigned worker, const struct worker_refused *told)
{
	const struct attach_method *m = &told->endpoint->methods[told->method];
	const struct linear_source source = {told->mem, told->peer_base, told->mem_bytes};
	char peer[96], who[24], *line;
	struct json_refused refused = {
		.m = told->message,
		.what = told->answer ? "answer" : "request",
		.peer = peer,
		.service = m->service,
		.method = m->method,
		.host = endpoint_name(told->endpoint->endpoint),
		.error = told->error,
		.status = told->status,
		.bytes = told->bytes,
		.text_max = control->p.config->log.refused_bytes,
		.wire = told->wire,
		.kept = told->kept,
		.at = told->at,
		.source = told->mem != NULL ? &source : NULL,
		.root = told->root,
	};

	peer_text(told, peer, sizeof(peer));
	snprintf(who, sizeof(who), "worker %u", worker);
	if (json_refused_line(&refused, &line) != 0)
		return;
	log_long(LOG_LEVEL_WARN, who, told->now_ns, line);
	counter_inc(&control->counters.log_lines);
	free(line);
}

static void worker_drain(struct control *control, unsigned worker, unsigned budget)
{
	struct worker *w = control->p.workers[worker];
	const struct worker_refused *told;

	while (budget-- > 0 && (told = worker_refused_first(w)) != NULL) {
		line_write(control, worker, told);
		worker_refused_done(w);
	}
}

void refused_tick(struct control *control)
{
	for (unsigned w = 0; w < control->p.workers_n; w++)
		worker_drain(control, w, LINES_BUDGET);
}

void refused_drain(struct control *control)
{
	/* As many as a ring can hold were there before; newer ones are of others. */
	for (unsigned w = 0; !control->workers_over && w < control->p.workers_n; w++)
		worker_drain(control, w, 2 * control->p.config->log.refused_records);
}
