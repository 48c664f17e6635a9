/* DPDK's log as our own lines. The EAL, its drivers and libxdp write many lines that say nothing
 * wrong (a qdisc that is not there, no bpffs, no secondary process); those go to debug. What
 * remains goes out by log_msg, and the last complaint is kept: it is the "why" in our own error
 * lines. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include <rte_log.h>

#include "base/log.h"
#include "daemon/port/port_internal.h"

static struct {
	FILE *stream;
	char line[512];
	size_t len;
	char why[200]; /* first line at warning or above since port_eal_log_reset */
} eal_log;

/* Harmless here; each was seen on a healthy start. */
static const char *const noise[] = {
	"failed to create multiq qdisc",
	"Could not add multiq qdisc",
	"Specified qdisc kind is unknown",
	"Disabling rte flow support",
	"Failed to send start req to secondary",
	"No legacy callbacks",
	"No free 1048576 kB hugepages",
	"No available 1048576 kB hugepages",
	"Rx Intr handle unset",
	"get_shared_memfd_hugepage_size", /* asks for sizes the machine lacks */
};

static bool is_noise(const char *line)
{
	for (size_t i = 0; i < RTE_DIM(noise); i++)
		if (strstr(line, noise[i]) != NULL)
			return true;
	return false;
}

static void line_end(void)
{
	enum log_level level = LOG_LEVEL_DEBUG;
	int dpdk_level = rte_log_cur_msg_loglevel();

	while (eal_log.len > 0 && isspace((unsigned char)eal_log.line[eal_log.len - 1]))
		eal_log.len--;
	eal_log.line[eal_log.len] = '\0';
	eal_log.len = 0;
	if (eal_log.line[0] == '\0')
		return;
	if (!is_noise(eal_log.line) && dpdk_level > 0 && dpdk_level <= (int)RTE_LOG_WARNING) {
		level = dpdk_level <= (int)RTE_LOG_ERR ? LOG_LEVEL_ERROR : LOG_LEVEL_WARN;
		if (eal_log.why[0] == '\0')
			snprintf(eal_log.why, sizeof(eal_log.why), "%.*s",
				 (int)sizeof(eal_log.why) - 1, eal_log.line);
	}
	log_msg(level, "dpdk: %s", eal_log.line);
}

/* Any thread writes here, one at a time (stdio's lock). */
static ssize_t stream_write(void *cookie, const char *buf, size_t n)
{
	(void)cookie;
	for (size_t i = 0; i < n; i++) {
		if (buf[i] == '\n')
			line_end();
		else if (eal_log.len < sizeof(eal_log.line) - 1)
			eal_log.line[eal_log.len++] = buf[i];
	}
	return (ssize_t)n;
}

int port_eal_log_open(void)
{
	static const cookie_io_functions_t functions = {.write = stream_write};

	port_eal_log_reset();
	eal_log.stream = fopencookie(NULL, "w", functions);
	if (eal_log.stream == NULL)
		return -SPLIT_E_BASE_NOMEM;
	setvbuf(eal_log.stream, NULL, _IONBF, 0);
	return rte_openlog_stream(eal_log.stream) == 0 ? 0 : -SPLIT_E_BASE_SYSTEM;
}

void port_eal_log_close(void)
{
	if (eal_log.stream == NULL)
		return;
	rte_openlog_stream(NULL);
	fclose(eal_log.stream);
	eal_log.stream = NULL;
}

void port_eal_log_reset(void)
{
	eal_log.why[0] = '\0';
}

const char *port_eal_log_why(void)
{
	return eal_log.why;
}
