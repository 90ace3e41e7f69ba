/* SPDX-License-Identifier: MIT */
/* One binary, many names: as /init it is PID 1, else `cvm COMMAND` or `cvm-COMMAND`. */
#include "cvm.h"

#include <stdio.h>
#include <string.h>

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} commands[] = {
#define ROW(name, function, help) { name, function, help },
	PROGRAMS(ROW)
};

int main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/');
	const char *name = slash ? slash + 1 : argv[0];

	if (strncmp(name, "cvm-", 4) == 0) {
		name += 4;
	} else if (strcmp(name, "cvm") == 0 && argc > 1) {
		name = argv[1];
		argc--;
		argv++;
	}
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (strcmp(name, commands[i].name) == 0)
			return commands[i].run(argc, argv);
	}
	fprintf(stderr, "usage: cvm COMMAND [OPTION...]\n");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (commands[i].help)
			fprintf(stderr, "  %-10s %s\n", commands[i].name, commands[i].help);
	}
	return 2;
}
