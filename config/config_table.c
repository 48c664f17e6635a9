/* Every key of the configuration: type, range, default, meaning. The reader, the JSON Schema and
 * docs/CONFIG.md all come from here.
 */
#include "config/config_fields.h"

/* ---- eal ------------------------------------------------------------------------------------ */
#define STRUCT struct config_eal
static const struct field eal_fields[] = {
	NODE("main_core", main_core, CONFIG_CORE_MAX, "wherever the kernel puts it",
	     "Core of the control thread. It may be a worker's core where there are few: the "
	     "control "
	     "thread sleeps nearly always."),
	SIZE("memory", memory, "256MiB", 16 * MIB, 1024 * GIB,
	     "Memory for DPDK's heap: packet buffers, rings, tables."),
	BOOL("hugepages", hugepages, "true", "DPDK's memory lies on hugepages."),
	BOOL("hugepages_fallback", hugepages_fallback, "false",
	     "Use normal pages, with one line in the log, where no hugepages are to be had."),
	STRING("file_prefix", file_prefix, FORMAT_NAME, "splitd",
	       "Names this instance among others of the machine (EAL --file-prefix); telemetry's "
	       "socket lies below it."),
	{.key = "devices",
	 .type = FIELD_ITEMS,
	 AT(devices),
	 .count_offset = offsetof(STRUCT, devices_n),
	 .items_max = CONFIG_EAL_ITEMS_MAX,
	 .max = CONFIG_ITEM_MAX,
	 .help = "Devices to probe: virtual ones as EAL's --vdev takes them "
		 "(\"net_tap0,iface=sd0\"), PCI addresses as --allow does."},
	{.key = "args",
	 .type = FIELD_ITEMS,
	 AT(args),
	 .count_offset = offsetof(STRUCT, args_n),
	 .items_max = CONFIG_EAL_ITEMS_MAX,
	 .max = CONFIG_ITEM_MAX,
	 .help = "Further EAL arguments, handed over as they are, after all others."},
};
TABLE(eal, "EAL", "How DPDK's environment is started.");
#undef STRUCT

/* ---- placement ------------------------------------------------------------------------------ */
#define STRUCT struct config_worker
static const struct field worker_fields[] = {
	{.key = "core",
	 .type = FIELD_INT,
	 AT(core),
	 .required = true,
	 .max = CONFIG_CORE_MAX,
	 .help = "Core this worker is pinned to. Workers that poll (idle.mode) have one each."},
	NODE("numa_node", numa_node, CONFIG_NUMA_MAX, "the core's own node",
	     "Memory node of this worker's pools."),
};
TABLE(worker, "Worker", "A worker: one core that runs the whole way of its requests.");
#undef STRUCT

static const char *const idle_modes[] = {"poll", "adaptive", NULL};
#define STRUCT struct config_idle
static const struct field idle_fields[] = {
	ENUM("mode", mode, "adaptive", idle_modes,
	     "poll: never sleeps. adaptive: sleeps in growing steps when there is nothing to do."),
	DURATION("spin", spin_ns, "20us", 0, SEC,
		 "An idle worker polls for so long before it sleeps."),
	DURATION("sleep_max", sleep_max_ns, "100us", US, 100 * MS,
		 "Longest sleep where the port gives no file descriptor to wait on."),
	DURATION(
		"quiet_sleep_max", quiet_sleep_max_ns, "2ms", US, 100 * MS,
		"The same once nothing has come for long: at most a sixty-fourth of that pause, up "
		"to this (no less than `sleep_max`)."),
};
TABLE(idle, "Idle", "What a worker does when there is nothing to do.");
#undef STRUCT

/* ---- ports ---------------------------------------------------------------------------------- */
static const char *const tso_modes[] = {"auto", "off", "software", "device", NULL};
static const char *const checksum_modes[] = {"auto", "software", "device", "unverified", NULL};
#define STRUCT struct config_port
static const struct field port_fields[] = {
	NAME(FORMAT_NAME, "Name of the port, for messages and counters."),
	{.key = "device",
	 .type = FIELD_STRING,
	 .format = FORMAT_ITEM,
	 AT(device),
	 .required = true,
	 .max = CONFIG_ITEM_MAX,
	 .help = "DPDK's name of the device: \"net_tap0\", or a PCI address. A net_* device must "
		 "stand in eal.devices."},
	INT("mtu", mtu, "1500", 576, 9216,
	    "Largest IP packet. Where its frame does not fit into the mbuf_room that is given, the "
	    "device must fill several buffers with one packet (net_ring, most PCI devices)."),
	{.key = "rx_queues",
	 .type = FIELD_INT,
	 AT(rx_queues),
	 .min = 1,
	 .max = CONFIG_PORT_QUEUES_MAX,
	 .def_is = "as many as queue_workers names, else one",
	 .help = "Receive queues, at most one for each worker. Workers without one get their "
		 "packets "
		 "handed over by software."},
	{.key = "tx_queues",
	 .type = FIELD_INT,
	 AT(tx_queues),
	 .min = 1,
	 .max = CONFIG_PORT_QUEUES_MAX,
	 .def_is = "as many as rx_queues",
	 .help = "Transmit queues, at most one for each worker."},
	{.key = "rx_descriptors",
	 .type = FIELD_INT,
	 AT(rx_descriptors),
	 .min = 32,
	 .max = 32768,
	 .def_is = "2048, or a quarter of mbufs where that is less",
	 .help = "Descriptors of a receive queue."},
	{.key = "tx_descriptors",
	 .type = FIELD_INT,
	 AT(tx_descriptors),
	 .min = 32,
	 .max = 32768,
	 .def_is = "2048, or a quarter of mbufs where that is less",
	 .help = "Descriptors of a transmit queue."},
	INT("mbufs", mbufs, "16384", 256, 4194304,
	    "Packet buffers of a pool. Each worker has one on each port for sending, and one more "
	    "where "
	    "it has a receive queue; what TCP holds for slow readers comes from the latter."),
	{.key = "mbuf_room",
	 .type = FIELD_SIZE,
	 AT(mbuf_room),
	 .min = 512,
	 .max = 16384,
	 .def_is = "what the MTU needs, at least 2176B",
	 .help = "Bytes of a packet buffer, the 128 of its headroom included."},
	ENUM("checksum", checksum, "auto", checksum_modes,
	     "auto: by the device where it can, else by software. software: never by the device. "
	     "device: by the device, or the port does not start. unverified: as auto, but received "
	     "sums are not looked at (peers on the same kernel that leave them to a device)."),
	ENUM("tso", tso, "auto", tso_modes,
	     "Whether TCP builds large segments that are cut before they leave. auto: where the "
	     "device cuts them. off: never. software: by splitd, in front of the device. device: "
	     "by "
	     "the device, or the port does not start."),
	BOOL("gro", gro, "false",
	     "TCP segments that follow each other in a burst of received packets are joined into "
	     "one."),
	DURATION("tx_hold", tx_hold_ns, "30us", 0, MS,
		 "Where each burst sent costs a system call (TAP, AF_PACKET, AF_XDP), with "
		 "`idle.mode` "
		 "`poll`: how long frames may wait for others to leave with, while more requests "
		 "are "
		 "expected within that time. 0: never."),
	BOOL("promiscuous", promiscuous, "false", "Receive frames for other MAC addresses too."),
	DURATION("link_timeout", link_timeout_ns, "5s", 0, 300 * SEC,
		 "Start waits so long for the link to come up, then goes on without. 0 does not "
		 "wait."),
	{.key = "addresses",
	 .type = FIELD_CIDRS,
	 AT(addresses),
	 .count_offset = offsetof(STRUCT, addresses_n),
	 .required = true,
	 .items_min = 1,
	 .items_max = CONFIG_ADDRESSES_MAX,
	 .help = "The port's addresses with their prefix: \"198.18.0.2/24\"."},
	{.key = "gateway",
	 .type = FIELD_ADDRESS,
	 AT(gateway),
	 .nullable = true,
	 .def_is = "none: only what is on-link is reached",
	 .help = "Where packets for other networks go; within one of the prefixes."},
	{.key = "gateway_ipv6",
	 .type = FIELD_ADDRESS,
	 AT(gateway_ipv6),
	 .nullable = true,
	 .def_is = "none",
	 .help = "Router to all other IPv6 destinations; without it, with slaac, one that "
		 "advertises "
		 "itself."},
	INT("vlan", vlan, "0", 0, 4094,
	    "VLAN (IEEE 802.1Q) of this port: frames go out with its tag, and others are dropped. "
	    "0: "
	    "untagged."),
	BOOL("slaac", slaac, "false",
	     "Make IPv6 addresses and routes of what routers advertise (RFC 4862)."),
	{.key = "mac",
	 .type = FIELD_MAC,
	 AT(mac),
	 .count_offset = offsetof(STRUCT, mac_given),
	 .nullable = true,
	 .def_is = "the device's own",
	 .help = "MAC address to set: \"02:00:00:00:00:01\"."},
	{.key = "queue_workers",
	 .type = FIELD_INTS,
	 AT(queue_workers),
	 .count_offset = offsetof(STRUCT, queue_workers_n),
	 .items_max = CONFIG_PORT_QUEUES_MAX,
	 .max = CONFIG_WORKERS_MAX - 1,
	 .def_is = "queue i belongs to worker i",
	 .help = "Placement of queues: element i is the index in workers of the one that owns "
		 "queue i."},
	NODE("numa_node", numa_node, CONFIG_NUMA_MAX, "the worker's",
	     "Memory node of the port's buffers."),
};
TABLE(port, "Port", "A port: one network device driven by DPDK.");
#undef STRUCT

