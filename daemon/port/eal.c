/* Starting DPDK from the configuration.
 *
 * The EAL runs with --in-memory: hugepages are anonymous memfds, nothing is left behind by a crash
 * and instances can't meet in a file. Without hugepages the EAL refuses --in-memory (it forces
 * --legacy-mem), so there --no-huge --no-shconf gives the same isolation.
 *
 * What can go wrong is checked before rte_eal_init where that is possible: the EAL fails late, with
 * many lines, and can't be started twice in a process. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>

#include "base/log.h"
#include "config/config.h"
#include "daemon/port/port_internal.h"

#define EAL_ARGS_MAX (32 + 3 * CONFIG_EAL_ITEMS_MAX)
#define EAL_TEXT_MAX (64 * 1024)

/* The argument vector, its strings in one buffer. rte_eal_init keeps pointers into it. */
static struct {
	char *argv[EAL_ARGS_MAX + 1];
	int argc;
	char text[EAL_TEXT_MAX];
	size_t text_len;
	bool overflow;
	bool hugepages;
	char directory[200];
} eal;

void port_error_set(struct port_error *err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
}

__attribute__((format(printf, 1, 2))) static void arg_add(const char *format, ...)
{
	size_t room = sizeof(eal.text) - eal.text_len;
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(eal.text + eal.text_len, room, format, args);
	va_end(args);
	if (n < 0 || (size_t)n >= room || eal.argc == EAL_ARGS_MAX) {
		eal.overflow = true;
		return;
	}
	eal.argv[eal.argc++] = eal.text + eal.text_len;
	eal.text_len += (size_t)n + 1;
}

static bool is_worker_core(const struct config *cfg, unsigned core)
{
	for (uint32_t i = 0; i < cfg->workers_n; i++)
		if (cfg->workers[i].core == core)
			return true;
	return false;
}

/* The control thread's cores where the file names none: all that no worker polls on; where each has
 * a worker, all. "(0,2,3)". */
static void main_cores(const struct config *cfg, char *text, size_t bytes)
{
	cpu_set_t allowed;
	size_t len = 0;

	CPU_ZERO(&allowed);
	if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0)
		CPU_SET(0, &allowed);
	for (int pass = 0; pass < 2 && len == 0; pass++)
		for (unsigned core = 0; core < CPU_SETSIZE && len + 8 < bytes; core++)
			if (CPU_ISSET(core, &allowed) && (pass == 1 || !is_worker_core(cfg, core)))
				len += (size_t)snprintf(text + len, bytes - len, "%c%u",
							len == 0 ? '(' : ',', core);
	snprintf(text + len, bytes - len, ")");
}

/* "0@2,1@3,2@3": our lcore numbers onto cores, which may repeat. */
static void arg_lcores(const struct config *cfg)
{
	static char map[8 * (CPU_SETSIZE + CONFIG_WORKERS_MAX + 1)];
	static char cores[8 * CPU_SETSIZE];
	size_t len;

	if (cfg->eal.main_core == CONFIG_NONE)
		main_cores(cfg, cores, sizeof(cores));
	else
		snprintf(cores, sizeof(cores), "%d", cfg->eal.main_core);
	len = (size_t)snprintf(map, sizeof(map), "0@%s", cores);
	for (uint32_t i = 0; i < cfg->workers_n; i++)
		len += (size_t)snprintf(map + len, sizeof(map) - len, ",%u@%u", i + 1,
					cfg->workers[i].core);
	arg_add("--lcores=%s", map);
	arg_add("--main-lcore=0");
}

/* "0000:03:00.0" and "03:00.0", with or without ",args". */
static bool is_pci(const char *device)
{
	size_t address = strspn(device, "0123456789abcdefABCDEF:.");

	return address > 0 && (device[address] == '\0' || device[address] == ',') &&
	       memchr(device, ':', address) != NULL;
}

