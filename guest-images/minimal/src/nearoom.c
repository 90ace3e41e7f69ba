/* SPDX-License-Identifier: MIT */
/*
 * `cvm near-oom`: touch memory until MemAvailable has fallen to the margin, and not further. An
 * operation touches one step. The margin is looked at before each.
 */
#include "options.h"
#include "touch.h"

#include <stdio.h>
#include <sys/mman.h>

struct near {
	uint64_t margin, step;
	long long left_kib;
};

static struct near *results; /* shared with the worker */

static long long available_kib(void)
{
	static char text[16384];

	if (read_path("/proc/meminfo", text, sizeof(text)) < 0)
		crew_fail("cannot read /proc/meminfo");
	return field_value(text, "MemAvailable");
}

static void work(struct crew *crew, unsigned int index, void *context)
{
	struct near *near = context;
	struct member *m = &crew->members[index];
	uint64_t room = 1ULL << 44; /* address space only */
	char *memory = map_pages(room, PAGE_4K);

	if (!memory)
		crew_fail("mmap: no address space");
	if (available_kib() < 0)
		crew_fail("the kernel does not tell MemAvailable");
	crew_begin(crew, m, index, false);
	while ((near->left_kib = available_kib()) > (long long)((near->margin + near->step) >> 10)) {
		uint64_t before = monotonic_ns();

		for (uint64_t at = 0; at < near->step; at += SMALL_PAGE)
			*(volatile char *)(memory + m->bytes + at) = 1;
		record(&m->recorder, before, monotonic_ns() - before);
		m->bytes += near->step;
	}
	crew_stop(m);
}

int near_oom_main(int argc, char **argv)
{
	uint64_t margin = 8 << 20, step = 1 << 20;
	const struct row rows[] = {
		{ "margin", "MemAvailable to leave (8M)", &margin, 1 << 20, UINT64_MAX / 2, NULL, NULL },
		{ "step", "bytes between two looks (1M)", &step, 4096, 1 << 30, NULL, NULL },
		{ 0 },
	};
	struct crew *crew;

	if (!read_options("near-oom", rows, argc, argv))
		return 2;
	crew = crew_new("near-oom", 1, 1);
	results = mmap(NULL, sizeof(*results), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (!crew || results == MAP_FAILED)
		return crew_error("near-oom", "no memory for the results");
	*results = (struct near){ .margin = margin, .step = step };
	if (crew_run(crew, work, results))
		return 1;
	printf("{\"workload\":\"near-oom\",\"margin_bytes\":%llu,\"left_kib\":%lld",
	       (unsigned long long)margin, results->left_kib);
	crew_report(crew);
	crew_end();
	return 0;
}
