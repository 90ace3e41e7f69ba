/* SPDX-License-Identifier: MIT */
/*
 * `cvm window`: what closes a window of a guest's life, in one go: the counters, the statistics of each
 * CPU's trace buffer, the events so far (taken out of the buffers), and how many units were accepted by
 * then. The parts are apart by a line of their own. One process, as each costs an emulated guest some
 * 10 ms.
 */
#include "cvm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TRACEFS "/sys/kernel/tracing/"
#define STATS "/sys/kernel/debug/unaccepted_emulation/stats"
#define BETWEEN "=== cvm-harness ===\n"

/* Returns the number of CPUs, 0 if a file cannot be read. */
static unsigned int print_buffers(void)
{
	static char text[4096];
	unsigned int possible = possible_cpus(), cpus = 0;

	for (unsigned int cpu = 0; cpu < possible; cpu++) {
		char path[80];

		snprintf(path, sizeof(path), TRACEFS "per_cpu/cpu%u/stats", cpu);
		if (read_path(path, text, sizeof(text)) < 0) {
			if (errno == ENOENT)
				continue;
			perror(path);
			return 0;
		}
		printf(BETWEEN "%s", text);
		cpus++;
	}
	return cpus;
}

int window_main(int argc, char **argv)
{
	static char stats[64 << 10];

	if (argc != 1) {
		fprintf(stderr, "usage: cvm window\n");
		return 2;
	}
	if (counters_main(1, argv) || !print_buffers())
		return 1;
	fputs(BETWEEN, stdout);
	if (fflush(stdout) || take_trace_text())
		return 1;
	fputs(BETWEEN, stdout);
	if (read_path(STATS, stats, sizeof(stats)) >= 0)
		printf("accept_units %lld\n", field_value(stats, "accept_units"));
	return fflush(stdout) != 0;
}
