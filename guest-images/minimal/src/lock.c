/* SPDX-License-Identifier: MIT */
/* `cvm mlock`: locked memory. An operation maps and locks one chunk (mlock(2) populates it). */
#include "crew.h"
#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

struct lock {
	uint64_t bytes, chunk, workers;
};

static void work(struct crew *crew, unsigned int index, void *context)
{
	const struct lock *lock = context;
	struct member *m = &crew->members[index];
	uint64_t share = lock->bytes / lock->workers / lock->chunk * lock->chunk;

	crew_begin(crew, m, index, false);
	while (m->bytes < share) {
		uint64_t before = monotonic_ns();
		char *memory = mmap(NULL, lock->chunk, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (memory == MAP_FAILED || mlock(memory, lock->chunk))
			crew_fail(strerror(errno));
		record(&m->recorder, before, monotonic_ns() - before);
		m->bytes += lock->chunk;
	}
	crew_stop(m);
}

int mlock_main(int argc, char **argv)
{
	struct lock lock = { .chunk = 2 << 20, .workers = 1 };
	const struct row rows[] = {
		{ "bytes", "bytes in all", &lock.bytes, 4096, UINT64_MAX, NULL, NULL },
		{ "chunk", "bytes of an operation (2M)", &lock.chunk, 4096, 1 << 30, NULL, NULL },
		{ "workers", "processes (1)", &lock.workers, 1, MAX_WORKERS, NULL, NULL },
		{ 0 },
	};
	struct crew *crew;

	if (!read_options("mlock", rows, argc, argv) || !lock.bytes)
		return 2;
	crew = crew_new("mlock", (unsigned int)lock.workers, 1);
	if (!crew)
		return crew_error("mlock", "no memory for the results");
	if (crew_run(crew, work, &lock))
		return 1;
	printf("{\"workload\":\"mlock\",\"chunk_bytes\":%llu", (unsigned long long)lock.chunk);
	crew_report(crew);
	crew_end();
	return 0;
}
