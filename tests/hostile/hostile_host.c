/* A host that means harm. It attaches as any other does, through shepherd's client functions, under
 * the name it is given, and then does what --mode says, seeded, until it is let go; then it
 * attaches again, until --seconds are over. It looks into shepherd's internals because an attacker
 * would. hostile_test.py drives it and says what splitd and the host beside it must show.
 *
 *   hostile_host --socket PATH --name NAME --service NAME --mode MODE [--seconds S] [--seed N]
 *
 * The last line is a JSON object of what was done. Exit status 1: something was allowed that must
 * not be.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/hostile/hostile.h"

volatile sig_atomic_t hostile_stop;

static void on_signal(int number)
{
	(void)number;
	hostile_stop = 1;
}

uint64_t hostile_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

bool hostile_over(const struct hostile *x)
{
	return hostile_stop || hostile_now_ns() >= x->end_ns;
}

/* ---- what it says of itself ----------------------------------------------------------------- */

/* A unary client cannot tell that the method is a stream. */
static bool streams(struct hostile *x)
{
	if (x->mode_asked == MODE_MIXED)
		return random_below(&x->rng, 2) == 0;
	return x->mode_asked >= MODE_STREAM_FLOOD && x->mode_asked <= MODE_STREAM_WANT;
}

static bool calls_out(const struct hostile *x)
{
	return x->mode_asked == MODE_CALL_OUT || x->mode_asked == MODE_CALL_OUT_WILD;
}

/* Decode and encode are to be left to it. */
static bool wires(const struct hostile *x)
{
	return x->mode_asked == MODE_WIRE || x->mode_asked == MODE_WIRE_WILD ||
	       x->mode_asked == MODE_MIXED;
}

int hostile_hello(struct hostile *x)
{
	struct schema_builder *b;
	int rc = schema_builder_create(&b);

	if (rc < 0)
		return rc;
	rc = schema_builder_add(b,
				x->mode_asked == MODE_BOMB
					? bomb_descriptor()
					: &split__examples__echo_message__descriptor,
				&x->schema_index);
	if (rc == 0)
		rc = schema_builder_finish(b, &x->blob);
	schema_builder_destroy(b);
	if (rc < 0)
		return rc;
	x->methods[0] = (struct attach_method){
		.service = x->service,
		.method = "Unary",
		.kind = streams(x) ? ATTACH_BIDI : ATTACH_UNARY,
		.read_ahead = (uint8_t)random_next(&x->rng),
		.input_schema = x->schema_index,
		.output_schema = x->schema_index,
		.code = 0xdeadbeefdeadbeef,
		.data = random_next(&x->rng),
	};
	if (wires(x))
		x->methods[0].options = (struct attach_method_options){.decode = 2, .encode = 2};
	for (unsigned i = 1; i < 3; i++) {
		x->methods[i] = x->methods[0];
		x->methods[i].channel = "back";
	}
	x->methods[2].service = "split.examples.Echo";
	x->methods[2].kind = ATTACH_UNARY;
	x->hello = (struct attach_hello){
		.name = x->name,
		.workers = 1 + (uint32_t)random_below(&x->rng, 2),
		.methods = x->methods,
		.methods_n = calls_out(x) ? 3 : 1,
		.schema = x->blob.bytes,
		.schema_bytes = x->blob.len,
	};
	return 0;
}

/* ---- writers that run beside the lanes ------------------------------------------------------ */

/* Where a scribble lands: anywhere, or on what the daemon looks at most. */
static size_t scribble_place(struct hostile *x, struct random *r)
{
	const struct geometry *g = &x->a->geometry;
	size_t all = x->a->to_daemon.bytes;

	switch (x->region == REGION_ANY ? random_below(r, 5) : x->region) {
	case REGION_LINES:
		return g->control_offset +
		       random_below(r, g->completion_offset - g->control_offset);
	case REGION_RINGS:
		return g->completion_offset +
		       random_below(r, g->to_daemon_arena_offset - g->completion_offset);
	case REGION_ARENA:
		return g->to_daemon_arena_offset +
		       random_below(r, g->to_daemon_arena_bytes < (1u << 17)
					       ? g->to_daemon_arena_bytes
					       : 1u << 17);
	default:
		return random_below(r, all);
	}
}

static uint64_t scribble_value(struct hostile *x, struct random *r)
{
	uint64_t v = random_next(r);

	switch (v % 6) {
	case 0:
		return 0;
	case 1:
		return UINT64_MAX - (v >> 8) % 64;
	case 2: /* into its own arena, more or less */
		return (uint64_t)(uintptr_t)x->a->to_daemon.mem +
		       (v >> 8) % (2 * x->a->to_daemon.bytes);
	case 3:
		return 1ull << (v >> 8) % 64;
	case 4:
		return (v >> 8) % 256;
	default:
		return v;
	}
}

