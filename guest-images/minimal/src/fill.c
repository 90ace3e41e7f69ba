/* SPDX-License-Identifier: MIT */
/*
 * `cvm fill`: fill the page cache or a tmpfs. An operation moves one chunk: with --write it is
 * written to a file of the worker's own, else read from its share of one file or device.
 */
#include "crew.h"
#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fill {
	uint64_t bytes, chunk, workers;
	const char *path;
	bool writes;
};

static void work(struct crew *crew, unsigned int index, void *context)
{
	const struct fill *fill = context;
	struct member *m = &crew->members[index];
	uint64_t share = fill->bytes / fill->workers / fill->chunk * fill->chunk;
	off_t at = fill->writes ? 0 : (off_t)(share * index);
	char *buffer = malloc(fill->chunk);
	char path[300];
	int fd;

	if (!buffer)
		crew_fail("no memory for a chunk");
	memset(buffer, 'x', fill->chunk);
	snprintf(path, sizeof(path), fill->writes ? "%s.%u" : "%s", fill->path, index);
	fd = open(path, fill->writes ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY, 0600);
	if (fd < 0)
		crew_fail("cannot open the file");
	crew_begin(crew, m, index, false);
	while (m->bytes < share) {
		uint64_t before = monotonic_ns();
		ssize_t moved = fill->writes ? pwrite(fd, buffer, fill->chunk, at) :
					       pread(fd, buffer, fill->chunk, at);

		if (moved < 0 && errno == EINTR)
			continue;
		if (moved <= 0)
			crew_fail(moved < 0 ? strerror(errno) : "the file ended early");
		record(&m->recorder, before, monotonic_ns() - before);
		m->bytes += (uint64_t)moved;
		at += moved;
	}
	crew_stop(m);
}

int fill_main(int argc, char **argv)
{
	struct fill fill = { .chunk = 64 << 10, .workers = 1 };
	const struct row rows[] = {
		{ "bytes", "bytes in all", &fill.bytes, 4096, UINT64_MAX, NULL, NULL },
		{ "chunk", "bytes of an operation (64K)", &fill.chunk, 512, 64 << 20, NULL, NULL },
		{ "workers", "processes (1)", &fill.workers, 1, MAX_WORKERS, NULL, NULL },
		{ "path", "file or device", NULL, 0, 0, &fill.path, NULL },
		{ "write", "write files PATH.N", NULL, 0, 0, NULL, &fill.writes },
		{ 0 },
	};
	struct crew *crew;

	if (!read_options("fill", rows, argc, argv) || !fill.path || !fill.bytes)
		return 2;
	crew = crew_new("fill", (unsigned int)fill.workers, 1);
	if (!crew)
		return crew_error("fill", "no memory for the results");
	if (crew_run(crew, work, &fill))
		return 1;
	printf("{\"workload\":\"fill\",\"chunk_bytes\":%llu", (unsigned long long)fill.chunk);
	crew_report(crew);
	crew_end();
	return 0;
}
