/* The configuration: one JSON file in, one tree of plain validated values out.
 *
 * Thread rule: control thread loads; afterwards the tree is read-only and may be read by any
 * thread. Ownership: config_load allocates everything, config_free frees it. Strings are
 * NUL-terminated, inside the structs. Sizes are bytes, durations nanoseconds, whatever unit the
 * file used. What is in the tree has been checked: ranges, references (indices instead of names),
 * contradictions and, when asked for, that cores and memory nodes exist on this machine.
 *
 * The file is hostile input: its size, depth, element counts and string lengths are bounded below;
 * every finding is reported with file, line and the key's path, all of them at once.
 *
 * The keys, their units, ranges and defaults are one table (config_table.c); the JSON Schema
 * (splitd.schema.json) and docs/CONFIG.md are generated from it.
 */
#ifndef SPLITD_CONFIG_CONFIG_H
#define SPLITD_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Bounds on the text itself. */
#define CONFIG_FILE_BYTES_MAX (1024u * 1024u)
#define CONFIG_DEPTH_MAX      16
#define CONFIG_NODES_MAX      65536 /* values in the whole document */
#define CONFIG_FINDINGS_MAX   256   /* further ones are counted, not kept */

/* Bounds on what it may say. */
#define CONFIG_CORE_MAX         1023
#define CONFIG_NUMA_MAX         63
#define CONFIG_WORKERS_MAX      64
#define CONFIG_PORTS_MAX        16
#define CONFIG_PORT_QUEUES_MAX  64
#define CONFIG_ADDRESSES_MAX    8
#define CONFIG_LISTENERS_MAX    32
#define CONFIG_HOSTS_MAX        64
#define CONFIG_ENDPOINTS_MAX    64 /* processes of one host name */
#define CONFIG_HOST_UIDS_MAX    32
#define CONFIG_HOST_WORKERS_MAX 64
#define CONFIG_SERVICES_MAX     256
#define CONFIG_METHODS_MAX      256 /* services[].methods */
#define CONFIG_CHANNELS_MAX     64
#define CONFIG_EAL_ITEMS_MAX    64
#define CONFIG_CERTIFICATES_MAX 64 /* of one listener */
#define CONFIG_CERT_NAMES_MAX   64
#define CONFIG_ALLOW_MAX        64 /* identities of one service */
#define CONFIG_REMOTE_NAMES_MAX 64 /* names in certificates of one host's processes */
#define CONFIG_AUTHORITIES_MAX  64 /* of one listener or service */
#define CONFIG_HELPERS_MAX      16

#define CONFIG_NAME_MAX    63  /* ports, listeners, hosts */
#define CONFIG_SERVICE_MAX 255 /* package.Service */
#define CONFIG_METHOD_MAX  127
#define CONFIG_ITEM_MAX    255 /* EAL devices and arguments, device names */
#define CONFIG_PATH_MAX    107 /* sun_path */
#define CONFIG_FILE_MAX    1023
#define CONFIG_LIST_MAX    511  /* lists of ciphers and groups */
#define CONFIG_TARGET_MAX  1023 /* of a channel */

#define CONFIG_CHANNEL_ADDRESSES_MAX 64
#define CONFIG_AUTHORITY_MAX         255
#define CONFIG_HEALTH_SERVICE_MAX    127

/* "No node given" for numa_node members, "no core given" for eal.main_core. */
#define CONFIG_NONE (-1)

/* Family 0: not given. IPv4 in bytes[0..3]; network order. `prefix` only where a CIDR is asked for.
 */
struct config_address {
	uint8_t family; /* 0, 4 or 6 */
	uint8_t prefix;
	uint8_t bytes[16];
};

struct config_item {
	char text[CONFIG_ITEM_MAX + 1];
};

