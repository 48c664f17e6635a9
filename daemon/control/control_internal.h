/* Inside daemon/control only. */
#ifndef SPLITD_DAEMON_CONTROL_CONTROL_INTERNAL_H
#define SPLITD_DAEMON_CONTROL_CONTROL_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "config/config.h"
#include "daemon/control/control.h"
#include "daemon/port/port.h"
#include "daemon/relay/relay.h"
#include "daemon/sched/sched.h"
#include "daemon/services/services.h"
#include "daemon/worker/worker.h"
#include "shepherd/shepherd.h"

/* How often control looks at what doesn't call it: log rings, timeouts, links. */
#define CONTROL_TICK_MS 20
/* After the drain's time: until workers say DRAINED or QUIET, before they are stopped anyway. */
#define CONTROL_GRACE_NS CLOCK_NS_PER_SEC
/* Log records taken from one worker's ring in one turn. */
#define CONTROL_LOG_BUDGET 256

/* What an epoll event is about. First member of whatever its data pointer names. */
enum watch_kind { WATCH_SIGNAL, WATCH_SOCKET, WATCH_REPORTS, WATCH_HOST, WATCH_PIDFD, WATCH_RELAY };
struct watch {
	enum watch_kind kind;
	struct control_host *host;
};

enum host_state_control {
	HOST_GREETING, /* until MAPPED */
	HOST_ADDING,   /* ENDPOINT_ADD on its way to the workers */
	HOST_ACTIVE,
	HOST_REMOVING, /* ENDPOINT_REMOVE sent or on its way; waits for QUIET */
};

/* One host worker. */
struct host_thread {
	uint32_t tid;      /* as it says */
	int core;          /* where the broker wants it; -1: anywhere */
	bool ask;          /* YIELDNOW is to be sent */
	bool signalled;    /* it was not heeded */
	uint64_t grace_ns; /* it is out, and has until then; 0: no matter */
};

/* One connection on the attach socket and, once MAPPED, its endpoint. */
struct control_host {
	struct list link;
	struct control *control;
	uint64_t id; /* counts attaches; for people */
	enum host_state_control state;
	struct watch socket_watch, pidfd_watch;
	struct attach_server *server;
	struct endpoint *endpoint;
	struct schema *schema;
	struct services_catalog *catalog; /* NULL: none */
	struct worker_endpoint shared;
	struct config_host config; /* as it was when it attached: workers read it */
	int16_t *services;         /* by method: index in config->services; -1: none */
	uint64_t leave_ns; /* a reload has taken its name away: detached then; 0: it stays */
	struct attach_method *methods; /* the attach's, with the options of manifests */
	int host_index;                /* in config->hosts; -1 before HELLO */
	unsigned ordinal; /* among the processes of its name, once it has an endpoint */
	char name[ATTACH_NAME_MAX];
	pid_t pid;
	uid_t uid;
	bool outcast; /* it wrote nonsense: its process may not come again */
	bool remote;  /* a relay's: its process is splitd itself, its host is the guest */
	struct relay_guest guest;
	uint64_t since_ns, deadline_ns;
	bool drain_asked; /* by the operator; under control's lock */
	bool leaving;     /* the host said so */
	bool let_go;      /* and was told that nothing is left */
	uint64_t drain;   /* number of the drain in force; 0: none. Under control's lock */
	uint64_t drain_todo;
	/* threads.c, broker.c */
	struct host_thread *threads; /* by host worker */
	struct worker_load *load;    /* by worker */
	const uint64_t *words;       /* by host worker; NULL: the scheduler's word is not known */
	unsigned words_n;            /* host workers */
	uint64_t cores_shared;       /* relaxed; as in struct worker_endpoint */
	unsigned yield_signal;
	unsigned cores_n; /* that the broker has spread it over */
	bool cores_changed;
	/* By worker: REMOVE and ADD still to be posted, ADD posted, QUIET heard. */
	uint64_t add_todo, remove_todo, added, quiet;
};

_Static_assert(CONFIG_WORKERS_MAX <= 64, "one bit for each worker");

enum control_state { CONTROL_RUNNING, CONTROL_DRAINING, CONTROL_CLEARING, CONTROL_STOPPED };

