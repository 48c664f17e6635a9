#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <rte_eth_ring.h>
#include <rte_mbuf.h>

#include "base/log.h"
#include "bench/tcp.h"
#include "config/config.h"
#include "daemon/port/port.h"

#define FRAMES     16384u
#define MBUFS      32767u
#define MBUF_BYTES (2048 + RTE_PKTMBUF_HEADROOM)

/* A request is held until its answer acknowledges it, the answer until the next request does. */
#define SMALL_MBUFS(connections) (3 * (connections))
#define SMALL_BYTES              (448 + RTE_PKTMBUF_HEADROOM)

/* ---- namespaces ----------------------------------------------------------------------------- */

/* By nsenter, since ip's own -n and netns exec want a mount point at /, which a chroot has not; but
 * for what needs the namespace's /sys. */
static int shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *format, ...)
{
	char command[1024];
	va_list args;

	va_start(args, format);
	(void)vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	return system(command) == 0 ? 0 : -SPLIT_E_BASE_SYSTEM;
}

static int veth(const struct tcp_place *p, unsigned n, const char *server, bool offloads)
{
	const char *s = p->server_ns, *c = p->client_ns;
	int err = shell(
		"nsenter --net=/run/netns/%s ip link add sd%u type veth peer name cl%u netns %s", s,
		n, n, c);

	if (err == 0)
		err = shell(
			"for e in \"%s sd%u\" \"%s cl%u\"; do set -- $e;"
			" nsenter --net=/run/netns/$1 sysctl -qw net.ipv6.conf.$2.disable_ipv6=1"
			" 2>/dev/null; %s nsenter --net=/run/netns/$1 ip link set $2 up || exit 1; "
			"done",
			s, n, c, n,
			offloads ? ""
				 : "nsenter --net=/run/netns/$1 ethtool -K $2 tx off tso off gso "
				   "off gro off >/dev/null 2>&1;");
	if (err == 0)
		err = shell("nsenter --net=/run/netns/%s ip addr add 198.18.%u.1/24 dev cl%u", c, n,
			    n);
	if (err == 0 && server != NULL)
		err = shell("nsenter --net=/run/netns/%s ip addr add %s/24 dev sd%u", s, server, n);
	return err;
}

/* What arrives for the kernel's server is worked on by the server's core, as ours is, and by no
 * other; what arrives for the client, by the client's. Without this the sender's core does it. */
static void steer(const struct tcp_place *p)
{
	if (shell("ip netns exec %s sh -c 'for i in 1 2; do"
		  " echo %x >/sys/class/net/sd$i/queues/rx-0/rps_cpus; done' &&"
		  " ip netns exec %s sh -c 'for i in 0 1 2; do"
		  " echo %x >/sys/class/net/cl$i/queues/rx-0/rps_cpus; done'",
		  p->server_ns, 1u << (p->core_server & 31), p->client_ns,
		  1u << (p->core_client & 31)) != 0)
		perf_warn("receive packet steering cannot be set: the kernel's softirq work runs "
			  "on the sender's core");
}