struct config_eal {
	int32_t main_core;       /* of the control thread; CONFIG_NONE: let the kernel place it */
	uint64_t memory;         /* bytes for DPDK's heap (mbufs, rings), all nodes */
	bool hugepages;          /* DPDK's memory on hugepages */
	bool hugepages_fallback; /* normal pages with one line in the log where there are none */
	char file_prefix[CONFIG_NAME_MAX + 1];
	struct config_item *devices; /* "net_tap0,iface=sd0" or a PCI address, as EAL takes it */
	uint32_t devices_n;
	struct config_item *args; /* further EAL arguments, verbatim, last */
	uint32_t args_n;
};

struct config_worker {
	uint32_t core;
	int32_t numa_node; /* of its pools; CONFIG_NONE in the file: the core's own node */
};

enum config_idle_mode { CONFIG_IDLE_POLL, CONFIG_IDLE_ADAPTIVE };

struct config_idle {
	int mode; /* enum config_idle_mode */
	uint64_t spin_ns;
	uint64_t sleep_max_ns;
	uint64_t quiet_sleep_max_ns; /* after a long pause */
};

enum config_checksum {
	CONFIG_CHECKSUM_AUTO,       /* by device where it can, else by software */
	CONFIG_CHECKSUM_SOFTWARE,   /* by software both ways, whatever the device says */
	CONFIG_CHECKSUM_DEVICE,     /* by device or start fails */
	CONFIG_CHECKSUM_UNVERIFIED, /* as auto, but received sums are not verified */
};

enum config_tso {
	CONFIG_TSO_AUTO,     /* by a device that cuts segments itself */
	CONFIG_TSO_OFF,      /* each segment is built by the stack */
	CONFIG_TSO_SOFTWARE, /* large ones, cut in front of the device */
	CONFIG_TSO_DEVICE,   /* by device or start fails */
};

struct config_port {
	char name[CONFIG_NAME_MAX + 1];
	char device[CONFIG_ITEM_MAX + 1];
	uint32_t mtu;
	uint32_t rx_queues; /* at most workers_n; fewer: software hand-over */
	uint32_t tx_queues;
	uint32_t rx_descriptors;
	uint32_t tx_descriptors;
	uint32_t mbufs;      /* of each pool: a worker's for sending, and its queue's */
	uint64_t mbuf_room;  /* data room of one mbuf, headroom included */
	int checksum;        /* enum config_checksum */
	int tso;             /* enum config_tso */
	bool gro;            /* received segments are joined */
	uint64_t tx_hold_ns; /* frames may wait so long for others; 0: never */
	bool promiscuous;
	uint64_t link_timeout_ns; /* start waits so long for the link; 0: does not wait */
	struct config_address addresses[CONFIG_ADDRESSES_MAX]; /* with prefix */
	uint32_t addresses_n;
	struct config_address gateway;      /* IPv4's; family 0: none */
	struct config_address gateway_ipv6; /* family 0: none */
	uint32_t vlan;                      /* tag of all frames; 0: none */
	bool slaac;                         /* addresses and routes from router advertisements */
	uint8_t mac[6];
	bool mac_given;                                 /* false: the device's own */
	uint32_t queue_workers[CONFIG_PORT_QUEUES_MAX]; /* rx queue i belongs to this worker */
	uint32_t queue_workers_n;                       /* == rx_queues */
	int32_t numa_node; /* of its pools; CONFIG_NONE: the device's */
};

/* Neighbour table and ICMP. */
struct config_ip {
	uint32_t arp_entries_max;
	uint32_t arp_pending_max;
	uint64_t arp_reachable_ns;
	uint32_t icmp_per_second;
	uint32_t dad_transmits;
	bool path_mtu_discovery;
	uint32_t reassembly_max;
	uint64_t reassembly_timeout_ns;
};

enum config_congestion {
	CONFIG_CONGESTION_CUBIC,
	CONFIG_CONGESTION_RENO,
	CONFIG_CONGESTION_DCTCP,
};

