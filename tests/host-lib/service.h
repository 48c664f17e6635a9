/* What tests/host-lib/service.c does with Item.action. */
#ifndef SPLITD_TESTS_HOST_LIB_SERVICE_H
#define SPLITD_TESTS_HOST_LIB_SERVICE_H

enum {
	SERVICE_ECHO,
	SERVICE_ALLOCATED,
	SERVICE_STATUS,
	SERVICE_TWICE,
	SERVICE_LATER,
	SERVICE_RETAINED,
	SERVICE_ACTIONS,
	SERVICE_CALLS = SERVICE_ACTIONS, /* answers how many calls have begun, as its name */
};

#endif
