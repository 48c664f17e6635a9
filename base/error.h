/* One signed space of errors for the whole project.
 *
 * A function returns 0 (or a count) when good and -SPLIT_E_<LAYER>_<WHAT> when not. Each layer owns
 * a range of 100. Codes at or past SPLIT_E_FATAL end the connection (or endpoint) they came up on,
 * so "close it?" is one comparison. The names keep "we refuse" (LIMIT, FULL), "the peer is wrong"
 * (MALFORMED, PROTOCOL) and "our bug" (INTERNAL) apart. Results are must-use (SPLIT_MUST_USE).
 *
 * Any thread; no state.
 */
#ifndef SPLITD_BASE_ERROR_H
#define SPLITD_BASE_ERROR_H

#include <stdbool.h>

#define SPLIT_MUST_USE __attribute__((warn_unused_result))

/* Positive result of resumable work: its quantum is used up, or it must wait; call again. */
#define SPLIT_AGAIN 1

/* Codes below this concern one call, message or packet; from here on the whole connection. */
#define SPLIT_E_FATAL 10000

/* X(name, value, text). Each layer edits its own block only; values never change meaning. */
#define BASE_ERRORS(X)                                                                             \
	X(BASE_NOMEM, 1, "out of memory")                                                          \
	X(BASE_INVALID, 2, "invalid argument")                                                     \
	X(BASE_LIMIT, 3, "a configured limit was reached")                                         \
	X(BASE_SYSTEM, 4, "a system call failed")                                                  \
	X(BASE_INTERNAL, 5, "internal error")

#define CONFIG_ERRORS(X) X(CONFIG_INVALID, 100, "invalid configuration")

#define SHEPHERD_ERRORS(X)                                                                         \
	X(SHEPHERD_FULL, 200, "ring or segment is full")                                           \
	X(SHEPHERD_QUOTA, 201, "the host holds as many blocks as it may")                          \
	X(SHEPHERD_HOLDS, 202, "the host holds as many messages as it may")                        \
	X(SHEPHERD_CALLS, 203, "the endpoint's call table is full")                                \
	X(SHEPHERD_STALE, 204, "the call has ended")                                               \
	X(SHEPHERD_BLOCK, 205, "not a block that is held")                                         \
	X(SHEPHERD_ADDRESS, 206, "address outside the host's arena")                               \
	X(SHEPHERD_MEMORY, 210, "no memory (or hugepages) for a segment")                          \
	X(SHEPHERD_SEAL, 211, "a segment could not be sealed")                                     \
	X(SHEPHERD_GEOMETRY, 212, "segment sizes and slot counts do not fit together")             \
	X(SHEPHERD_ATTACH_VERSION, 220, "attach: another version of the memory format")            \
	X(SHEPHERD_ATTACH_LAYOUT, 221, "attach: another pointer size or byte order")               \
	X(SHEPHERD_ATTACH_UID, 222, "attach: hosts[].uids has not this uid for that name")         \
	X(SHEPHERD_ATTACH_NAME, 223, "attach: no host of that name in the configuration")          \
	X(SHEPHERD_ATTACH_LIMIT, 224, "attach: too many hosts, methods or bytes")                  \
	X(SHEPHERD_ATTACH_MALFORMED, 225, "attach: malformed message")                             \
	X(SHEPHERD_ATTACH_ORDER, 226, "attach: message out of order")                              \
	X(SHEPHERD_ATTACH_CLOSED, 227, "attach: the peer closed the socket")                       \
	X(SHEPHERD_ATTACH_TIMEOUT, 228, "attach: no answer in time")                               \
	X(SHEPHERD_ATTACH_REFUSED, 229, "attach: refused")                                         \
	X(SHEPHERD_ATTACH_SCHEMA, 230, "attach: the schema is not valid")                          \
	X(SHEPHERD_ATTACH_OUTCAST, 231, "attach: this process was cut off for what it did")        \
	X(SHEPHERD_ATTACH_CERTIFICATE, 232, "attach: the certificate is not for this name")        \
	X(SHEPHERD_PROTOCOL, SPLIT_E_FATAL + 200, "the host wrote nonsense into its segment")      \
	X(SHEPHERD_GONE, SPLIT_E_FATAL + 201, "the host or its segment is gone")                   \
	X(SHEPHERD_RELEASE, SPLIT_E_FATAL + 202, "the host did not give blocks back in time")