/* Each worker's own TCP stack. */
struct config_tcp {
	uint32_t connections_max;
	uint32_t backlog;
	uint32_t time_wait_max;
	uint64_t receive_buffer;
	uint64_t send_buffer;
	uint32_t ooo_ranges_max;
	uint32_t ooo_mbufs_max;
	uint64_t copy_bytes_max;
	uint32_t initial_window;
	uint32_t syn_retries;
	uint64_t half_open_timeout_ns;
	uint64_t time_wait_ns;
	uint64_t fin_wait_2_timeout_ns;
	uint64_t orphan_timeout_ns;
	uint64_t user_timeout_ns;
	uint64_t keepalive_idle_ns;
	uint64_t keepalive_interval_ns;
	uint32_t keepalive_probes;
	uint64_t rto_min_ns;
	uint64_t rto_max_ns;
	uint64_t rto_initial_ns;
	uint64_t delayed_ack_ns;
	uint64_t pacing_rtt_min_ns; /* 0: nothing is paced */
	bool nagle;
	bool timestamps;
	bool window_scaling;
	bool sack;
	int congestion; /* enum config_congestion */
	bool ecn;
	bool syn_cookies;
	uint32_t source_half_open_max; /* of one prefix of peers; 0: no limit */
	uint32_t source_connections_max;
	uint32_t source_prefix_ipv4; /* bits of such a prefix */
	uint32_t source_prefix_ipv6;
};

struct config_certificate {
	char cert[CONFIG_FILE_MAX + 1];
	char key[CONFIG_FILE_MAX + 1];
	char ocsp[CONFIG_FILE_MAX + 1]; /* empty: none */
	struct config_item *names;      /* none: what the certificate says */
	uint32_t names_n;
};

enum config_client_auth {
	CONFIG_CLIENT_NONE,
	CONFIG_CLIENT_OPTIONAL,
	CONFIG_CLIENT_REQUIRED,
};
enum config_tls_version { CONFIG_TLS_1_2, CONFIG_TLS_1_3 };

struct config_listener_tls {
	struct config_certificate *certificates;
	uint32_t certificates_n; /* 0: the listener speaks no TLS */
	char client_ca[CONFIG_FILE_MAX + 1];
	int client_auth; /* enum config_client_auth */
	int min_version; /* enum config_tls_version */
	char ciphers[CONFIG_LIST_MAX + 1];
	char ciphersuites[CONFIG_LIST_MAX + 1];
	char groups[CONFIG_LIST_MAX + 1];
	bool tickets;
	uint64_t handshake_timeout_ns;
};

/* What all listeners with TLS share. */
struct config_tls {
	uint32_t helpers; /* threads for handshakes; 0: workers make them */
	uint32_t helper_cores[CONFIG_HELPERS_MAX];
	uint32_t helper_cores_n; /* 0 in the file: all cores that no worker has */
	uint32_t handshakes_max;
	uint32_t handshakes_per_second; /* 0: no limit */
	uint64_t ticket_rotation_ns;
	uint64_t record_bytes_max; /* 0: suited to latency */
};

struct config_listener {
	char name[CONFIG_NAME_MAX + 1];
	struct config_address address; /* all zero bytes: every address of the ports */
	uint32_t port;
	uint32_t connections_max;               /* of one worker; 0: tcp's alone */
	uint32_t backlog;                       /* the same for handshakes under way */
	bool all_services;                      /* "*" */
	uint32_t services[CONFIG_SERVICES_MAX]; /* indices into config->services, else */
	uint32_t services_n;
	struct config_item *authorities; /* of calls that are taken; none: any */
	uint32_t authorities_n;
	struct config_listener_tls tls;
};

struct config_budget {
	uint32_t burst;
	uint32_t per_second;
};

