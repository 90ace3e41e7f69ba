/* SPDX-License-Identifier: MIT */
/*
 * `cvm fork-storm`: processes that live a moment. An operation is the life of a child up to where it
 * has touched its memory; `alive` of them are kept by each worker at any time.
 */
#include "crew.h"
#include "options.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ALIVE 1024
#define PAGE 4096ULL

struct storm {
	uint64_t forks, workers, bytes, alive;
};

_Noreturn static void child(const struct storm *storm, int told)
{
	char *memory = mmap(NULL, storm->bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char byte = 1;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (memory == MAP_FAILED)
		_exit(1);
	for (uint64_t at = 0; at < storm->bytes; at += PAGE)
		*(volatile char *)(memory + at) = 1;
	write_all(told, &byte, 1);
	for (;;)
		pause();
}

static void bury(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void work(struct crew *crew, unsigned int index, void *context)
{
	const struct storm *storm = context;
	struct member *m = &crew->members[index];
	static pid_t ring[MAX_ALIVE];
	uint64_t share = storm->forks / storm->workers;

	crew_begin(crew, m, index, false);
	for (uint64_t i = 0; i < share; i++) {
		pid_t *place = &ring[i % storm->alive];
		uint64_t before;
		int tell[2];
		char byte;

		if (*place)
			bury(*place);
		before = monotonic_ns();
		if (pipe(tell))
			crew_fail("cannot make a pipe");
		*place = fork();
		if (*place < 0)
			crew_fail(strerror(errno));
		if (*place == 0)
			child(storm, tell[1]);
		close(tell[1]);
		if (read(tell[0], &byte, 1) != 1)
			crew_fail("a child died before it had touched its memory");
		close(tell[0]);
		record(&m->recorder, before, monotonic_ns() - before);
		m->bytes += storm->bytes;
	}
	crew_stop(m);
	for (uint64_t i = 0; i < storm->alive; i++) {
		if (ring[i])
			bury(ring[i]);
	}
}

int fork_storm_main(int argc, char **argv)
{
	struct storm storm = { .workers = 1, .bytes = 1 << 20, .alive = 1 };
	const struct row rows[] = {
		{ "forks", "children in all", &storm.forks, 1, 1 << 30, NULL, NULL },
		{ "workers", "processes that fork (1)", &storm.workers, 1, MAX_WORKERS, NULL, NULL },
		{ "bytes", "bytes that each child touches (1M)", &storm.bytes, PAGE, 1ULL << 40, NULL,
		  NULL },
		{ "alive", "children alive at once, each worker (1)", &storm.alive, 1, MAX_ALIVE, NULL,
		  NULL },
		{ 0 },
	};
	struct crew *crew;

	if (!read_options("fork-storm", rows, argc, argv) || !storm.forks)
		return 2;
	crew = crew_new("fork-storm", (unsigned int)storm.workers, 1);
	if (!crew)
		return crew_error("fork-storm", "no memory for the results");
	if (crew_run(crew, work, &storm))
		return 1;
	printf("{\"workload\":\"fork-storm\",\"alive\":%llu", (unsigned long long)storm.alive);
	crew_report(crew);
	crew_end();
	return 0;
}
