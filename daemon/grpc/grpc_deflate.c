/* Messages to the client, compressed (gRPC's compression.md).
 *
 * A message that is to be compressed is stood for by a chain of this file's, which keeps its place
 * in the call's queue: small ones are compressed at once, larger ones by quanta, and what comes
 * behind waits. What is no smaller compressed, or finds no memory, goes as it is: compression is
 * never a reason for a call to fail. */
#include "daemon/grpc/grpc_internal.h"

#include <string.h>
#include <zlib.h>

#define CHUNK_BYTES 16384u
#define STEP_BYTES  8192u
/* Deflating a byte takes about as long as inflating four. */
#define STEP_COST   4u
#define VISIT_BYTES 1024u

struct deflated {
	struct grpc_chain chain;
	struct zlib_job job;
	struct grpc_call *call; /* while pending */
	struct grpc_server *server;
	struct grpc_chain *plain;
	struct zlib_slot *slot;
	uint32_t iov_at, iov_done; /* of `plain`, given to zlib */
	uint32_t charged;
	uint32_t chunks_n, chunks_max;
	struct iovec chunks[];
};

static void chunks_free(struct deflated *d)
{
	for (uint32_t i = 0; i < d->chunks_n; i++)
		http2_engine_free(d->server->engine, d->chunks[i].iov_base);
	d->chunks_n = 0;
	d->server->compressed_bytes -= d->charged;
	d->charged = 0;
}

static void deflated_release(struct grpc_chain *chain)
{
	struct deflated *d = container_of(chain, struct deflated, chain);

	list_del(&d->job.link);
	if (d->slot != NULL)
		grpc_zlib_put(d->slot);
	chunks_free(d);
	if (d->plain != NULL)
		d->plain->release(d->plain);
	http2_engine_free(d->server->engine, d);
}

static bool chunk_new(struct deflated *d)
{
	struct grpc_server *server = d->server;
	struct iovec *chunk = &d->chunks[d->chunks_n];

	if (d->chunks_n == d->chunks_max ||
	    server->compressed_bytes + CHUNK_BYTES > server->config.compress_memory)
		return false;
	chunk->iov_base = http2_engine_alloc(server->engine, CHUNK_BYTES);
	if (chunk->iov_base == NULL)
		return false;
	chunk->iov_len = CHUNK_BYTES;
	server->compressed_bytes += CHUNK_BYTES;
	d->charged += CHUNK_BYTES;
	d->chunks_n++;
	d->slot->z->next_out = chunk->iov_base;
	d->slot->z->avail_out = CHUNK_BYTES;
	return true;
}

/* The next step's input; false: all of it was given. */
static bool input_next(struct deflated *d)
{
	z_stream *z = d->slot->z;

	while (z->avail_in == 0 && d->iov_at < d->plain->iov_count) {
		const struct iovec *iov = &d->plain->iov[d->iov_at];
		size_t left = iov->iov_len - d->iov_done;
		size_t part = left < STEP_BYTES ? left : STEP_BYTES;

		z->next_in = (uint8_t *)iov->iov_base + d->iov_done;
		z->avail_in = (uInt)part;
		d->iov_done += (uint32_t)part;
		if (d->iov_done == iov->iov_len) {
			d->iov_at++;
			d->iov_done = 0;
		}
	}
	return z->avail_in > 0;
}

/* One quantum, or to the end: Z_OK, Z_STREAM_END, or Z_BUF_ERROR: it goes as it is. */
static int deflate_go(struct deflated *d)
{
	struct grpc_server *server = d->server;
	z_stream *z = d->slot->z;

	while (server->quantum_left > 0) {
		bool more = input_next(d);
		size_t before = z->avail_in;
		int rc;

		if (z->avail_out == 0 && !chunk_new(d))
			return Z_BUF_ERROR;
		rc = deflate(z, more ? Z_NO_FLUSH : Z_FINISH);
		grpc_zlib_spend(server, (before - z->avail_in) * STEP_COST + VISIT_BYTES);
		if (z->total_out >= d->plain->bytes)
			return Z_BUF_ERROR;
		if (rc != Z_OK && rc != Z_BUF_ERROR)
			return rc;
	}
	return Z_OK;
}

/* What the chain says from now on: compressed, or as it is. */
static void deflated_settle(struct deflated *d, bool compressed)
{
	struct grpc_counters *c = &d->server->counters;

	if (compressed) {
		d->chain.bytes = (uint32_t)d->slot->z->total_out;
		d->chunks[d->chunks_n - 1].iov_len -= d->slot->z->avail_out;
		d->chain.iov = d->chunks;
		d->chain.iov_count = d->chunks_n;
		d->chain.state = CHAIN_COMPRESSED;
		counter_inc(&c->tx_compressed);
		counter_add(&c->tx_compressed_bytes, d->chain.bytes);
		counter_add(&c->tx_deflated_bytes, d->plain->bytes);
	} else {
		chunks_free(d);
		d->chain.bytes = d->plain->bytes;
		d->chain.iov = d->plain->iov;
		d->chain.iov_count = d->plain->iov_count;
		d->chain.state = CHAIN_PLAIN;
		counter_inc(&c->tx_not_smaller);
	}
	if (d->slot != NULL)
		grpc_zlib_put(d->slot);
	d->slot = NULL;
}

/* Go on; true: it is settled. */
static bool deflated_run(struct deflated *d)
{
	int rc;

	grpc_zlib_spend(d->server, VISIT_BYTES);
	if (d->slot == NULL)
		d->slot = grpc_deflate_slot(d->server, d->call->encoding_out);
	rc = d->slot == NULL ? Z_OK : deflate_go(d);
	if (rc == Z_OK) {
		counter_inc(&d->server->counters.compress_yields);
		list_add_tail(&d->server->jobs, &d->job.link);
		return false;
	}
	deflated_settle(d, rc == Z_STREAM_END);
	return true;
}

void grpc_deflate_run(struct grpc_server *server, struct zlib_job *job)
{
	struct deflated *d = container_of(job, struct deflated, job);

	uint32_t counted = d->plain->bytes;

	(void)server;
	if (!deflated_run(d))
		return;
	if (d->chain.state == CHAIN_COMPRESSED) {
		d->plain->release(d->plain);
		d->plain = NULL;
	}
	grpc_chain_settled(d->call, &d->chain, counted);
}

struct grpc_chain *grpc_deflate(struct grpc_call *call, struct grpc_chain *plain)
{
	struct grpc_server *server = call_server(call);
	uint32_t chunks = (plain->bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
	struct deflated *d =
		http2_engine_alloc(server->engine, sizeof(*d) + chunks * sizeof(d->chunks[0]));

	if (d == NULL)
		return NULL;
	*d = (struct deflated){
		.chain = {.bytes = plain->bytes,
			  .state = CHAIN_PENDING,
			  .release = deflated_release},
		.call = call,
		.server = server,
		.plain = plain,
		.chunks_max = chunks,
	};
	list_init(&d->job.link);
	(void)deflated_run(d);
	return &d->chain;
}
