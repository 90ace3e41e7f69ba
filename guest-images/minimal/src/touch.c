/* SPDX-License-Identifier: MIT */
/*
 * First-touch anonymous memory and time each touch.
 *
 * An operation makes one page of the size asked for resident: 4 KiB, or 2 MiB as a transparent
 * huge page (all its 4 KiB pages are written, so a fallback to small pages shows as its true cost),
 * or one page of the default hugetlb size.
 */
#include "touch.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
	"usage: cvm touch --bytes N [OPTION...]\n"
	"  --bytes N               bytes to touch in all (suffixes K, M, G)\n"
	"  --page 4k|thp|hugetlb   size of the pages (4k)\n"
	"  --pattern sequential|random|strided\n"
	"  --stride N              distance of strided touches (4M)\n"
	"  --seed N                of the random order (1)\n"
	"  --processes P           worker processes (1)\n"
	"  --threads T             threads in each (1); all start at a barrier\n"
	"  --pin                   worker i on the i-th CPU allowed\n"
	"  --bind                  process i takes memory of the i-th node only\n"
	"  --step N                stop after each N bytes of a worker ...\n"
	"  --pause-ms N            ... for this long (0)\n"
	"  --progress              a line of JSON after each step\n"
	"  --verify                read everything back at the end\n"
	"  --hold                  after the report, keep the memory until stdin closes\n";

enum { BYTES = 256, PAGE, PATTERN, STRIDE, SEED, PROCESSES, THREADS, PIN, BIND, STEP, PAUSE, PROGRESS,
       VERIFY, HOLD };

static const struct option options[] = {
	{ "bytes", required_argument, NULL, BYTES },
	{ "page", required_argument, NULL, PAGE },
	{ "pattern", required_argument, NULL, PATTERN },
	{ "stride", required_argument, NULL, STRIDE },
	{ "seed", required_argument, NULL, SEED },
	{ "processes", required_argument, NULL, PROCESSES },
	{ "threads", required_argument, NULL, THREADS },
	{ "pin", no_argument, NULL, PIN },
	{ "bind", no_argument, NULL, BIND },
	{ "step", required_argument, NULL, STEP },
	{ "pause-ms", required_argument, NULL, PAUSE },
	{ "progress", no_argument, NULL, PROGRESS },
	{ "verify", no_argument, NULL, VERIFY },
	{ "hold", no_argument, NULL, HOLD },
	{ NULL, 0, NULL, 0 },
};

static const char *const page_names[] = { "4k", "thp", "hugetlb", NULL };
static const char *const pattern_names[] = { "sequential", "random", "strided", NULL };

static int choice(const char *word, const char *const *names)
{
	for (int i = 0; names[i]; i++) {
		if (strcmp(word, names[i]) == 0)
			return i;
	}
	return -1;
}

static bool parse(struct plan *plan, int argc, char **argv)
{
	int option, index;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		uint64_t number = 0;
		bool is_number = optarg && parse_bytes(optarg, &number);
		bool small = is_number && number > 0 && number <= MAX_WORKERS;

		switch (option) {
		case PAGE:
			index = choice(optarg, page_names);
			plan->page = (enum page)index;
			is_number = index >= 0;
			break;
		case PATTERN:
			index = choice(optarg, pattern_names);
			plan->pattern = (enum pattern)index;
			is_number = index >= 0;
			break;
		case BYTES: plan->bytes = number; break;
		case STRIDE: plan->stride = number; break;
		case SEED: plan->seed = number; break;
		case STEP: plan->step = number; break;
		case PAUSE: plan->pause_ns = number * 1000000; break;
		case PROCESSES: plan->processes = (unsigned int)number; is_number = small; break;
		case THREADS: plan->threads = (unsigned int)number; is_number = small; break;
		case PIN: plan->pin = is_number = true; break;
		case BIND: plan->bind = is_number = true; break;
		case PROGRESS: plan->progress = is_number = true; break;
		case VERIFY: plan->verify = is_number = true; break;
		case HOLD: plan->hold = is_number = true; break;
		default: return false;
		}
		if (!is_number) {
			fprintf(stderr, "cvm touch: bad value: %s\n", optarg);
			return false;
		}
	}
	return optind == argc && plan->bytes > 0 && plan->processes * plan->threads <= MAX_WORKERS;
}

/* One line of JSON. Returns how many pages did not read back as written. */
static uint64_t print_report(const struct plan *plan, const struct crew *crew)
{
	uint64_t corrupt = 0, huge = 0;

	for (unsigned int i = 0; i < plan->processes * plan->threads; i++) {
		corrupt += crew->members[i].corrupt_pages;
		huge += crew->members[i].huge_bytes;
	}
	printf("{\"workload\":\"touch\",\"page\":\"%s\",\"page_bytes\":%llu",
	       page_names[plan->page], (unsigned long long)plan->page_bytes);
	printf(",\"pattern\":\"%s\",\"anon_huge_bytes\":%llu", pattern_names[plan->pattern],
	       (unsigned long long)huge);
	if (plan->verify)
		printf(",\"corrupt_pages\":%llu", (unsigned long long)corrupt);
	crew_report(crew);
	return corrupt;
}

static uint64_t hugetlb_bytes(void)
{
	static char text[8192];
	long long kib;

	read_path("/proc/meminfo", text, sizeof(text));
	kib = field_value(text, "Hugepagesize");
	return kib > 0 ? (uint64_t)kib << 10 : THP_BYTES;
}

static void wait_for_end_of_stdin(void)
{
	char chunk[256];

	while (read(STDIN_FILENO, chunk, sizeof(chunk)) > 0)
		;
}

int touch_main(int argc, char **argv)
{
	struct plan plan = { .stride = 4 << 20, .seed = 1, .processes = 1, .threads = 1 };
	struct crew *crew;
	uint64_t corrupt;

	if (!parse(&plan, argc, argv)) {
		fputs(usage, stderr);
		return 2;
	}
	plan.page_bytes = plan.page == PAGE_4K ? SMALL_PAGE :
			  plan.page == PAGE_THP ? THP_BYTES : hugetlb_bytes();
	plan.share = plan.bytes / (plan.processes * plan.threads) / plan.page_bytes *
		     plan.page_bytes;
	if (!plan.share)
		return crew_error("touch", "fewer bytes than one page for each worker");
	crew = crew_new("touch", plan.processes, plan.threads);
	if (!crew)
		return crew_error("touch", "no memory for the results");
	if (crew_run(crew, touch_process, &plan))
		return 1;
	corrupt = print_report(&plan, crew);
	if (plan.hold)
		wait_for_end_of_stdin();
	crew_end();
	return corrupt ? 4 : 0;
}