/* ---- ip ------------------------------------------------------------------------------------- */
#define STRUCT struct config_ip
static const struct field ip_fields[] = {
	INT("arp_entries_max", arp_entries_max, "1024", 16, 65536,
	    "Neighbours that a worker remembers; the least recently used gives way."),
	INT("arp_pending_max", arp_pending_max, "8", 1, 16,
	    "Packets that wait while one neighbour is asked for."),
	DURATION("arp_reachable", arp_reachable_ns, "30s", SEC, HOUR,
		 "A neighbour is asked for again after this."),
	INT("icmp_per_second", icmp_per_second, "1000", 0, 1000000,
	    "ICMP answers and errors that a worker sends in a second, at most."),
	INT("dad_transmits", dad_transmits, "1", 0, 10,
	    "How often a new IPv6 address is asked for before it is used, a second apart (RFC "
	    "4862). 0: used at once."),
	INT("reassembly_max", reassembly_max, "64", 0, 4096,
	    "Fragmented packets that a worker puts together at once. 0: fragments are dropped."),
	DURATION("reassembly_timeout", reassembly_timeout_ns, "10s", 100 * MS, 120 * SEC,
		 "How long their missing pieces may take."),
	BOOL("path_mtu_discovery", path_mtu_discovery, "true",
	     "Find the largest packet of a path (RFC 1191, RFC 8201), also where no error comes "
	     "back."),
};
TABLE(ip, "IP", "Neighbours and ICMP, for each worker.");
#undef STRUCT

