/* Control with workers that only answer messages and hosts that are forked processes using
 * shepherd's host side. control_run has its own thread; the test watches counters and the log. One
 * EAL (without hugepages, a null device) for all tests. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <protobuf-c/protobuf-c.h>

#include "ctl/ctl.h"
#include "daemon/control/control_internal.h"
#include "linearize/linearize.h"
#include "tests/control/fake_worker.h"

#define WORKERS   2
#define WAIT_MS   30000 /* that of a busy machine; an idle one needs none */
#define HOST_GONE 77    /* exit code of a host that saw its detach */

static const char config_text[] =
	"{\"eal\": {\"main_core\": 0, \"memory\": \"64MiB\", \"hugepages\": false,"
	"  \"file_prefix\": \"%s\", \"devices\": [\"net_null9\"]},"
	" \"workers\": [{\"core\": 0}, {\"core\": 1}],"
	" \"ports\": [{\"name\": \"p0\", \"device\": \"net_null9\", \"mbufs\": 4096,"
	"  \"addresses\": [\"198.18.0.2/24\"]}],"
	" \"listeners\": [{\"name\": \"l\", \"port\": 50051, \"services\": [\"*\"]}],"
	" \"control\": {\"socket\": \"%s\", \"attach_timeout\": \"3s\", \"pending_max\": 4},"
	" \"hosts\": ["
	"  {\"name\": \"echo\", \"uids\": [%u], \"endpoints_max\": 1, \"workers_max\": 2,"
	"   \"to_host\": \"4MiB\", \"to_daemon\": \"4MiB\", \"hugepages\": false},"
	"  {\"name\": \"other\", \"uids\": [%u], \"to_host\": \"4MiB\", \"to_daemon\": \"4MiB\","
	"   \"hugepages\": false}],"
	" \"services\": [{\"name\": \"t.Echo\", \"hosts\": [\"echo\"]},"
	"  {\"name\": \"t.Other\", \"hosts\": [\"other\"]}],"
	" \"linearize\": {\"linear_bytes_max\": \"64KiB\"},"
	" \"grpc\": {\"message_bytes_max\": \"32KiB\"%s},"
	" \"shutdown\": {\"drain_timeout\": \"500ms\"}%s}";

static char directory[64], socket_path[96], config_path[96], prefix[48];
static cpu_set_t cores;
static struct config *config;
static struct port_set *ports;
static struct worker fakes[WORKERS];
static struct worker *fake_list[WORKERS];
static struct control *control;
static pthread_t thread;
static int run_result;
static bool running;

/* ---- the log ------------------------------------------------------------------------------- */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[64 * 1024];

static void log_keep(void *ctx, enum log_level level, const char *line)
{
	size_t used;

	(void)ctx;
	(void)level;
	pthread_mutex_lock(&log_lock);
	used = strlen(log_text);
	snprintf(log_text + used, sizeof(log_text) - used, "%s\n", line);
	pthread_mutex_unlock(&log_lock);
}

static bool logged(const char *text)
{
	bool found;

	pthread_mutex_lock(&log_lock);
	found = strstr(log_text, text) != NULL;
	pthread_mutex_unlock(&log_lock);
	return found;
}

/* ---- set up -------------------------------------------------------------------------------- */

/* Further text for the object "grpc" and for the whole. */
static void config_write(const char *grpc, const char *more)
{
	FILE *file = fopen(config_path, "w");

	if (file == NULL)
		abort();
	fprintf(file, config_text, prefix, socket_path, (unsigned)getuid(), (unsigned)getuid(),
		grpc, more);
	fclose(file);
}

static void *control_thread(void *arg)
{
	(void)arg;
	run_result = control_run(control);
	return NULL;
}

static void setup(void)
{
	struct control_params params = {.config = config,
					.config_path = config_path,
					.ports = ports,
					.workers = fake_list,
					.workers_n = WORKERS,
					.report_fd = -1,
					.cores = &cores};

	log_text[0] = '\0';
	config_write("", "");
	for (unsigned i = 0; i < WORKERS; i++) {
		fake_worker_init(&fakes[i], i);
		fake_list[i] = &fakes[i];
	}
	ck_assert_msg(control_create(&params, &control) == 0, "%s", log_text);
	ck_assert_int_eq(pthread_create(&thread, NULL, control_thread, NULL), 0);
	running = true;
}

