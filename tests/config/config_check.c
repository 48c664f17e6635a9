/* config_check [--any-machine] FILE...: what `splitd --check -c FILE` says, without DPDK. Each file
 * is judged by itself: its findings on stdout, then "FILE: good" or "FILE: bad". 1 when one was
 * bad. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

/* The whole file, a byte more than config takes; NULL when it cannot be read. */
static char *slurp(const char *path, size_t *len_out)
{
	char *text = malloc(CONFIG_FILE_BYTES_MAX + 1);
	FILE *f = fopen(path, "rb");

	if (text != NULL && f != NULL)
		*len_out = fread(text, 1, CONFIG_FILE_BYTES_MAX + 1, f);
	if (f == NULL) {
		free(text);
		return NULL;
	}
	fclose(f);
	return text;
}

int main(int argc, char **argv)
{
	int bad = 0;
	bool any_machine = false;

	for (int i = 1; i < argc; i++) {
		struct config_report rep;
		struct config *cfg = NULL;
		size_t len = 0;
		int rc;

		if (strcmp(argv[i], "--any-machine") == 0) {
			any_machine = true;
			continue;
		}
		config_report_init(&rep);
		if (any_machine) {
			char *text = slurp(argv[i], &len);

			if (text == NULL) {
				fprintf(stderr, "%s: cannot be read\n", argv[i]);
				return 2;
			}
			rc = config_parse(text, len, argv[i], NULL, &cfg, &rep);
			free(text);
		} else {
			rc = config_load(argv[i], &cfg, &rep);
		}
		for (size_t k = 0; k < rep.count; k++)
			printf("%s\n", rep.findings[k].text);
		if (rep.dropped > 0)
			printf("%s: %zu more findings\n", argv[i], rep.dropped);
		printf("%s: %s\n", argv[i], rc == 0 ? "good" : "bad");
		bad |= rc != 0;
		config_report_fini(&rep);
		config_free(cfg);
	}
	return bad;
}
