/* SPDX-License-Identifier: MIT */
/*
 * Workers that start together and are outlived by the one who reports.
 *
 * A supervising process that allocates nothing forks the processes of the crew, so an OOM kill or a
 * SIGBUS of one still ends in one line of JSON. What they did is in memory that all share.
 */
#ifndef CREW_H
#define CREW_H

#include "cvm.h"
#include "recorder.h"

#include <pthread.h>

#define MAX_WORKERS 1024

/* What one worker (a process, or a thread of one) did. Written by it alone. */
struct member {
	int pid, tid, cpu; /* cpu: pinned to, or -1 */
	uint64_t start_ns, stop_ns, bytes;
	uint64_t cpu_ns; /* of CPU time between start and stop */
	uint64_t huge_bytes;    /* AnonHugePages of its process at the end; the first thread's */
	uint64_t corrupt_pages; /* did not read back as written */
	struct recorder recorder;
};

struct crew {
	const char *name;
	unsigned int processes, threads; /* threads of each process */
	pthread_barrier_t barrier;       /* for all workers */
	char error[200];                 /* the first failure of a worker */
	struct member members[];
};

/* The life of process `index`, up to where its work is done. */
typedef void crew_process(struct crew *crew, unsigned int index, void *context);

/* NULL if there is no memory. */
struct crew *crew_new(const char *name, unsigned int processes, unsigned int threads);
/* Run all processes to the end of their work. Returns 0, or 1 after printing why not. They keep
 * their memory until crew_end(). */
int crew_run(struct crew *crew, crew_process *process, void *context);
/* still.c: in a guest that is to be still, sleep until a moment that is the same in every run. */
void await_beat(void);
/* Let the processes end and wait for them. */
void crew_end(void);
/* Print the part of the report that all workloads share, and the end of the line. */
void crew_report(const struct crew *crew);
/* {"workload":NAME,"error":WHY} on a line; returns 1. */
int crew_error(const char *name, const char *why);

/* In a process of the crew: end it and with it the run. Safe in a signal handler. */
_Noreturn void crew_fail(const char *why);
/* In a worker: say who it is, pin it if asked to, wait for all others, start its clock. */
void crew_begin(struct crew *crew, struct member *member, unsigned int number, bool pin);
/* In the same worker: its work is done, stop its clock. */
void crew_stop(struct member *member);

#endif