static void control_stop(void)
{
	if (!running)
		return;
	kill(getpid(), SIGTERM);
	pthread_join(thread, NULL);
	running = false;
}

static void teardown(void)
{
	control_stop();
	control_destroy(control);
	control = NULL;
	for (unsigned i = 0; i < WORKERS; i++)
		fake_worker_fini(&fakes[i]);
	ck_assert_int_ne(access(socket_path, F_OK), 0);
}

#define COUNTER(name) counter_get(&control_counters_get(control)->name)

#define WAIT_FOR(condition)                                                                        \
	do {                                                                                       \
		int waited_ms = 0;                                                                 \
		while (!(condition) && waited_ms++ < WAIT_MS)                                      \
			usleep(1000);                                                              \
		ck_assert_msg(condition, "waited in vain for %s; log:\n%s", #condition, log_text); \
	} while (0)

/* ---- hosts --------------------------------------------------------------------------------- */

static const ProtobufCMessageDescriptor empty_message = {
	.magic = PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC,
	.name = "t.Empty",
	.short_name = "Empty",
	.c_name = "T__Empty",
	.package_name = "t",
	.sizeof_message = sizeof(ProtobufCMessage),
};

struct host_kind {
	const char *name, *service;
	uid_t uid;
	uint32_t input; /* schema index */
	bool wait_for_detach;
	enum { ONCE, AGAIN, AGAIN_KEEPING, AGAIN_CLOSING } again;
	enum { LAYOUT_OURS, LAYOUT_32_BIT, LAYOUT_BIG_ENDIAN } layout;
};

static const struct host_kind good_host = {.name = "echo", .service = "t.Echo"};

/* How often this process gets in, one after the other, at most `max`; a place that is not free yet
 * is waited for, a little. */
static int attaches_in_turn(const struct attach_hello *hello, bool keep, int max)
{
	struct attachment *a;
	int n = 0, tries = 0;

	/* Long for what must come, short for what must not. */
	while (n < max && tries++ < (keep && n >= 2 ? 200 : 10000)) {
		if (attachment_open(socket_path, hello, WAIT_MS, &a, NULL) != 0) {
			usleep(2000);
			continue;
		}
		n++;
		tries = 0;
		if (keep)
			shutdown(attachment_fd(a), SHUT_RDWR);
		else
			attachment_close(a);
	}
	return n;
}

/* In the child. Exit code: 0 attached (and stays until killed), HOST_GONE when told to wait for its
 * detach, else the refusal's code below 200. */
static void host_main(const struct host_kind *kind, int ready_fd)
{
	struct attach_method method = {kind->service, "Call", ATTACH_UNARY, kind->input, 0, 1, 2, 0,
				       {0},           NULL};
	struct attach_hello hello = {
		.name = kind->name, .workers = 4, .methods = &method, .methods_n = 1};
	struct attach_refusal why = {0, ""};
	struct attachment *attachment;
	struct schema_builder *builder;
	struct schema_blob blob;
	uint32_t index;
	char ok = 1;
	int result;

	if (kind->uid != 0 && (setgid(kind->uid) != 0 || setuid(kind->uid) != 0))
		_exit(199);
	if (schema_builder_create(&builder) != 0 ||
	    schema_builder_add(builder, &empty_message, &index) != 0 ||
	    schema_builder_finish(builder, &blob) != 0)
		_exit(198);
	/* What another machine's schema begins with: magic as it stores it, size of a pointer. */
	if (kind->layout == LAYOUT_32_BIT)
		blob.bytes[6] = 4;
	else if (kind->layout == LAYOUT_BIG_ENDIAN)
		memcpy(blob.bytes, "SLPS", 4);
	hello.schema = blob.bytes;
	hello.schema_bytes = blob.len;
	result = attachment_open(socket_path, &hello, WAIT_MS, &attachment, &why);
	if (result != 0)
		_exit((why.code != 0 ? -why.code : -result) - 200);
	if (write(ready_fd, &ok, 1) != 1)
		_exit(197);
	if (kind->again >= AGAIN_KEEPING) {
		attachment_close(attachment);
		_exit(attaches_in_turn(&hello, kind->again == AGAIN_KEEPING, 8));
	}
	while (attachment_alive(attachment))
		usleep(1000);
	if (kind->again == ONCE)
		_exit(HOST_GONE);
	attachment_close(attachment);
	result = attachment_open(socket_path, &hello, WAIT_MS, &attachment, &why);
	_exit(result == 0 ? 0 : (why.code != 0 ? -why.code : -result) - 200);
}

/* Returns the child's pid, and whether it is attached. */
static pid_t host_start(const struct host_kind *kind, bool *attached_out)
{
	int ready[2];
	char ok = 0;
	pid_t pid;

	ck_assert_int_eq(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		close(ready[0]);
		host_main(kind, ready[1]);
	}
	close(ready[1]);
	*attached_out = read(ready[0], &ok, 1) == 1 && ok == 1;
	close(ready[0]);
	return pid;
}

static int host_exit_code(pid_t pid)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static pid_t host_attach(void)
{
	bool attached;
	pid_t pid = host_start(&good_host, &attached);

	ck_assert_msg(attached, "not attached, code %d; log:\n%s", 200 + host_exit_code(pid),
		      log_text);
	return pid;
}

static void host_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void host_refused(const struct host_kind *kind, int code)
{
	bool attached;
	pid_t pid = host_start(kind, &attached);

	ck_assert(!attached);
	ck_assert_int_eq(host_exit_code(pid), code - 200);
}

static int knock(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

/* ---- tests --------------------------------------------------------------------------------- */

START_TEST(a_host_attaches_and_dies)
{
	const struct worker_endpoint *shared;
	pid_t pid = host_attach();

	WAIT_FOR(COUNTER(attach_accepted) == 1);
	ck_assert_uint_eq(fakes[0].adds, 1);
	ck_assert_uint_eq(fakes[1].adds, 1);
	shared = fakes[0].last;
	ck_assert_ptr_eq(shared, fakes[1].last);
	ck_assert_str_eq(shared->host->name, "echo");
	ck_assert_uint_eq(shared->methods_n, 1);
	ck_assert_str_eq(shared->methods[0].service, "t.Echo");
	ck_assert_ptr_nonnull(schema_message_at(shared->schema, 0));
	ck_assert_uint_eq(endpoint_geometry(shared->endpoint)->host_workers, 2);
	host_kill(pid);
	WAIT_FOR(COUNTER(endpoint_freed) == 1);
	ck_assert_uint_eq(fakes[0].removes, 1);
	ck_assert_uint_eq(fakes[1].removes, 1);
	ck_assert_uint_eq(COUNTER(endpoint_died) + COUNTER(endpoint_detached), 1);
	ck_assert(logged("host \"echo\""));
	/* Its place is free again. */
	pid = host_attach();
	WAIT_FOR(COUNTER(attach_accepted) == 2);
	host_kill(pid);
}
END_TEST

START_TEST(memory_stays_until_every_worker_is_quiet)
{
	pid_t pid;

	fakes[1].no_quiet = true;
	pid = host_attach();
	WAIT_FOR(COUNTER(attach_accepted) == 1);
	host_kill(pid);
	WAIT_FOR(fakes[1].removes == 1);
	usleep(100000);
	ck_assert_uint_eq(COUNTER(endpoint_freed), 0);
	ck_assert(!endpoint_alive(((const struct worker_endpoint *)fakes[1].last)->endpoint));
	fake_worker_report(&fakes[1], WORKER_REPORT_ENDPOINT_QUIET, fakes[1].last, 0);
	WAIT_FOR(COUNTER(endpoint_freed) == 1);
}
END_TEST

START_TEST(a_full_worker_ring_is_tried_again)
{
	pid_t pid;

	fakes[1].full = 3;
	pid = host_attach(); /* returns once ACTIVE, so after every ADD */
	ck_assert_uint_eq(fakes[1].adds, 1);
	ck_assert_uint_eq(fakes[0].adds, 1);
	ck_assert_uint_eq(COUNTER(worker_post_full), 3);
	fakes[0].full = 2;
	host_kill(pid);
	WAIT_FOR(COUNTER(endpoint_freed) == 1);
	ck_assert_uint_eq(fakes[0].removes, 1);
}
END_TEST

START_TEST(a_fault_detaches_the_host)
{
	pid_t pid = host_attach();

	WAIT_FOR(COUNTER(attach_accepted) == 1);
	fake_worker_report(&fakes[0], WORKER_REPORT_ENDPOINT_FAULT, fakes[0].last,
			   -SPLIT_E_SHEPHERD_PROTOCOL);
	ck_assert_int_eq(host_exit_code(pid), HOST_GONE);
	WAIT_FOR(COUNTER(endpoint_freed) == 1);
	ck_assert_uint_eq(COUNTER(endpoint_fault), 1);
	ck_assert(logged("worker 0: the host wrote nonsense"));
}
END_TEST

/* Whoever wrote nonsense stays out until he has died; whoever was only slow may come again. */
START_TEST(an_outcast_stays_out)
{
	static const int causes[] = {-SPLIT_E_SHEPHERD_PROTOCOL, -SPLIT_E_SHEPHERD_RELEASE};
	struct host_kind kind = good_host;
	bool attached;
	pid_t pid;

	kind.again = AGAIN;
	pid = host_start(&kind, &attached);
	ck_assert(attached);
	WAIT_FOR(COUNTER(attach_accepted) == 1);
	fake_worker_report(&fakes[1], WORKER_REPORT_ENDPOINT_FAULT, fakes[0].last, causes[_i]);
	ck_assert_int_eq(host_exit_code(pid), _i == 0 ? SPLIT_E_SHEPHERD_ATTACH_OUTCAST - 200 : 0);
	WAIT_FOR(COUNTER(attach_refused_outcast) == (_i == 0));
	/* His place is free for another. */
	WAIT_FOR(COUNTER(endpoint_freed) >= 1);
	host_kill(host_attach());
}
END_TEST

/* A process that keeps the segments of attaches that are over gets no more of them than
 * endpoints_max allows; one that gives them back comes and goes as often as it likes. */
START_TEST(segments_that_are_kept_count)
{
	struct host_kind kind = good_host;
	bool attached;
	pid_t pid;

	kind.again = _i == 0 ? AGAIN_KEEPING : AGAIN_CLOSING;
	pid = host_start(&kind, &attached);
	ck_assert(attached);
	ck_assert_int_eq(host_exit_code(pid), _i == 0 ? 2 : 8);
	WAIT_FOR(list_empty(&control->departed)); /* nor is he remembered when he is dead */
	host_kill(host_attach());
}
END_TEST

START_TEST(bad_attaches_are_refused_and_counted)
{
	struct host_kind kind = good_host;
	char junk[64];
	pid_t pid;
	int fd;

	kind.name = "nobody";
	host_refused(&kind, SPLIT_E_SHEPHERD_ATTACH_NAME);
	/* The refusal is sent before it is counted. */
	WAIT_FOR(COUNTER(attach_refused_name) == 1);
	WAIT_FOR(logged("attach of \"nobody\""));

	kind = good_host;
	kind.service = "t.NotHis";
	host_refused(&kind, SPLIT_E_SHEPHERD_ATTACH_NAME);
	WAIT_FOR(COUNTER(attach_refused_name) == 2);

	kind = good_host;
	kind.input = 9;
	host_refused(&kind, SPLIT_E_SHEPHERD_ATTACH_SCHEMA);
	WAIT_FOR(COUNTER(attach_refused_protocol) == 1);
	WAIT_FOR(logged("t.Echo/Call names a message"));

	memset(junk, 0xa5, sizeof(junk));
	fd = knock();
	ck_assert_int_eq(send(fd, junk, sizeof(junk), MSG_NOSIGNAL), (ssize_t)sizeof(junk));
	WAIT_FOR(COUNTER(attach_refused_protocol) == 2);
	close(fd);

	fd = knock();
	close(fd);
	WAIT_FOR(COUNTER(attach_refused_protocol) == 3);

	/* endpoints_max is 1 */
	pid = host_attach();
	host_refused(&good_host, SPLIT_E_SHEPHERD_ATTACH_LIMIT);
	WAIT_FOR(COUNTER(attach_refused_limit) == 1);
	ck_assert_uint_eq(COUNTER(attach_accepted), 1);
	host_kill(pid);
}
END_TEST

/* Processes of one image bring equal schemas: tables are made once. */
START_TEST(equal_schemas_are_shared)
{
	const struct host_kind other = {.name = "other", .service = "t.Other"};
	const struct schema *schema;
	bool attached;
	pid_t first = host_attach(), second;

	WAIT_FOR(COUNTER(attach_accepted) == 1);
	schema = fakes[0].last->schema;
	second = host_start(&other, &attached);
	ck_assert(attached);
	WAIT_FOR(COUNTER(attach_accepted) == 2);
	ck_assert_uint_eq(COUNTER(schema_shared), 1);
	ck_assert_ptr_eq(fakes[0].last->schema, schema);
	ck_assert_uint_eq(schema_refs(schema), 2);
	host_kill(first);
	WAIT_FOR(schema_refs(schema) == 1);
	ck_assert_str_eq(schema_message_name(schema_message_at(schema, 0)), "t.Empty");
	host_kill(second);
	WAIT_FOR(COUNTER(endpoint_freed) == 2);
}
END_TEST

START_TEST(other_layouts_are_refused)
{
	struct host_kind kind = good_host;

	kind.layout = LAYOUT_32_BIT;
	host_refused(&kind, SPLIT_E_LINEARIZE_SCHEMA_LAYOUT);
	WAIT_FOR(COUNTER(attach_refused_protocol) == 1);
	WAIT_FOR(logged("attach of \"echo\""));
	ck_assert(logged("schema is for another pointer size or byte order"));
	kind.layout = LAYOUT_BIG_ENDIAN;
	host_refused(&kind, SPLIT_E_LINEARIZE_SCHEMA_LAYOUT);
	WAIT_FOR(COUNTER(attach_refused_protocol) == 2);
	ck_assert_uint_eq(COUNTER(attach_accepted), 0);
}
END_TEST

START_TEST(a_strange_uid_is_refused)
{
	struct host_kind kind = good_host;

	if (getuid() != 0)
		return; /* only root can become somebody else */
	kind.uid = 65534;
	ck_assert_int_eq(chmod(directory, 0711), 0);
	ck_assert_int_eq(chmod(socket_path, 0666), 0);
	host_refused(&kind, SPLIT_E_SHEPHERD_ATTACH_UID);
	WAIT_FOR(COUNTER(attach_refused_uid) == 1);
	ck_assert(logged("uid 65534"));
}
END_TEST

START_TEST(silent_attaches_time_out_and_are_limited)
{
	int fds[6];
	pid_t pid;

	for (int i = 0; i < 6; i++)
		fds[i] = knock();
	WAIT_FOR(COUNTER(attach_refused_limit) == 2); /* pending_max is 4 */
	/* They do not keep out one that comes to the point: the oldest gives way. */
	pid = host_attach();
	WAIT_FOR(COUNTER(attach_refused_limit) == 3);
	WAIT_FOR(COUNTER(attach_timeout) == 3);
	for (int i = 0; i < 6; i++)
		close(fds[i]);
	host_kill(pid);
}
END_TEST

/* Out of descriptors, control leaves those that knock waiting, without a turn for each. */
START_TEST(no_descriptor_is_no_whirl)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct rlimit before, few;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	few = before;
	few.rlim_cur = (rlim_t)fd + 1; /* the lowest that was free, so none below is */
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	WAIT_FOR(COUNTER(attach_refused_resources) >= 2);
	usleep(300000);
	/* Each needs 100 ms; on a slow machine there are fewer. */
	ck_assert_uint_le(COUNTER(attach_refused_resources), 2 + 6);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	ck_assert(logged("attach socket: Too many open files"));
	host_kill(host_attach());
	close(fd);
}
END_TEST

START_TEST(sigterm_drains)
{
	pid_t pid = host_attach();

	kill(getpid(), SIGTERM);
	pthread_join(thread, NULL);
	running = false;
	ck_assert_int_eq(run_result, 0);
	for (unsigned i = 0; i < WORKERS; i++) {
		ck_assert_uint_eq(fakes[i].drains, 1);
		ck_assert_uint_eq(fakes[i].removes, 1);
		ck_assert_uint_eq(fakes[i].stops, 1);
	}
	ck_assert_int_eq(host_exit_code(pid), HOST_GONE);
	ck_assert(logged("fake worker stops")); /* its last record is not lost */
}
END_TEST

START_TEST(a_worker_that_does_not_drain_is_stopped_in_time)
{
	uint64_t begun = clock_ns();

	fakes[0].no_drained = true;
	kill(getpid(), SIGINT);
	pthread_join(thread, NULL);
	running = false;
	ck_assert_int_eq(run_result, -SPLIT_E_CONTROL_DRAIN);
	/* 500 ms and the grace of a second */
	ck_assert(clock_ns() - begun > 1400 * CLOCK_NS_PER_MS);
	ck_assert_uint_eq(fakes[0].stops, 1);
}
END_TEST

START_TEST(a_second_signal_stops_at_once)
{
	fakes[0].no_drained = true;
	kill(getpid(), SIGTERM);
	WAIT_FOR(fakes[0].drains == 1);
	kill(getpid(), SIGTERM);
	pthread_join(thread, NULL);
	running = false;
	ck_assert_int_eq(run_result, -SPLIT_E_CONTROL_DRAIN);
	ck_assert(logged("stopping at once"));
}
END_TEST

START_TEST(sighup_checks_the_file_again)
{
	config_write("", ", \"log\": {\"level\": \"debug\"}");
	kill(getpid(), SIGHUP);
	WAIT_FOR(logged("is in force; log level is debug"));
	WAIT_FOR(COUNTER(reloads) == 1);
	config_write(", \"calls_max\": 77", "");
	kill(getpid(), SIGHUP);
	WAIT_FOR(logged("grpc.calls_max has changed; this needs a restart"));
	ck_assert(!logged("hosts has changed"));
	WAIT_FOR(COUNTER(reloads_failed) == 1);
	config_write("", ", \"nonsense\": 1");
	kill(getpid(), SIGHUP);
	WAIT_FOR(logged("nonsense"));
	WAIT_FOR(COUNTER(reloads_failed) == 2);
	log_level_set(LOG_LEVEL_INFO);
}
END_TEST

START_TEST(telemetry_answers)
{
	struct ctl_client c;
	json_t *stats, *list, *row;
	char path[160];
	pid_t pid = host_attach();

	WAIT_FOR(COUNTER(attach_accepted) == 1); /* counted after the host was told */
	snprintf(path, sizeof(path), "%s/dpdk_telemetry.v2", port_runtime_dir());
	ck_assert_msg(ctl_open(&c, path) == 0, "%s", c.error);
	ck_assert_msg(ctl_gather_stats(&c, NULL, &stats) == 0, "%s", c.error);
	row = json_object_get(json_object_get(json_object_get(stats, "layers"), "fake"), "polls");
	ck_assert_int_eq(json_integer_value(json_object_get(row, "total")), 14);
	row = json_object_get(json_object_get(json_object_get(stats, "layers"), "control"),
			      "attach_accepted");
	ck_assert_int_eq(json_integer_value(json_object_get(row, "total")), 1);
	ck_assert_ptr_nonnull(json_object_get(
		json_object_get(json_object_get(stats, "layers"), "port"), "rx_frames"));
	row = json_object_get(json_object_get(stats, "gauges"), "calls");
	ck_assert_int_eq(json_integer_value(json_object_get(row, "total")), 3);
	json_decref(stats);
	ck_assert_int_eq(ctl_gather_endpoints(&c, &list), 0);
	ck_assert_uint_eq(json_array_size(list), 1);
	row = json_array_get(list, 0);
	ck_assert_str_eq(json_string_value(json_object_get(row, "name")), "echo");
	ck_assert_str_eq(json_string_value(json_object_get(row, "state")), "active");
	ck_assert_int_eq(json_integer_value(json_object_get(row, "pid")), pid);
	json_decref(list);
	ck_assert_int_eq(ctl_gather_ports(&c, &list), 0);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(list, 0), "driver")),
			 "net_null");
	json_decref(list);
	/* Wrong parameters get no answer, and harm nothing. */
	ck_assert_int_ne(ctl_ask(&c, "/splitd/counters", &list), 0);
	ck_assert_int_ne(ctl_ask(&c, "/splitd/counters,fake", &list), 0);
	ck_assert_int_ne(ctl_ask(&c, "/splitd/counters,fake,2", &list), 0);
	ck_assert_int_ne(ctl_ask(&c, "/splitd/counters,fake,-1", &list), 0);
	ck_assert_int_ne(ctl_ask(&c, "/splitd/counters,nothing,0", &list), 0);
	ck_assert_int_ne(ctl_ask(&c, "/splitd/endpoint,999", &list), 0);
	ck_assert_int_ne(ctl_ask(&c, "/splitd/port,9", &list), 0);
	/* A control that has gone is not asked. */
	host_kill(pid);
	control_stop();
	ck_assert_int_ne(ctl_ask(&c, "/splitd/info", &list), 0);
	ctl_close(&c);
}
END_TEST

