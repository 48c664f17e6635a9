#include "base/error.h"

#include <stddef.h>

static const struct {
	int value;
	const char *name;
	const char *text;
} errors[] = {
#define X(name, value, text) {value, #name, text},
	ALL_ERRORS(X)
#undef X
};

static size_t error_find(int error)
{
	int value = error < 0 ? -error : error;
	size_t i = 0;

	while (i < sizeof(errors) / sizeof(errors[0]) && errors[i].value != value)
		i++;
	return i;
}

const char *error_name(int error)
{
	size_t i = error_find(error);

	if (error == 0)
		return "OK";
	return i < sizeof(errors) / sizeof(errors[0]) ? errors[i].name : "UNKNOWN";
}

const char *error_text(int error)
{
	size_t i = error_find(error);

	if (error == 0)
		return "success";
	return i < sizeof(errors) / sizeof(errors[0]) ? errors[i].text : "unknown error";
}