/* ---- tcp ------------------------------------------------------------------------------------ */
#define STRUCT struct config_tcp
static const char *const congestion_names[] = {"cubic", "reno", "dctcp", NULL};
static const struct field tcp_fields[] = {
	INT("connections_max", connections_max, "4096", 1, 1048576,
	    "Connections of one worker. Past it new ones are refused by RST."),
	INT("backlog", backlog, "1024", 1, 65536,
	    "Handshakes under way in one worker; past it SYN cookies, or without them the oldest "
	    "gives way."),
	INT("time_wait_max", time_wait_max, "16384", 1, 1048576,
	    "Connections remembered in TIME-WAIT; past it the oldest gives way."),
	SIZE("receive_buffer", receive_buffer, "1MiB", 4 * KIB, 512 * MIB,
	     "Receive window of a connection, also the most it may pin in packet buffers."),
	SIZE("send_buffer", send_buffer, "1MiB", 4 * KIB, 512 * MIB,
	     "Bytes of a connection that may be queued or unacknowledged."),
	INT("ooo_ranges_max", ooo_ranges_max, "32", 1, 1024,
	    "Out-of-order ranges kept for one connection."),
	INT("ooo_mbufs_max", ooo_mbufs_max, "4096", 1, 1048576,
	    "Packet buffers in all out-of-order queues of one worker."),
	SIZE("copy_bytes_max", copy_bytes_max, "256B", 0, 1024,
	     "Payloads up to this are copied behind their header instead of chained."),
	INT("initial_window", initial_window, "10", 1, 64,
	    "Initial congestion window in segments (RFC 6928)."),
	INT("syn_retries", syn_retries, "5", 0, 15, "Times a SYN or SYN-ACK is sent again."),
	DURATION("half_open_timeout", half_open_timeout_ns, "30s", 100 * MS, 300 * SEC,
		 "A handshake may take so long."),
	DURATION("time_wait", time_wait_ns, "10s", 0, 240 * SEC,
		 "Length of TIME-WAIT (2 MSL; RFC 9293 would have 4 minutes)."),
	DURATION("fin_wait_2_timeout", fin_wait_2_timeout_ns, "60s", 100 * MS, HOUR,
		 "How long a closed connection waits for the peer's FIN."),
	DURATION("orphan_timeout", orphan_timeout_ns, "30s", 100 * MS, HOUR,
		 "How long a closed connection tries to deliver what was sent before."),
	DURATION("user_timeout", user_timeout_ns, "120s", 0, HOUR,
		 "A connection whose data is not acknowledged for so long is ended (RFC 5482). 0: "
		 "never."),
	DURATION("keepalive_idle", keepalive_idle_ns, "60s", 0, 24 * HOUR,
		 "An idle connection is probed after this. 0: never."),
	DURATION("keepalive_interval", keepalive_interval_ns, "10s", 100 * MS, HOUR,
		 "Time between such probes."),
	INT("keepalive_probes", keepalive_probes, "6", 1, 100,
	    "Unanswered probes after which a connection is ended."),
	DURATION("rto_min", rto_min_ns, "200ms", MS, 60 * SEC,
		 "Smallest retransmission timeout (RFC 6298 says 1 s; 200 ms is what Linux does)."),
	DURATION("rto_max", rto_max_ns, "60s", MS, 600 * SEC, "Largest retransmission timeout."),
	DURATION("rto_initial", rto_initial_ns, "1s", MS, 60 * SEC,
		 "Retransmission timeout before the first measurement (RFC 6298 s2.1)."),
	DURATION("delayed_ack", delayed_ack_ns, "25ms", 0, 500 * MS,
		 "How long an acknowledgement may wait for company (RFC 1122 s4.2.3.2: at most 500 "
		 "ms). "
		 "0: never waits."),
	DURATION("pacing_rtt_min", pacing_rtt_min_ns, "5ms", 0, 10 * SEC,
		 "Connections whose shortest round trip is at least this are paced: what their "
		 "windows "
		 "let go leaves spread over the round trip. 0: none."),
	BOOL("nagle", nagle, "false", "Hold small segments back while data is unacknowledged."),
	BOOL("timestamps", timestamps, "true", "Offer and accept timestamps (RFC 7323)."),
	BOOL("window_scaling", window_scaling, "true",
	     "Offer and accept window scaling (RFC 7323)."),
	BOOL("sack", sack, "true", "Offer and accept selective acknowledgements (RFC 2018)."),
	ENUM("congestion", congestion, "cubic", congestion_names,
	     "Congestion control: cubic (RFC 9438), reno (RFC 5681), or dctcp (RFC 8257), which is "
	     "for "
	     "data centres whose switches mark."),
	BOOL("ecn", ecn, "true",
	     "Offer and accept explicit congestion notification (RFC 3168). dctcp always does."),
	BOOL("syn_cookies", syn_cookies, "true",
	     "Past a limit of handshakes answer with SYN cookies (RFC 4987), so that a flood "
	     "keeps nobody out."),
	INT("source_half_open_max", source_half_open_max, "256", 0, 65536,
	    "Handshakes under way from one prefix of addresses; past it cookies, or without them "
	    "drops. 0: no limit."),
	INT("source_connections_max", source_connections_max, "0", 0, 1048576,
	    "Connections of one prefix of addresses. 0: no limit."),
	INT("source_prefix_ipv4", source_prefix_ipv4, "24", 1, 32,
	    "Bits of an IPv4 address that make such a prefix."),
	INT("source_prefix_ipv6", source_prefix_ipv6, "64", 1, 128,
	    "Bits of an IPv6 address that make such a prefix."),
};
TABLE(tcp, "TCP", "Each worker's TCP stack.");
#undef STRUCT

/* ---- tls ------------------------------------------------------------------------------------ */
#define STRUCT struct config_tls
static const struct field tls_fields[] = {
	INT("helpers", helpers, "1", 0, CONFIG_HELPERS_MAX,
	    "Threads that carry TLS handshakes, so that a worker's other connections do not wait "
	    "for "
	    "them. 0: workers make them themselves."),
	{.key = "helper_cores",
	 .type = FIELD_INTS,
	 AT(helper_cores),
	 .count_offset = offsetof(STRUCT, helper_cores_n),
	 .items_max = CONFIG_HELPERS_MAX,
	 .max = CONFIG_CORE_MAX,
	 .def_is = "the cores that no worker has; where there are none, all",
	 .help = "Cores of these threads."},
	INT("handshakes_max", handshakes_max, "1024", 1, 65536,
	    "Handshakes of one worker under way; past it the one that has waited longest for its "
	    "client gives way."),
	INT("handshakes_per_second", handshakes_per_second, "0", 0, 1000000,
	    "Handshakes that one worker begins in a second; others wait. 0: no limit."),
	DURATION("ticket_rotation", ticket_rotation_ns, "1h", SEC, 168 * HOUR,
		 "A new key seals session tickets after this; the two before it still open them. "
		 "Tickets live twice as long."),
	SIZE("record_bytes_max", record_bytes_max, "0", 0, 16 * KIB,
	     "Plaintext of a record sent. 0: what one segment carries while a connection begins or "
	     "was idle, then up to 16KiB."),
};
TABLE(tls, "TLS", "What all listeners with TLS share.");
#undef STRUCT

#define STRUCT struct config_certificate
static const struct field certificate_fields[] = {
	{.key = "cert",
	 .type = FIELD_STRING,
	 .format = FORMAT_PATH,
	 AT(cert),
	 .required = true,
	 .max = CONFIG_FILE_MAX,
	 .help = "PEM file: the certificate, then its intermediates."},
	{.key = "key",
	 .type = FIELD_STRING,
	 .format = FORMAT_PATH,
	 AT(key),
	 .required = true,
	 .max = CONFIG_FILE_MAX,
	 .help = "PEM file of its private key, not encrypted."},
	{.key = "names",
	 .type = FIELD_ITEMS,
	 AT(names),
	 .count_offset = offsetof(STRUCT, names_n),
	 .items_max = CONFIG_CERT_NAMES_MAX,
	 .max = CONFIG_ITEM_MAX,
	 .def_is = "what the certificate says",
	 .help = "Server names (SNI) that it is for: \"host.example\", \"*.example\"."},
	STRING("ocsp", ocsp, FORMAT_PATH, NULL, "DER file of an OCSP response to staple."),
};
TABLE(certificate, "Certificate", "A certificate of a listener with its key.");
#undef STRUCT