struct config_http2 {
	uint32_t streams_max;       /* of one connection */
	uint32_t streams_total_max; /* of one worker */
	uint64_t window_stream;
	uint64_t window_connection;
	uint64_t frame_bytes_max;
	uint64_t header_bytes_max;
	uint32_t headers_max;
	uint64_t header_table_bytes;
	uint64_t memory;            /* of one worker's HTTP/2 engine, preallocated */
	uint64_t session_bytes_max; /* of that, for one connection */
	uint64_t window_stream_max; /* as far as measurement may widen them */
	uint64_t window_connection_max;
	uint64_t idle_timeout_ns; /* a connection without streams; 0: never */
	uint64_t age_max_ns;      /* 0: none */
	uint64_t age_grace_ns;    /* 0: for ever */
	uint64_t keepalive_ns;    /* 0: never */
	uint64_t keepalive_timeout_ns;
	uint64_t ping_interval_min_ns; /* of the client's PINGs */
	uint32_t ping_strikes_max;     /* 0: no such rule */
	bool pings_without_streams;
	uint64_t frame_timeout_ns;    /* a frame, or a header list, must be whole so soon */
	uint64_t settings_timeout_ns; /* preface and SETTINGS must be there by then */
	struct config_budget resets, pings, settings, empty, windows;
};

enum config_compress {
	CONFIG_COMPRESS_ASKED,
	CONFIG_COMPRESS_ALWAYS,
	CONFIG_COMPRESS_NEVER,
};

struct config_grpc {
	uint64_t message_bytes_max;      /* received; RESOURCE_EXHAUSTED past it */
	uint64_t send_message_bytes_max; /* answers */
	uint64_t metadata_bytes_max;
	uint32_t metadata_entries_max;
	uint32_t calls_max;            /* of one worker, all kinds, at once */
	uint32_t queue_max;            /* calls of one worker that wait for a host */
	uint64_t queue_timeout_ns;     /* such a call ends with RESOURCE_EXHAUSTED then; 0: only its
					  deadline */
	uint64_t deadline_max_ns;      /* cap for (and default of) grpc-timeout; 0: none */
	uint64_t send_queue_bytes_max; /* encoded answer bytes of one call that may wait */
	uint64_t reader_timeout_ns;    /* a client that takes nothing for so long gives way */
	uint64_t reader_rate_min;      /* bytes a second below which it takes nothing */
	uint64_t upload_timeout_ns;    /* so does a message that is not there by then ... */
	uint64_t upload_rate_min;      /* ... plus its size at this rate, bytes a second */
	int compress;                  /* enum config_compress */
	uint32_t compress_level;       /* zlib's */
	uint64_t compress_bytes_min;   /* CONFIG_COMPRESS_ALWAYS: smaller ones only when asked */
	uint64_t compress_quantum;     /* plain bytes of one worker's turn */
	uint64_t compress_memory;      /* compressed bytes kept by one worker */
	bool health, reflection, channelz; /* services that the daemon answers itself */
};

struct config_linearize {
	uint64_t linear_bytes_max;
	uint64_t alias_min; /* 0: never */
	uint32_t depth_max;
	uint32_t elements_max;
	uint32_t work_quantum;
	uint32_t schema_messages_max;
	uint32_t schema_fields_max;
	uint64_t schema_bytes_max;
};

struct config_control {
	char socket[CONFIG_PATH_MAX + 1];
	uint32_t socket_mode; /* permission bits */
	uint32_t pending_max; /* attaches under way */
	uint64_t attach_timeout_ns;
};

/* Mutual TLS between splitd and hosts on other machines; cert "": none. */
struct config_remote_tls {
	char cert[CONFIG_FILE_MAX + 1];
	char key[CONFIG_FILE_MAX + 1];
	char ca[CONFIG_FILE_MAX + 1];
};

/* Where hosts on other machines connect, through the kernel's TCP. */
struct config_remote {
	struct config_address address;
	uint32_t port; /* 0: nowhere */
	uint32_t connections_max;
	uint64_t timeout_ns; /* without a sign of life */
	struct config_remote_tls tls;
};

