/* SPDX-License-Identifier: MIT */
/*
 * `cvm sample`: a time series of the memory counters on stdout. The first line names the columns
 * ("#columns …"), then a line of integers for each sample, and at the end "#end …" says how many
 * there were and why it ended. docs/guest-image.md has the columns.
 *
 * It must not cost what it is to observe. A few times a second a sample is full; between, only the
 * first lines of /proc/vmstat are asked for, which the kernel then does not print on from, and the
 * line ends after them. Lines go out together: to encrypt and send a packet costs more than many
 * readings. Integers are printed and parsed by hand, as printf and sscanf cost more than the kernel.
 */
#include "procfs.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_VMSTAT 128 /* columns from /proc/vmstat */
#define MAX_HZ 10000
#define FLUSH_HZ 2 /* times a second that lines go out */
#define HEAD 1024  /* bytes of /proc/vmstat that hold the page counts: its first lines */
#define ROOM 128   /* by which these lines may grow longer while it runs */

static const char usage[] =
	"usage: cvm sample [OPTION...]\n"
	"  --hz N            samples per second (100)\n"
	"  --seconds S       end after so many seconds (else: when stdin closes)\n"
	"  --max-samples N   end after so many samples (1000000)\n"
	"  --full-hz N       read all, not only the two page counts, so often a second (5)\n"
	"  --no-zones        leave out the zones\n";

enum { HZ = 256, SECONDS, MAX_SAMPLES, FULL_HZ, NO_ZONES };

static const struct option options[] = {
	{ "hz", required_argument, NULL, HZ },
	{ "seconds", required_argument, NULL, SECONDS },
	{ "max-samples", required_argument, NULL, MAX_SAMPLES },
	{ "full-hz", required_argument, NULL, FULL_HZ },
	{ "no-zones", no_argument, NULL, NO_ZONES },
	{ NULL, 0, NULL, 0 },
};

/* In every sample; the rest of the columns only in full ones. */
static const char *const counts[] = { "nr_free_pages", "nr_unaccepted" };
static bool counted[ARRAY_LEN(counts)];
static size_t head = HEAD;
static const char *const prefixes[] = { "allocstall", "pgscan", "compact_", "thp_" };

static struct source vmstat, meminfo, zoneinfo;
static struct node nodes[MAX_NODES];
static struct zone zones[MAX_ZONES];
static size_t node_count, zone_count;
static bool with_zones = true, has_unaccepted;

/* The lines of /proc/vmstat to print, by number: their order does not change while it runs. */
static int vmstat_lines[MAX_VMSTAT];
static size_t vmstat_count;

static char line[64 << 10]; /* a header with every node and zone fits */
static struct text out = { .data = line, .size = sizeof(line) };
static char lines[128 << 10];
static struct text held = { .data = lines, .size = sizeof(lines) };

static bool wanted(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(prefixes); i++) {
		if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
			return true;
	}
	return false;
}

static const char *next_line(const char *text)
{
	const char *end = strchr(text, '\n');

	return end ? end + 1 : text + strlen(text);
}

/* The number after the first space of a line. */
static long long number_of(const char *line)
{
	const char *space = strchr(line, ' ');

	return space ? strtoll(space + 1, NULL, 10) : ABSENT;
}

static void put_number(long long value)
{
	char digits[24];
	size_t len = 0;
	unsigned long long rest = value < 0 ? 0 - (unsigned long long)value : (unsigned long long)value;

	do {
		digits[len++] = (char)('0' + rest % 10);
		rest /= 10;
	} while (rest);
	if (value < 0)
		digits[len++] = '-';
	if (out.len + len + 1 >= out.size)
		return; /* a row is far shorter */
	if (out.len)
		out.data[out.len++] = ' ';
	while (len)
		out.data[out.len++] = digits[--len];
}