static const char *const client_auths[] = {"none", "optional", "required", NULL};
static const char *const tls_versions[] = {"1.2", "1.3", NULL};
#define STRUCT struct config_listener_tls
static const struct field listener_tls_fields[] = {
	OBJECTS("certificates", certificates, certificate_table, 1, CONFIG_CERTIFICATES_MAX,
		"Certificates, chosen by the server name that a client asks for; the first for "
		"those "
		"that ask for none or an unknown one."),
	STRING("client_ca", client_ca, FORMAT_PATH, NULL,
	       "PEM file of the authorities whose client certificates are accepted."),
	{.key = "client_auth",
	 .type = FIELD_ENUM,
	 AT(client_auth),
	 .choices = client_auths,
	 .def_is = "`\"required\"` with client_ca, else `\"none\"`",
	 .help = "Whether clients are asked for a certificate, and let in without."},
	ENUM("min_version", min_version, "1.2", tls_versions, "Oldest version of TLS spoken."),
	STRING("ciphers", ciphers, FORMAT_ITEM, NULL,
	       "Ciphers of TLS 1.2, in OpenSSL's names, separated by ':'. Only ephemeral AEAD "
	       "ones, "
	       "which the defaults are."),
	STRING("ciphersuites", ciphersuites, FORMAT_ITEM, NULL,
	       "Cipher suites of TLS 1.3, separated by ':'."),
	STRING("groups", groups, FORMAT_ITEM, NULL,
	       "Groups for the key exchange, best first, separated by ':'. Absent: "
	       "X25519:P-256:P-384."),
	BOOL("tickets", tickets, "true", "Session tickets, so that clients resume."),
	DURATION("handshake_timeout", handshake_timeout_ns, "10s", 10 * MS, 300 * SEC,
		 "A handshake that takes longer is given up."),
};
TABLE(listener_tls, "ListenerTLS", "TLS of a listener.");
#undef STRUCT

/* ---- listeners ------------------------------------------------------------------------------ */
#define STRUCT struct config_listener
static const struct field listener_fields[] = {
	NAME(FORMAT_NAME, "Name of the listener."),
	{.key = "address",
	 .type = FIELD_ADDRESS,
	 AT(address),
	 .def = "0.0.0.0",
	 .help = "Address to listen on: one of a port's, or 0.0.0.0 or :: for all of them."},
	{.key = "port",
	 .type = FIELD_INT,
	 AT(port),
	 .required = true,
	 .min = 1,
	 .max = 65535,
	 .help = "TCP port."},
	INT("connections_max", connections_max, "0", 0, 1048576,
	    "Connections of this listener in one worker. 0: tcp.connections_max alone."),
	INT("backlog", backlog, "0", 0, 65536,
	    "Handshakes of this listener under way in one worker. 0: tcp.backlog alone."),
	{.key = "services",
	 .type = FIELD_REFS,
	 .format = FORMAT_SERVICE,
	 .star = true,
	 .items_min = 1,
	 .items_max = CONFIG_SERVICES_MAX,
	 .max = CONFIG_SERVICE_MAX,
	 .def_is = "[\"*\"]",
	 .help = "Services offered here, by name; [\"*\"] offers all."},
	{.key = "authorities",
	 .type = FIELD_ITEMS,
	 .format = FORMAT_AUTHORITY,
	 AT(authorities),
	 .count_offset = offsetof(STRUCT, authorities_n),
	 .items_min = 1,
	 .items_max = CONFIG_AUTHORITIES_MAX,
	 .max = CONFIG_ITEM_MAX,
	 .def_is = "any",
	 .help = "Calls are taken with these in :authority only: a host in any case, \"*.example\" "
		 "for one label more, with :port where the port counts. Others get UNIMPLEMENTED."},
	{.key = "tls",
	 .type = FIELD_OBJECT,
	 AT(tls),
	 .sub = &listener_tls_table,
	 .def_is = "none: plain HTTP/2 with prior knowledge",
	 .help = "TLS 1.2 and 1.3 with ALPN h2. Files are read again at reload."},
};
TABLE(listener, "Listener", "A TCP port that serves gRPC.");
#undef STRUCT

/* ---- http2 ---------------------------------------------------------------------------------- */
#define STRUCT struct config_budget
static const struct field budget_fields[] = {
	INT("burst", burst, NULL, 1, 1000000, "So many at once."),
	INT("per_second", per_second, NULL, 1, 1000000, "So many more each second."),
};
TABLE(budget, "Budget",
      "What a peer may send for nothing; a connection that sends more is ended with "
      "ENHANCE_YOUR_CALM.");
#undef STRUCT

#define BUDGET(k, member, d, text)                                                                 \
	{                                                                                          \
		.key = (k), .type = FIELD_OBJECT, AT(member), .sub = &budget_table, .def_is = (d), \
		.help = (text)                                                                     \
	}
#define STRUCT struct config_http2
static const struct field http2_fields[] = {
	INT("streams_max", streams_max, "1024", 1, 65535,
	    "Concurrent streams of one connection (SETTINGS_MAX_CONCURRENT_STREAMS)."),
	INT("streams_total_max", streams_total_max, "16384", 1, 1048576,
	    "Concurrent streams of one worker; further ones are refused (REFUSED_STREAM)."),
	SIZE("window_stream", window_stream, "64KiB", KIB, 2 * GIB - 1,
	     "Initial window of a stream: what a call may send before its message has room."),
	SIZE("window_connection", window_connection, "1MiB", 65535, 2 * GIB - 1,
	     "Window of a connection; always replenished."),
	SIZE("frame_bytes_max", frame_bytes_max, "16KiB", 16 * KIB, 16 * MIB - 1,
	     "Largest frame accepted (SETTINGS_MAX_FRAME_SIZE)."),
	SIZE("header_bytes_max", header_bytes_max, "16KiB", KIB, MIB,
	     "Largest header list accepted (SETTINGS_MAX_HEADER_LIST_SIZE, 32 bytes for each field "
	     "included)."),
	INT("headers_max", headers_max, "128", 8, 1024, "Fields of a header list."),
	SIZE("header_table_bytes", header_table_bytes, "4KiB", 0, 64 * KIB,
	     "HPACK dynamic table, each way."),
	SIZE("memory", memory, "128MiB", MIB, 64 * GIB,
	     "Memory of one worker's HTTP/2 engine, reserved at start and used as connections "
	     "come."),
	SIZE("session_bytes_max", session_bytes_max, "4MiB", 64 * KIB, GIB,
	     "Of that, what one connection may take."),
	SIZE("window_stream_max", window_stream_max, "256KiB", KIB, 2 * GIB - 1,
	     "How far a stream's window may grow by what is measured of the path (bandwidth times "
	     "delay); window_stream or less: it stays."),
	SIZE("window_connection_max", window_connection_max, "4MiB", 65535, 2 * GIB - 1,
	     "The same for the connection's window."),
	DURATION(
		"idle_timeout", idle_timeout_ns, "0", 0, 24 * HOUR,
		"A connection without calls is closed (GOAWAY in two steps) after this. 0: never."),
	DURATION("age_max", age_max_ns, "0", 0, 24 * HOUR,
		 "A connection of this age, a tenth more or less, is told to go (GOAWAY in two "
		 "steps), "
		 "so that clients look for others now and then. 0: never."),
	DURATION("age_grace", age_grace_ns, "0", 0, 24 * HOUR,
		 "Its calls may go on for so long; then they are cut. 0: as long as they like."),
	DURATION("keepalive", keepalive_ns, "2h", 0, 24 * HOUR,
		 "A client that has said nothing for so long is sent a PING. 0: never."),
	DURATION("keepalive_timeout", keepalive_timeout_ns, "20s", MS, HOUR,
		 "One that says nothing for so long after that is gone: its connection is closed."),
	DURATION("ping_interval_min", ping_interval_min_ns, "300s", 0, 24 * HOUR,
		 "A client's PING sooner than this after its last one is a strike, unless "
		 "something was "
		 "sent to it meanwhile. 0: no such rule."),
	INT("ping_strikes_max", ping_strikes_max, "2", 0, 1000000,
	    "Strikes past this end the connection (ENHANCE_YOUR_CALM, too_many_pings). 0: no such "
	    "rule."),
	BOOL("pings_without_streams", pings_without_streams, "false",
	     "ping_interval_min counts for connections without calls, too; else it is two hours "
	     "for "
	     "them."),
	DURATION("frame_timeout", frame_timeout_ns, "20s", 100 * MS, HOUR,
		 "A frame, and a header list with all its CONTINUATIONs, must be whole so soon "
		 "after "
		 "its first byte, or the connection is ended."),
	DURATION("settings_timeout", settings_timeout_ns, "10s", 100 * MS, 300 * SEC,
		 "A new connection must have sent its preface and SETTINGS by then."),
	BUDGET("resets", resets, "1000 and 100 a second",
	       "Streams reset without a finished call (CVE-2023-44487)."),
	BUDGET("pings", pings, "1000 and 100 a second", "PING frames."),
	BUDGET("settings", settings, "100 and 10 a second", "SETTINGS frames."),
	BUDGET("empty", empty, "10000 and 1000 a second", "Empty DATA and CONTINUATION frames."),
	BUDGET("windows", windows, "20000 and 20000 a second",
	       "WINDOW_UPDATE and PRIORITY frames."),
};
TABLE(http2, "HTTP2", "Limits of HTTP/2 connections.");
#undef STRUCT

