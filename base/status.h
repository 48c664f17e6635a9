/* gRPC's status codes by name (statuscodes.md): what configurations and peers call them. */
#ifndef SPLITD_BASE_STATUS_H
#define SPLITD_BASE_STATUS_H

#define STATUS_NAMES 17

/* By number; NULL behind the last. */
extern const char *const status_names[STATUS_NAMES + 1];

#endif
