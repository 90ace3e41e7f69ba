/* SPDX-License-Identifier: MIT */
/* A worker process of `cvm touch` and its threads. */
#include "touch.h"

#include <errno.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES (64 << 10) /* small: a large stack could itself become a huge page */

struct job {
	const struct plan *plan;
	struct crew *crew;
	struct member *worker;
	unsigned int number; /* among all workers */
	char *memory;
};

/* A bijection on 0..size-1: mix the bits within the next power of two, walk until inside. */
static uint64_t permute(uint64_t index, uint64_t size, uint64_t seed)
{
	unsigned int bits = size > 1 ? 64 - (unsigned int)__builtin_clzll(size - 1) : 0;
	uint64_t mask = bits ? (~0ULL >> (64 - bits)) : 0;

	do {
		for (int round = 0; round < 3; round++) {
			index = (index * 0x9e3779b97f4a7c15ULL + seed) & mask;
			index ^= index >> (bits / 2 + 1);
		}
	} while (index >= size);
	return index;
}

/* The page to touch as the i-th of `pages`. Every pattern visits each page once. */
static uint64_t page_at(const struct plan *plan, uint64_t i, uint64_t pages)
{
	uint64_t stride, rows, longer;

	switch (plan->pattern) {
	case RANDOM:
		return permute(i, pages, plan->seed);
	case STRIDED:
		/* Column by column of a table with `stride` columns whose last row may be short. */
		stride = plan->stride / plan->page_bytes;
		if (stride < 2 || stride >= pages)
			return i;
		rows = (pages + stride - 1) / stride;
		longer = pages - (rows - 1) * stride; /* columns that have the last row */
		if (i < longer * rows)
			return i % rows * stride + i / rows;
		i -= longer * rows;
		return i % (rows - 1) * stride + longer + i / (rows - 1);
	default:
		return i;
	}
}

/* The stamp written to each 4 KiB page: its address and the seed, never 0. */
static uint64_t stamp(const char *page, uint64_t seed)
{
	return ((uint64_t)(uintptr_t)page ^ (seed << 48)) | 1;
}

static void end_of_step(const struct job *job)
{
	const struct plan *plan = job->plan;
	uint64_t now = monotonic_ns();
	struct timespec until;
	char line[200];

	if (plan->progress) {
		int len = snprintf(line, sizeof(line),
				   "{\"workload\":\"touch\",\"progress\":{\"worker\":%u,"
				   "\"bytes\":%llu,\"monotonic_ns\":%llu}}\n",
				   job->number, (unsigned long long)job->worker->bytes,
				   (unsigned long long)now);

		write_all(STDOUT_FILENO, line, (size_t)len); /* atomic: less than PIPE_BUF */
	}
	if (!plan->pause_ns)
		return;
	now += plan->pause_ns;
	until.tv_sec = (time_t)(now / NSEC_PER_SEC);
	until.tv_nsec = (long)(now % NSEC_PER_SEC);
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

static void touch_all(struct job *job)
{
	const struct plan *plan = job->plan;
	struct member *w = job->worker;
	uint64_t pages = plan->share / plan->page_bytes;
	/* hugetlb pages come whole: one write makes one resident. */
	uint64_t writes = plan->page == PAGE_HUGETLB && !plan->verify ?
				  1 : plan->page_bytes / SMALL_PAGE;
	uint64_t next_step = plan->step;

	for (uint64_t i = 0; i < pages; i++) {
		char *page = job->memory + page_at(plan, i, pages) * plan->page_bytes;
		uint64_t before = monotonic_ns();

		for (uint64_t j = 0; j < writes; j++) {
			char *small = page + j * SMALL_PAGE;

			*(volatile uint64_t *)small = stamp(small, plan->seed);
		}
		record(&w->recorder, before, monotonic_ns() - before);
		w->bytes += plan->page_bytes;
		if (plan->step && w->bytes >= next_step) {
			next_step += plan->step;
			end_of_step(job);
		}
	}
	crew_stop(w);
}

static void verify_all(struct job *job)
{
	uint64_t writes = job->plan->share / SMALL_PAGE;

	for (uint64_t j = 0; j < writes; j++) {
		char *small = job->memory + j * SMALL_PAGE;

		if (*(volatile uint64_t *)small != stamp(small, job->plan->seed))
			job->worker->corrupt_pages++;
	}
}

static void *thread(void *argument)
{
	struct job *job = argument;

	crew_begin(job->crew, job->worker, job->number, job->plan->pin);
	touch_all(job);
	if (job->plan->verify)
		verify_all(job);
	return NULL;
}

char *map_pages(uint64_t bytes, enum page page)
{
	/* Room to align the start for THP. */
	uint64_t room = page == PAGE_THP ? bytes + THP_BYTES : bytes;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	char *memory;

	if (page == PAGE_HUGETLB) /* reserve: too few pages is an error now, not a SIGBUS */
		flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
	memory = mmap(NULL, room, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	if (page == PAGE_THP) {
		memory += -(uintptr_t)memory & (THP_BYTES - 1);
		madvise(memory, bytes, MADV_HUGEPAGE);
	} else if (page == PAGE_4K) {
		/* Fails without CONFIG_TRANSPARENT_HUGEPAGE: then nothing needs to be forbidden. */
		madvise(memory, bytes, MADV_NOHUGEPAGE);
	}
	return memory;
}

uint64_t huge_bytes(void)
{
	char text[4096];
	long long kib;

	if (read_path("/proc/self/smaps_rollup", text, sizeof(text)) < 0)
		return 0;
	kib = field_value(text, "AnonHugePages");
	return kib > 0 ? (uint64_t)kib << 10 : 0;
}

/* Take memory of one node only (set_mempolicy(2), MPOL_BIND). Node numbers are taken as dense. */
static void bind_to(unsigned int node)
{
	unsigned long mask = 1UL << node;

	if (node >= 64 || syscall(SYS_set_mempolicy, MPOL_BIND, &mask, 65UL))
		crew_fail("set_mempolicy: there is no such node");
}

void touch_process(struct crew *crew, unsigned int index, void *context)
{
	const struct plan *plan = context;
	static struct job jobs[MAX_WORKERS];
	static pthread_t threads[MAX_WORKERS];
	pthread_attr_t attributes;
	char *memory;

	if (plan->bind)
		bind_to(index);
	memory = map_pages(plan->share * plan->threads, plan->page);
	if (!memory)
		crew_fail(plan->page == PAGE_HUGETLB ?
				  "mmap: not enough pages in the hugetlb pool" :
				  "mmap: no address space");
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	for (unsigned int i = 0; i < plan->threads; i++) {
		unsigned int number = index * plan->threads + i;

		jobs[i] = (struct job){ plan, crew, &crew->members[number], number,
					memory + i * plan->share };
		if (pthread_create(&threads[i], &attributes, thread, &jobs[i]))
			crew_fail("cannot create a thread");
	}
	for (unsigned int i = 0; i < plan->threads; i++)
		pthread_join(threads[i], NULL);
	crew->members[index * plan->threads].huge_bytes = huge_bytes();
}