/* ---- grpc ----------------------------------------------------------------------------------- */
static const char *const compress_modes[] = {"asked", "always", "never", NULL};
#define STRUCT struct config_grpc
static const struct field grpc_fields[] = {
	SIZE("message_bytes_max", message_bytes_max, "4MiB", 1, GIB,
	     "Largest message accepted; a larger one ends its call with RESOURCE_EXHAUSTED."),
	SIZE("send_message_bytes_max", send_message_bytes_max, "8MiB", 1, GIB,
	     "Largest message sent; a larger answer ends its call with RESOURCE_EXHAUSTED. Each "
	     "worker keeps memory for eight of these, 64 MiB at least."),
	SIZE("metadata_bytes_max", metadata_bytes_max, "8KiB", 256, 64 * KIB,
	     "Metadata of a call, names and values, each way."),
	INT("metadata_entries_max", metadata_entries_max, "64", 1, 1024,
	    "Metadata entries of a call."),
	INT("calls_max", calls_max, "8192", 1, 1048576,
	    "Calls of one worker at once; further ones end with RESOURCE_EXHAUSTED."),
	INT("queue_max", queue_max, "4096", 0, 1048576,
	    "Calls of one worker and service that wait for a host; further ones end with "
	    "RESOURCE_EXHAUSTED."),
	DURATION("queue_timeout", queue_timeout_ns, "0", 0, HOUR,
		 "A call that waits longer for a host ends with RESOURCE_EXHAUSTED. 0: only its "
		 "deadline "
		 "counts."),
	DURATION("deadline_max", deadline_max_ns, "0", 0, 24 * HOUR,
		 "Cap on every call's deadline, also of those that bring none. 0: none."),
	SIZE("send_queue_bytes_max", send_queue_bytes_max, "1MiB", 16 * KIB, GIB,
	     "Encoded bytes of a call that wait for the client; past it the host is held back."),
	DURATION(
		"reader_timeout", reader_timeout_ns, "1s", 10 * MS, HOUR,
		"A client that takes none of its answers for so long loses those past its share of "
		"memory, and its connection where others wait for that memory."),
	SIZE("reader_rate_min", reader_rate_min, "64KiB", 1 * KIB, GIB,
	     "Bytes a second: a client that takes less of its answers while others wait for memory "
	     "takes none."),
	DURATION("upload_timeout", upload_timeout_ns, "2s", 10 * MS, HOUR,
		 "While other connections wait for room, a message that has room must have arrived "
		 "by "
		 "then, the bytes that have come at upload_rate_min added."),
	SIZE("upload_rate_min", upload_rate_min, "256KiB", 1 * KIB, GIB,
	     "Bytes a second at which a message may take its time beyond upload_timeout."),
	ENUM("compress", compress, "asked", compress_modes,
	     "When answers are compressed, for clients that take it: asked: when the handler asks; "
	     "always: those of compress_bytes_min and more, too; never."),
	INT("compress_level", compress_level, "3", 1, 9, "zlib's level."),
	SIZE("compress_bytes_min", compress_bytes_min, "1KiB", 1, GIB,
	     "Smaller messages are compressed only when the handler asks."),
	SIZE("compress_quantum", compress_quantum, "64KiB", KIB, GIB,
	     "Bytes that a worker inflates in one turn of its loop (it deflates a quarter of "
	     "that), "
	     "so that others are not kept waiting."),
	SIZE("compress_memory", compress_memory, "32MiB", 64 * KIB, 64 * GIB,
	     "Compressed bytes that one worker keeps: messages that come, until they are whole and "
	     "inflated, and answers until they are sent. Messages wait for it, answers go "
	     "uncompressed."),
	BOOL("health", health, "true",
	     "Answer grpc.health.v1.Health: a service is SERVING while a host process that serves "
	     "it "
	     "is attached and takes calls, the empty name while any is. A service of that name in "
	     "services has precedence."),
	BOOL("channelz", channelz, "true",
	     "Answer grpc.channelz.v1.Channelz: calls and connections of all workers, with the "
	     "clients' addresses. A service of that name in services has precedence."),
	BOOL("reflection", reflection, "true",
	     "Answer server reflection (grpc.reflection.v1 and v1alpha) from the descriptors of "
	     "what "
	     "is attached. A service of that name in services has precedence."),
};
TABLE(grpc, "gRPC", "Limits of calls. services[].limits overrides some of them.");
#undef STRUCT

