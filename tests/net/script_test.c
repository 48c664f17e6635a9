/* Runs segment scripts: what a peer sends and what must be sent back, with times, line by line.
 *
 *     script_test FILE...          every test of these files
 *
 * The format is described in docs/NET.md ("Segment scripts"). Every segment that the stack sends
 * must stand in the script: one that nobody expected fails the test at the next line.
 */
#include "tests/net/rig.h"

#include "daemon/net/cksum.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORDS_MAX    24
#define PORTS_MAX    8
#define PEER_ISN     1000000u
#define TOLERANCE_NS (5 * RIG_MS) /* of the time of a segment that is expected */
#define STEP_NS      (RIG_MS / 20)

static struct rig r;
static unsigned passed, failed;

/* The script's position and the test that runs. */
static struct {
	const char *file;
	unsigned line;
	char name[160];
	bool started, broken;
	uint64_t at_ns; /* the script's clock */
	uint32_t app_sent;
	uint32_t peer_isn;
	struct {
		uint16_t port;
		uint32_t iss, ts_value; /* the newest sent to it */
		uint32_t iss_before;
		bool known;
	} ports[PORTS_MAX];
} t;

__attribute__((format(printf, 1, 2))) static void complain(const char *format, ...)
{
	va_list args;

	if (t.broken)
		return; /* what follows the first is noise */
	t.broken = true;
	fprintf(stderr, "%s:%u: IPv%u: %s: ", t.file, t.line, rig_family_now(), t.name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

/* ---- numbers relative to the two initial ones ----------------------------------------------- */

static unsigned port_slot(uint16_t port)
{
	for (unsigned i = 0; i < PORTS_MAX; i++) {
		if (t.ports[i].port == port || t.ports[i].port == 0) {
			t.ports[i].port = port;
			return i;
		}
	}
	complain("more than %u ports", PORTS_MAX);
	return 0;
}

static uint8_t pattern(uint32_t seq)
{
	return (uint8_t)(seq * 7 + (seq >> 8));
}

/* ---- words ---------------------------------------------------------------------------------- */

struct words {
	char *w[WORDS_MAX];
	unsigned n, at;
};

/* Splits in place; "<...>" is one word. */
static void words_split(char *line, struct words *out)
{
	memset(out, 0, sizeof(*out));
	for (char *p = line; *p != '\0' && *p != '#' && out->n < WORDS_MAX;) {
		if (*p == ' ' || *p == '\t' || *p == '\n') {
			*p++ = '\0';
			continue;
		}
		out->w[out->n++] = p;
		p += *p == '<' ? strcspn(p, ">") : strcspn(p, " \t\n");
		if (*p == '>')
			p++;
		if (*p == '\0' || *p == '#')
			break;
		*p++ = '\0';
	}
}

static char *word(struct words *w)
{
	static char none[1];

	return w->at < w->n ? w->w[w->at++] : none;
}

static bool word_is(struct words *w, const char *text)
{
	if (w->at >= w->n || strcmp(w->w[w->at], text) != 0)
		return false;
	w->at++;
	return true;
}

static uint32_t number(const char *text)
{
	char *end;
	unsigned long v = strtoul(text, &end, 0);

	if (text[0] == '\0' || *end != '\0')
		complain("\"%s\" is not a number", text);
	return (uint32_t)v;
}

/* ---- options -------------------------------------------------------------------------------- */

struct want_options {
	bool given, ts_any, ts_echo;
	struct tcp_options o;
	uint8_t raw[40]; /* "raw 0102…": as it stands */
	unsigned raw_n;
};

static void option_raw(const char *hex, struct want_options *out)
{
	unsigned byte;

	for (; sscanf(hex, "%2x", &byte) == 1 && out->raw_n < 40; hex += 2)
		out->raw[out->raw_n++] = (uint8_t)byte;
}

static void option_one(char *text, struct want_options *out)
{
	struct tcp_options *o = &out->o;
	unsigned a, b, used = 0;

	while (*text == ' ')
		text++;
	if (strcmp(text, "mss max") == 0) {
		o->has_mss = true;
		o->mss = rig_family_now() == NET_FAMILY_IPV4 ? 1460 : 1440;
	} else if (sscanf(text, "mss %u", &a) == 1) {
		o->has_mss = true;
		o->mss = (uint16_t)a;
	} else if (strcmp(text, "sackOK") == 0) {
		o->sack_permitted = true;
	} else if (sscanf(text, "wscale %u", &a) == 1) {
		o->has_wscale = true;
		o->wscale = (uint8_t)a;
	} else if (sscanf(text, "ts %u/%u", &a, &b) == 2) {
		o->has_timestamp = true;
		o->ts_value = a;
		o->ts_echo = b;
	} else if (strstr(text, "/echo") != NULL && sscanf(text, "ts %u/", &a) == 1) {
		o->has_timestamp = true;
		o->ts_value = a;
		out->ts_echo = true;
	} else if (sscanf(text, "ts */%u", &b) == 1) {
		o->has_timestamp = true;
		o->ts_echo = b;
		out->ts_any = true;
	} else if (strncmp(text, "raw ", 4) == 0) {
		option_raw(text + 4, out);
	} else if (strncmp(text, "sack", 4) == 0) {
		text += 4;
		while (o->sack_n < TCP_SACK_BLOCKS_MAX &&
		       sscanf(text, " %u:%u%n", &a, &b, (int *)&used) == 2) {
			o->sack[o->sack_n++] = (struct tcp_sack_block){a, b};
			text += used;
		}
	} else if (*text != '\0') {
		complain("option \"%s\" is not known", text);
	}
}

static void options_read(char *text, struct want_options *out)
{
	char *save = NULL;
	size_t len = strlen(text);

	out->given = true;
	text[len - 1] = '\0'; /* ">" */
	for (char *p = strtok_r(text + 1, ",", &save); p != NULL; p = strtok_r(NULL, ",", &save))
		option_one(p, out);
}

static void options_compare(const struct want_options *w, const struct tcp_options *got,
			    uint32_t peer_isn)
{
	const struct tcp_options *o = &w->o;

	if (!w->given)
		return;
	if (o->has_mss != got->has_mss || o->mss != got->mss)
		complain("mss %u, expected %u", got->mss, o->mss);
	if (o->sack_permitted != got->sack_permitted)
		complain("sackOK %d, expected %d", got->sack_permitted, o->sack_permitted);
	if (o->has_wscale != got->has_wscale || o->wscale != got->wscale)
		complain("wscale %d %u, expected %d %u", got->has_wscale, got->wscale,
			 o->has_wscale, o->wscale);
	if (o->has_timestamp != got->has_timestamp ||
	    (o->has_timestamp &&
	     (o->ts_echo != got->ts_echo || (!w->ts_any && o->ts_value != got->ts_value))))
		complain("timestamps %d %u/%u", got->has_timestamp, got->ts_value, got->ts_echo);
	if (o->sack_n != got->sack_n)
		complain("%u SACK blocks, expected %u", got->sack_n, o->sack_n);
	for (unsigned i = 0; i < o->sack_n && i < got->sack_n; i++) {
		uint32_t start = got->sack[i].start - peer_isn, end = got->sack[i].end - peer_isn;

		if (o->sack[i].start != start || o->sack[i].end != end)
			complain("SACK block %u is %u:%u, expected %u:%u", i, start, end,
				 o->sack[i].start, o->sack[i].end);
	}
}

/* ---- segments ------------------------------------------------------------------------------- */

static const char flag_letters[] = "FSRPAUEC"; /* bit 0 to 7 */

static uint8_t flags_read(const char *text)
{
	uint8_t flags = 0;

	if (strcmp(text, "-") == 0)
		return 0;
	for (; *text != '\0'; text++) {
		const char *p = strchr(flag_letters, *text);

		if (p == NULL)
			complain("flag \"%c\" is not known", *text);
		else
			flags |= (uint8_t)(1u << (p - flag_letters));
	}
	return flags;
}

static const char *flags_text(uint8_t flags)
{
	static char text[9];
	unsigned n = 0;

	for (unsigned i = 0; i < 8; i++)
		if (flags & (1u << i))
			text[n++] = flag_letters[i];
	text[n] = '\0';
	return n ? text : "-";
}

struct line {
	uint8_t flags;
	uint32_t seq, end, ack, ack_end, win, port, to, tos, from, fill;
	uint32_t each; /* several: the range, or the range of acks, in steps of so much; 0: one */
	bool has_ack, has_win, has_tos, has_fill;
	struct want_options options;
};

static void line_read(struct words *w, struct line *out)
{
	char *range;

	memset(out, 0, sizeof(*out));
	out->port = RIG_PEER_PORT;
	out->to = RIG_PORT;
	out->flags = flags_read(word(w));
	range = word(w);
	out->seq = (uint32_t)strtol(range, &range, 0);
	out->end = *range == ':' ? (uint32_t)strtol(range + 1, &range, 0) : out->seq;
	if (*range != '\0')
		complain("a sequence range is FIRST or FIRST:END, not %s", range);
	while (w->at < w->n) {
		if (w->w[w->at][0] == '<') {
			options_read(word(w), &out->options);
		} else if (word_is(w, "ack")) {
			out->ack = (uint32_t)strtol(word(w), &range, 0);
			out->ack_end =
				*range == ':' ? (uint32_t)strtol(range + 1, NULL, 0) : out->ack;
			out->has_ack = true;
		} else if (word_is(w, "each")) {
			out->each = number(word(w));
		} else if (word_is(w, "win")) {
			out->win = number(word(w));
			out->has_win = true;
		} else if (word_is(w, "port")) {
			out->port = number(word(w));
		} else if (word_is(w, "to")) {
			out->to = number(word(w));
		} else if (word_is(w, "ecn")) {
			out->tos = number(word(w));
			out->has_tos = true;
		} else if (word_is(w, "from")) {
			out->from = number(word(w));
		} else if (word_is(w, "fill")) {
			out->fill = number(word(w));
			out->has_fill = true;
		} else {
			complain("\"%s\" is not known", word(w));
		}
	}
}

static void options_put(const struct want_options *w, unsigned slot, struct rig_segment *s)
{
	struct tcp_options o = w->o;
	uint32_t iss = t.ports[slot].iss;

	if (w->ts_echo)
		o.ts_echo = t.ports[slot].ts_value;
	for (unsigned i = 0; i < o.sack_n; i++) { /* the peer has our bytes */
		o.sack[i].start += iss;
		o.sack[i].end += iss;
	}
	if (w->raw_n > 0) {
		memcpy(s->options, w->raw, w->raw_n);
		s->options_len = (w->raw_n + 3) & ~3u;
		return;
	}
	s->options_len = (uint32_t)tcp_options_write(s->options, &o);
}

static void line_in(const struct line *l)
{
	static struct rig_segment s;
	unsigned slot = port_slot((uint16_t)l->port);

	memset(&s, 0, sizeof(s));
	s.src_port = (uint16_t)l->port;
	s.dst_port = (uint16_t)l->to;
	s.flags = l->flags;
	s.seq = t.peer_isn + l->seq;
	s.ack = l->has_ack ? t.ports[slot].iss + l->ack : 0;
	s.window = l->has_win ? (uint16_t)l->win : 65535;
	s.tos = (uint8_t)l->tos;
	s.from = (uint8_t)l->from;
	s.len = l->end - l->seq;
	for (uint32_t i = 0; i < s.len; i++)
		s.payload[i] = l->has_fill ? (uint8_t)l->fill : pattern(l->seq + i);
	options_put(&l->options, slot, &s);
	rig_send(&r, &s);
}

/* "icmp KIND MTU SEQ": an error that quotes a segment of ours. */
static void line_icmp(struct words *w)
{
	static const struct {
		const char *name;
		uint8_t type, code, type6, code6;
	} kinds[] = {
		{"toobig", 3, 4, ICMP6_TOO_BIG, 0},
		{"port", 3, 3, ICMP6_UNREACHABLE, 4},
		{"host", 3, 1, ICMP6_UNREACHABLE, 3},
		{"hops", 11, 0, ICMP6_TIME_EXCEEDED, 0},
	};
	const char *name = word(w);
	uint32_t mtu = number(word(w)), seq = (uint32_t)strtol(word(w), NULL, 0), ip_len;
	struct net_addr local = rig_local(0), remote = rig_remote(0);
	bool v4 = rig_family_now() == NET_FAMILY_IPV4;
	uint8_t l4[8 + 40 + 20] = {0}, frame[200], *quoted = l4 + 8;
	uint16_t sum;

	for (size_t i = 0; i < RTE_DIM(kinds); i++) {
		if (strcmp(kinds[i].name, name) == 0) {
			l4[0] = v4 ? kinds[i].type : kinds[i].type6;
			l4[1] = v4 ? kinds[i].code : kinds[i].code6;
		}
	}
	be32_store(l4 + 4, mtu);
	if (v4) {
		quoted[0] = IP4_VERSION_IHL;
		quoted[9] = IP_PROTO_TCP;
		memcpy(quoted + 12, local.bytes, 4);
		memcpy(quoted + 16, remote.bytes, 4);
		ip_len = 20;
	} else {
		quoted[0] = 0x60;
		quoted[6] = IP_PROTO_TCP;
		memcpy(quoted + 8, local.bytes, 16);
		memcpy(quoted + 24, remote.bytes, 16);
		ip_len = 40;
	}
	be16_store(quoted + ip_len, RIG_PORT);
	be16_store(quoted + ip_len + 2, RIG_PEER_PORT);
	be32_store(quoted + ip_len + 4, t.ports[port_slot(RIG_PEER_PORT)].iss + seq);
	sum = cksum_fold(
		cksum_add(v4 ? 0 : net_pseudo_sum(&remote, &local, IP_PROTO_ICMP6, ip_len + 28), l4,
			  ip_len + 28));
	memcpy(l4 + 2, &sum, 2);
	rig_input(&r, frame,
		  rig_build_ip(frame, v4 ? IP_PROTO_ICMP : IP_PROTO_ICMP6, l4, ip_len + 28));
}

static void payload_compare(const struct line *l, const struct rig_segment *got)
{
	for (uint32_t i = 0; i < got->len; i++) {
		if (got->payload[i] != pattern(l->seq + i)) {
			complain("byte %u is not what was sent", l->seq + i);
			return;
		}
	}
}

static void line_out(const struct line *l)
{
	static struct rig_segment got;
	unsigned slot = port_slot((uint16_t)l->port);
	uint8_t push = l->flags & TCP_PSH ? 0 : TCP_PSH;
	uint32_t seq;

	/* In small steps, so that the stack's clock does not run ahead of the script's. */
	for (uint64_t waited_ns = 0; r.sent_n == 0 && waited_ns < TOLERANCE_NS;
	     waited_ns += STEP_NS)
		rig_wait(&r, STEP_NS);
	if (!rig_take_tcp(&r, &got)) {
		complain("nothing was sent, expected %s %u:%u", flags_text(l->flags), l->seq,
			 l->end);
		return;
	}
	if ((got.flags & TCP_SYN) != 0) {
		if (got.seq != t.ports[slot].iss)
			t.ports[slot].iss_before = t.ports[slot].iss;
		t.ports[slot].iss = got.seq;
		t.ports[slot].known = true;
	}
	if (got.opt.has_timestamp)
		t.ports[slot].ts_value = got.opt.ts_value;
	seq = got.seq - (t.ports[slot].known ? t.ports[slot].iss : 0);
	if ((got.flags & ~push) != l->flags || seq != l->seq || got.len != l->end - l->seq) {
		complain("sent %s %u:%u ack %u, expected %s %u:%u", flags_text(got.flags), seq,
			 seq + got.len, got.ack - t.peer_isn, flags_text(l->flags), l->seq, l->end);
		return;
	}
	if (got.dst_port != l->port)
		complain("sent to port %u, expected %u", got.dst_port, l->port);
	if (got.sent_ns + TOLERANCE_NS < t.at_ns || got.sent_ns > t.at_ns + TOLERANCE_NS)
		complain("sent %.3f s from when it was expected",
			 ((double)got.sent_ns - (double)t.at_ns) / 1e9);
	if (l->has_ack && got.ack - t.peer_isn != l->ack)
		complain("ack %u, expected %u", got.ack - t.peer_isn, l->ack);
	if (l->has_win && got.window != l->win)
		complain("win %u, expected %u", got.window, l->win);
	if (l->has_tos && (got.tos & 3) != l->tos)
		complain("ecn %u, expected %u", got.tos & 3, l->tos);
	payload_compare(l, &got);
	options_compare(&l->options, &got.opt, t.peer_isn);
}

static void nothing_unexpected(void)
{
	static struct rig_segment got;
	unsigned slot;

	if (t.broken || !rig_take_tcp(&r, &got))
		return;
	slot = port_slot(got.dst_port);
	complain("before this line %s %u:%u ack %u was sent, which no line expects",
		 flags_text(got.flags), got.seq - t.ports[slot].iss,
		 got.seq - t.ports[slot].iss + got.len, got.ack - t.peer_isn);
}

/* ---- the layer above ------------------------------------------------------------------------ */

static struct rte_mbuf *chain_make(uint32_t len)
{
	struct rte_mbuf *head = NULL, *tail = NULL;

	for (uint32_t done = 0; done < len;) {
		struct rte_mbuf *m = rte_pktmbuf_alloc(r.pool);
		uint16_t n = len - done < 1800 ? (uint16_t)(len - done) : 1800;

		for (uint16_t i = 0; i < n; i++)
			rte_pktmbuf_mtod(m, uint8_t *)[i] = pattern(1 + t.app_sent + done + i);
		m->data_len = n;
		if (head == NULL)
			head = m;
		else
			tail->next = m, head->nb_segs++;
		tail = m;
		done += n;
		head->pkt_len = done;
	}
	return head;
}

static void app_connect(void)
{
	struct net_addr local = rig_local(RIG_PORT), remote = rig_remote(RIG_PEER_PORT);

	if (tcp_connect(r.stack, &local, &remote, &rig_events, &r.app, &r.app.conn) != 0)
		complain("tcp_connect failed");
}

static void line_app(struct words *w)
{
	if (word_is(w, "connect")) {
		app_connect();
	} else if (r.app.conn == NULL) {
		complain("there is no connection");
	} else if (word_is(w, "send")) {
		uint32_t len = number(word(w));
		struct rte_mbuf *chain = chain_make(len);

		if (tcp_send(r.app.conn, chain) != 0) {
			complain("tcp_send failed");
			rte_pktmbuf_free(chain);
		}
		t.app_sent += len;
	} else if (word_is(w, "hold")) {
		r.app.keep_unread = true;
	} else if (word_is(w, "read")) {
		tcp_consumed(r.app.conn, number(word(w)));
	} else if (word_is(w, "shutdown")) {
		tcp_shutdown(r.app.conn);
	} else if (word_is(w, "close")) {
		tcp_close(r.app.conn);
		r.app.conn = NULL;
	} else if (word_is(w, "abort")) {
		tcp_abort(r.app.conn);
		r.app.conn = NULL;
	} else {
		complain("app \"%s\" is not known", word(w));
	}
	rig_flush(&r);
}

/* ---- expectations --------------------------------------------------------------------------- */

static void expect_counter(const char *name, uint32_t value)
{
	for (size_t i = 0; i < net_counter_desc.count; i++) {
		if (strcmp(net_counter_desc.names[i].name, name) == 0) {
			uint64_t is = counter_read(net_counters_of(r.stack), &net_counter_desc, i);

			if (is != value)
				complain("counter %s is %lu, expected %u", name, is, value);
			return;
		}
	}
	complain("no counter named %s", name);
}

/* "clocked LOW HIGH": by so much the initial number to the usual port moved since the one before.
 * "apart PORT PORT": two that no clock explains. */
static void expect_isn(struct words *w)
{
	unsigned usual = port_slot(RIG_PEER_PORT);
	uint32_t a, b, moved;

	if (word_is(w, "clocked")) {
		a = number(word(w));
		b = number(word(w));
		moved = t.ports[usual].iss - t.ports[usual].iss_before;
		if (moved < a || moved > b)
			complain("the initial number moved by %u", moved);
	} else if (word_is(w, "apart")) {
		a = t.ports[port_slot((uint16_t)number(word(w)))].iss;
		b = t.ports[port_slot((uint16_t)number(word(w)))].iss;
		if (a - b < 1u << 20 || b - a < 1u << 20)
			complain("initial numbers %u and %u", a, b);
	} else {
		complain("isn \"%s\" is not known", word(w));
	}
}

static void expect_info(const char *name, const char *compare, uint32_t value)
{
	struct tcp_info i = tcp_info(r.app.conn);
	const struct {
		const char *name;
		uint64_t is;
	} all[] = {
		{"mss", i.mss},
		{"cwnd", i.cwnd},
		{"ssthresh", i.ssthresh},
		{"send_window", i.send_window},
		{"receive_window", i.receive_window},
		{"srtt_us", i.srtt_us},
		{"rto_ms", i.rto_us / 1000},
		{"queued", i.queued},
		{"retransmitted", i.segments_retransmitted},
	};

	for (size_t k = 0; k < RTE_DIM(all); k++) {
		if (strcmp(all[k].name, name) != 0)
			continue;
		if ((compare[0] == '=' && all[k].is != value) ||
		    (compare[0] == 'b' && all[k].is >= value) ||
		    (compare[0] == 'a' && all[k].is <= value))
			complain("%s is %lu, expected %s %u", name, all[k].is, compare, value);
		return;
	}
	complain("no information named %s", name);
}

static void expect_received(uint32_t bytes)
{
	if (r.app.bytes != bytes)
		complain("%u bytes were delivered, expected %u", r.app.bytes, bytes);
	for (uint32_t i = 0; i < r.app.bytes; i++) {
		if (r.app.data[i] != pattern(1 + i)) {
			complain("byte %u delivered is not what was sent first", 1 + i);
			return;
		}
	}
}

static void line_expect(struct words *w)
{
	if (word_is(w, "state")) {
		const char *name = word(w);

		if (r.app.conn == NULL)
			complain("there is no connection");
		else if (strcmp(tcp_state_name(tcp_info(r.app.conn).state), name) != 0)
			complain("state is %s", tcp_state_name(tcp_info(r.app.conn).state));
	} else if (word_is(w, "counter")) {
		const char *name = word(w);

		expect_counter(name, number(word(w)));
	} else if (word_is(w, "info")) {
		const char *name = word(w), *compare = word(w);

		expect_info(name, compare, number(word(w)));
	} else if (word_is(w, "isn")) {
		expect_isn(w);
	} else if (word_is(w, "received")) {
		expect_received(number(word(w)));
	} else if (word_is(w, "eof")) {
		if (r.app.eofs != 1)
			complain("eof was given %u times", r.app.eofs);
	} else if (word_is(w, "accepted")) {
		uint32_t n = number(word(w));

		if (r.app.accepted != n)
			complain("%u accepted", r.app.accepted);
	} else if (word_is(w, "connected")) {
		if (r.app.connected != 1)
			complain("connected was given %u times", r.app.connected);
	} else if (word_is(w, "closed")) {
		const char *reason = word(w);
		const char *is = r.app.reason == 0 ? "0" : error_name(r.app.reason);

		if (r.app.closeds != 1 || strcmp(is, reason) != 0)
			complain("closed %u times, last with %s", r.app.closeds, is);
		r.app.conn = NULL;
	} else if (word_is(w, "half_open")) {
		uint32_t n = number(word(w));

		if (net_gauges_of(r.stack).half_open != n)
			complain("%u half open", net_gauges_of(r.stack).half_open);
	} else if (word_is(w, "timers")) {
		uint32_t n = number(word(w));

		if (net_gauges_of(r.stack).timers != n)
			complain("%u timers", net_gauges_of(r.stack).timers);
	} else {
		complain("expect \"%s\" is not known", word(w));
	}
}

/* ---- configuration -------------------------------------------------------------------------- */

#define TCP_KEY(name, unit)                                                                        \
	{                                                                                          \
#name, offsetof(struct net_config, tcp) + offsetof(struct tcp_config, name),       \
			sizeof(((struct tcp_config *)0)->name), unit                               \
	}

static void line_config(struct words *w)
{
	static const struct {
		const char *name;
		size_t offset, size;
		uint64_t unit;
	} keys[] = {
		{"mtu", offsetof(struct net_config, mtu), 2, 1},
		{"flags", offsetof(struct net_config, flags), 4, 1},
		{"path_mtu_discovery", offsetof(struct net_config, path_mtu_discovery), 1, 1},
		TCP_KEY(backlog_max, 1),
		TCP_KEY(connections_max, 1),
		TCP_KEY(receive_buffer, 1),
		TCP_KEY(send_buffer, 1),
		TCP_KEY(ooo_ranges_max, 1),
		TCP_KEY(initial_window, 1),
		TCP_KEY(syn_retries, 1),
		TCP_KEY(keepalive_probes, 1),
		TCP_KEY(time_wait_ns, RIG_MS),
		TCP_KEY(half_open_ns, RIG_MS),
		TCP_KEY(fin_wait_2_ns, RIG_MS),
		TCP_KEY(orphan_ns, RIG_MS),
		TCP_KEY(user_timeout_ns, RIG_MS),
		TCP_KEY(keepalive_idle_ns, RIG_MS),
		TCP_KEY(keepalive_interval_ns, RIG_MS),
		TCP_KEY(rto_min_ns, RIG_MS),
		TCP_KEY(delayed_ack_ns, RIG_MS),
		TCP_KEY(pacing_rtt_min_ns, RIG_MS),
		TCP_KEY(nagle, 1),
		TCP_KEY(timestamps, 1),
		TCP_KEY(window_scaling, 1),
		TCP_KEY(sack, 1),
		TCP_KEY(syn_cookies, 1),
		TCP_KEY(ecn, 1),
		TCP_KEY(congestion, 1),
		TCP_KEY(source_half_open_max, 1),
		TCP_KEY(source_connections_max, 1),
		TCP_KEY(source_prefix_ipv4, 1),
		TCP_KEY(source_prefix_ipv6, 1),
	};
	const char *name = word(w);
	uint64_t value = number(word(w));

	if (strcmp(name, "isn") == 0) {
		t.peer_isn = (uint32_t)value;
		return;
	}
	for (size_t i = 0; i < RTE_DIM(keys); i++) {
		if (strcmp(keys[i].name, name) != 0)
			continue;
		value *= keys[i].unit;
		memcpy((uint8_t *)&r.config + keys[i].offset, &value, keys[i].size);
		return;
	}
	complain("config \"%s\" is not known", name);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void test_start(void)
{
	if (t.started)
		return;
	t.started = true;
	rig_start(&r);
	t.at_ns = r.now_ns;
}

static void test_end(void)
{
	if (t.name[0] == '\0')
		return;
	test_start();
	nothing_unexpected();
	while (r.sent_n > 0) {
		uint8_t frame[9200];

		rig_take(&r, frame, sizeof(frame));
	}
	rig_stop(&r);
	if (t.broken)
		failed++;
	else
		passed++;
	t.name[0] = '\0';
}

static void test_begin(const char *name)
{
	test_end();
	t.started = t.broken = false;
	t.app_sent = 0;
	t.peer_isn = PEER_ISN;
	memset(t.ports, 0, sizeof(t.ports));
	snprintf(t.name, sizeof(t.name), "%.*s", (int)sizeof(t.name) - 1, name);
	t.name[strcspn(t.name, "\n")] = '\0';
	rig_defaults(&r);
	r.arp_all = true;
}

/* A connection with the peer: three segments, of which only the options are said. */
static void line_open(struct words *w)
{
	struct line syn = {.flags = TCP_SYN, .port = RIG_PEER_PORT, .to = RIG_PORT};
	struct line syn_ack = {.flags = TCP_SYN | TCP_ACK, .ack = 1, .has_ack = true};
	struct line ack = {.flags = TCP_ACK, .seq = 1, .end = 1, .ack = 1, .has_ack = true};

	syn_ack.port = ack.port = RIG_PEER_PORT;
	syn_ack.to = ack.to = RIG_PORT;
	while (w->at < w->n) {
		if (w->w[w->at][0] == '<') {
			options_read(word(w), &syn.options);
		} else if (word_is(w, "win")) {
			ack.win = number(word(w));
			ack.has_win = true;
		} else {
			complain("\"%s\" is not known", word(w));
		}
	}
	line_in(&syn);
	line_out(&syn_ack);
	if (syn.options.o.has_timestamp) {
		ack.options.given = true;
		ack.options.o.has_timestamp = true;
		ack.options.o.ts_value = syn.options.o.ts_value;
	}
	if (!t.broken)
		line_in(&ack);
	if (!t.broken && r.app.conn == NULL)
		complain("the connection was not accepted");
}

static void lines_out(struct line *l)
{
	uint32_t end = l->end;

	if (l->each == 0) {
		line_out(l);
		return;
	}
	for (; l->seq != end && !t.broken; l->seq = l->end) {
		l->end = end - l->seq < l->each ? end : l->seq + l->each;
		line_out(l);
	}
}

static void lines_in(struct line *l)
{
	for (;;) {
		line_in(l);
		if (l->each == 0 || l->ack_end - l->ack < l->each)
			return;
		l->ack += l->each;
	}
}

static void line_run(char *text)
{
	struct words w;
	struct line l;

	char *only = strstr(text, " family ");

	/* "family 4" or "family 6" at the end: the line is for that one. */
	if (only != NULL) {
		if (strtoul(only + 8, NULL, 10) != rig_family_now())
			return;
		*only = '\0';
	}
	if (strncmp(text, "test ", 5) == 0) {
		test_begin(text + 5);
		return;
	}
	words_split(text, &w);
	if (w.n == 0 || t.broken)
		return;
	if (t.name[0] == '\0') {
		complain("before the first \"test NAME\"");
		return;
	}
	if (word_is(&w, "config")) {
		line_config(&w);
		return;
	}
	test_start();
	if (w.w[0][0] == '+') {
		t.at_ns += (uint64_t)(strtod(word(&w) + 1, NULL) * 1e9 + 0.5);
		if (r.now_ns < t.at_ns)
			rig_wait(&r, t.at_ns - r.now_ns);
	}
	if (word_is(&w, "out")) {
		line_read(&w, &l);
		lines_out(&l);
		return;
	}
	nothing_unexpected();
	if (word_is(&w, "in")) {
		line_read(&w, &l);
		lines_in(&l);
	} else if (word_is(&w, "icmp")) {
		line_icmp(&w);
	} else if (word_is(&w, "open")) {
		line_open(&w);
	} else if (word_is(&w, "app")) {
		line_app(&w);
	} else if (word_is(&w, "expect")) {
		line_expect(&w);
	} else if (!word_is(&w, "silent")) {
		complain("\"%s\" is not known", w.w[w.at]);
	}
}

static char *const *files;
static int files_n;

static void files_run(uint8_t family)
{
	char text[512];

	rig_family(family);
	for (int i = 0; i < files_n; i++) {
		FILE *f = fopen(files[i], "r");

		ck_assert_msg(f != NULL, "cannot read %s", files[i]);
		t.file = files[i];
		for (t.line = 1; fgets(text, sizeof(text), f) != NULL; t.line++)
			line_run(text);
		test_end();
		fclose(f);
	}
}

START_TEST(test_scripts)
{
	files_run(NET_FAMILY_IPV4);
	files_run(NET_FAMILY_IPV6);
	printf("%u scripts passed, %u failed\n", passed, failed);
	ck_assert_uint_gt(passed, 0);
	ck_assert_uint_eq(failed, 0);
}
END_TEST

int main(int argc, char **argv)
{
	const TTest *const tests[] = {test_scripts};

	files = argv + 1;
	files_n = argc - 1;
	return rig_main("script", tests, 1);
}
