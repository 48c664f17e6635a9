/* A configuration read anew, in the place of the one that runs.
 *
 * What may change while splitd runs is listed here; every other key that differs is named to the
 * caller, who then changes nothing. Hosts, services and channels keep their indices, which
 * everybody has: who is gone stays as a tombstone, who is new comes behind the others.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "config/config_internal.h"

/* Each with all that is below it. */
static const char *const live_keys[] = {
	"$schema",
	"idle",
	"listeners[].services",
	"listeners[].authorities",
	"listeners[].connections_max",
	"listeners[].backlog",
	"listeners[].tls.certificates",
	"listeners[].tls.client_ca",
	"listeners[].tls.client_auth",
	"listeners[].tls.min_version",
	"listeners[].tls.ciphers",
	"listeners[].tls.ciphersuites",
	"listeners[].tls.groups",
	"listeners[].tls.tickets",
	"listeners[].tls.handshake_timeout",
	"tls.ticket_rotation",
	"http2.streams_max",
	"http2.idle_timeout",
	"http2.age_max",
	"http2.age_grace",
	"http2.keepalive",
	"http2.keepalive_timeout",
	"http2.ping_interval_min",
	"http2.ping_strikes_max",
	"http2.pings_without_streams",
	"http2.frame_timeout",
	"http2.settings_timeout",
	"http2.resets",
	"http2.pings",
	"http2.settings",
	"http2.empty",
	"http2.windows",
	"grpc.message_bytes_max",
	"grpc.queue_max",
	"grpc.queue_timeout",
	"grpc.deadline_max",
	"grpc.reader_timeout",
	"grpc.reader_rate_min",
	"grpc.upload_timeout",
	"grpc.upload_rate_min",
	"grpc.compress",
	"grpc.compress_bytes_min",
	"grpc.compress_quantum",
	"linearize",
	"control.pending_max",
	"control.attach_timeout",
	"hosts",
	"services",
	"channels",
	"shutdown",
	"log.level",
	"log.refused_rate",
	"telemetry.stages",
};

/* Below a live one, and not live all the same. */
static const char *const fixed_keys[] = {"services[].manifest"};

#define PATTERN_MAX 128

/* The path without the numbers between its brackets. */
static void pattern_of(const char *path, char out[PATTERN_MAX])
{
	size_t n = 0;
	bool inside = false;

	for (; *path != '\0' && n + 1 < PATTERN_MAX; path++) {
		inside = inside && *path != ']';
		if (!inside)
			out[n++] = *path;
		inside = inside || *path == '[';
	}
	out[n] = '\0';
}

static bool listed(const char *pattern, const char *const *keys, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		size_t len = strlen(keys[i]);

		if (strncmp(pattern, keys[i], len) == 0 &&
		    (pattern[len] == '\0' || pattern[len] == '.' || pattern[len] == '['))
			return true;
	}
	return false;
}

bool config_key_is_live(const char *path)
{
	char pattern[PATTERN_MAX];

	pattern_of(path, pattern);
	return listed(pattern, live_keys, ARRAY_LEN(live_keys)) &&
	       !listed(pattern, fixed_keys, ARRAY_LEN(fixed_keys));
}

/* ---- what differs --------------------------------------------------------------------------- */

struct differ {
	void (*restart)(void *ctx, const char *path);
	void *ctx;
	unsigned found;
};

static uint32_t count_at(const void *of, const struct field *f)
{
	uint32_t n;

	memcpy(&n, (const char *)of + f->count_offset, sizeof(n));
	return n;
}

static const void *array_at(const void *of, const struct field *f)
{
	const void *p;

	memcpy(&p, (const char *)of + f->offset, sizeof(p));
	return p;
}

static bool items_same(const void *a, const void *b, const struct field *f)
{
	const struct config_item *x = array_at(a, f), *y = array_at(b, f);
	uint32_t n = count_at(a, f);

	if (count_at(b, f) != n)
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (strcmp(x[i].text, y[i].text) != 0)
			return false;
	return true;
}

static bool cidrs_same(const void *a, const void *b, const struct field *f)
{
	const struct config_address *x = (const void *)((const char *)a + f->offset);
	const struct config_address *y = (const void *)((const char *)b + f->offset);
	uint32_t n = count_at(a, f);

	if (count_at(b, f) != n)
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (!config_address_equal(&x[i], &y[i]) || x[i].prefix != y[i].prefix)
			return false;
	return true;
}