static void *scribbler(void *arg)
{
	struct hostile *x = arg;
	struct random r;

	random_seed(&r, x->seed + x->counts->sessions * 7919);
	while (!__atomic_load_n(&x->writer_stop, __ATOMIC_RELAXED)) {
		for (int i = 0; i < 256; i++) {
			size_t at = scribble_place(x, &r) & ~(size_t)7;

			if (at + 8 > x->a->to_daemon.bytes)
				continue;
			__atomic_store_n((uint64_t *)(void *)(x->a->to_daemon.mem + at),
					 scribble_value(x, &r), __ATOMIC_RELAXED);
		}
		x->counts->writes += 256;
		if (x->gentle)
			usleep(200);
	}
	return NULL;
}

/* Every wake is claimed, every state told, the eventfd never rests. */
static void *waker(void *arg)
{
	struct hostile *x = arg;
	const unsigned workers = attachment_workers(x->a);
	struct random r;
	uint64_t value;

	random_seed(&r, x->seed);
	for (unsigned d = 0; x->mode == MODE_EVENTFD && d < attachment_daemon_workers(x->a); d++) {
		int fd = x->a->peers[d].eventfd;

		(void)fcntl(fd, F_SETFL,
			    O_ASYNC | O_DIRECT); /* without O_NONBLOCK: it blocks now */
		(void)fcntl(fd, F_SETOWN, (int)getppid());
	}
	while (!__atomic_load_n(&x->writer_stop, __ATOMIC_RELAXED)) {
		unsigned d = (unsigned)random_below(&r, attachment_daemon_workers(x->a));
		struct pollfd pfd = {.fd = x->a->peers[d].eventfd, .events = POLLIN | POLLOUT};

		if (poll(&pfd, 1, 0) == 1) {
			/* Blocking by now: only what would not block us. */
			value = x->mode == MODE_EVENTFD && random_below(&r, 64) == 0
					? UINT64_MAX - 1
					: 1;
			if ((pfd.revents & POLLIN) && (x->mode == MODE_EVENTFD || value != 1))
				x->counts->drains += read(pfd.fd, &value, sizeof(value)) > 0;
			else if (pfd.revents & POLLOUT)
				x->counts->storms += write(pfd.fd, &value, sizeof(value)) > 0;
		}
		for (unsigned h = 0; h < workers; h++) {
			uint64_t state = random_next(&r) << 32 | random_below(&r, 6);

			if (random_below(&r, 2) ==
			    0) /* parked at the very word: it must be woken */
				state = (uint64_t)__atomic_load_n(&x->a->workers[h].wake->word,
								  __ATOMIC_RELAXED)
						<< 32 |
					HOST_PARKED;
			__atomic_store_n(&x->a->workers[h].control->state, state, __ATOMIC_RELAXED);
		}
		x->counts->writes += workers;
	}
	return NULL;
}

/* ---- one attach ----------------------------------------------------------------------------- */

static void session_begin(struct hostile *x)
{
	static const enum hostile_mode mixable[] = {
		MODE_SCRIBBLE,     MODE_SCRIBBLE_ARENA, MODE_NEVER_RELEASE, MODE_RELEASE_TWICE,
		MODE_ANSWER_TWICE, MODE_STALE,          MODE_POINT,         MODE_POINT_SLOT,
		MODE_WAKE,         MODE_EVENTFD,        MODE_STALL,         MODE_STREAM_FLOOD,
		MODE_STREAM_AFTER, MODE_STREAM_CREDIT,  MODE_STREAM_WANT,   MODE_WIRE,
		MODE_WIRE_WILD,
	};
	void *(*writer)(void *) = NULL;

	x->counts->sessions++;
	x->stale_n = 0;
	memset(x->out_open, 0, sizeof(x->out_open));
	x->mode = x->mode_asked;
	if (x->mode == MODE_MIXED)
		x->mode = mixable[random_below(&x->rng, sizeof(mixable) / sizeof(mixable[0]))];
	x->gentle = random_below(&x->rng, 2) == 0;
	x->region = x->mode == MODE_SCRIBBLE_ARENA ? REGION_ARENA
						   : (enum hostile_region)random_below(&x->rng, 5);
	if (x->mode == MODE_SCRIBBLE || x->mode == MODE_SCRIBBLE_ARENA)
		writer = scribbler;
	else if (x->mode == MODE_WAKE || x->mode == MODE_EVENTFD)
		writer = waker;
	__atomic_store_n(&x->writer_stop, false, __ATOMIC_RELAXED);
	x->writing = writer != NULL && pthread_create(&x->writer, NULL, writer, x) == 0;
}

static void session_end(struct hostile *x)
{
	__atomic_store_n(&x->writer_stop, true, __ATOMIC_RELAXED);
	if (x->writing)
		pthread_join(x->writer, NULL);
	x->writing = false;
	arena_destroy(x->arena);
	x->arena = NULL;
	attachment_close(x->a);
	x->a = NULL;
}