struct config_host {
	char name[CONFIG_NAME_MAX + 1];
	uint32_t uids[CONFIG_HOST_UIDS_MAX];
	uint32_t uids_n;
	uint32_t endpoints_max; /* processes attached under this name at once */
	uint32_t workers_max;   /* of one process */
	uint32_t workers_min;   /* of these, always at work; 0: as the process says */
	uint32_t cores_floor;   /* of the broker's cores, for one process */
	uint32_t cores_ceiling;
	uint64_t to_host; /* segment sizes of one process, bytes */
	uint64_t to_daemon;
	bool hugepages;
	bool hugepages_fallback;
	int32_t numa_node; /* of the segments; CONFIG_NONE: no policy */
	uint32_t lane_slots;
	uint32_t lane_depth;
	uint32_t lane_depth_max;
	uint64_t stall_timeout_ns;
	uint64_t release_timeout_ns;
	uint32_t calls_max;   /* of one process and daemon worker */
	uint64_t memory_max;  /* bytes of to_host taken by one process's calls on one daemon worker;
				 0: all of its part */
	uint32_t share;       /* of a daemon worker's work, against other processes */
	uint32_t methods_max; /* that one process may serve */
	bool remote;          /* processes on other machines may attach under this name */
	struct config_item *remote_names; /* of their certificates; "*": any. None: `name` */
	uint32_t remote_names_n;
	bool gone; /* a reload has taken it away: nobody attaches as it */
};

/* The same order as enum picker_policy (daemon/balance/picker.h). */
enum config_policy {
	CONFIG_ROUND_ROBIN,
	CONFIG_WEIGHTED,
	CONFIG_LEAST_OUTSTANDING,
	CONFIG_POWER_OF_TWO,
	CONFIG_CONSISTENT_HASH,
};

enum config_hash_by { CONFIG_HASH_CONNECTION, CONFIG_HASH_METADATA, CONFIG_HASH_FIELD };
enum config_sticky_by { CONFIG_STICKY_NONE, CONFIG_STICKY_CONNECTION, CONFIG_STICKY_METADATA };

#define CONFIG_FIELD_DEPTH_MAX 8

struct config_hash {
	int by; /* enum config_hash_by */
	char key[CONFIG_NAME_MAX + 1];
	uint32_t field[CONFIG_FIELD_DEPTH_MAX]; /* `key` as field numbers, outermost first */
	uint32_t field_n;
	uint32_t slots;
};

struct config_sticky {
	int by; /* enum config_sticky_by */
	char key[CONFIG_NAME_MAX + 1];
	uint32_t entries;
};

struct config_ejection {
	uint32_t consecutive; /* 0: not by this */
	uint32_t percent;     /* 0: not by this */
	uint32_t deviation;   /* thousandths; 0: not by this */
	uint32_t members_min;
	uint32_t calls_min;
	uint64_t interval_ns;
	uint64_t time_ns, time_max_ns;
	uint32_t share_max;
	uint32_t statuses; /* bit per gRPC status code that is a failure */
};

/* Which of several gets a call; also for what is no service of ours. */
struct config_balance {
	int policy;                         /* enum config_policy */
	uint32_t weights[CONFIG_HOSTS_MAX]; /* by place in `hosts`; none given: all 1 */
	uint32_t weights_n;
	struct config_hash hash;
	struct config_sticky sticky;
	bool locality;
	uint32_t locality_spill; /* 0: none */
	uint32_t subset;         /* 0: all */
	uint64_t slow_start_ns;  /* 0: none */
	uint32_t slow_start_percent;
	struct config_ejection ejection;
};

#define CONFIG_MANIFEST_MAX 1023

struct config_service_limits {
	uint64_t message_bytes_max; /* defaults: those of grpc and linearize */
	uint64_t send_message_bytes_max;
	uint64_t linear_bytes_max;
	uint32_t queue_max;
	uint32_t calls_max;
	uint64_t queue_timeout_ns;
};