static json_int_t asked(struct ctl_client *c, const char *request, const char *key)
{
	json_t *answer;
	json_int_t value;

	ck_assert_msg(ctl_ask(c, request, &answer) == 0, "%s", c->error);
	value = json_integer_value(json_object_get(answer, key));
	json_decref(answer);
	return value;
}

static bool host_is(struct ctl_client *c, const char *state)
{
	json_t *list;
	bool is;

	ck_assert_int_eq(ctl_gather_endpoints(c, &list), 0);
	is = strcmp(json_string_value(json_object_get(json_array_get(list, 0), "state")), state) ==
	     0;
	json_decref(list);
	return is;
}

START_TEST(an_operator_drains_and_undrains)
{
	struct ctl_client c;
	char path[160];
	json_t *list;
	pid_t pid = host_attach();

	WAIT_FOR(COUNTER(attach_accepted) == 1);
	snprintf(path, sizeof(path), "%s/dpdk_telemetry.v2", port_runtime_dir());
	ck_assert_msg(ctl_open(&c, path) == 0, "%s", c.error);
	ck_assert_int_eq(asked(&c, "/splitd/drain,nobody", "endpoints"), 0);
	ck_assert_int_ne(ctl_ask(&c, "/splitd/drain", &list), 0);
	for (unsigned w = 0; w < WORKERS; w++)
		atomic_store(&fakes[w].no_drained, true);
	atomic_store(&fakes[0].full, 1); /* it is tried again */
	ck_assert_int_eq(asked(&c, "/splitd/drain,echo", "endpoints"), 1);
	WAIT_FOR(fakes[0].endpoint_drains == 1 && fakes[1].endpoint_drains == 1);
	ck_assert(host_is(&c, "draining"));
	/* The same again changes nothing; one worker is through, the other not. */
	ck_assert_int_eq(asked(&c, "/splitd/drain,1", "endpoints"), 1);
	ck_assert_int_eq(asked(&c, "/splitd/undrain,1", "endpoints"), 1);
	WAIT_FOR(fakes[0].endpoint_drains == 2 && fakes[1].endpoint_drains == 2);
	ck_assert(host_is(&c, "active"));
	atomic_store(&fakes[0].no_drained, false);
	ck_assert_int_eq(asked(&c, "/splitd/drain,echo", "endpoints"), 1);
	WAIT_FOR(fakes[0].endpoint_drains == 3 && fakes[1].endpoint_drains == 3);
	ck_assert(host_is(&c, "draining"));
	ck_assert_int_eq(asked(&c, "/splitd/undrain,echo", "endpoints"), 1);
	WAIT_FOR(fakes[1].endpoint_drains == 4);
	atomic_store(&fakes[1].no_drained, false);
	ck_assert_int_eq(asked(&c, "/splitd/drain,echo", "endpoints"), 1);
	WAIT_FOR(host_is(&c, "drained"));
	ck_assert_uint_eq(COUNTER(drains), 3);
	ck_assert_uint_eq(COUNTER(undrains), 2);
	/* What services say. */
	ck_assert_int_eq(ctl_gather_services(&c, &list), 0);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(list, 0), "name")),
			 "t.Echo");
	ck_assert_int_eq(json_integer_value(json_object_get(json_array_get(list, 0), "picks")),
			 11 * WORKERS);
	ck_assert_int_eq(json_integer_value(json_object_get(json_array_get(list, 0), "members")),
			 3);
	json_decref(list);
	host_kill(pid);
	ctl_close(&c);
}
END_TEST

