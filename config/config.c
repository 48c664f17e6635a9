#include "config/config.h"

#include <errno.h>
#include <fcntl.h>
#include <numa.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config_internal.h"

int config_machine_get(struct config_machine *out)
{
	cpu_set_t set;
	bool numa = numa_available() >= 0;

	memset(out, 0, sizeof(*out));
	memset(out->node_of_core, -1, sizeof(out->node_of_core));
	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		return -SPLIT_E_BASE_SYSTEM;
	for (int core = 0; core <= CONFIG_CORE_MAX && core < CPU_SETSIZE; core++) {
		int node;

		if (!CPU_ISSET(core, &set))
			continue;
		out->cores[core / 64] |= UINT64_C(1) << (core % 64);
		node = numa ? numa_node_of_cpu(core) : 0;
		if (node >= 0 && node <= CONFIG_NUMA_MAX)
			out->node_of_core[core] = (int16_t)node;
	}
	for (int node = 0; numa && node <= numa_max_node() && node <= CONFIG_NUMA_MAX; node++)
		if (numa_bitmask_isbitset(numa_all_nodes_ptr, (unsigned)node))
			out->nodes |= UINT64_C(1) << node;
	if (out->nodes == 0)
		out->nodes = 1;
	return 0;
}

static enum config_side side_of(int method, int service, unsigned option)
{
	if (method != CONFIG_SIDE_DEFAULT)
		return (enum config_side)method;
	if (service != CONFIG_SIDE_DEFAULT)
		return (enum config_side)service;
	return option == CONFIG_SIDE_HOST ? CONFIG_SIDE_HOST : CONFIG_SIDE_DAEMON;
}

static const struct config_method *method_find(const struct config_service *service,
					       const char *method)
{
	for (uint32_t i = 0; i < service->methods_n; i++)
		if (strcmp(service->methods[i].name, method) == 0)
			return &service->methods[i];
	return NULL;
}

enum config_side config_decode_side(const struct config_service *service, const char *method,
				    unsigned option)
{
	const struct config_method *m = method_find(service, method);

	return side_of(m != NULL ? m->decode : CONFIG_SIDE_DEFAULT, service->decode, option);
}

enum config_side config_encode_side(const struct config_service *service, const char *method,
				    unsigned option)
{
	const struct config_method *m = method_find(service, method);

	return side_of(m != NULL ? m->encode : CONFIG_SIDE_DEFAULT, service->encode, option);
}

void config_free(struct config *cfg)
{
	if (cfg == NULL)
		return;
	for (uint32_t i = 0; i < cfg->listeners_n; i++) {
		struct config_listener_tls *tls = &cfg->listeners[i].tls;

		for (uint32_t j = 0; j < tls->certificates_n; j++)
			free(tls->certificates[j].names);
		free(tls->certificates);
		free(cfg->listeners[i].authorities);
	}
	for (uint32_t i = 0; i < cfg->services_n; i++) {
		free(cfg->services[i].allow);
		free(cfg->services[i].authorities);
		free(cfg->services[i].methods);
	}
	free(cfg->eal.devices);
	free(cfg->eal.args);
	free(cfg->workers);
	free(cfg->ports);
	free(cfg->listeners);
	for (uint32_t i = 0; i < cfg->hosts_n; i++)
		free(cfg->hosts[i].remote_names);
	free(cfg->hosts);
	free(cfg->services);
	free(cfg->channels);
	free(cfg);
}

int config_parse(const char *text, size_t len, const char *name,
		 const struct config_machine *machine, struct config **out,
		 struct config_report *rep)
{
	struct config_sink sink = {rep, name};
	struct config *cfg = calloc(1, sizeof(*cfg));
	struct doc doc = {0};
	int rc = cfg != NULL ? 0 : -SPLIT_E_BASE_NOMEM;

	*out = NULL;
	if (rc == 0)
		rc = doc_parse(&doc, text, len, &sink);
	if (rc == 0)
		rc = config_read(cfg, doc.root, &sink);
	if (rc == 0)
		config_check(cfg, doc.root, machine, &sink);
	doc_free(&doc);
	config_report_sort(rep);
	if (rc == 0 && (rep->count > 0 || rep->dropped > 0))
		rc = -SPLIT_E_CONFIG_INVALID;
	if (rep->out_of_memory)
		rc = -SPLIT_E_BASE_NOMEM;
	if (rc != 0) {
		config_free(cfg);
		return rc;
	}
	*out = cfg;
	return 0;
}

/* At most CONFIG_FILE_BYTES_MAX + 1 bytes, so that a file that grows while it is read, or a device,
 * is bounded too. Returns the length or -1 with errno. */