static void args_build(const struct config *cfg, const char *program, bool hugepages)
{
	bool pci = false;

	memset(&eal, 0, sizeof(eal));
	eal.hugepages = hugepages;
	arg_add("%s", program);
	arg_lcores(cfg);
	if (hugepages) {
		arg_add("--in-memory");
	} else {
		arg_add("--no-huge");
		arg_add("--no-shconf");
	}
	arg_add("-m");
	arg_add("%llu", (unsigned long long)((cfg->eal.memory + (1u << 20) - 1) >> 20));
	arg_add("--file-prefix=%s", cfg->eal.file_prefix);
	if (!cfg->telemetry.enabled)
		arg_add("--no-telemetry");
	for (uint32_t i = 0; i < cfg->eal.devices_n; i++) {
		bool on_pci = is_pci(cfg->eal.devices[i].text);

		pci |= on_pci;
		arg_add(on_pci ? "--allow=%s" : "--vdev=%s", cfg->eal.devices[i].text);
	}
	if (!pci)
		arg_add("--no-pci");
	for (uint32_t i = 0; i < cfg->eal.args_n; i++)
		arg_add("%s", cfg->eal.args[i].text);
}

static uint64_t read_number(const char *path)
{
	unsigned long long value = 0;
	FILE *file = fopen(path, "re");

	if (file == NULL)
		return 0;
	if (fscanf(file, "%20llu", &value) != 1)
		value = 0;
	fclose(file);
	return value;
}

/* Free bytes in hugepages of all sizes, and how much of all there is. */
static void hugepages_count(uint64_t *free_out, uint64_t *total_out)
{
	DIR *sizes = opendir("/sys/kernel/mm/hugepages");
	struct dirent *entry;

	*free_out = *total_out = 0;
	if (sizes == NULL)
		return;
	while ((entry = readdir(sizes)) != NULL) {
		unsigned long long kib;
		char path[512];

		if (sscanf(entry->d_name, "hugepages-%20llukB", &kib) != 1)
			continue;
		snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/%s/free_hugepages",
			 entry->d_name);
		*free_out += read_number(path) * kib * 1024;
		snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/%s/nr_hugepages",
			 entry->d_name);
		*total_out += read_number(path) * kib * 1024;
	}
	closedir(sizes);
}

static int hugepages_decide(const struct config *cfg, bool *use_out, struct port_error *err)
{
	uint64_t available, total;

	*use_out = false;
	if (!cfg->eal.hugepages)
		return 0;
	hugepages_count(&available, &total);
	if (available >= cfg->eal.memory) {
		*use_out = true;
		return 0;
	}
	port_error_set(err,
		       "eal.memory wants %llu MiB of hugepages, %llu of %llu MiB are free (reserve "
		       "some: /proc/sys/vm/nr_hugepages)",
		       (unsigned long long)cfg->eal.memory >> 20,
		       (unsigned long long)available >> 20, (unsigned long long)total >> 20);
	if (!cfg->eal.hugepages_fallback)
		return -SPLIT_E_PORT_HUGEPAGES;
	log_warn("%s; using normal pages", err->text);
	err->text[0] = '\0';
	return 0;
}

/* Where the EAL will put its runtime directory: as eal_create_runtime_dir chooses. */
static void runtime_directory(const struct config *cfg, char *path, size_t bytes)
{
	const char *base = getenv("RUNTIME_DIRECTORY");

	if (base == NULL && getuid() == 0)
		base = "/var/run";
	if (base == NULL)
		base = getenv("XDG_RUNTIME_DIR");
	snprintf(path, bytes, "%s/dpdk/%s", base != NULL ? base : "/tmp", cfg->eal.file_prefix);
}

/* The EAL would take the next name for its telemetry socket and nobody would find it. */
static bool prefix_in_use(const char *directory)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/dpdk_telemetry.v2", directory);
	bool used = false;

	if (fd >= 0 && n > 0 && (size_t)n < sizeof(addr.sun_path))
		used = connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 ||
		       errno == EAGAIN;
	if (fd >= 0)
		close(fd);
	return used;
}

/* The interface of a TAP device, "net_tap0,iface=sd0", when another process has it up. The driver
 * would open one more queue of it, and the two would get half of the packets each. */
