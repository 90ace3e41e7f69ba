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
	{ "touch", touch_main, "first-touch memory, report latencies" },
	{ "fill", fill_main, "fill the page cache or a tmpfs" },
	{ "slab", slab_main, "many inodes and dentries" },
	{ "fork-storm", fork_storm_main, "processes that live a moment" },
	{ "atomic", atomic_main, "allocations that may not sleep" },
	{ "mlock", mlock_main, "lock memory" },
	{ "fragment", fragment_main, "fragment memory, then ask for huge pages" },
	{ "near-oom", near_oom_main, "touch all but a margin" },
	{ "drain", drain_main, "have everything accepted" },
	{ "churn", churn_main, "allocate, copy, search, free" },
	{ "sample", sample_main, "sample the kernel's memory counters" },
	{ "counters", counters_main, "all memory counters once, as JSON" },
	{ "trace", trace_main, "the trace of every CPU, in binary frames" },
	{ "window", window_main, "counters, trace statistics and events so far" },
	{ "symbols", symbols_main, "names of kernel addresses" },
	{ "init", init_main, NULL },
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
