/* SPDX-License-Identifier: MIT */
/*
 * `cvm drain`: have everything accepted that is not. Workers allocate files in a tmpfs with
 * fallocate(2), which takes pages and does not write to them (shmem_fallocate(), mm/shmem.c), so
 * that a guest larger than its host can be drained, until nr_unaccepted is 0, or no more than is to
 * be left. An operation is one chunk. The files are removed at the end.
 */
#include "crew.h"
#include "options.h"
#include "procfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct drain {
	uint64_t workers, chunk, leave;
	const char *path;
};

/* Pages; -1 where the kernel does not count them. */
static long long unaccepted(struct source *vmstat)
{
	source_read(vmstat);
	return field_value(vmstat->text, "nr_unaccepted");
}

static void work(struct crew *crew, unsigned int index, void *context)
{
	const struct drain *drain = context;
	struct member *m = &crew->members[index];
	struct source vmstat;
	char path[300];
	int fd;

	source_open(&vmstat, "/proc/vmstat", 64 << 10);
	snprintf(path, sizeof(path), "%s/%u", drain->path, index);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0)
		crew_fail("cannot make a file in the tmpfs");
	unlink(path);
	crew_begin(crew, m, index, false);
	while (unaccepted(&vmstat) > (long long)(drain->leave / 4096)) {
		uint64_t before = monotonic_ns();

		if (fallocate(fd, 0, (off_t)m->bytes, (off_t)drain->chunk)) {
			if (errno == EINTR)
				continue;
			crew_fail(errno == ENOSPC ? "no memory is left, and some is unaccepted" :
						    strerror(errno));
		}
		record(&m->recorder, before, monotonic_ns() - before);
		m->bytes += drain->chunk;
	}
	crew_stop(m);
}

int drain_main(int argc, char **argv)
{
	struct drain drain = { .workers = 1, .chunk = 2 << 20 };
	const struct row rows[] = {
		{ "workers", "processes (1)", &drain.workers, 1, MAX_WORKERS, NULL, NULL },
		{ "chunk", "bytes of an operation (2M)", &drain.chunk, 4096, 1 << 30, NULL, NULL },
		{ "leave", "bytes to leave unaccepted (0)", &drain.leave, 0, 1ULL << 50, NULL, NULL },
		{ "path", "directory in a tmpfs without limit", NULL, 0, 0, &drain.path, NULL },
		{ 0 },
	};
	struct source vmstat;
	struct crew *crew;
	long long before;

	if (!read_options("drain", rows, argc, argv) || !drain.path)
		return 2;
	source_open(&vmstat, "/proc/vmstat", 64 << 10);
	before = unaccepted(&vmstat);
	if (before < 0)
		return crew_error("drain", "the kernel does not count unaccepted memory");
	if (before <= (long long)(drain.leave / 4096))
		return crew_error("drain", before ? "no more is unaccepted than is to be left" :
						    "nothing is unaccepted");
	crew = crew_new("drain", (unsigned int)drain.workers, 1);
	if (!crew)
		return crew_error("drain", "no memory for the results");
	if (crew_run(crew, work, &drain))
		return 1;
	printf("{\"workload\":\"drain\",\"unaccepted_before_pages\":%lld", before);
	printf(",\"unaccepted_after_pages\":%lld", unaccepted(&vmstat));
	crew_report(crew);
	crew_end();
	return 0;
}
