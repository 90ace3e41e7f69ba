/* SPDX-License-Identifier: MIT */
#include "crew.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static int hold[2]; /* its end is the sign for the processes to end */
static struct crew *failing;

struct crew *crew_new(const char *name, unsigned int processes, unsigned int threads)
{
	unsigned int workers = processes * threads;
	size_t size = sizeof(struct crew) + workers * sizeof(struct member);
	/* Populated before the start: the results must not allocate what is measured. */
	struct crew *crew = mmap(NULL, size, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	pthread_barrierattr_t attributes;

	if (crew == MAP_FAILED)
		return NULL;
	crew->name = name;
	crew->processes = processes;
	crew->threads = threads;
	for (unsigned int i = 0; i < workers; i++)
		crew->members[i].recorder.limit =
			workers * SLOWEST > SLOWEST_IN_ALL ? SLOWEST_IN_ALL / workers : SLOWEST;
	pthread_barrierattr_init(&attributes);
	pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&crew->barrier, &attributes, workers);
	return crew;
}

int crew_error(const char *name, const char *why)
{
	char data[512];
	struct text t = { .data = data, .size = sizeof(data) };

	put(&t, "{\"workload\":\"%s\",\"error\":", name);
	put_string(&t, why);
	put(&t, "}\n");
	write_all(STDOUT_FILENO, data, t.len);
	return 1;
}

static void oom_score(const char *score)
{
	FILE *file = fopen("/proc/self/oom_score_adj", "we");

	if (file) { /* fails for ordinary users: fine */
		fputs(score, file);
		fclose(file);
	}
}

static void on_sigbus(int number)
{
	(void)number;
	crew_fail("SIGBUS: no page could be had (hugetlb pool empty, or poisoned memory)");
}

_Noreturn void crew_fail(const char *why)
{
	if (!failing->error[0]) {
		for (size_t i = 0; why[i] && i < sizeof(failing->error) - 1; i++)
			failing->error[i] = why[i];
	}
	_exit(1);
}

_Noreturn static void live(struct crew *crew, unsigned int index, crew_process *process,
			   void *context, int done)
{
	struct sigaction action = { .sa_handler = on_sigbus };
	char byte = 1;

	failing = crew;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	oom_score("0");
	sigaction(SIGBUS, &action, NULL);
	process(crew, index, context);
	write_all(done, &byte, 1);
	while (read(hold[0], &byte, 1) < 0 && errno == EINTR)
		;
	_exit(0);
}

static void kill_all(const pid_t *pids, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		kill(pids[i], SIGKILL);
	while (wait(NULL) > 0)
		;
}

/* Wait until every process has said that it is done. False if one ended before. */
static bool wait_for_all(struct crew *crew, struct pollfd *pipes, const pid_t *pids)
{
	for (unsigned int left = crew->processes; left > 0;) {
		if (poll(pipes, crew->processes, -1) < 0 && errno != EINTR)
			return false;
		for (unsigned int i = 0; i < crew->processes; i++) {
			char byte;
			int status = 0;

			if (pipes[i].fd < 0 || !pipes[i].revents)
				continue;
			if (read(pipes[i].fd, &byte, 1) == 1) {
				pipes[i].fd = -1; /* poll() passes over it */
				left--;
				continue;
			}
			/* The end of its pipe without a byte: it is dead, or about to be. */
			waitpid(pids[i], &status, 0);
			if (WIFSIGNALED(status) && !crew->error[0])
				snprintf(crew->error, sizeof(crew->error),
					 "worker process %u was killed by signal %d (%s)", i,
					 WTERMSIG(status), strsignal(WTERMSIG(status)));
			return false;
		}
	}
	return true;
}

int crew_run(struct crew *crew, crew_process *process, void *context)
{
	static struct pollfd pipes[MAX_WORKERS];
	static pid_t pids[MAX_WORKERS];

	oom_score("-999"); /* let the OOM killer take a worker, never the one who reports */
	await_beat();
	if (pipe(hold))
		return crew_error(crew->name, "cannot make a pipe");
	for (unsigned int i = 0; i < crew->processes; i++) {
		int done[2];

		if (pipe(done) || (pids[i] = fork()) < 0) {
			kill_all(pids, i);
			return crew_error(crew->name, "cannot start a worker process");
		}
		if (pids[i] == 0) {
			close(hold[1]); /* the supervisor's must be the only one */
			live(crew, i, process, context, done[1]);
		}
		close(done[1]);
		pipes[i] = (struct pollfd){ .fd = done[0], .events = POLLIN };
	}
	if (!wait_for_all(crew, pipes, pids)) {
		kill_all(pids, crew->processes);
		return crew_error(crew->name,
				  crew->error[0] ? crew->error : "a worker process ended early");
	}
	return 0;
}