/* On which side of the segments a message is decoded, or encoded. */
enum config_side {
	CONFIG_SIDE_DEFAULT, /* as the next one says who is asked */
	CONFIG_SIDE_DAEMON,
	CONFIG_SIDE_HOST,
};

struct config_method {
	char name[CONFIG_METHOD_MAX + 1];
	int decode, encode; /* enum config_side; default: the service's */
};

struct config_service {
	char name[CONFIG_SERVICE_MAX + 1];
	uint32_t hosts[CONFIG_HOSTS_MAX]; /* indices into config->hosts: who may serve it */
	uint32_t hosts_n;
	struct config_balance balance;
	uint32_t workers[CONFIG_WORKERS_MAX]; /* indices into config->workers; empty in the file:
						 all */
	uint32_t workers_n;
	bool user_agent;  /* hosts get the clients' */
	bool log_refused; /* messages that are refused go to the log, with what is in them */
	uint64_t wait_for_host_ns; /* calls wait so long for a host to attach; 0: they do not */
	struct config_service_limits limits;
	struct config_item *allow; /* identities of clients; none: everybody */
	uint32_t allow_n;
	struct config_item *authorities; /* of calls that are for it; none: any */
	uint32_t authorities_n;
	char manifest[CONFIG_MANIFEST_MAX + 1]; /* a file; "": none */
	int decode, encode; /* enum config_side; default: as the method's own options say */
	struct config_method *methods;
	uint32_t methods_n;
	bool gone; /* a reload has taken it away */
};

/* TLS of a channel; ca "": none. */
struct config_channel_tls {
	char ca[CONFIG_FILE_MAX + 1]; /* "system": those that the system trusts */
	char cert[CONFIG_FILE_MAX + 1];
	char key[CONFIG_FILE_MAX + 1];
	char name[CONFIG_AUTHORITY_MAX + 1]; /* in the certificate; "": the authority's */
	int min_version;                     /* enum config_tls_version */
};

/* gRFC A6. */
struct config_retry {
	uint32_t attempts_max;
	uint64_t backoff_ns, backoff_max_ns;
	uint32_t backoff_percent;
	uint32_t statuses; /* bit per gRPC status code that is retried */
	uint32_t tokens_max, token_ratio_milli;
	uint64_t bytes_max, total_bytes_max;
};

struct config_endpoint {
	struct config_address address;
	uint32_t port;
};

/* Where calls out of handlers go. */
struct config_channel {
	char name[CONFIG_NAME_MAX + 1];
	char target[CONFIG_TARGET_MAX + 1]; /* "local", or an address that daemon/client reads */
	uint32_t hosts[CONFIG_HOSTS_MAX];   /* indices into config->hosts; empty in the file: all */
	uint32_t hosts_n;
	uint32_t calls_max; /* by daemon worker */
	uint64_t deadline_max_ns;
	bool wait_for_ready;
	bool log_refused; /* as of a service */
	uint64_t room_timeout_ns;
	/* Those that are not "local": */
	char authority[CONFIG_AUTHORITY_MAX + 1]; /* "" in the file: the target's first */
	uint64_t resolve_interval_ns;
	struct config_channel_tls tls;
	struct config_balance balance;
	struct config_retry retry;
	uint32_t connections_max, streams_max;
	uint64_t connect_timeout_ns, connect_backoff_ns, connect_backoff_max_ns;
	uint64_t idle_timeout_ns, keepalive_ns, keepalive_timeout_ns;
	bool keepalive_without_calls;
	bool compression;
	bool health;
	char health_service[CONFIG_HEALTH_SERVICE_MAX + 1];
	uint64_t message_bytes_max, metadata_bytes_max;
	/* What target says: addresses, or else a name. */
	struct config_endpoint addresses[CONFIG_CHANNEL_ADDRESSES_MAX];
	uint32_t addresses_n;
	char host[CONFIG_AUTHORITY_MAX + 1];
	uint32_t port;
	bool gone; /* a reload has taken it away */
};

