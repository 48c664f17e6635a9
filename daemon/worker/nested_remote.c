/* Calls out whose callee is a server on the network. */
#include "daemon/worker/worker_internal.h"

int remote_open(struct call *call, uint32_t metadata_n, const char **text_out)
{
	(void)call;
	(void)metadata_n;
	*text_out = "the channel goes nowhere";
	return GRPC_UNIMPLEMENTED;
}

int remote_send(struct call *call, struct reply *r)
{
	(void)call;
	(void)r;
	return SPLIT_AGAIN;
}

void remote_end(struct call *call)
{
	(void)call;
}

void remote_room(struct call *call)
{
	(void)call;
}

void remote_cancel(struct call *call)
{
	(void)call;
}