static ssize_t file_read(const char *path, char *buf, size_t size)
{
	/* O_NONBLOCK: opening a FIFO must not hang. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	size_t len = 0;
	ssize_t n = -1;
	int saved;

	if (fd < 0)
		return -1;
	if (fstat(fd, &st) != 0)
		goto out;
	if (!S_ISREG(st.st_mode)) {
		errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
		goto out;
	}
	while (len < size) {
		n = read(fd, buf + len, size - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
out:
	saved = errno;
	close(fd);
	errno = saved;
	return n < 0 ? -1 : (ssize_t)len;
}

int config_load(const char *path, struct config **out, struct config_report *rep)
{
	struct config_sink sink = {rep, path};
	struct config_machine machine;
	size_t size = CONFIG_FILE_BYTES_MAX + 1;
	char *text = malloc(size);
	ssize_t len;
	int rc;

	*out = NULL;
	if (text == NULL)
		return -SPLIT_E_BASE_NOMEM;
	len = file_read(path, text, size);
	if (len < 0) {
		config_sink_add(&sink, 0, NULL, "cannot be read: %s, expected a regular file",
				strerror(errno));
		rc = -SPLIT_E_BASE_SYSTEM;
	} else {
		rc = config_machine_get(&machine);
		if (rc == 0)
			rc = config_parse(text, (size_t)len, path, &machine, out, rep);
		else
			config_sink_add(&sink, 0, NULL, "cannot find out this machine's cores: %s",
					strerror(errno));
	}
	free(text);
	return rc;
}

int config_host_find(const struct config *cfg, const char *name)
{
	for (uint32_t i = 0; i < cfg->hosts_n; i++)
		if (!cfg->hosts[i].gone && strcmp(cfg->hosts[i].name, name) == 0)
			return (int)i;
	return -1;
}

int config_service_find(const struct config *cfg, const char *name)
{
	for (uint32_t i = 0; i < cfg->services_n; i++)
		if (!cfg->services[i].gone && strcmp(cfg->services[i].name, name) == 0)
			return (int)i;
	return -1;
}

static bool contains(const uint32_t *list, uint32_t n, uint32_t v)
{
	for (uint32_t i = 0; i < n; i++)
		if (list[i] == v)
			return true;
	return false;
}

bool config_service_has_host(const struct config_service *service, uint32_t host)
{
	return contains(service->hosts, service->hosts_n, host);
}

bool config_service_has_worker(const struct config_service *service, uint32_t worker)
{
	return contains(service->workers, service->workers_n, worker);
}

bool config_listener_has_service(const struct config_listener *listener, uint32_t service)
{
	return listener->all_services ||
	       contains(listener->services, listener->services_n, service);
}

/* How many bytes of it are the host: what stands before ":port", with the brackets of an address.
 */
static size_t authority_host(const char *p, size_t n)
{
	const char *end = n > 0 && p[0] == '[' ? memchr(p, ']', n) : NULL;
	size_t skip = end != NULL ? (size_t)(end - p) : 0;
	const char *colon = n > 0 ? memchr(p + skip, ':', n - skip) : NULL;

	return colon != NULL ? (size_t)(colon - p) : n;
}

static bool authority_is(const char *item, const char *p, size_t n)
{
	size_t item_n = strlen(item), item_host = authority_host(item, item_n);
	size_t host = authority_host(p, n);

	if (item_host != item_n &&
	    (item_n - item_host != n - host || memcmp(item + item_host, p + host, n - host) != 0))
		return false;
	if (strncmp(item, "*.", 2) == 0) {
		const char *dot = memchr(p, '.', host);
		size_t label = dot != NULL ? (size_t)(dot - p) : 0;

		if (label == 0)
			return false;
		p += label;
		host -= label;
		item++;
		item_host--;
	}
	return host == item_host && strncasecmp(item, p, host) == 0;
}

bool config_authority_has(const struct config_item *items, uint32_t items_n, const char *authority,
			  size_t len)
{
	for (uint32_t i = 0; i < items_n && len > 0; i++)
		if (authority_is(items[i].text, authority, len))
			return true;
	return items_n == 0;
}

static bool san_is(const char *san, const char *name)
{
	if (strncmp(san, "DNS:", 4) == 0)
		return strcasecmp(san + 4, name) == 0;
	return strncmp(san, "URI:", 4) == 0 && strcmp(san + 4, name) == 0;
}

bool config_host_has_certificate(const struct config_host *host, const char *san)
{
	for (uint32_t i = 0; i < host->remote_names_n; i++)
		if (san_is(san, host->remote_names[i].text))
			return true;
	return host->remote_names_n == 0 && san_is(san, host->name);
}

bool config_host_any_certificate(const struct config_host *host)
{
	for (uint32_t i = 0; i < host->remote_names_n; i++)
		if (strcmp(host->remote_names[i].text, "*") == 0)
			return true;
	return false;
}

bool config_host_has_uid(const struct config_host *host, uint32_t uid)
{
	return contains(host->uids, host->uids_n, uid);
}