/* The daemon's own gRPC client, of each worker. */
struct config_client {
	uint32_t calls_max, connections_max;
	uint64_t memory;
	uint64_t window_stream, window_connection;
};

#define CONFIG_BROKER_CORES_MAX 64

/* Cores that the core broker shares out among the attached processes. */
struct config_broker {
	uint32_t cores[CONFIG_BROKER_CORES_MAX];
	uint32_t cores_n; /* 0: there is no broker */
	uint64_t period_ns;
	uint64_t grace_ns;
};

struct config_shutdown {
	uint64_t drain_timeout_ns;
};

struct config_log {
	int level; /* enum log_level */
	uint32_t ring_records;
	/* Messages that were refused, of each worker. */
	uint32_t refused_rate;    /* in a second */
	uint32_t refused_records; /* that wait for the control thread */
	uint64_t refused_bytes;   /* of one message */
};

struct config_telemetry {
	bool enabled;
	bool stages; /* count cycles of each stage of a call */
};

struct config {
	struct config_eal eal;
	struct config_worker *workers;
	uint32_t workers_n;
	struct config_idle idle;
	struct config_port *ports;
	uint32_t ports_n;
	struct config_ip ip;
	struct config_tcp tcp;
	struct config_listener *listeners;
	uint32_t listeners_n;
	struct config_tls tls;
	struct config_http2 http2;
	struct config_grpc grpc;
	struct config_linearize linearize;
	struct config_control control;
	struct config_remote remote;
	struct config_host *hosts;
	uint32_t hosts_n;
	struct config_service *services;
	uint32_t services_n;
	struct config_channel *channels;
	uint32_t channels_n;
	struct config_client client;
	struct config_broker broker;
	struct config_shutdown shutdown;
	struct config_log log;
	struct config_telemetry telemetry;
};

/* ---- findings ------------------------------------------------------------------------------- */

/* One finding, ready to print: `file:line: key.path: what is wrong, expected ...`. */
struct config_finding {
	unsigned line; /* 1-based; 0: the file as a whole */
	char *text;
};

/* Init with config_report_init, or zero. Reusable after config_report_fini. */
struct config_report {
	struct config_finding *findings; /* in order of lines */
	size_t count;                    /* kept */
	size_t dropped;                  /* past CONFIG_FINDINGS_MAX */
	bool out_of_memory;              /* a finding could not be kept */
};

void config_report_init(struct config_report *rep);
void config_report_fini(struct config_report *rep);

/* ---- loading -------------------------------------------------------------------------------- */

/* What there is to place things on. Filled from libnuma by config_machine_get(). */
struct config_machine {
	uint64_t cores[(CONFIG_CORE_MAX + 1 + 63) / 64]; /* bit per core this process may use */
	int16_t node_of_core[CONFIG_CORE_MAX + 1];       /* -1: unknown */
	uint64_t nodes;                                  /* bit per memory node */
};

int config_machine_get(struct config_machine *out) SPLIT_MUST_USE;

/* Read, check and convert the file, for this machine. 0 and *out, to be freed with config_free; or
 * -SPLIT_E_CONFIG_INVALID (report filled), -SPLIT_E_BASE_NOMEM, -SPLIT_E_BASE_SYSTEM (cannot be
 * read; reported too), and *out = NULL. `rep` is initialised by the caller and freed by him in any
 * case. */
int config_load(const char *path, struct config **out, struct config_report *rep) SPLIT_MUST_USE;

/* The same from memory; `name` stands for the file in findings. `machine` NULL: does not check
 * whether cores and nodes exist (a configuration for another machine). */