static bool tap_in_use(const char *device, char name[IF_NAMESIZE])
{
	const char *iface = strstr(device, ",iface=");
	struct ethtool_value link = {.cmd = ETHTOOL_GLINK};
	struct ifreq ifr = {.ifr_data = (char *)&link};
	size_t len;
	int fd;
	bool used;

	if (strncmp(device, "net_tap", strlen("net_tap")) != 0 || iface == NULL)
		return false;
	iface += strlen(",iface=");
	len = strcspn(iface, ",");
	if (len == 0 || len >= IF_NAMESIZE)
		return false; /* the driver's to refuse */
	memcpy(ifr.ifr_name, iface, len);
	memcpy(name, ifr.ifr_name, IF_NAMESIZE);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	/* A TAP interface has a carrier while somebody has it open; one that only exists may be
	 * ours. IFF_RUNNING would say the same up to a second late. */
	used = ioctl(fd, SIOCETHTOOL, &ifr) == 0 && link.data != 0;
	close(fd);
	return used;
}

static int devices_check(const struct config *cfg, struct port_error *err)
{
	char name[IF_NAMESIZE];

	for (uint32_t i = 0; i < cfg->eal.devices_n; i++) {
		if (!tap_in_use(cfg->eal.devices[i].text, name))
			continue;
		port_error_set(err,
			       "eal.devices[%u]: another process has the interface %s (a second "
			       "splitd?), expected one of its own",
			       i, name);
		return -SPLIT_E_PORT_DEVICE;
	}
	return 0;
}

/* The EAL removes its socket at exit, but not the directory. Registered before the EAL's own
 * handler, so it runs after it; what others put there stays. */
static void runtime_directory_remove(void)
{
	(void)rmdir(eal.directory);
}

/* rte_eal_init, without the page of options it prints to stdout when it dislikes one. */
static int eal_init_quiet(void)
{
	int saved = dup(STDOUT_FILENO), null = open("/dev/null", O_WRONLY | O_CLOEXEC), result;

	fflush(stdout);
	if (saved >= 0 && null >= 0)
		dup2(null, STDOUT_FILENO);
	/* It permutes the vector; the strings stay. */
	result = rte_eal_init(eal.argc, eal.argv);
	fflush(stdout);
	if (saved >= 0) {
		dup2(saved, STDOUT_FILENO);
		close(saved);
	}
	if (null >= 0)
		close(null);
	return result;
}

int port_eal_start(const struct config *cfg, const char *program, struct port_error *err)
{
	bool hugepages;
	int result;

	err->text[0] = '\0';
	result = hugepages_decide(cfg, &hugepages, err);
	if (result != 0)
		return result;
	args_build(cfg, program, hugepages);
	if (eal.overflow) {
		port_error_set(err, "eal: the arguments are too long together");
		return -SPLIT_E_PORT_EAL;
	}
	runtime_directory(cfg, eal.directory, sizeof(eal.directory));
	if (cfg->telemetry.enabled && prefix_in_use(eal.directory)) {
		port_error_set(err, "eal.file_prefix: \"%s\" is in use by another DPDK process",
			       cfg->eal.file_prefix);
		return -SPLIT_E_PORT_EAL;
	}
	result = devices_check(cfg, err);
	if (result != 0)
		return result;
	/* One XDP program of the driver's own: libxdp's dispatcher wants a mounted bpffs. */
	setenv("LIBXDP_SKIP_DISPATCHER", "1", 0);
	result = port_eal_log_open();
	if (result != 0)
		return result;
	atexit(runtime_directory_remove);
	if (eal_init_quiet() < 0) {
		const char *why = port_eal_log_why();

		port_error_set(err, "DPDK could not be started: %s (%s)", rte_strerror(rte_errno),
			       why[0] != '\0' ? why : "no further reason given");
		port_eal_log_close();
		return -SPLIT_E_PORT_EAL;
	}
	return 0;
}

void port_eal_stop(void)
{
	rte_eal_cleanup();
	port_eal_log_close();
}

unsigned port_worker_lcore(unsigned worker)
{
	return worker + 1;
}

const char *port_runtime_dir(void)
{
	return rte_eal_get_runtime_dir();
}

bool port_eal_hugepages(void)
{
	return eal.hugepages;
}