#define LINEARIZE_ERRORS(X)                                                                        \
	X(LINEARIZE_NOMEM, 300, "no room in the receiver's segment")                               \
	X(LINEARIZE_TRUNCATED, 301, "message ends inside a field")                                 \
	X(LINEARIZE_VARINT, 302, "varint is longer than its kind allows")                          \
	X(LINEARIZE_TAG_ZERO, 303, "field number 0")                                               \
	X(LINEARIZE_FIELD_NUMBER, 304, "field number out of range")                                \
	X(LINEARIZE_WIRE_RESERVED, 305, "reserved wire type 6 or 7")                               \
	X(LINEARIZE_GROUP, 307, "group end without its start, or the reverse")                     \
	X(LINEARIZE_PACKED, 308, "packed field is no whole number of elements")                    \
	X(LINEARIZE_UTF8, 309, "string is not valid UTF-8")                                        \
	X(LINEARIZE_REQUIRED, 310, "a required field is missing")                                  \
	X(LINEARIZE_DEPTH, 311, "messages are nested too deep")                                    \
	X(LINEARIZE_LIMIT_LINEAR, 312, "message needs too much linear memory")                     \
	X(LINEARIZE_LIMIT_ELEMENTS, 313, "message has too many elements")                          \
	X(LINEARIZE_LIMIT_WIRE, 314, "encoded message is too large")                               \
	X(LINEARIZE_LIMIT_WORK, 315, "message needs too much work")                                \
	X(LINEARIZE_POINTER, 316, "message points outside its segment")                            \
	X(LINEARIZE_SOURCE, 317, "message in shared memory is malformed")                          \
	X(LINEARIZE_SCHEMA, 318, "schema is malformed")                                            \
	X(LINEARIZE_SCHEMA_VERSION, 319, "schema version is unknown")                              \
	X(LINEARIZE_SCHEMA_LAYOUT, 320, "schema is for another pointer size or byte order")        \
	X(LINEARIZE_SCHEMA_LIMIT, 321, "schema exceeds a limit")                                   \
	X(LINEARIZE_DESCRIPTOR, 322, "message descriptor is unusable")                             \
	X(LINEARIZE_CHUNKS, 323, "more chunks than asked for")                                     \
	X(LINEARIZE_PROTO, 340, "descriptors are malformed or not sound")                          \
	X(LINEARIZE_PROTO_LIMIT, 341, "descriptors exceed a limit")                                \
	X(LINEARIZE_PROTO_EDITION, 342, "editions are not supported")

#define NET_ERRORS(X)                                                                              \
	X(NET_MALFORMED, 400, "malformed packet")                                                  \
	X(NET_FULL, 401, "send buffer is full")                                                    \
	X(NET_IN_USE, 402, "address is in use")                                                    \
	X(NET_NOMEM, 403, "no packet buffer")                                                      \
	X(NET_LIMIT, 404, "too many connections")                                                  \
	X(NET_NO_ROUTE, 405, "no route to the destination")                                        \
	X(NET_CLOSED, SPLIT_E_FATAL + 400, "connection does not send any more")                    \
	X(NET_RESET, SPLIT_E_FATAL + 401, "connection reset by the peer")                          \
	X(NET_REFUSED, SPLIT_E_FATAL + 402, "connection refused by the peer")                      \
	X(NET_TIMEOUT, SPLIT_E_FATAL + 403, "connection timed out")                                \
	X(NET_UNREACHABLE, SPLIT_E_FATAL + 404, "peer is unreachable")

#define TLS_ERRORS(X)                                                                              \
	X(TLS_CONFIG, 500, "TLS: a certificate, key or setting cannot be used")                    \
	X(TLS_HANDSHAKE, SPLIT_E_FATAL + 500, "the TLS handshake failed")                          \
	X(TLS_PROTOCOL, SPLIT_E_FATAL + 501, "the peer broke TLS")                                 \
	X(TLS_CLOSED, SPLIT_E_FATAL + 502, "the TLS session has ended")

#define HTTP2_ERRORS(X)                                                                            \
	X(HTTP2_STREAM, 600, "HTTP/2 stream error")                                                \
	X(HTTP2_STATE, 601, "the stream does not allow that now")                                  \
	X(HTTP2_PROTOCOL, SPLIT_E_FATAL + 600, "the peer broke HTTP/2")                            \
	X(HTTP2_FLOOD, SPLIT_E_FATAL + 601, "the peer sent too many frames without effect")        \
	X(HTTP2_NOMEM, SPLIT_E_FATAL + 602, "no memory left for the HTTP/2 session")               \
	X(HTTP2_CLOSED, SPLIT_E_FATAL + 603, "the HTTP/2 session has ended")