static void read_sources(bool full)
{
	if (!full) {
		source_read_head(&vmstat, head);
		return;
	}
	source_read(&vmstat);
	source_read(&meminfo);
	for (size_t i = 0; i < node_count; i++)
		source_read(&nodes[i].meminfo);
	if (with_zones)
		source_read(&zoneinfo);
}

static int print_header(void)
{
	const char *last = strstr(vmstat.text, "\nnr_unaccepted ");
	int number = 0;

	if (last && next_line(last + 1) + ROOM < vmstat.text + HEAD)
		head = (size_t)(next_line(last + 1) - vmstat.text) + ROOM;
	put(&out, "#columns monotonic_ns read_ns missed full");
	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		counted[i] = field_value(vmstat.text, counts[i]) != ABSENT;
		if (counted[i])
			put(&out, " vmstat.%s", counts[i]);
	}
	for (const char *at = vmstat.text; *at; at = next_line(at), number++) {
		size_t len = strcspn(at, " ");

		if (vmstat_count < MAX_VMSTAT && wanted(at)) {
			vmstat_lines[vmstat_count++] = number;
			put(&out, " vmstat.%.*s", (int)len, at);
		}
	}
	has_unaccepted = field_value(meminfo.text, "Unaccepted") != ABSENT;
	if (has_unaccepted) {
		put(&out, " meminfo.Unaccepted_kib");
		for (size_t i = 0; i < node_count; i++)
			put(&out, " node%d.Unaccepted_kib", nodes[i].number);
	}
	if (with_zones)
		zone_count = parse_zones(zoneinfo.text, zones, MAX_ZONES);
	for (size_t i = 0; i < zone_count; i++) {
		put(&out, " zone%d.%s.nr_free_pages", zones[i].node, zones[i].name);
		if (zones[i].nr_unaccepted != ABSENT)
			put(&out, " zone%d.%s.nr_unaccepted", zones[i].node, zones[i].name);
	}
	put(&out, "\n");
	return write_all(STDOUT_FILENO, out.data, out.len);
}

/* Send what is held back. */
static int flush(void)
{
	int failed = write_all(STDOUT_FILENO, held.data, held.len);

	held.len = 0;
	return failed;
}

/* What only full samples have. */
static void put_rest(void)
{
	const char *at = vmstat.text;
	int number = 0;

	for (size_t i = 0; i < vmstat_count; i++) {
		for (; number < vmstat_lines[i]; number++)
			at = next_line(at);
		put_number(number_of(at));
	}
	if (has_unaccepted) {
		put_number(field_value(meminfo.text, "Unaccepted"));
		for (size_t i = 0; i < node_count; i++)
			put_number(node_field(&nodes[i], "Unaccepted"));
	}
	/* A node added meanwhile would come after those in the header: it is left out. */
	if (with_zones)
		parse_zones(zoneinfo.text, zones, zone_count);
	for (size_t i = 0; i < zone_count; i++) {
		put_number(zones[i].nr_free_pages);
		if (zones[i].nr_unaccepted != ABSENT)
			put_number(zones[i].nr_unaccepted);
	}
}

static int print_sample(uint64_t missed, bool full, bool now)
{
	uint64_t start = monotonic_ns();

	read_sources(full);
	out.len = 0;
	put_number((long long)start);
	put_number((long long)(monotonic_ns() - start));
	put_number((long long)missed);
	put_number(full);
	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		if (counted[i])
			put_number(field_value(vmstat.text, counts[i]));
	}
	if (full)
		put_rest();
	out.data[out.len++] = '\n';
	if (held.len + out.len > held.size && flush())
		return -1;
	memcpy(held.data + held.len, out.data, out.len);
	held.len += out.len;
	return now ? flush() : 0;
}

static bool stdin_closed(void)
{
	char chunk[256];

	return read(STDIN_FILENO, chunk, sizeof(chunk)) <= 0;
}

static uint64_t cpu_ns(void)
{
	struct timespec used;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return (uint64_t)used.tv_sec * NSEC_PER_SEC + (uint64_t)used.tv_nsec;
}