static bool value_same(const void *a, const void *b, const struct field *f)
{
	const char *x = (const char *)a + f->offset, *y = (const char *)b + f->offset;

	switch (f->type) {
	case FIELD_BOOL:
		return *(const bool *)x == *(const bool *)y;
	case FIELD_INT:
	case FIELD_INT_OPT:
	case FIELD_MODE:
		return memcmp(x, y, sizeof(uint32_t)) == 0;
	case FIELD_ENUM:
	case FIELD_ENUMS: /* a bit for each */
		return memcmp(x, y, sizeof(int)) == 0;
	case FIELD_SIZE:
	case FIELD_DURATION:
		return memcmp(x, y, sizeof(uint64_t)) == 0;
	case FIELD_STRING:
		return strcmp(x, y) == 0;
	case FIELD_ADDRESS:
		return config_address_equal((const void *)x, (const void *)y);
	case FIELD_MAC:
		return memcmp(x, y, 6) == 0 &&
		       *((const char *)a + f->count_offset) == *((const char *)b + f->count_offset);
	case FIELD_ITEMS:
		return items_same(a, b, f);
	case FIELD_CIDRS:
		return cidrs_same(a, b, f);
	case FIELD_INTS:
	case FIELD_REFS:
		return count_at(a, f) == count_at(b, f) &&
		       memcmp(x, y, count_at(a, f) * sizeof(uint32_t)) == 0;
	case FIELD_IGNORED:
	case FIELD_OBJECT:
	case FIELD_OBJECTS:
		break;
	}
	return true;
}

static void differs(struct differ *d, const char *path)
{
	d->found++;
	d->restart(d->ctx, path);
}

/* No deeper than the tables are: three levels. NOLINTBEGIN(misc-no-recursion) */
static void table_walk(struct differ *d, const struct field_table *t, const void *a, const void *b,
		       const char *prefix);

static void objects_walk(struct differ *d, const struct field *f, const void *a, const void *b,
			 const char *path)
{
	const char *x = array_at(a, f), *y = array_at(b, f);
	char element[CONFIG_PATH_TEXT_MAX + 16];

	if (count_at(a, f) != count_at(b, f) && !config_key_is_live(path)) {
		differs(d, path);
		return;
	}
	for (uint32_t i = 0; i < count_at(a, f) && i < count_at(b, f); i++) {
		(void)snprintf(element, sizeof(element), "%s[%u].", path, i);
		table_walk(d, f->sub, x + i * f->sub->bytes, y + i * f->sub->bytes, element);
	}
}

static void table_walk(struct differ *d, const struct field_table *t, const void *a, const void *b,
		       const char *prefix)
{
	char path[CONFIG_PATH_TEXT_MAX], deeper[CONFIG_PATH_TEXT_MAX];

	for (size_t i = 0; i < t->fields_n; i++) {
		const struct field *f = &t->fields[i];

		(void)snprintf(path, sizeof(path), "%s%s", prefix, f->key);
		(void)snprintf(deeper, sizeof(deeper), "%.*s.", (int)sizeof(deeper) - 2, path);
		/* With a key below it that is not live it is looked into. */
		if (f->type != FIELD_OBJECTS && config_key_is_live(path))
			continue;
		if (f->type == FIELD_OBJECT)
			table_walk(d, f->sub, (const char *)a + f->offset,
				   (const char *)b + f->offset, deeper);
		else if (f->type == FIELD_OBJECTS)
			objects_walk(d, f, a, b, path);
		else if (!value_same(a, b, f))
			differs(d, path);
	}
}
/* NOLINTEND(misc-no-recursion) */

/* ---- the same indices ----------------------------------------------------------------------- */

/* An array of structs that begin with their name. */
struct named {
	char *at;
	uint32_t n;
	size_t bytes;
};

static int named_find(const struct named *a, const char *name)
{
	for (uint32_t i = 0; i < a->n; i++)
		if (strcmp(a->at + i * a->bytes, name) == 0)
			return (int)i;
	return -1;
}

/* Put `fresh` in the order of `old`, what is new behind it; `map` says where each went, `kept`
 * which of the old ones are there. What is not is copied from the old: the caller buries it. */
