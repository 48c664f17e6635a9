/* The daemon's end of the attach socket: packets as they come, and whole conversations.
 *
 * First byte: 0 one packet; 1 one blob; 2 a conversation as it is; 3 a conversation whose packets
 * get a right header, so that what is behind it is reached. A conversation is records of a length
 * (two bytes, little endian) and that many bytes. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shepherd/shepherd_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct endpoint_config small = {
	.name = "fuzz",
	.daemon_workers = 1,
	.host_workers = 1,
	.request_slots = 2,
	.completion_slots = 2,
	.foreign_slots = 2,
	.to_host_bytes = 64 * 1024,
	.to_daemon_bytes = 64 * 1024,
	.numa_node = -1,
	.calls_max = 1,
};

/* What the daemon's control thread does. False: it is over. */
static bool serve(struct attach_server *server)
{
	enum attach_event event;

	do {
		if (attach_server_step(server, &event) < 0 || event == ATTACH_DETACHED)
			return false;
		if (event == ATTACH_REQUESTED && attach_server_offer(server, &small) < 0)
			return false;
		if (event == ATTACH_MAPPED && attach_server_activate(server) < 0)
			return false;
	} while (event != ATTACH_NOTHING);
	return true;
}

static void converse(const uint8_t *data, size_t size, bool mend)
{
	static uint8_t packet[ATTACH_PART_MAX + 64];
	struct attach_policy policy = {.blob_bytes_max = 1 << 16};
	struct attach_server *server;
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		abort();
	if (attach_server_create(fds[0], &policy, &server) < 0)
		abort();
	while (size >= 2) {
		size_t n = data[0] | (size_t)data[1] << 8;

		data += 2;
		size -= 2;
		n = n < size ? n : size;
		n = n < sizeof(packet) ? n : sizeof(packet);
		memcpy(packet, data, n);
		if (mend && n >= sizeof(struct attach_header)) {
			struct attach_header h;

			memcpy(&h, packet, sizeof(h));
			attach_header_fill(&h, (enum attach_type)h.type, n);
			memcpy(packet, &h, sizeof(h));
		}
		if (send(fds[1], packet, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 || !serve(server))
			break;
		data += n;
		size -= n;
	}
	attach_server_destroy(server);
	close(fds[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (data[0] % 4) {
	case 0:
		if (attach_packet_check(data + 1, size - 1) > 0)
			abort();
		break;
	case 1:
		if (attach_blob_check(data + 1, size - 1) > 0)
			abort();
		break;
	case 2:
	case 3:
		converse(data + 1, size - 1, data[0] % 4 == 3);
		break;
	}
	return 0;
}