START_TEST(the_attach_socket_is_opened_with_care)
{
	char path[128], deep[160], error[256];
	struct stat file;
	int fd, stale;

	snprintf(path, sizeof(path), "%s/new/host.sock", directory);
	fd = control_socket_open(path, 0620, error, sizeof(error));
	ck_assert_msg(fd >= 0, "%s", error);
	ck_assert_int_eq(stat(path, &file), 0);
	ck_assert_uint_eq(file.st_mode & 07777, 0620);
	/* Somebody listens. */
	ck_assert_int_eq(control_socket_open(path, 0600, error, sizeof(error)),
			 -SPLIT_E_CONTROL_SOCKET);
	ck_assert_ptr_nonnull(strstr(error, "listens"));
	close(fd);
	/* Nobody does: stale. */
	stale = control_socket_open(path, 0600, error, sizeof(error));
	ck_assert_msg(stale >= 0, "%s", error);
	close(stale);
	unlink(path);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	ck_assert_int_eq(control_socket_open(path, 0600, error, sizeof(error)),
			 -SPLIT_E_CONTROL_SOCKET);
	ck_assert_ptr_nonnull(strstr(error, "no socket"));
	ck_assert_int_eq(access(path, F_OK), 0);
	unlink(path);
	snprintf(deep, sizeof(deep), "%s/a/b/host.sock", directory);
	ck_assert_int_eq(control_socket_open(deep, 0600, error, sizeof(error)),
			 -SPLIT_E_CONTROL_SOCKET);
	ck_assert_ptr_nonnull(strstr(error, "directory is missing"));
	ck_assert_int_eq(control_socket_open("", 0600, error, sizeof(error)),
			 -SPLIT_E_CONTROL_SOCKET);
	snprintf(path, sizeof(path), "%s/new", directory);
	rmdir(path);
}
END_TEST