void crew_end(void)
{
	close(hold[1]);
	while (wait(NULL) > 0)
		;
}

/* Pin the calling thread to the number-th CPU that it may use, modulo their count. */
static int pin_to(unsigned int number)
{
	cpu_set_t allowed, one;
	unsigned int left;

	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		return -1;
	left = number % (unsigned int)CPU_COUNT(&allowed);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &allowed) || left-- > 0)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		return sched_setaffinity(0, sizeof(one), &one) ? -1 : cpu;
	}
	return -1;
}

/* "BCVM" and "ECVM": guest-images/tcg-plugin/functions.c counts instructions from one to the other. */
#define MARK(name) asm volatile("nopl " name "(%%rax)" ::: "memory")

void crew_begin(struct crew *crew, struct member *member, unsigned int number, bool pin)
{
	member->pid = getpid();
	member->tid = gettid();
	member->cpu = pin ? pin_to(number) : -1;
	pthread_barrier_wait(&crew->barrier);
	MARK("0x4d564342");
	member->cpu_ns = thread_cpu_ns();
	member->start_ns = monotonic_ns();
}

void crew_stop(struct member *member)
{
	member->stop_ns = monotonic_ns();
	member->cpu_ns = thread_cpu_ns() - member->cpu_ns;
	MARK("0x4d564345");
}

static void print_workers(const struct crew *crew, unsigned int workers)
{
	printf(",\"workers\":[");
	for (unsigned int i = 0; i < workers; i++) {
		const struct member *m = &crew->members[i];

		printf("%s{\"pid\":%d,\"tid\":%d,\"cpu\":%d,\"bytes\":%llu", i ? "," : "", m->pid,
		       m->tid, m->cpu, (unsigned long long)m->bytes);
		printf(",\"start_monotonic_ns\":%llu,\"stop_monotonic_ns\":%llu,\"total_ns\":%llu",
		       (unsigned long long)m->start_ns, (unsigned long long)m->stop_ns,
		       (unsigned long long)m->recorder.total_ns);
		printf(",\"operations\":%llu,\"slowest\":[",
		       (unsigned long long)m->recorder.operations);
		for (uint32_t k = 0; k < m->recorder.kept; k++)
			printf("%s[%llu,%llu]", k ? "," : "",
			       (unsigned long long)m->recorder.slowest[k].start_ns,
			       (unsigned long long)m->recorder.slowest[k].ns);
		printf("]}");
	}
	printf("]");
}

void crew_report(const struct crew *crew)
{
	static uint64_t counts[HISTOGRAM_BUCKETS];
	unsigned int workers = crew->processes * crew->threads;
	uint64_t start = UINT64_MAX, stop = 0, min = UINT64_MAX, max = 0, total = 0;
	uint64_t operations = 0, bytes = 0, cpu = 0;
	const char *comma = "";

	for (unsigned int i = 0; i < workers; i++) {
		const struct member *m = &crew->members[i];
		const struct recorder *r = &m->recorder;

		for (size_t b = 0; b < HISTOGRAM_BUCKETS; b++)
			counts[b] += r->counts[b];
		operations += r->operations;
		bytes += m->bytes;
		cpu += m->cpu_ns;
		total += r->total_ns;
		start = m->start_ns < start ? m->start_ns : start;
		stop = m->stop_ns > stop ? m->stop_ns : stop;
		min = r->operations && r->min_ns < min ? r->min_ns : min;
		max = r->max_ns > max ? r->max_ns : max;
	}
	printf(",\"bytes\":%llu,\"processes\":%u,\"threads\":%u,\"pid\":%d",
	       (unsigned long long)bytes, crew->processes, crew->threads, getpid());
	printf(",\"start_monotonic_ns\":%llu,\"stop_monotonic_ns\":%llu,\"elapsed_ns\":%llu",
	       (unsigned long long)start, (unsigned long long)stop,
	       (unsigned long long)(stop - start));
	printf(",\"cpu_ns\":%llu", (unsigned long long)cpu);
	printf(",\"operations\":%llu,\"min_ns\":%llu,\"max_ns\":%llu,\"total_ns\":%llu",
	       (unsigned long long)operations, (unsigned long long)(operations ? min : 0),
	       (unsigned long long)max, (unsigned long long)total);
	print_workers(crew, workers);
	printf(",\"histogram\":{\"sub_bucket_bits\":%d,\"counts\":[", HISTOGRAM_BITS);
	for (size_t b = 0; b < HISTOGRAM_BUCKETS; b++) {
		if (counts[b]) {
			printf("%s[%zu,%llu]", comma, b, (unsigned long long)counts[b]);
			comma = ",";
		}
	}
	printf("]}}\n");
	fflush(stdout);
}