#define GRPC_ERRORS(X)                                                                             \
	X(GRPC_MALFORMED, 700, "malformed gRPC request")                                           \
	X(GRPC_STATE, 701, "the call does not allow that now")                                     \
	X(GRPC_METADATA, 702, "metadata that cannot be sent")

#define BALANCE_ERRORS(X)                                                                          \
	X(BALANCE_NONE, 800, "no endpoint serves the method")                                      \
	X(BALANCE_UNKNOWN, 801, "no configuration names the service")                              \
	X(BALANCE_METHOD, 802, "the service's endpoints do not serve the method")                  \
	X(BALANCE_ELSEWHERE, 803, "the service is not placed on this worker")                      \
	X(BALANCE_FULL, 804, "the service's queue is full")                                        \
	X(BALANCE_CALLS, 805, "the service has all the calls it may have")                         \
	X(BALANCE_TIMEOUT, 806, "the call waited too long for a host worker")

/* Those up to 906 are in host-lib's public header under shorter names. */
#define HOST_ERRORS(X)                                                                             \
	X(HOST_REFUSED, 900, "splitd refused the attach")                                          \
	X(HOST_LOST, 901, "splitd is not there, or is gone")                                       \
	X(HOST_KIND, 902, "this kind of method is not carried by this version")                    \
	X(HOST_DUPLICATE, 903, "the method is served already")                                     \
	X(HOST_ANSWERED, 904, "the call was answered before")                                      \
	X(HOST_SCHEMA, 905, "the message cannot be described or sent")                             \
	X(HOST_METADATA, 906, "metadata is malformed or too much")                                 \
	X(HOST_ROOM, 907, "no room in the to-daemon segment in time")                              \
	X(HOST_SLOT, 908, "the message does not fit its slot")                                     \
	X(HOST_UNDECODED, 909, "the host could not decode the message")

#define PORT_ERRORS(X)                                                                             \
	X(PORT_EAL, 1000, "DPDK could not be started")                                             \
	X(PORT_HUGEPAGES, 1001, "no hugepages")                                                    \
	X(PORT_DEVICE, 1002, "a port's device could not be set up")                                \
	X(PORT_MEMORY, 1003, "no memory for a port's mbufs")

#define CONTROL_ERRORS(X)                                                                          \
	X(CONTROL_SOCKET, 1100, "the attach socket could not be opened")                           \
	X(CONTROL_DRAIN, 1101, "calls were cut off at the end of the drain")

#define REMOTE_ERRORS(X)                                                                           \
	X(REMOTE_ADDRESS, 1200, "not an address of the form tcp://host:port")                      \
	X(REMOTE_FRAME, SPLIT_E_FATAL + 1200, "the peer broke the socket backend's protocol")      \
	X(REMOTE_CLOSED, SPLIT_E_FATAL + 1201, "the peer closed the connection")                   \
	X(REMOTE_SILENT, SPLIT_E_FATAL + 1202, "nothing was heard of the peer")

#define ALL_ERRORS(X)                                                                              \
	BASE_ERRORS(X)                                                                             \
	CONFIG_ERRORS(X)                                                                           \
	SHEPHERD_ERRORS(X)                                                                         \
	LINEARIZE_ERRORS(X)                                                                        \
	NET_ERRORS(X)                                                                              \
	TLS_ERRORS(X)                                                                              \
	HTTP2_ERRORS(X)                                                                            \
	GRPC_ERRORS(X)                                                                             \
	BALANCE_ERRORS(X)                                                                          \
	HOST_ERRORS(X)                                                                             \
	PORT_ERRORS(X)                                                                             \
	CONTROL_ERRORS(X)                                                                          \
	REMOTE_ERRORS(X)

enum split_error {
#define X(name, value, text) SPLIT_E_##name = (value),
	ALL_ERRORS(X)
#undef X
};

/* True when the connection or endpoint that returned `error` (negative) must be closed. */
static inline bool error_is_fatal(int error)
{
	return error <= -SPLIT_E_FATAL;
}

/* The code's name ("NET_MALFORMED") and one line of text. Accept either sign; never NULL; static.
 */
const char *error_name(int error);
const char *error_text(int error);

#endif
