/* The command line that the examples share, and their life: start, stop on SIGTERM or SIGINT.
 *
 *   --socket PATH   splitd's attach socket        (default: $SPLITD_SOCKET, /run/splitd/host.sock)
 *   --name NAME     under which name to attach    (default: the example's)
 *   --workers N     threads that run handlers     (default: one for each core of --cores, else 1)
 *   --workers-min N of these, so many are at work whatever the load   (default: all)
 *   --cores LIST    pin them: "2", "2,3", "2-5"   (default: not pinned)
 *
 * Prints one line "attached" on stdout whenever splitd may send calls.
 */
#ifndef SPLITD_EXAMPLES_OPTIONS_H
#define SPLITD_EXAMPLES_OPTIONS_H

#include <split-host.h>

/* Parse, attach, serve `service` until a signal. Returns what main should. */
int example_main(int argc, char **argv, const char *default_name, ProtobufCService *service);

/* The same for a service whose methods are served one by one: `serve` is called before the host
 * runs; it returns 0 or SPLIT_E_*. */
int example_serve(int argc, char **argv, const char *default_name,
		  int (*serve)(struct split_host *host, void *arg), void *arg);

#endif