static int sample(uint64_t hz, uint64_t full_hz, uint64_t seconds, uint64_t max_samples)
{
	uint64_t full_every = hz > full_hz ? hz / full_hz : 1;
	uint64_t flush_every = hz > FLUSH_HZ ? hz / FLUSH_HZ : 1;
	uint64_t interval = NSEC_PER_SEC / hz, first = monotonic_ns() + interval;
	uint64_t limit = seconds ? seconds * hz : UINT64_MAX, ticks, elapsed = 0;
	uint64_t samples = 0, missed = 0;
	struct itimerspec timer = {
		.it_interval = { (time_t)(interval / NSEC_PER_SEC), (long)(interval % NSEC_PER_SEC) },
		.it_value = { (time_t)(first / NSEC_PER_SEC), (long)(first % NSEC_PER_SEC) },
	};
	int clock = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	/* With a duration, stdin may be /dev/null: it is not asked. */
	struct pollfd wait[] = { { .fd = clock, .events = POLLIN },
				 { .fd = seconds ? -1 : STDIN_FILENO, .events = POLLIN } };
	const char *reason = NULL;
	bool full;

	timerfd_settime(clock, TFD_TIMER_ABSTIME, &timer, NULL);
	samples++;
	if (print_sample(0, true, true)) /* one at once, and one at the end of stdin */
		return 1;
	while (!reason) {
		if (poll(wait, 2, -1) < 0 && errno != EINTR)
			return 1;
		if (wait[0].revents && read(clock, &ticks, sizeof(ticks)) == sizeof(ticks)) {
			elapsed += ticks;
			missed += ticks - 1;
			full = samples % full_every == 0;
			samples++;
			if (print_sample(ticks - 1, full, samples % flush_every == 0))
				return 1;
		}
		if (samples >= max_samples)
			reason = "max-samples";
		else if (elapsed >= limit)
			reason = "seconds";
		else if (wait[1].revents && stdin_closed())
			reason = "stdin";
	}
	if (strcmp(reason, "stdin") == 0) {
		samples++;
		if (print_sample(0, true, true))
			return 1;
	}
	if (flush())
		return 1;
	out.len = 0;
	put(&out, "#end samples=%llu missed=%llu cpu_ns=%llu reason=%s\n",
	    (unsigned long long)samples, (unsigned long long)missed,
	    (unsigned long long)cpu_ns(), reason);
	return write_all(STDOUT_FILENO, out.data, out.len) ? 1 : 0;
}

int sample_main(int argc, char **argv)
{
	uint64_t hz = 100, full_hz = 5, seconds = 0, max_samples = 1000000;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		uint64_t number = 0;
		bool ok = option == NO_ZONES ||
			  (optarg && parse_bytes(optarg, &number) && number > 0);

		switch (option) {
		case HZ: hz = number; ok = ok && number <= MAX_HZ; break;
		case FULL_HZ: full_hz = number; break;
		case SECONDS: seconds = number; break;
		case MAX_SAMPLES: max_samples = number; break;
		case NO_ZONES: with_zones = false; break;
		default: ok = false; break;
		}
		if (!ok) {
			fputs(usage, stderr);
			return 2;
		}
	}
	if (optind != argc) {
		fputs(usage, stderr);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN); /* the end of the reader is an error of write() */
	if (!seconds)
		signal(SIGTERM, SIG_IGN); /* it comes with the end of stdin, after which we end */
	source_open(&vmstat, "/proc/vmstat", 64 << 10);
	source_open(&meminfo, "/proc/meminfo", 16 << 10);
	node_count = open_nodes(nodes, MAX_NODES);
	source_open(&zoneinfo, "/proc/zoneinfo", zoneinfo_size(node_count));
	read_sources(true);
	if (print_header())
		return 1;
	return sample(hz, full_hz, seconds, max_samples);
}
