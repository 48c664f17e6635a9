/* splitctl's command line. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"

static const struct {
	const char *word;
	enum ctl_command command;
} commands[] = {
	{"stats", CTL_STATS},         {"endpoints", CTL_ENDPOINTS}, {"ports", CTL_PORTS},
	{"services", CTL_SERVICES},   {"drain", CTL_DRAIN},         {"undrain", CTL_UNDRAIN},
	{"version", CTL_VERSION},     {"reload", CTL_RELOAD},       {"help", CTL_HELP},
	{"placement", CTL_PLACEMENT},
};

/* What people are told of them. */
#define COMMANDS                                                                                   \
	"stats, endpoints, services, ports, placement, drain, undrain, reload, version or decode " \
	"(see splitctl --help)"

/* More than any name has. */
#define HOST_MAX 96

static bool command_parse(const char *word, enum ctl_command *out)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(word, commands[i].word) == 0) {
			*out = commands[i].command;
			return true;
		}
	}
	return false;
}

static bool interval_parse(const char *text, unsigned *out)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (text[0] < '0' || text[0] > '9' || *end != '\0' || value < 1 || value > 86400)
		return false;
	*out = (unsigned)value;
	return true;
}

bool ctl_options_parse(int argc, char **argv, struct ctl_options *out, char *error, size_t bytes)
{
	static const struct option longs[] = {
		{"prefix", required_argument, NULL, 'p'},
		{"socket", required_argument, NULL, 's'},
		{"layer", required_argument, NULL, 'l'},
		{"json", no_argument, NULL, 'j'},
		{"all", no_argument, NULL, 'a'},
		{"interval", required_argument, NULL, 'i'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{NULL, 0, NULL, 0},
	};
	bool decided = false;
	int option;

	*out = (struct ctl_options){.command = CTL_HELP, .prefix = "splitd"};
	optind = 0; /* glibc: start afresh, also in a second call */
	opterr = 0;
	while ((option = getopt_long(argc, argv, "p:s:l:jai:hV", longs, NULL)) != -1) {
		switch (option) {
		case 'p':
			out->prefix = optarg;
			break;
		case 's':
			out->socket = optarg;
			break;
		case 'l':
			out->layer = optarg;
			break;
		case 'j':
			out->json = true;
			break;
		case 'a':
			out->all = true;
			break;
		case 'i':
			if (!interval_parse(optarg, &out->interval_s)) {
				snprintf(error, bytes,
					 "--interval %s: expected seconds, 1 to 86400", optarg);
				return false;
			}
			break;
		case 'h':
		case 'V':
			out->command = option == 'h' ? CTL_HELP : CTL_VERSION;
			out->only_version = option == 'V';
			decided = true;
			break;
		default:
			snprintf(error, bytes, "%s: unknown option or missing value",
				 argv[optind - 1]);
			return false;
		}
	}
	if (decided)
		return true;
	if (optind == argc) {
		snprintf(error, bytes, "no command: expected " COMMANDS);
		return false;
	}
	if (!command_parse(argv[optind], &out->command)) {
		snprintf(error, bytes, "%s: unknown command, expected " COMMANDS, argv[optind]);
		return false;
	}
	if (out->command == CTL_DRAIN || out->command == CTL_UNDRAIN) {
		out->host = argv[++optind];
		if (out->host == NULL || strlen(out->host) > HOST_MAX) {
			snprintf(error, bytes,
				 "%s: expected a host's name, or a number from endpoints",
				 argv[optind - 1]);
			return false;
		}
	}
	if (optind + 1 != argc) {
		snprintf(error, bytes, "%s: unexpected argument", argv[optind + 1]);
		return false;
	}
	return true;
}
