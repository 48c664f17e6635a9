/* The attach socket: packets that make no sense, in every order, with descriptors that nobody asked
 * for, or slowly; and attaches by the thousand, left at each step. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/hostile/hostile.h"

#define ATTACHES 1000

int hostile_connect(const struct hostile *x)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", x->socket);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	close(fd);
	return -1;
}

static void packet_send(struct hostile *x, int fd, const void *packet, size_t bytes, const int *fds,
			size_t fds_n)
{
	x->counts->packets += attach_send(fd, packet, bytes, fds, fds_n) == 0;
}

static void hello_fill(struct hostile *x, struct attach_hello_packet *p, uint32_t blob_bytes)
{
	*p = (struct attach_hello_packet){.workers = 1, .blob_bytes = blob_bytes};
	snprintf(p->name, sizeof(p->name), "%s", x->name);
	attach_header_fill(&p->header, ATTACH_HELLO, sizeof(*p));
}

/* A packet that is nearly right. */
static size_t packet_make(struct hostile *x, uint8_t *p)
{
	struct random *r = &x->rng;
	size_t bytes = sizeof(struct attach_header) + random_below(r, 600);
	struct attach_header h;

	random_fill(r, p, bytes);
	if (random_below(r, 4) == 0)
		return random_below(r, bytes + 1);
	attach_header_fill(&h, (enum attach_type)random_below(r, 9), bytes);
	switch (random_below(r, 6)) {
	case 0:
		h.bytes = (uint32_t)random_next(r);
		break;
	case 1:
		h.version = (uint16_t)random_next(r);
		break;
	case 2:
		h.layout ^= 1u << random_below(r, 32);
		break;
	case 3: /* a hello of any length of blob */
		hello_fill(x, (struct attach_hello_packet *)(void *)p, (uint32_t)random_next(r));
		return sizeof(struct attach_hello_packet);
	case 4:
		hello_fill(x, (struct attach_hello_packet *)(void *)p,
			   100 + (uint32_t)(random_next(r) & 0xffff));
		random_fill(r, p + sizeof(h) + 8 + random_below(r, 4), 60);
		return sizeof(struct attach_hello_packet);
	default:
		break;
	}
	memcpy(p, &h, sizeof(h));
	return bytes;
}

static void nonsense(struct hostile *x)
{
	_Alignas(8) uint8_t packet[1024 + sizeof(struct attach_hello_packet)];
	struct random *r = &x->rng;
	int fd = hostile_connect(x);
	int passed[8], passed_n = 0;

	if (fd < 0) {
		x->counts->refused++;
		usleep(500);
		return;
	}
	x->counts->connects++;
	for (uint64_t n = random_below(r, 6); n > 0; n--) {
		size_t bytes = packet_make(x, packet);

		passed_n = random_below(r, 3) == 0 ? (int)random_below(r, 8) : 0;
		for (int i = 0; i < passed_n; i++) {
			passed[i] = i % 2 == 0 ? memfd_create("nonsense", MFD_CLOEXEC)
					       : eventfd(0, EFD_CLOEXEC);
			if (passed[i] < 0)
				passed_n = i;
		}
		packet_send(x, fd, packet, bytes, passed, (size_t)passed_n);
		for (int i = 0; i < passed_n; i++)
			close(passed[i]);
	}
	if (random_below(r, 8) == 0)
		shutdown(fd, SHUT_WR);
	close(fd);
}

/* A whole, sound hello whose blob comes a byte at a time. */
static void drip(struct hostile *x, int fd, uint32_t at)
{
	struct {
		struct attach_blob_packet head;
		uint8_t byte;
	} p = {.head = {.offset = at}};

	attach_header_fill(&p.head.header, ATTACH_BLOB, sizeof(p.head) + 1);
	packet_send(x, fd, &p, sizeof(p.head) + 1, NULL, 0);
}

static void attaches(struct hostile *x)
{
	static int fds[ATTACHES];
	static uint32_t dripped[ATTACHES];
	struct attach_hello_packet hello;
	unsigned n = 0;

	hello_fill(x, &hello, 4096);
	while (n < ATTACHES && !hostile_over(x)) {
		int fd = hostile_connect(x);

		if (fd < 0) {
			x->counts->refused++;
			usleep(1000);
			continue;
		}
		x->counts->connects++;
		dripped[n] = 0;
		if (random_below(&x->rng, 2) == 0) {
			packet_send(x, fd, &hello, sizeof(hello), NULL, 0);
			dripped[n] = 1;
		}
		fds[n++] = fd;
		for (unsigned i = n > 16 ? n - 16 : 0; i < n; i++)
			if (dripped[i] != 0)
				drip(x, fds[i], dripped[i]++ - 1);
	}
	for (int i = 0; i < 10 && !hostile_over(x); i++)
		usleep(20000);
	while (n > 0)
		close(fds[--n]);
	x->counts->sessions++;
}

void hostile_socket(struct hostile *x)
{
	while (!hostile_over(x)) {
		if (x->mode_asked == MODE_ATTACHES)
			attaches(x);
		else
			nonsense(x);
	}
}