int config_parse(const char *text, size_t len, const char *name,
		 const struct config_machine *machine, struct config **out,
		 struct config_report *rep) SPLIT_MUST_USE;

/* NULL is ignored. */
void config_free(struct config *cfg);

/* ---- reloading ------------------------------------------------------------------------------ */

/* Make `fresh` ready to follow `running`, whose hosts and services keep their indices in it: those
 * that `fresh` does not have any more become `gone`, new ones come behind. 0; or
 * -SPLIT_E_CONFIG_INVALID when keys differ that cannot change without a restart, each of which
 * `restart` is called for ("ports[0].mtu"); -SPLIT_E_BASE_NOMEM; -SPLIT_E_BASE_LIMIT, also told to
 * `restart`: too many came and went. On failure `fresh` is only fit for config_free. */
int config_succeed(const struct config *running, struct config *fresh,
		   void (*restart)(void *ctx, const char *path), void *ctx) SPLIT_MUST_USE;
/* Whether what is at this path ("http2.keepalive", "hosts[2].uids") may change in a reload. */
bool config_key_is_live(const char *path);

/* ---- small helpers -------------------------------------------------------------------------- */

/* Index of a host or service by name, or -1; not of those that are gone. Linear: for the control
 * thread. */
int config_host_find(const struct config *cfg, const char *name);
int config_service_find(const struct config *cfg, const char *name);

/* Whether `host` (index) may serve `service` (index); whether `worker` serves it; whether the
 * listener offers it. */
bool config_service_has_host(const struct config_service *service, uint32_t host);
bool config_service_has_worker(const struct config_service *service, uint32_t worker);
/* The side on which the requests (decode) or answers (encode) of a method are decoded or encoded,
 * where its own option says `option` (split.Placement): what is said of the method, else of the
 * service, else the option, else the daemon's. Never CONFIG_SIDE_DEFAULT. */
enum config_side config_decode_side(const struct config_service *service, const char *method,
				    unsigned option);
enum config_side config_encode_side(const struct config_service *service, const char *method,
				    unsigned option);
bool config_listener_has_service(const struct config_listener *listener, uint32_t service);

/* Whether a request's :authority (`len` bytes, host and perhaps port) is one of `items`: a host in
 * any case, "*.example" for one label more, with a port only if the item has it. Without items: any
 * is. */
bool config_authority_has(const struct config_item *items, uint32_t items_n, const char *authority,
			  size_t len);

/* Index of a channel by name, or -1; whether `host` (index) may open it; whether it goes to the
 * services of this configuration, through no network. */
int config_channel_find(const struct config *cfg, const char *name);
bool config_channel_has_host(const struct config_channel *channel, uint32_t host);
bool config_channel_is_local(const struct config_channel *channel);

/* "round_robin": as in the file. Of enum config_policy; static. */
const char *config_policy_name(int policy);

/* Whether `uid` may attach as this host. */
bool config_host_has_uid(const struct config_host *host, uint32_t uid);
/* Whether a process on another machine may attach under this name that has shown a certificate with
 * the alternative name `san`: "DNS:..." (letters of either case are the same) or "URI:...". */
bool config_host_has_certificate(const struct config_host *host, const char *san);
/* Whether any certificate of remote.tls.ca will do. */
bool config_host_any_certificate(const struct config_host *host);

/* "64MiB" and "15ms" to bytes and nanoseconds. 0, or -SPLIT_E_CONFIG_INVALID: not a number with a
 * unit, or past UINT64_MAX. "0" needs no unit. */
int config_size_parse(const char *text, uint64_t *bytes_out) SPLIT_MUST_USE;
int config_duration_parse(const char *text, uint64_t *ns_out) SPLIT_MUST_USE;

/* The largest unit that fits without a remainder: "64MiB", "15ms", "0". `buf` of 32 bytes. */
const char *config_size_format(uint64_t bytes, char buf[32]);
const char *config_duration_format(uint64_t ns, char buf[32]);

#endif