/* False: it was refused. */
static bool session_run(struct hostile *x, uint64_t length_ns)
{
	struct attach_refusal why;
	struct shepherd_chunk memory;
	uint64_t end_ns;

	if (attachment_open(x->socket, &x->hello, 5000, &x->a, &why) < 0) {
		x->counts->refused++;
		return false;
	}
	memory = attachment_arena(x->a);
	if (arena_create(memory.mem, memory.bytes, &x->arena) < 0)
		abort();
	session_begin(x);
	end_ns = hostile_now_ns() + length_ns;
	for (unsigned h = 0; h < attachment_workers(x->a); h++)
		host_state_set(x->a, h, HOST_POLLING);
	while (!hostile_over(x) && hostile_now_ns() < end_ns && attachment_alive(x->a)) {
		struct pollfd pfd = {.fd = attachment_fd(x->a), .events = POLLIN};
		unsigned n = 0;

		for (unsigned d = 0; d < attachment_daemon_workers(x->a); d++)
			for (unsigned h = 0; h < attachment_workers(x->a); h++)
				n += hostile_serve(x, d, h);
		if (n == 0 && poll(&pfd, 1, x->mode == MODE_WAKE ? 0 : 1) != 0)
			break;
	}
	x->counts->detached += !attachment_alive(x->a);
	session_end(x);
	return true;
}

/* Each attach in a process of its own: one that was cut off for nonsense is not let in again. */
static void sessions_run(struct hostile *x)
{
	while (!hostile_over(x)) {
		uint64_t length_ns = x->session_ns / 2 + random_below(&x->rng, x->session_ns);
		uint64_t seed = random_next(&x->rng);
		pid_t pid = fork();
		int status = 0;

		if (pid == 0) {
			random_seed(&x->rng, seed);
			_exit(session_run(x, length_ns) ? 0 : 1);
		}
		while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
			kill(pid, SIGTERM);
		if (pid < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
			usleep(20000);
		if (WIFSIGNALED(status))
			x->counts->crashed++;
	}
}

/* ---- main ----------------------------------------------------------------------------------- */

static const char *const mode_names[] = {
#define X(name, text) text,
	HOSTILE_MODES(X)
#undef X
};

static int mode_parse(const char *text, enum hostile_mode *out)
{
	for (size_t i = 0; i < sizeof(mode_names) / sizeof(mode_names[0]); i++) {
		if (strcmp(text, mode_names[i]) == 0) {
			*out = (enum hostile_mode)i;
			return 0;
		}
	}
	return -1;
}

static int options_parse(int argc, char **argv, struct hostile *x)
{
	static const struct option known[] = {
		{"socket", required_argument, NULL, 's'},  {"name", required_argument, NULL, 'n'},
		{"service", required_argument, NULL, 'v'}, {"mode", required_argument, NULL, 'm'},
		{"seconds", required_argument, NULL, 't'}, {"seed", required_argument, NULL, 'r'},
		{"session", required_argument, NULL, 'l'}, {NULL, 0, NULL, 0},
	};
	double seconds = 5, session = 0.5;
	int c, bad = 0;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (c) {
		case 's':
			x->socket = optarg;
			break;
		case 'n':
			x->name = optarg;
			break;
		case 'v':
			x->service = optarg;
			break;
		case 'm':
			bad |= mode_parse(optarg, &x->mode_asked) < 0;
			break;
		case 't':
			seconds = strtod(optarg, NULL);
			break;
		case 'l':
			session = strtod(optarg, NULL);
			break;
		case 'r':
			x->seed = strtoull(optarg, NULL, 10);
			break;
		default:
			return -1;
		}
	}
	x->session_ns = (uint64_t)(session * 1e9);
	x->end_ns = hostile_now_ns() + (uint64_t)(seconds * 1e9);
	return bad || x->socket == NULL || x->session_ns == 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
	static struct hostile x = {.name = "hostile", .service = "split.tests.Hostile", .seed = 1};
	struct sigaction action = {.sa_handler = on_signal};
	struct rlimit files;

	if (options_parse(argc, argv, &x) < 0) {
		fprintf(stderr,
			"usage: %s --socket PATH --mode MODE [--name NAME] [--service NAME] "
			"[--seconds S] [--session S] [--seed N]\n",
			argv[0]);
		return 2;
	}
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max < 4096 ? files.rlim_max : 4096;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	random_seed(&x.rng, x.seed);
	x.counts = mmap(NULL, sizeof(*x.counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	if (x.counts == MAP_FAILED)
		return 2;
	if (hostile_hello(&x) < 0)
		return 2;
	switch (x.mode_asked) {
	case MODE_SOCKET:
	case MODE_ATTACHES:
		hostile_socket(&x);
		break;
	case MODE_PUNCH:
	case MODE_PUNCH_EARLY:
		hostile_memory(&x);
		break;
	default:
		sessions_run(&x);
	}
	free(x.blob.bytes);
	printf("{\"mode\": \"%s\"", mode_names[x.mode_asked]);
#define X(name) printf(", \"" #name "\": %llu", (unsigned long long)x.counts->name);
	HOSTILE_COUNTS(X)
#undef X
	printf("}\n");
	return x.counts->allowed != 0 ? 1 : 0;
}