struct control {
	struct control_params p;
	enum control_state state;
	uint64_t started_ns;
	int epoll_fd, signal_fd, socket_fd;
	struct stat socket_file; /* ours, so that only ours is removed */
	struct watch signal_watch, socket_watch, report_watch, relay_watch;
	struct relay *relay;  /* hosts on other machines; NULL: none may */
	struct list hosts;    /* of struct control_host */
	struct list departed; /* of struct departed; control thread only */
	uint64_t next_departed_ns;
	unsigned greeting_n;
	uint64_t accept_again_ns; /* 0: the attach socket is watched */
	uint64_t relay_again_ns;  /* 0: the relay's is */
	uint64_t next_id, next_drain;
	uint64_t drain_todo, drained; /* by worker */
	uint64_t drain_deadline_ns;
	bool cut;          /* calls were cut off by the drain */
	bool workers_over; /* they may be gone */
	uint64_t next_link_ns;
	bool link_up[CONFIG_PORTS_MAX];
	struct manifest **manifests; /* by service; NULL: none */
	struct sched_watch *sched;   /* NULL: not to be had */
	uint64_t affinity_next_ns;
	uint64_t core_owner[CONFIG_BROKER_CORES_MAX]; /* by broker.cores: host id; 0: free */
	uint64_t broker_next_ns;
	bool broker_presses;         /* somebody was asked to give up a core */
	struct log_limit attach_log; /* refusals: a peer can make many */
	struct log_limit host_log;   /* coming and going likewise */
	/* Telemetry's threads read hosts and state under it; control writes them under it. */
	pthread_mutex_t lock;
	/* A reload on its way: workers that were not told, that have not said that they are
	 * through; what was in force before. p.config is the new one already. */
	uint64_t config_todo, config_wait;
	const struct config *config_first; /* the caller's */
	struct config *config_own;         /* p.config, when a reload made it; NULL: the caller's */
	struct config *config_past; /* freed once no worker has it; NULL: the caller's, or none */
	bool reload_wanted;         /* SIGHUP */
	/* Reloads asked for by telemetry, and what came of the last one done; under the lock. */
	struct {
		uint64_t asked, done;
		int result;
		char text[512]; /* the first thing that is wrong */
	} reload;
	struct control_counters counters;
};

/* hosts.c */
void hosts_accept(struct control *control);
/* Of another machine: takes guest->fd. */
void hosts_guest(struct control *control, const struct relay_guest *guest);
void hosts_event(struct control_host *host, enum watch_kind kind);
void hosts_report(struct control *control, const struct worker_report *report);
/* Timeouts, posts that found a full ring, endpoints that are free. Frees hosts. */
void hosts_tick(struct control *control, uint64_t now_ns);
void hosts_remove_all(struct control *control, const char *why);
/* `fresh` will be in force: which services hosts bring, and who has to go. Before workers know. */
void hosts_configure(struct control *control, const struct config *fresh);
/* The counters of one of its kind, over all workers; gauges too. `offset` in endpoint_counters. */
uint64_t host_told(const struct control_host *host, size_t offset);
/* It drains, and no worker has a call of it left. Both under control's lock. */
bool host_drained(const struct control_host *host);
/* After the workers have left their loops: everything, at once. */
void hosts_destroy_all(struct control *control);

/* guests.c: hosts of other machines knock at the relay, and have said who they are. */
void guests_knock(struct control *control);
void guests_resume(struct control *control, uint64_t now_ns);
void guests_accept(struct control *control);
/* Whether it may use the name: by its certificate, where it had to show one. */
bool guest_is_for(const struct relay_guest *guest, const struct config_host *host);
/* What its certificate is for, to follow a sentence. Returns buf. */
const char *guest_names_text(const struct relay_guest *guest, char *buf, size_t bytes);

/* threads.c: the scheduler's word, and affinities. A host's part is made once it is mapped and
 * freed when no worker holds it. */
void threads_open(struct control *control);
void threads_close(struct control *control);
int threads_host_init(struct control_host *host) SPLIT_MUST_USE;
void threads_host_fini(struct control_host *host);
void threads_tick(struct control *control, uint64_t now_ns);
/* Whether the kernel knows this thread as one of the host's process. */
bool threads_is_of(const struct control_host *host, uint32_t tid);

/* broker.c. One process in the plan. */
struct broker_want {
	unsigned has, floor, ceiling, workers;
	unsigned busy_permille; /* 1000: one core's worth */
	bool waits;             /* calls wait for it */
};
struct broker_move {
	int from, to; /* indices; from -1: a free core; to -1: none moves */
};
#define BROKER_HOSTS_MAX 64
struct broker_move broker_step(const struct broker_want *wants, unsigned n, unsigned free_cores);
void broker_tick(struct control *control, uint64_t now_ns);
/* How long control may wait at most. */
int broker_wait_ms(const struct control *control, int otherwise_ms);

/* catalog.c: what reflection will tell of the host; NULL: nothing. */
struct services_catalog *control_catalog_make(const struct control_host *host,
					      const struct attach_request *request);

/* manifests.c: what services[].manifest says. Load them all; false: one cannot be used, which is
 * logged. */