/* ---- linearize ------------------------------------------------------------------------------ */
#define STRUCT struct config_linearize
static const struct field linearize_fields[] = {
	SIZE("linear_bytes_max", linear_bytes_max, "16MiB", 4 * KIB, GIB,
	     "Memory that one decoded message may take (4 MiB on the wire can become 448 MiB)."),
	SIZE("alias_min", alias_min, "4KiB", 0, GIB,
	     "Strings and bytes of a request that are at least so long stay where they arrived in "
	     "the host's memory instead of being copied out of it; 0: none. Less than 128 counts "
	     "as "
	     "128."),
	INT("depth_max", depth_max, "100", 1, 100, "Nesting of messages."),
	INT("elements_max", elements_max, "1048576", 1, 16777216,
	    "Fields, array elements and sub-messages of one message together."),
	INT("work_quantum", work_quantum, "4096", 64, 1048576,
	    "Work units after which decoding and encoding yield to other calls."),
	INT("schema_messages_max", schema_messages_max, "4096", 1, 65536,
	    "Message types that one host may register."),
	INT("schema_fields_max", schema_fields_max, "65536", 1, 1048576, "Their fields together."),
	SIZE("schema_bytes_max", schema_bytes_max, "8MiB", 4 * KIB, 64 * MIB,
	     "Size of the schema that a host hands over."),
};
TABLE(linearize, "Linearize", "Limits of decoding and encoding messages.");
#undef STRUCT

/* ---- control -------------------------------------------------------------------------------- */
#define STRUCT struct config_control
static const struct field control_fields[] = {
	STRING("socket", socket, FORMAT_PATH, "/run/splitd/host.sock",
	       "UNIX socket at which hosts attach."),
	{.key = "socket_mode",
	 .type = FIELD_MODE,
	 AT(socket_mode),
	 .def = "0666",
	 .help = "Its permissions, octal. hosts[].uids decides in any case."},
	INT("pending_max", pending_max, "16", 1, 256,
	    "Attaches under way at once; past it the oldest gives way, of the host name that has "
	    "most of them."),
	DURATION("attach_timeout", attach_timeout_ns, "5s", 10 * MS, 300 * SEC,
		 "An attach that takes longer is given up."),
};
TABLE(control, "Control", "The control thread.");
#undef STRUCT

/* ---- remote --------------------------------------------------------------------------------- */
#define STRUCT struct config_remote_tls
static const struct field remote_tls_fields[] = {
	STRING("cert", cert, FORMAT_PATH, NULL,
	       "PEM file: splitd's certificate, then its intermediates. With it connections are of "
	       "TLS 1.3, and no other is taken."),
	STRING("key", key, FORMAT_PATH, NULL, "PEM file of its private key, not encrypted."),
	STRING("ca", ca, FORMAT_PATH, NULL,
	       "PEM file of the authorities from which a host must have a certificate."),
};
TABLE(remote_tls, "RemoteTLS", "Mutual TLS with hosts on other machines.");
#undef STRUCT

#define STRUCT struct config_remote
static const struct field remote_fields[] = {
	{.key = "address",
	 .type = FIELD_ADDRESS,
	 AT(address),
	 .def = "0.0.0.0",
	 .help = "Address to listen on, one of the kernel's; 0.0.0.0 or ::, all of them."},
	INT("port", port, "0", 0, 65535, "TCP port. 0: no host on another machine attaches."),
	INT("connections_max", connections_max, "16", 1, 1024,
	    "Connections at once, those that have not said who they are included. Each has two "
	    "threads."),
	DURATION(
		"timeout", timeout_ns, "10s", 100 * MS, HOUR,
		"A host of which nothing is heard for so long is detached. Where calls are silent, "
		"both sides ask for a sign of life three times as often."),
	OBJECT("tls", tls, remote_tls_table, "Mutual TLS."),
};
TABLE(remote, "Remote",
      "Hosts on other machines (docs/SOCKET.md): where they connect. hosts[].remote says which "
      "names they may use.");
#undef STRUCT

/* ---- hosts ---------------------------------------------------------------------------------- */
#define STRUCT struct config_host
static const struct field host_fields[] = {
	NAME(FORMAT_NAME, "Name under which processes attach."),
	{.key = "uids",
	 .type = FIELD_INTS,
	 AT(uids),
	 .count_offset = offsetof(STRUCT, uids_n),
	 .required = true,
	 .items_min = 1,
	 .items_max = CONFIG_HOST_UIDS_MAX,
	 .max = UINT32_MAX - 1,
	 .help = "User ids that may attach under this name."},
	INT("endpoints_max", endpoints_max, "8", 1, CONFIG_ENDPOINTS_MAX,
	    "Processes attached under this name at once."),
	INT("workers_max", workers_max, "4", 1, CONFIG_HOST_WORKERS_MAX,
	    "Worker threads of one process."),
	INT("workers_min", workers_min, "0", 0, CONFIG_HOST_WORKERS_MAX,
	    "Of these, so many are always at work; the others sleep until load or a blocked "
	    "handler "
	    "asks for them. 0: as the process says (split_host_options.workers_min; all, where it "
	    "says nothing)."),
	INT("cores_floor", cores_floor, "1", 1, CONFIG_BROKER_CORES_MAX,
	    "Of broker.cores, so many are one process's whatever others ask for, as far as there "
	    "are "
	    "enough."),
	INT("cores_ceiling", cores_ceiling, "64", 1, CONFIG_BROKER_CORES_MAX,
	    "More of them it never gets."),
	SIZE("to_host", to_host, "64MiB", 2 * MIB, 64 * GIB,
	     "Segment for requests, of each process; split among the daemon's workers."),
	SIZE("to_daemon", to_daemon, "64MiB", 2 * MIB, 64 * GIB,
	     "Segment for answers, of each process."),
	BOOL("hugepages", hugepages, "true", "The segments lie on hugepages of 2 MiB."),
	BOOL("hugepages_fallback", hugepages_fallback, "false",
	     "Use normal pages, with one line in the log, where no hugepages are to be had."),
	NODE("numa_node", numa_node, CONFIG_NUMA_MAX, "the kernel's choice",
	     "Memory node of the segments: that of the cores on which the host runs."),
	INT("lane_slots", lane_slots, "64", 2, 4096, "Slots of each ring; a power of two."),
	INT("lane_depth", lane_depth, "2", 1, 64,
	    "Calls published ahead to one host worker; the rest waits in the daemon's queue."),
	INT("lane_depth_max", lane_depth_max, "64", 1, 4096,
	    "Calls published ahead to a host worker that keeps emptying its lane while more wait, "
	    "so "
	    "that one wake brings it many; `lane_slots` bounds it too, and with no more than "
	    "`lane_depth` there is no such case."),
	DURATION("stall_timeout", stall_timeout_ns, "5s", 10 * MS, HOUR,
		 "A process that takes no published call for so long gets no new ones."),
	DURATION("release_timeout", release_timeout_ns, "30s", 100 * MS, 24 * HOUR,
		 "A process that keeps a finished call's memory for so long is detached."),
	INT("methods_max", methods_max, "256", 1, 4096, "Methods that one process may serve."),
	BOOL("remote", remote, "false",
	     "Processes on other machines may attach under this name, by remote.port. Who they are "
	     "is shown by remote.tls alone; `uids` says nothing of them."),
	{.key = "remote_names",
	 .type = FIELD_ITEMS,
	 AT(remote_names),
	 .count_offset = offsetof(STRUCT, remote_names_n),
	 .items_min = 1,
	 .items_max = CONFIG_REMOTE_NAMES_MAX,
	 .max = CONFIG_ITEM_MAX,
	 .def_is = "the host's `name`",
	 .help = "With remote.tls: a process on another machine may attach under this name when "
		 "its "
		 "certificate has one of these among its alternative names (a DNS name or a URI, "
		 "whole). \"*\": any certificate of remote.tls.ca."},
	INT("calls_max", calls_max, "8192", 1, 65536,
	    "Calls of one process at once, for each daemon worker."),
	{.key = "memory_max",
	 .type = FIELD_SIZE,
	 AT(memory_max),
	 .min = 64 * KIB,
	 .max = 64 * GIB,
	 .def_is = "a worker's part of to_host",
	 .help = "Bytes of its segment that the calls of one process may take, for each daemon "
		 "worker: beyond it messages wait for room."},
	INT("share", share, "100", 1, 10000,
	    "Of a daemon worker's work (decoding, handing over, encoding) where several processes "
	    "want it: each gets its share in proportion."),
};
TABLE(host, "Host",
      "A business-logic program that may attach. Several processes may share a name.");
