/* The C++ peer for a type that comes at run time: protoc writes its code from the descriptor set,
 * the C++ compiler makes a shared object of it, and loading that registers the types with
 * libprotobuf. Without it C++ would be measured by reflection, which nobody uses where speed
 * matters. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/codec.h"

#define ARGUMENTS_MAX 4096

extern char **environ;

struct command {
	char *argv[ARGUMENTS_MAX + 1];
	unsigned n;
	bool failed;
};

static void argument(struct command *c, const char *a, const char *b)
{
	char *text = NULL;

	if (c->n == ARGUMENTS_MAX || asprintf(&text, "%s%s", a, b) < 0) {
		c->failed = true;
		return;
	}
	c->argv[c->n++] = text;
}

/* Run to its end, silent but for the log. */
static bool run(struct command *c, const char *log)
{
	posix_spawn_file_actions_t actions;
	int status = -1;
	pid_t pid;

	if (c->failed || posix_spawn_file_actions_init(&actions) != 0)
		return false;
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	posix_spawn_file_actions_adddup2(&actions, 1, 2);
	if (posix_spawnp(&pid, c->argv[0], &actions, NULL, c->argv, environ) != 0)
		pid = -1;
	posix_spawn_file_actions_destroy(&actions);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void command_free(struct command *c)
{
	while (c->n > 0)
		free(c->argv[--c->n]);
	memset(c, 0, sizeof(*c));
}

/* "a/b.proto" -> "DIR/a/b.pb.cc" */
static void source_argument(struct command *c, const char *dir, const char *proto)
{
	size_t len = strlen(proto);
	char *source = NULL;

	if (len > 6 && !strcmp(proto + len - 6, ".proto"))
		len -= 6;
	if (asprintf(&source, "/%.*s.pb.cc", (int)len, proto) < 0) {
		c->failed = true;
		return;
	}
	argument(c, dir, source);
	free(source);
}

static void first_line(const char *log, char *why)
{
	FILE *file = fopen(log, "re");

	if (file && fgets(why, 200, file))
		why[strcspn(why, "\n")] = '\0';
	if (file)
		(void)fclose(file);
}

static void directory_remove(const char *dir)
{
	struct command c = {0};

	argument(&c, "rm", "");
	argument(&c, "-rf", "");
	argument(&c, dir, "");
	(void)run(&c, "/dev/null");
	command_free(&c);
}

static bool build(const char *proto_set, const struct proto_set *proto, const char *dir,
		  const char *object, const char *log, char *why)
{
	static struct command c;
	bool good;

	argument(&c, "protoc", "");
	argument(&c, "--descriptor_set_in=", proto_set);
	argument(&c, "--cpp_out=", dir);
	for (uint32_t i = 0; i < proto->files_n; i++)
		if (!codec_cpp_has_file(proto->files[i].name))
			argument(&c, proto->files[i].name, "");
	good = run(&c, log);
	command_free(&c);
	if (!good) {
		(void)snprintf(why, 200, "protoc failed");
		first_line(log, why);
		return false;
	}
	argument(&c, "c++", "");
	argument(&c, "-std=c++17", "");
	argument(&c, "-O2", "");
	argument(&c, "-DNDEBUG", "");
	argument(&c, "-w", "");
	argument(&c, "-fPIC", "");
	argument(&c, "-shared", "");
	argument(&c, "-I", dir);
	argument(&c, "-o", "");
	argument(&c, object, "");
	for (uint32_t i = 0; i < proto->files_n; i++)
		if (!codec_cpp_has_file(proto->files[i].name))
			source_argument(&c, dir, proto->files[i].name);
	argument(&c, "-lprotobuf", "");
	good = run(&c, log);
	command_free(&c);
	if (!good) {
		(void)snprintf(why, 200, "the C++ compiler failed");
		first_line(log, why);
	}
	return good;
}

bool codec_compile(const char *proto_set, const struct proto_set *proto, char *why)
{
	const char *tmp = getenv("TMPDIR");
	char dir[256], object[300], log[300];
	bool good;

	(void)snprintf(dir, sizeof(dir), "%s/split-perf-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(dir)) {
		(void)snprintf(why, 200, "no temporary folder: %s", strerror(errno));
		return false;
	}
	(void)snprintf(object, sizeof(object), "%s/peer.so", dir);
	(void)snprintf(log, sizeof(log), "%s/log", dir);
	perf_progress("codec: compiling the C++ peer");
	good = build(proto_set, proto, dir, object, log, why);
	/* Never closed: libprotobuf keeps what it registered. */
	if (good && !dlopen(object, RTLD_NOW | RTLD_LOCAL)) {
		(void)snprintf(why, 200, "%s", dlerror());
		good = false;
	}
	directory_remove(dir);
	return good;
}
