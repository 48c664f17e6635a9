/* Calls that were opened and have brought no whole message yet cost a client next to nothing and us
 * a place of calls_max. So when all places are taken, one of them gives way to a newcomer whose
 * connection has fewer calls than the other has such idle ones: a client that opens streams and
 * leaves them cannot keep others out, and has at most what nobody else wants. */
#include "daemon/grpc/grpc_internal.h"

/* Idle calls looked at for one newcomer. Those passed over go to the back, so the next newcomer
 * looks at others. */
#define IDLE_LOOK_MAX 32

void grpc_idle_enter(struct grpc_call *call)
{
	list_add_tail(&call_server(call)->idle, &call->idle_link);
	call->conn->idle_n++;
}

void grpc_idle_leave(struct grpc_call *call)
{
	if (list_empty(&call->idle_link))
		return;
	list_del(&call->idle_link);
	call->conn->idle_n--;
}

bool grpc_idle_give_way(struct grpc_connection *newcomer)
{
	struct grpc_server *server = newcomer->server;

	for (unsigned i = 0; i < IDLE_LOOK_MAX; i++) {
		struct list *node = list_first(&server->idle);
		struct grpc_call *call;

		if (node == NULL)
			return false;
		call = list_entry(node, struct grpc_call, idle_link);
		list_del(node);
		list_add_tail(&server->idle, node);
		if (call->conn == newcomer || call->conn->idle_n <= newcomer->calls_n + 1)
			continue;
		grpc_call_abort(call, GRPC_RESOURCE_EXHAUSTED,
				"no message came while others waited", GRPC_CLOSED_FAILED);
		if (call->flags & CALL_OPEN)
			continue; /* a frame of it is half written: it ends behind that */
		counter_inc(&server->counters.calls_idle_cut);
		return true;
	}
	return false;
}
