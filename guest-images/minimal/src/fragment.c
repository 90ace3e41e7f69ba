/* SPDX-License-Identifier: MIT */
/*
 * `cvm fragment`: touch memory in small pages, give back every other page, ask for huge pages. An
 * operation writes 2 MiB that may become a huge page; `fallbacks` is how many did not.
 */
#include "options.h"
#include "touch.h"

#include <stdio.h>
#include <sys/mman.h>

struct fragment {
	uint64_t bytes, thp_bytes;
};

static void scatter(uint64_t bytes)
{
	char *memory = map_pages(bytes, PAGE_4K);

	if (!memory)
		crew_fail("mmap: no address space");
	for (uint64_t at = 0; at < bytes; at += SMALL_PAGE)
		*(volatile char *)(memory + at) = 1;
	for (uint64_t at = 0; at < bytes; at += 2 * SMALL_PAGE)
		madvise(memory + at, SMALL_PAGE, MADV_DONTNEED);
}

static void work(struct crew *crew, unsigned int index, void *context)
{
	const struct fragment *f = context;
	struct member *m = &crew->members[index];
	char *memory = map_pages(f->thp_bytes, PAGE_THP);

	if (!memory)
		crew_fail("mmap: no address space");
	scatter(f->bytes);
	crew_begin(crew, m, index, false);
	for (uint64_t at = 0; at < f->thp_bytes; at += THP_BYTES) {
		uint64_t before = monotonic_ns();

		for (uint64_t small = 0; small < THP_BYTES; small += SMALL_PAGE)
			*(volatile char *)(memory + at + small) = 1;
		record(&m->recorder, before, monotonic_ns() - before);
		m->bytes += THP_BYTES;
	}
	crew_stop(m);
	m->huge_bytes = huge_bytes();
}

int fragment_main(int argc, char **argv)
{
	struct fragment f = { 0 };
	const struct row rows[] = {
		{ "bytes", "bytes to fragment", &f.bytes, 4096, UINT64_MAX, NULL, NULL },
		{ "thp-bytes", "bytes to ask for as huge pages", &f.thp_bytes, THP_BYTES, UINT64_MAX,
		  NULL, NULL },
		{ 0 },
	};
	uint64_t huge, asked;
	struct crew *crew;

	if (!read_options("fragment", rows, argc, argv) || !f.bytes || !f.thp_bytes)
		return 2;
	f.thp_bytes = f.thp_bytes / THP_BYTES * THP_BYTES;
	crew = crew_new("fragment", 1, 1);
	if (!crew)
		return crew_error("fragment", "no memory for the results");
	if (crew_run(crew, work, &f))
		return 1;
	huge = crew->members[0].huge_bytes / THP_BYTES;
	asked = f.thp_bytes / THP_BYTES;
	printf("{\"workload\":\"fragment\",\"fragmented_bytes\":%llu,\"huge_pages\":%llu",
	       (unsigned long long)f.bytes, (unsigned long long)huge);
	printf(",\"fallbacks\":%llu", (unsigned long long)(asked > huge ? asked - huge : 0));
	crew_report(crew);
	crew_end();
	return 0;
}