#undef STRUCT

/* ---- services ------------------------------------------------------------------------------- */
#define LIMIT(k, type_, member, lo, hi, absent, text)                                              \
	{                                                                                          \
		.key = (k), .type = (type_), AT(member), .min = (lo), .max = (hi),                 \
		.def_is = (absent), .help = (text)                                                 \
	}
#define STRUCT struct config_service_limits
static const struct field limits_fields[] = {
	LIMIT("message_bytes_max", FIELD_SIZE, message_bytes_max, 1, GIB, "grpc.message_bytes_max",
	      "Largest message accepted."),
	LIMIT("send_message_bytes_max", FIELD_SIZE, send_message_bytes_max, 1, GIB,
	      "grpc.send_message_bytes_max", "Largest message sent."),
	LIMIT("linear_bytes_max", FIELD_SIZE, linear_bytes_max, 4 * KIB, GIB,
	      "linearize.linear_bytes_max", "Memory that one decoded message may take."),
	LIMIT("queue_max", FIELD_INT, queue_max, 0, 1048576, "grpc.queue_max",
	      "Calls of one worker that wait for a host."),
	LIMIT("calls_max", FIELD_INT, calls_max, 1, 1048576, "grpc.calls_max",
	      "Calls of one worker at once."),
	LIMIT("queue_timeout", FIELD_DURATION, queue_timeout_ns, 0, HOUR, "grpc.queue_timeout",
	      "A call that waits longer for a host ends. 0: only its deadline counts."),
};
TABLE(limits, "Limits", "What differs from grpc and linearize for one service.");
#undef STRUCT

/* ---- services ------------------------------------------------------------------------------- */
static const char *const sides[] = {"default", "daemon", "host", NULL};
#define STRUCT struct config_method
static const struct field method_fields[] = {
	NAME(FORMAT_NAME, "The method's name, without its service."),
	ENUM("decode", decode, "default", sides,
	     "Who decodes its requests. default: as services[].decode says."),
	ENUM("encode", encode, "default", sides,
	     "Who encodes its answers. default: as services[].encode says."),
};
TABLE(method, "Method", "What differs for one method of a service.");
#undef STRUCT

#define STRUCT struct config_service
static const struct field service_fields[] = {
	NAME(FORMAT_SERVICE, "Full name as in the path of a call: package.Service."),
	{.key = "hosts",
	 .type = FIELD_REFS,
	 .format = FORMAT_NAME,
	 .required = true,
	 .items_min = 1,
	 .items_max = CONFIG_HOSTS_MAX,
	 .max = CONFIG_NAME_MAX,
	 .help = "Names of the hosts that may serve it."},
	{.key = "balance",
	 .type = FIELD_OBJECT,
	 AT(balance),
	 .sub = &balance_table,
	 .shorthand = "policy",
	 .help = "How calls are spread over the processes that serve it."},
	{.key = "workers",
	 .type = FIELD_INTS,
	 AT(workers),
	 .count_offset = offsetof(STRUCT, workers_n),
	 .items_max = CONFIG_WORKERS_MAX,
	 .max = CONFIG_WORKERS_MAX - 1,
	 .def_is = "all workers",
	 .help = "Placement of services: indices in workers of those that serve it. Others end its "
		 "calls with UNIMPLEMENTED."},
	BOOL("user_agent", user_agent, "false",
	     "Handlers find the client's user-agent among the metadata. It comes with every call, "
	     "and "
	     "metadata costs a small call a block of the host's segment."),
	BOOL("log_refused", log_refused, "false",
	     "Messages of its calls that are refused (requests that cannot be decoded, answers "
	     "that "
	     "cannot be encoded) go to the log, with where and why, and with what is in them: the "
	     "clients' data, secrets too. See log.refused_rate and log.refused_bytes."),
	DURATION("wait_for_host", wait_for_host_ns, "0", 0, HOUR,
		 "While no process that serves it is attached, its calls wait so long for one, "
		 "within "
		 "their deadlines, instead of ending with UNAVAILABLE at once."),
	OBJECT("limits", limits, limits_table, "Its own limits."),
	{.key = "allow",
	 .type = FIELD_ITEMS,
	 AT(allow),
	 .count_offset = offsetof(STRUCT, allow_n),
	 .items_min = 1,
	 .items_max = CONFIG_ALLOW_MAX,
	 .max = CONFIG_ITEM_MAX,
	 .def_is = "everybody",
	 .help = "Clients that may call it, by an alternative name or the common name of their "
		 "certificate; \"*.example\" for host names with one label before. Others get "
		 "PERMISSION_DENIED, those without a certificate UNAUTHENTICATED."},
	{.key = "authorities",
	 .type = FIELD_ITEMS,
	 .format = FORMAT_AUTHORITY,
	 AT(authorities),
	 .count_offset = offsetof(STRUCT, authorities_n),
	 .items_min = 1,
	 .items_max = CONFIG_AUTHORITIES_MAX,
	 .max = CONFIG_ITEM_MAX,
	 .def_is = "any",
	 .help = "The same for this service alone: with another :authority it is not here."},
	STRING("manifest", manifest, FORMAT_PATH, NULL,
	       "File that says what the service is: its methods, their kinds, messages and "
	       "options. Of "
	       "protoc-gen-split (--split_opt=manifest) or protoc (--descriptor_set_out "
	       "--include_imports). Hosts whose methods are not these are refused; the options "
	       "count "
	       "beside those that a host brings."),
	ENUM("decode", decode, "default", sides,
	     "Who decodes requests: the daemon into the host's memory, or the host, which then "
	     "gets "
	     "their wire bytes. default: as a method's option split.method.decode says, else the "
	     "daemon."),
	ENUM("encode", encode, "default", sides,
	     "Who encodes answers. default: as a method's option split.method.encode says, else "
	     "the "
	     "daemon."),
	{.key = "methods",
	 .type = FIELD_OBJECTS,
	 AT(methods),
	 .count_offset = offsetof(STRUCT, methods_n),
	 .items_min = 1,
	 .items_max = CONFIG_METHODS_MAX,
	 .sub = &method_table,
	 .help = "Methods for which something differs."},
};
TABLE(service, "Service", "A gRPC service and who serves it.");
#undef STRUCT