bool manifests_load(struct control *control) SPLIT_MUST_USE;
void manifests_free(struct control *control);
struct schema_limits;
/* Whether a service of the attach has one; and what they say over what the host's schema says.
 * Errors of schema_parse; then it is as it was. */
bool manifests_has(const struct control *control, const struct attach_request *request);
int manifests_amend(const struct control *control, const struct attach_request *request,
		    const struct schema_limits *limits, struct schema **schema) SPLIT_MUST_USE;
/* Whether a method that a host brings is the manifest's (also when its service has none); when not,
 * `more` says why. Then its options: the host's, narrowed by the manifest's. */
bool manifest_agrees(const struct control *control, const struct control_host *host,
		     const struct attach_method *m, char *more, size_t bytes);
void manifest_options(const struct control *control, struct attach_method *m);

/* departed.c: processes that were detached and live on. */
void departed_add(struct control *control, const struct control_host *host,
		  const struct endpoint *endpoint);
bool departed_is_outcast(struct control *control, pid_t pid);
/* How many of them, of this name, may still keep segments; 0 when it is less than `enough`, and
 * then nothing is asked of the system. */
unsigned departed_count(struct control *control, int host_index, unsigned enough);
void departed_tick(struct control *control, uint64_t now_ns);
void departed_fini(struct control *control);

/* certificates.c: make every listener's TLS context from the files anew, or leave all as they are
 * (negative; the log says why). Posts to workers, rotates ticket keys, frees what is not used. */
int certificates_reload(struct control *control, const struct config *fresh,
			void (*tell)(const char *line)) SPLIT_MUST_USE;
void certificates_tick(struct control *control, uint64_t now_ns);

/* TLS contexts that others have taken the place of: put when nobody else has them. */
void context_past_add(struct list *past, struct tls_context *context);
void contexts_past_reap(struct list *past);
void contexts_past_fini(struct list *past);

/* channels.c: what was resolved goes to the workers. */
void channels_tick(struct control *control);
/* The channels' certificates of a reload; negative: `tell` has said what is wrong. Then either
 * channels_configure, once control's configuration is the new one, or channels_prepare_undo. */
int channels_prepare(struct control *control, const struct config *fresh,
		     void (*tell)(const char *line)) SPLIT_MUST_USE;
void channels_configure(struct control *control);
void channels_prepare_undo(struct control *control);
/* Control's configuration is another one now. */
void certificates_configure(struct control *control);

/* A configuration with `n` services is in force; the new ones have no manifest. False: no memory.
 */
bool manifests_resize(struct control *control, uint32_t n) SPLIT_MUST_USE;

/* refused.c: lines about refused messages; all that there is, before an endpoint is freed. */
void refused_tick(struct control *control);
void refused_drain(struct control *control);

/* reload.c: SIGHUP (reload_wanted), and splitctl's command: what telemetry asked for. One at a
 * time. */
void reload_tick(struct control *control);
/* A worker has the new configuration. */
void reload_report(struct control *control, unsigned worker);
/* The configurations that reloads have made. After the workers are gone. */
void reload_fini(struct control *control);

/* sides.c: the counters of one process's methods, by worker; NULL: no memory. */
struct worker_method_told *sides_make(const struct control *control, size_t methods_n);

/* placement.c: what is where. Row `index`, or false past the last. Under the lock. */
struct placement_row {
	char what[12]; /* "control", "worker", "helper", "port", "host", "segment",
			* "method" */
	char name[ATTACH_NAME_MAX + 2 * 256];
	int core;        /* -1: not pinned, or not told */
	int node;        /* the core's, or the device's; -1: not known */
	int memory_node; /* where its memory is; -1: not known, -2: on several */
	char more[64];
	char warning[160]; /* "": none */
};
bool placement_row(const struct control *control, size_t index, struct placement_row *out);
/* The row of method `index`, of a process that has so many. */
bool side_row(const struct control_host *host, size_t index, struct placement_row *row);
/* A new host's segments: a line in the log when they are not on the node that was asked for. */
void placement_check(const struct control_host *host);
/* The memory node that its requests lie on, as the kernel says; else the configured one (negative:
 * none). For locality. */
int placement_node(const struct control_host *host);

/* sides.c: what telemetry says of one method of a process: "id,index". */
struct rte_tel_data;
int method_answer(struct control *control, const char *params, struct rte_tel_data *d);

/* telemetry.c: register the commands (once in a process) and say who answers them; NULL: nobody. */
int telemetry_open(struct control *control);
void telemetry_close(void);

/* control.c */
uint64_t control_workers_mask(const struct control *control);
int control_watch(struct control *control, int fd, struct watch *watch);
void control_unwatch(struct control *control, int fd);

#endif
