/* Any bytes as a configuration: either a tree that is whole and within its bounds, or findings. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void whole(const struct config *cfg)
{
	require(cfg->workers_n >= 1 && cfg->workers_n <= CONFIG_WORKERS_MAX);
	require(cfg->ports_n >= 1 && cfg->ports_n <= CONFIG_PORTS_MAX);
	for (uint32_t i = 0; i < cfg->ports_n; i++) {
		const struct config_port *p = &cfg->ports[i];

		require(memchr(p->name, '\0', sizeof(p->name)) != NULL && p->name[0] != '\0');
		require(p->rx_queues >= 1 && p->rx_queues <= cfg->workers_n);
		require(p->queue_workers_n == p->rx_queues);
		for (uint32_t q = 0; q < p->queue_workers_n; q++)
			require(p->queue_workers[q] < cfg->workers_n);
		require(p->addresses_n >= 1 && p->addresses_n <= CONFIG_ADDRESSES_MAX);
	}
	for (uint32_t i = 0; i < cfg->listeners_n; i++)
		for (uint32_t k = 0; k < cfg->listeners[i].services_n; k++)
			require(cfg->listeners[i].services[k] < cfg->services_n);
	for (uint32_t i = 0; i < cfg->services_n; i++) {
		const struct config_service *s = &cfg->services[i];

		require(s->hosts_n >= 1 && s->workers_n >= 1);
		for (uint32_t k = 0; k < s->hosts_n; k++)
			require(s->hosts[k] < cfg->hosts_n);
		for (uint32_t k = 0; k < s->workers_n; k++)
			require(s->workers[k] < cfg->workers_n);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config_report rep;
	struct config *cfg;
	int rc;

	config_report_init(&rep);
	rc = config_parse((const char *)data, size, "fuzz.json", NULL, &cfg, &rep);
	require((rc == 0) == (cfg != NULL));
	if (rc == 0)
		whole(cfg);
	else
		require(rc == -SPLIT_E_CONFIG_INVALID && rep.count > 0);
	for (size_t i = 0; i < rep.count; i++)
		require(strchr(rep.findings[i].text, '\n') == NULL);
	config_report_fini(&rep);
	config_free(cfg);
	return 0;
}