/* ---- the rest ------------------------------------------------------------------------------- */
#define STRUCT struct config_broker
static const struct field broker_fields[] = {
	{.key = "cores",
	 .type = FIELD_INTS,
	 AT(cores),
	 .count_offset = offsetof(STRUCT, cores_n),
	 .items_max = CONFIG_BROKER_CORES_MAX,
	 .max = CONFIG_CORE_MAX,
	 .def_is = "none: processes run where they like",
	 .help = "Cores for the workers of attached processes. Each process gets "
		 "hosts[].cores_floor "
		 "of them, the rest go where the load is, up to hosts[].cores_ceiling; its workers "
		 "are put on the cores it has."},
	DURATION("period", period_ns, "20ms", MS, 60 * SEC,
		 "How often the broker looks; it moves at most one core each time."),
	DURATION(
		"grace", grace_ns, "5ms", 100 * US, 60 * SEC,
		"A worker that was asked to give up its core and has not by then, because it is in "
		"a handler, gets a signal."),
};
TABLE(broker, "Broker", "The core broker, which moves cores between attached processes by load.");
#undef STRUCT

#define STRUCT struct config_shutdown
static const struct field shutdown_fields[] = {
	DURATION("drain_timeout", drain_timeout_ns, "10s", 0, HOUR,
		 "After SIGTERM calls may finish for so long; then they are cut off."),
};
TABLE(shutdown, "Shutdown", "How the daemon ends.");
#undef STRUCT

static const char *const log_levels[] = {"error", "warn", "info", "debug", NULL};
#define STRUCT struct config_log
static const struct field log_fields[] = {
	ENUM("level", level, "info", log_levels, "What is logged, up to this."),
	INT("ring_records", ring_records, "1024", 16, 65536,
	    "Log records of a worker that may wait for the control thread; further ones are "
	    "dropped "
	    "and counted."),
	INT("refused_rate", refused_rate, "10", 1, 10000,
	    "Lines in a second about refused messages (services[].log_refused), of each worker; "
	    "what is past it is counted (worker.refused_over_rate)."),
	INT("refused_records", refused_records, "32", 1, 1024,
	    "Of these, so many of a worker may wait for the control thread; further ones are "
	    "counted (worker.refused_no_room)."),
	SIZE("refused_bytes", refused_bytes, "2KiB", 64, 64 * KIB,
	     "Bytes of a refused message that are kept for its line, and bytes of its JSON there."),
};
TABLE(log, "Log", "Logging, to stderr.");
#undef STRUCT

#define STRUCT struct config_telemetry
static const struct field telemetry_fields[] = {
	BOOL("enabled", enabled, "true", "Open DPDK's telemetry socket, which splitctl asks."),
	BOOL("stages", stages, "false", "Count the cycles of each stage of a call."),
};
TABLE(telemetry, "Telemetry", "What can be seen from outside.");
#undef STRUCT

#define STRUCT struct config
static const struct field root_fields[] = {
	{.key = "$schema",
	 .type = FIELD_IGNORED,
	 .max = 4096,
	 .help = "For editors; not looked at."},
	OBJECT("eal", eal, eal_table, "DPDK's environment."),
	OBJECTS("workers", workers, worker_table, 1, CONFIG_WORKERS_MAX,
		"The daemon's workers and their cores."),
	OBJECT("idle", idle, idle_table, "Idle workers."),
	OBJECTS("ports", ports, port_table, 1, CONFIG_PORTS_MAX, "Network ports."),
	OBJECT("ip", ip, ip_table, "Neighbours and ICMP."),
	OBJECT("tcp", tcp, tcp_table, "TCP."),
	OBJECTS("listeners", listeners, listener_table, 1, CONFIG_LISTENERS_MAX,
		"Where clients connect."),
	OBJECT("tls", tls, tls_table, "TLS."),
	OBJECT("http2", http2, http2_table, "HTTP/2."),
	OBJECT("grpc", grpc, grpc_table, "gRPC."),
	OBJECT("linearize", linearize, linearize_table, "Decoding and encoding."),
	OBJECT("control", control, control_table, "The control thread and its attach socket."),
	OBJECT("remote", remote, remote_table, "Hosts on other machines."),
	OBJECTS("hosts", hosts, host_table, 1, CONFIG_HOSTS_MAX, "Who may attach."),
	OBJECTS("services", services, service_table, 1, CONFIG_SERVICES_MAX,
		"What is served, and by whom."),
	{.key = "channels",
	 .type = FIELD_OBJECTS,
	 AT(channels),
	 .count_offset = offsetof(STRUCT, channels_n),
	 .items_max = CONFIG_CHANNELS_MAX,
	 .sub = &channel_table,
	 .help = "Where hosts may call to from their handlers (docs/CHANNELS.md)."},
	OBJECT("client", client, client_table, "The daemon's own gRPC client."),
	OBJECT("broker", broker, broker_table, "The core broker."),
	OBJECT("shutdown", shutdown, shutdown_table, "Shutdown."),
	OBJECT("log", log, log_table, "Logging."),
	OBJECT("telemetry", telemetry, telemetry_table, "Telemetry."),
};
const struct field_table config_table = {"splitd", "Configuration of splitd.", root_fields,
					 ARRAY_LEN(root_fields), sizeof(STRUCT)};
#undef STRUCT