static int named_align(const struct named *old, struct named *fresh, uint32_t max, uint32_t *map,
		       bool *kept)
{
	uint32_t n = old->n;
	char *out;

	for (uint32_t i = 0; i < old->n; i++)
		kept[i] = false;
	for (uint32_t i = 0; i < fresh->n; i++) {
		int at = named_find(old, fresh->at + i * fresh->bytes);

		map[i] = at >= 0 ? (uint32_t)at : n++;
		if (at >= 0)
			kept[at] = true;
	}
	if (n > max)
		return -SPLIT_E_BASE_LIMIT;
	out = calloc(n > 0 ? n : 1, old->bytes);
	if (out == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (uint32_t i = 0; i < old->n; i++)
		memcpy(out + i * old->bytes, old->at + i * old->bytes, old->bytes);
	for (uint32_t i = 0; i < fresh->n; i++)
		memcpy(out + map[i] * old->bytes, fresh->at + i * old->bytes, old->bytes);
	free(fresh->at);
	fresh->at = out;
	fresh->n = n;
	return 0;
}

static void remap(uint32_t *list, uint32_t n, const uint32_t *map)
{
	for (uint32_t i = 0; i < n; i++)
		list[i] = map[list[i]];
}

static int hosts_align(const struct config *running, struct config *fresh, uint32_t *map)
{
	const struct named old = {(char *)running->hosts, running->hosts_n,
				  sizeof(*running->hosts)};
	struct named now = {(char *)fresh->hosts, fresh->hosts_n, sizeof(*fresh->hosts)};
	bool kept[CONFIG_HOSTS_MAX];
	int err = named_align(&old, &now, CONFIG_HOSTS_MAX, map, kept);

	fresh->hosts = (void *)now.at;
	fresh->hosts_n = now.n;
	for (uint32_t i = 0; i < running->hosts_n && err == 0; i++) {
		if (kept[i])
			continue;
		fresh->hosts[i].gone = true;
		fresh->hosts[i].uids_n = 0;
		fresh->hosts[i].remote_names = NULL; /* the old one's */
		fresh->hosts[i].remote_names_n = 0;
	}
	return err;
}

static int services_align(const struct config *running, struct config *fresh, uint32_t *map)
{
	const struct named old = {(char *)running->services, running->services_n,
				  sizeof(*running->services)};
	struct named now = {(char *)fresh->services, fresh->services_n, sizeof(*fresh->services)};
	bool kept[CONFIG_SERVICES_MAX];
	int err = named_align(&old, &now, CONFIG_SERVICES_MAX, map, kept);

	fresh->services = (void *)now.at;
	fresh->services_n = now.n;
	for (uint32_t i = 0; i < running->services_n && err == 0; i++) {
		struct config_service *s = &fresh->services[i];

		if (kept[i])
			continue;
		s->gone = true;
		s->hosts_n = s->workers_n = 0;
		s->allow = s->authorities = NULL; /* the old one's */
		s->allow_n = s->authorities_n = 0;
		s->methods = NULL;
		s->methods_n = 0;
	}
	return err;
}

static int channels_align(const struct config *running, struct config *fresh)
{
	const struct named old = {(char *)running->channels, running->channels_n,
				  sizeof(*running->channels)};
	struct named now = {(char *)fresh->channels, fresh->channels_n, sizeof(*fresh->channels)};
	uint32_t map[CONFIG_CHANNELS_MAX];
	bool kept[CONFIG_CHANNELS_MAX];
	int err = named_align(&old, &now, CONFIG_CHANNELS_MAX, map, kept);

	fresh->channels = (void *)now.at;
	fresh->channels_n = now.n;
	for (uint32_t i = 0; i < running->channels_n && err == 0; i++) {
		if (kept[i])
			continue;
		fresh->channels[i].gone = true;
		fresh->channels[i].hosts_n = 0;
	}
	return err;
}

/* What carries calls to servers takes its memory at start, if there is a channel to any. */
static void client_needed(struct differ *d, const struct config *running,
			  const struct config *fresh)
{
	char path[64];

	for (uint32_t i = 0; i < running->channels_n; i++)
		if (!config_channel_is_local(&running->channels[i]))
			return;
	for (uint32_t i = 0; i < fresh->channels_n; i++) {
		if (config_channel_is_local(&fresh->channels[i]))
			continue;
		(void)snprintf(path, sizeof(path), "channels[%u].target", i);
		differs(d, path);
		return;
	}
}

int config_succeed(const struct config *running, struct config *fresh,
		   void (*restart)(void *ctx, const char *path), void *ctx)
{
	uint32_t host_map[CONFIG_HOSTS_MAX], service_map[CONFIG_SERVICES_MAX];
	struct differ d = {restart, ctx, 0};
	int err = hosts_align(running, fresh, host_map);

	if (err == -SPLIT_E_BASE_LIMIT)
		differs(&d, "hosts");
	if (err != 0)
		return err;
	for (uint32_t i = 0; i < fresh->services_n; i++)
		remap(fresh->services[i].hosts, fresh->services[i].hosts_n, host_map);
	for (uint32_t i = 0; i < fresh->channels_n; i++)
		remap(fresh->channels[i].hosts, fresh->channels[i].hosts_n, host_map);
	err = services_align(running, fresh, service_map);
	if (err == -SPLIT_E_BASE_LIMIT)
		differs(&d, "services");
	if (err != 0)
		return err;
	err = channels_align(running, fresh);
	if (err == -SPLIT_E_BASE_LIMIT)
		differs(&d, "channels");
	if (err != 0)
		return err;
	client_needed(&d, running, fresh);
	for (uint32_t i = 0; i < fresh->listeners_n; i++)
		remap(fresh->listeners[i].services, fresh->listeners[i].services_n, service_map);
	table_walk(&d, &config_table, running, fresh, "");
	for (uint32_t i = running->services_n; i < fresh->services_n; i++) {
		char path[64];

		if (fresh->services[i].manifest[0] == '\0')
			continue;
		(void)snprintf(path, sizeof(path), "services[%u].manifest", i);
		differs(&d, path);
	}
	/* Certificates come and go; that there are any does not. */
	for (uint32_t i = 0; i < fresh->listeners_n && i < running->listeners_n; i++) {
		char path[64];

		if ((fresh->listeners[i].tls.certificates_n != 0) ==
		    (running->listeners[i].tls.certificates_n != 0))
			continue;
		(void)snprintf(path, sizeof(path), "listeners[%u].tls", i);
		differs(&d, path);
	}
	return d.found == 0 ? 0 : -SPLIT_E_CONFIG_INVALID;
}
