/* SPDX-License-Identifier: MIT */
/*
 * `cvm churn`: threads that allocate a chunk, copy a template into it, search it, and free it, again
 * and again: the pattern of the ebizzy benchmark. With --map every chunk is mapped and unmapped, else
 * all come from the heap. An operation is one chunk.
 */
#include "options.h"
#include "touch.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct churn {
	uint64_t threads, chunk, seconds;
	bool map;
};

struct churner {
	const struct churn *churn;
	struct crew *crew;
	unsigned int number;
};

static void *allocate(const struct churn *churn)
{
	void *memory;

	if (!churn->map)
		return malloc(churn->chunk);
	memory = mmap(NULL, churn->chunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return memory == MAP_FAILED ? NULL : memory;
}

static void *thread(void *argument)
{
	struct churner *self = argument;
	const struct churn *churn = self->churn;
	struct member *m = &self->crew->members[self->number];
	char *pattern = malloc(churn->chunk);

	if (!pattern)
		crew_fail("no memory for a chunk");
	for (uint64_t i = 0; i < churn->chunk; i++)
		pattern[i] = (char)(i * 131);
	pattern[churn->chunk - 1] = (char)0xfe;
	crew_begin(self->crew, m, self->number, false);
	do {
		uint64_t before = monotonic_ns();
		char *copy = allocate(churn);

		if (!copy)
			crew_fail("no memory for a chunk");
		memcpy(copy, pattern, churn->chunk);
		if (memcmp(copy, pattern, churn->chunk))
			m->corrupt_pages++;
		if (churn->map)
			munmap(copy, churn->chunk);
		else
			free(copy);
		record(&m->recorder, before, monotonic_ns() - before);
		m->bytes += churn->chunk;
	} while (monotonic_ns() - m->start_ns < churn->seconds * NSEC_PER_SEC);
	crew_stop(m);
	return NULL;
}

static void work(struct crew *crew, unsigned int index, void *context)
{
	static struct churner churners[MAX_WORKERS];
	static pthread_t threads[MAX_WORKERS];
	const struct churn *churn = context;

	(void)index;
	mallopt(M_MMAP_THRESHOLD, churn->map ? 0 : 1 << 30);
	for (unsigned int i = 0; i < churn->threads; i++) {
		churners[i] = (struct churner){ churn, crew, i };
		if (pthread_create(&threads[i], NULL, thread, &churners[i]))
			crew_fail("cannot create a thread");
	}
	for (unsigned int i = 0; i < churn->threads; i++)
		pthread_join(threads[i], NULL);
}

int churn_main(int argc, char **argv)
{
	struct churn churn = { .threads = 1, .chunk = 256 << 10, .seconds = 5 };
	const struct row rows[] = {
		{ "threads", "threads (1)", &churn.threads, 1, MAX_WORKERS, NULL, NULL },
		{ "chunk", "bytes of a chunk (256K)", &churn.chunk, 4096, 1 << 30, NULL, NULL },
		{ "seconds", "how long (5)", &churn.seconds, 1, 3600, NULL, NULL },
		{ "map", "map every chunk, instead of the heap", NULL, 0, 0, NULL, &churn.map },
		{ 0 },
	};
	uint64_t corrupt = 0;
	struct crew *crew;

	if (!read_options("churn", rows, argc, argv))
		return 2;
	crew = crew_new("churn", 1, (unsigned int)churn.threads);
	if (!crew)
		return crew_error("churn", "no memory for the results");
	if (crew_run(crew, work, &churn))
		return 1;
	for (unsigned int i = 0; i < churn.threads; i++)
		corrupt += crew->members[i].corrupt_pages;
	printf("{\"workload\":\"churn\",\"corrupt_chunks\":%llu", (unsigned long long)corrupt);
	crew_report(crew);
	crew_end();
	return corrupt ? 4 : 0;
}
