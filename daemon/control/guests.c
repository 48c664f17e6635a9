/* Guests: hosts on other machines, which come by the relay (docs/SOCKET.md). Once taken they are
 * hosts like any other; here is how they are let in. */
#include <stdio.h>
#include <string.h>

#include "daemon/control/control_internal.h"

/* After an accept that failed for want of something. */
#define ACCEPT_PAUSE_NS (100 * CLOCK_NS_PER_MS)

void guests_knock(struct control *control)
{
	if (relay_accept(control->relay))
		return;
	counter_inc(&control->counters.attach_refused_resources);
	control_unwatch(control, relay_fd(control->relay));
	control->relay_again_ns = clock_ns() + ACCEPT_PAUSE_NS;
}

void guests_resume(struct control *control, uint64_t now_ns)
{
	if (control->relay_again_ns == 0 || now_ns < control->relay_again_ns)
		return;
	control->relay_again_ns = 0;
	if (control->state == CONTROL_RUNNING &&
	    control_watch(control, relay_fd(control->relay), &control->relay_watch) != 0)
		control->relay_again_ns = now_ns + ACCEPT_PAUSE_NS;
}

void guests_accept(struct control *control)
{
	struct relay_guest guest;

	if (control->relay == NULL)
		return;
	relay_tick(control->relay);
	while (relay_guest_take(control->relay, &guest))
		hosts_guest(control, &guest);
}

/* ---- whose certificate it is ---------------------------------------------------------------- */

bool guest_is_for(const struct relay_guest *guest, const struct config_host *host)
{
	if (!host->remote)
		return false;
	if (!guest->secure || config_host_any_certificate(host))
		return true; /* without remote.tls nobody says who he is */
	for (const char *san = guest->names; *san != '\0'; san += strlen(san) + 1)
		if (config_host_has_certificate(host, san))
			return true;
	return false;
}

const char *guest_names_text(const struct relay_guest *guest, char *buf, size_t bytes)
{
	size_t n = (size_t)snprintf(buf, bytes, "; %s",
				    guest->names[0] != '\0' ? "it is for"
							    : "it has no DNS name and no URI");

	for (const char *san = guest->names; *san != '\0' && n < bytes; san += strlen(san) + 1)
		n += (size_t)snprintf(buf + n, bytes - n, " %s", san);
	return buf;
}
