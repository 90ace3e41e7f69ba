/* SPDX-License-Identifier: MIT */
/*
 * `cvm slab`: many inodes and dentries. An operation makes one empty file. `bytes` is what the
 * kernel's slabs grew by.
 */
#include "crew.h"
#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES_OF_A_DIRECTORY 1000

struct slab {
	uint64_t files, workers;
	const char *path;
};

static void work(struct crew *crew, unsigned int index, void *context)
{
	const struct slab *slab = context;
	struct member *m = &crew->members[index];
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/%u", slab->path, index);
	if (mkdir(path, 0700) || chdir(path))
		crew_fail("cannot make a directory of its own");
	crew_begin(crew, m, index, false);
	for (uint64_t i = 0; i < slab->files / slab->workers; i++) {
		uint64_t before;

		if (i % FILES_OF_A_DIRECTORY == 0) {
			snprintf(path, sizeof(path), "%sd%llu", i ? "../" : "",
				 (unsigned long long)i);
			if (mkdir(path, 0700) || chdir(path))
				crew_fail("cannot make a directory");
		}
		snprintf(path, sizeof(path), "%llu", (unsigned long long)i);
		before = monotonic_ns();
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
		if (fd < 0)
			crew_fail(strerror(errno));
		close(fd);
		record(&m->recorder, before, monotonic_ns() - before);
	}
	crew_stop(m);
}

static long long slab_kib(void)
{
	static char text[16384];

	read_path("/proc/meminfo", text, sizeof(text));
	return field_value(text, "Slab");
}

int slab_main(int argc, char **argv)
{
	struct slab slab = { .workers = 1 };
	const struct row rows[] = {
		{ "files", "files in all", &slab.files, 1, 1ULL << 32, NULL, NULL },
		{ "workers", "processes (1)", &slab.workers, 1, MAX_WORKERS, NULL, NULL },
		{ "path", "directory", NULL, 0, 0, &slab.path, NULL },
		{ 0 },
	};
	long long before, after;
	struct crew *crew;

	if (!read_options("slab", rows, argc, argv) || !slab.path || !slab.files)
		return 2;
	crew = crew_new("slab", (unsigned int)slab.workers, 1);
	if (!crew)
		return crew_error("slab", "no memory for the results");
	before = slab_kib();
	if (crew_run(crew, work, &slab))
		return 1;
	after = slab_kib();
	/* Nobody's in particular: counted for the first worker, so that the sum is right. */
	crew->members[0].bytes = after > before ? (uint64_t)(after - before) << 10 : 0;
	printf("{\"workload\":\"slab\",\"slab_before_kib\":%lld,\"slab_after_kib\":%lld", before, after);
	crew_report(crew);
	crew_end();
	return 0;
}