static int ns_open(const char *name)
{
	char path[96];

	(void)snprintf(path, sizeof(path), "/run/netns/%s", name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static int namespaces_make(struct tcp_place *p)
{
	int err;

	(void)snprintf(p->server_ns, sizeof(p->server_ns), "split-perf-s-%d", (int)getpid());
	(void)snprintf(p->client_ns, sizeof(p->client_ns), "split-perf-c-%d", (int)getpid());
	p->made = true;
	err = shell("ip netns add %s && ip netns add %s && nsenter --net=/run/netns/%s ip link set "
		    "lo up &&"
		    " nsenter --net=/run/netns/%s ip link set lo up",
		    p->server_ns, p->client_ns, p->server_ns, p->client_ns);
	if (err == 0)
		err = veth(p, 0, NULL, false);
	if (err == 0)
		err = veth(p, 1, TCP_KERNEL_ADDRESS, true);
	if (err == 0)
		err = veth(p, 2, TCP_PLAIN_ADDRESS, false);
	if (err != 0) {
		perf_warn("cannot make network namespaces with veth pairs (needs root)");
		return err;
	}
	/* Thousands of clients at once are the test, not an attack. */
	(void)shell("nsenter --net=/run/netns/%s sysctl -qw net.core.somaxconn=16384"
		    " net.ipv4.tcp_max_syn_backlog=16384 net.ipv4.tcp_syncookies=1 2>/dev/null",
		    p->server_ns);
	(void)shell(
		"nsenter --net=/run/netns/%s sysctl -qw net.ipv4.ip_local_port_range='1024 65535'"
		" 2>/dev/null",
		p->client_ns);
	steer(p);
	p->home_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	p->server_fd = ns_open(p->server_ns);
	p->client_fd = ns_open(p->client_ns);
	if (p->home_fd < 0 || p->server_fd < 0 || p->client_fd < 0)
		return -SPLIT_E_BASE_SYSTEM;
	return setns(p->server_fd, CLONE_NEWNET) == 0 ? 0 : -SPLIT_E_BASE_SYSTEM;
}

/* ---- DPDK ----------------------------------------------------------------------------------- */

static int config_make(struct tcp_place *p)
{
	struct config_report rep;
	char text[2048], device[160] = "", port[256] = "";
	int n, err;

	if (p->device != NULL) {
		(void)snprintf(device, sizeof(device), ", \"net_%s0,iface=sd0%s\"", p->device,
			       strcmp(p->device, "af_xdp") == 0
				       ? ",start_queue=0,queue_count=1,busy_budget=0"
				       : "");
		(void)snprintf(port, sizeof(port),
			       ", {\"name\": \"dev\", \"device\": \"net_%s0\", \"mtu\": 1500,"
			       " \"mbufs\": %u, \"addresses\": [\"" TCP_OUR_ADDRESS "/24\"]}",
			       p->device, MBUFS);
	}
	n = snprintf(text, sizeof(text),
		     "{\"eal\": {\"main_core\": %u, \"memory\": \"%uMiB\", \"hugepages\": true,"
		     "  \"hugepages_fallback\": true, \"file_prefix\": \"split-perf-%d\","
		     "  \"devices\": [\"net_ring0\"%s]},"
		     "\"workers\": [{\"core\": %u}],"
		     "\"ports\": [{\"name\": \"ring\", \"device\": \"net_ring0\","
		     "  \"mtu\": 1500, \"mbufs\": %u, \"checksum\": \"unverified\","
		     "  \"addresses\": [\"198.18.3.2/24\"]}%s],"
		     "\"listeners\": [{\"name\": \"main\", \"address\": \"0.0.0.0\","
		     "  \"port\": 7, \"services\": [\"*\"]}],"
		     "\"hosts\": [{\"name\": \"none\", \"uids\": [0]}],"
		     "\"services\": [{\"name\": \"none.None\", \"hosts\": [\"none\"]}],"
		     "\"log\": {\"level\": \"warn\"}, \"telemetry\": {\"enabled\": false}}",
		     p->core_client, 512 + SMALL_MBUFS(p->connections_max / 2) / 2048 * 2,
		     (int)getpid(), device, p->core_server, MBUFS, port);
	if (n < 0 || (size_t)n >= sizeof(text))
		return -SPLIT_E_BASE_INTERNAL;
	config_report_init(&rep);
	err = config_parse(text, (size_t)n, "split-perf", NULL, &p->config, &rep);
	for (size_t i = 0; i < rep.count; i++)
		perf_warn("%s", rep.findings[i].text);
	config_report_fini(&rep);
	if (err != 0)
		return err;
	/* The ring's device is made by hand, below. */
	memmove(&p->config->eal.devices[0], &p->config->eal.devices[1],
		--p->config->eal.devices_n * sizeof(p->config->eal.devices[0]));
	(void)snprintf(p->config->ports[0].device, sizeof(p->config->ports[0].device),
		       "net_ring_perf");
	return 0;
}

static int dpdk_start(struct tcp_place *p)
{
	const unsigned single = RING_F_SP_ENQ | RING_F_SC_DEQ;
	struct port_error why = {.text = ""};
	int err = config_make(p);

	if (err != 0)
		return err;
	log_level_set((enum log_level)p->config->log.level);
	err = port_eal_start(p->config, "split-perf", &why);
	p->eal = err == 0;
	if (err == 0) {
		p->to_server = rte_ring_create("to_server", FRAMES, SOCKET_ID_ANY, single);
		p->to_client = rte_ring_create("to_client", FRAMES, SOCKET_ID_ANY, single);
		p->pool =
			rte_pktmbuf_pool_create("client", MBUFS, 256, 0, MBUF_BYTES, SOCKET_ID_ANY);
		p->small = rte_pktmbuf_pool_create("small", SMALL_MBUFS(p->connections_max / 2),
						   256, 0, SMALL_BYTES, SOCKET_ID_ANY);
		if (p->to_server == NULL || p->to_client == NULL || p->pool == NULL ||
		    p->small == NULL ||
		    rte_eth_from_rings("perf", &p->to_server, 1, &p->to_client, 1, 0) < 0)
			err = -SPLIT_E_BASE_NOMEM;
	}
	if (err == 0)
		err = port_set_create(p->config, &p->ports, &why);
	if (err == 0)
		err = port_set_start(p->ports, &why);
	if (why.text[0] != '\0')
		perf_warn("%s", why.text);
	return err;
}

static void descriptors_raise(unsigned connections)
{
	const rlim_t want = (rlim_t)connections + 256;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= want)
		return;
	limit.rlim_cur = want;
	if (limit.rlim_max < want)
		limit.rlim_max = want; /* root may */
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
		perf_warn("RLIMIT_NOFILE cannot be raised to %llu: fewer --connections will do",
			  (unsigned long long)want);
}

int tcp_place_open(struct tcp_place *p)
{
	int err = 0;

	p->home_fd = p->server_fd = p->client_fd = -1;
	descriptors_raise(p->sockets_max + 256);
	if (p->device != NULL)
		err = namespaces_make(p);
	if (err != 0)
		tcp_place_close(p);
	return err;
}

int tcp_place_start(struct tcp_place *p)
{
	int err = dpdk_start(p);

	if (err == 0 && p->device != NULL && setns(p->client_fd, CLONE_NEWNET) != 0)
		err = -SPLIT_E_BASE_SYSTEM;
	return err;
}

void tcp_place_close(struct tcp_place *p)
{
	/* The device goes in the namespace it was made in. */
	if (p->server_fd >= 0)
		(void)setns(p->server_fd, CLONE_NEWNET);
	if (p->ports != NULL) {
		port_set_stop(p->ports);
		port_set_destroy(p->ports);
	}
	rte_mempool_free(p->pool);
	rte_mempool_free(p->small);
	if (p->eal)
		port_eal_stop();
	config_free(p->config);
	if (p->home_fd >= 0) {
		(void)setns(p->home_fd, CLONE_NEWNET);
		close(p->home_fd);
	}
	if (p->server_fd >= 0)
		close(p->server_fd);
	if (p->client_fd >= 0)
		close(p->client_fd);
	if (p->made)
		(void)shell("ip netns del %s 2>/dev/null; ip netns del %s 2>/dev/null",
			    p->server_ns, p->client_ns);
	memset(p, 0, sizeof(*p));
	p->home_fd = p->server_fd = p->client_fd = -1;
}