static Suite *control_suite(void)
{
	Suite *suite = suite_create("control");
	TCase *tc = tcase_create("control"), *plain = tcase_create("socket");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, a_host_attaches_and_dies);
	tcase_add_test(tc, memory_stays_until_every_worker_is_quiet);
	tcase_add_test(tc, a_full_worker_ring_is_tried_again);
	tcase_add_test(tc, a_fault_detaches_the_host);
	tcase_add_loop_test(tc, an_outcast_stays_out, 0, 2);
	tcase_add_loop_test(tc, segments_that_are_kept_count, 0, 2);
	tcase_add_test(tc, bad_attaches_are_refused_and_counted);
	tcase_add_test(tc, equal_schemas_are_shared);
	tcase_add_test(tc, other_layouts_are_refused);
	tcase_add_test(tc, a_strange_uid_is_refused);
	tcase_add_test(tc, silent_attaches_time_out_and_are_limited);
	tcase_add_test(tc, no_descriptor_is_no_whirl);
	tcase_add_test(tc, sigterm_drains);
	tcase_add_test(tc, a_worker_that_does_not_drain_is_stopped_in_time);
	tcase_add_test(tc, a_second_signal_stops_at_once);
	tcase_add_test(tc, sighup_checks_the_file_again);
	tcase_add_test(tc, telemetry_answers);
	tcase_add_test(tc, an_operator_drains_and_undrains);
	suite_add_tcase(suite, tc);
	tcase_add_test(plain, the_attach_socket_is_opened_with_care);
	suite_add_tcase(suite, plain);
	return suite;
}

static int prepare(void)
{
	struct config_report report;
	struct port_error err;
	int result;

	snprintf(directory, sizeof(directory), "/tmp/control_test.XXXXXX");
	if (mkdtemp(directory) == NULL)
		return -1;
	snprintf(socket_path, sizeof(socket_path), "%s/host.sock", directory);
	snprintf(config_path, sizeof(config_path), "%s/config.json", directory);
	snprintf(prefix, sizeof(prefix), "control-test-%d", (int)getpid());
	config_write("", "");
	if (sched_getaffinity(0, sizeof(cores), &cores) != 0)
		return -1;
	config_report_init(&report);
	result = config_load(config_path, &config, &report);
	for (size_t i = 0; i < report.count; i++)
		fprintf(stderr, "%s\n", report.findings[i].text);
	config_report_fini(&report);
	if (result != 0 || control_signals_block() != 0 || segment_sigbus_install() != 0)
		return -1;
	if (port_eal_start(config, "control_test", &err) != 0 ||
	    port_set_create(config, &ports, &err) != 0 || port_set_start(ports, &err) != 0) {
		fprintf(stderr, "%s\n", err.text);
		return -1;
	}
	return 0;
}

int main(void)
{
	SRunner *runner;
	int failed;

	if (prepare() != 0)
		return EXIT_FAILURE;
	log_sink_set(log_keep, NULL);
	runner = srunner_create(control_suite());
	srunner_set_fork_status(runner, CK_NOFORK);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	port_set_stop(ports);
	port_set_destroy(ports);
	port_eal_stop();
	config_free(config);
	unlink(config_path);
	rmdir(directory);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
