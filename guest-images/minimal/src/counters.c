/* SPDX-License-Identifier: MIT */
/*
 * `cvm counters`: every memory counter once, as one JSON object.
 *
 * The files are read back to back into memory that is there already, and parsed afterwards. A
 * reading is "stable" if nr_free_pages and nr_unaccepted were the same before and after; it is
 * repeated a few times to get a stable one.
 */
#include "procfs.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ATTEMPTS 8
#define FORMAT_VERSION 1

static struct source vmstat, vmstat_after, meminfo, zoneinfo, buddyinfo, emulation;
static struct node nodes[MAX_NODES];
static struct zone zones[MAX_ZONES];
static size_t node_count;
static bool refreshed;

static void open_all(void)
{
	source_open(&vmstat, "/proc/vmstat", 64 << 10);
	source_open(&vmstat_after, "/proc/vmstat", 64 << 10);
	source_open(&meminfo, "/proc/meminfo", 16 << 10);
	source_open(&buddyinfo, "/proc/buddyinfo", 64 << 10);
	source_open(&emulation, "/sys/kernel/debug/unaccepted_emulation/stats", 64 << 10);
	node_count = open_nodes(nodes, MAX_NODES);
	source_open(&zoneinfo, "/proc/zoneinfo", zoneinfo_size(node_count));
}

/* Fold the per-CPU differences into the counters (mm/vmstat.c, vmstat_refresh()). Root only. */
static void refresh(void)
{
	int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY | O_CLOEXEC);

	refreshed = fd >= 0 && write(fd, "1\n", 2) == 2;
	if (fd >= 0)
		close(fd);
}

static bool read_all(void)
{
	static const char *const moving[] = { "nr_free_pages", "nr_unaccepted" };

	refresh();
	source_read(&vmstat);
	source_read(&zoneinfo);
	source_read(&buddyinfo);
	source_read(&meminfo);
	for (size_t i = 0; i < node_count; i++)
		source_read(&nodes[i].meminfo);
	source_read(&emulation);
	source_read(&vmstat_after);
	for (size_t i = 0; i < ARRAY_LEN(moving); i++) {
		if (field_value(vmstat.text, moving[i]) != field_value(vmstat_after.text, moving[i]))
			return false;
	}
	return true;
}

static void print_string(const char *s, size_t len)
{
	char copy[256], data[2 * sizeof(copy)];
	struct text t = { .data = data, .size = sizeof(data) };

	len = len < sizeof(copy) - 1 ? len : sizeof(copy) - 1;
	memcpy(copy, s, len);
	copy[len] = '\0';
	put_string(&t, copy);
	fputs(data, stdout);
}

/* "name value" or "name: value kB" lines as members; a value that is no number as a string. */
static void print_members(const char *text)
{
	const char *comma = "";

	while (*text) {
		size_t line = strcspn(text, "\n");
		size_t name = strcspn(text, " :\t\n");
		const char *value = text + name + strspn(text + name, " :\t");
		size_t len = value < text + line ? (size_t)(text + line - value) : 0;
		char *end;
		long long number = strtoll(value, &end, 10);
		bool is_number = len && end > value && (*end == '\n' || *end == '\0' ||
							strncmp(end, " kB\n", 4) == 0);

		if (name) {
			fputs(comma, stdout);
			print_string(text, name);
			putchar(':');
			if (is_number)
				printf("%lld", number);
			else
				print_string(value, len);
			comma = ",";
		}
		text += line + (text[line] == '\n');
	}
}

static void print_nodes(void)
{
	printf(",\"nodes\":[");
	for (size_t i = 0; i < node_count; i++)
		printf("%s{\"node\":%d,\"unaccepted_kib\":%lld,\"mem_free_kib\":%lld,"
		       "\"mem_total_kib\":%lld}",
		       i ? "," : "", nodes[i].number, node_field(&nodes[i], "Unaccepted"),
		       node_field(&nodes[i], "MemFree"), node_field(&nodes[i], "MemTotal"));
	printf("]");
}

static void print_zones(void)
{
	size_t count = parse_zones(zoneinfo.text, zones, ARRAY_LEN(zones));

	printf(",\"zones\":[");
	for (size_t i = 0; i < count; i++)
		printf("%s{\"node\":%d,\"zone\":\"%s\",\"managed\":%lld,\"nr_free_pages\":%lld,"
		       "\"nr_unaccepted\":%lld,\"pcp\":%lld}",
		       i ? "," : "", zones[i].node, zones[i].name, zones[i].managed,
		       zones[i].nr_free_pages, zones[i].nr_unaccepted, zones[i].pcp);
	printf("]");
}

/* "Node 0, zone Normal 1 2 3 …": free blocks of each order. */
static void print_buddyinfo(void)
{
	const char *line = buddyinfo.text, *comma = "";
	long long total = 0;

	printf(",\"buddy\":[");
	while (*line) {
		char name[16];
		int node, used = 0;

		if (sscanf(line, "Node %d, zone %15s%n", &node, name, &used) == 2 && used) {
			const char *rest = line + used, *between = "";
			char *end;

			printf("%s{\"node\":%d,\"zone\":\"%s\",\"blocks\":[", comma, node, name);
			comma = ",";
			for (int order = 0; *rest && *rest != '\n'; order++, rest = end) {
				long long blocks = strtoll(rest, &end, 10);

				if (end == rest)
					break;
				printf("%s%lld", between, blocks);
				between = ",";
				total += blocks << order;
				end += strspn(end, " ");
			}
			printf("]}");
		}
		line += strcspn(line, "\n");
		line += *line == '\n';
	}
	printf("],\"buddy_pages\":%lld", total);
}

int counters_main(int argc, char **argv)
{
	uint64_t start = 0, stop = 0;
	bool stable = false;
	int attempts = 0;

	(void)argv;
	if (argc > 1) {
		fprintf(stderr, "usage: cvm counters\n");
		return 2;
	}
	open_all();
	while (!stable && attempts < ATTEMPTS) {
		attempts++;
		start = monotonic_ns();
		stable = read_all();
		stop = monotonic_ns();
	}
	printf("{\"version\":%d,\"monotonic_ns\":%llu,\"duration_ns\":%llu", FORMAT_VERSION,
	       (unsigned long long)start, (unsigned long long)(stop - start));
	printf(",\"attempts\":%d,\"stable\":%s,\"stat_refresh\":%s", attempts,
	       stable ? "true" : "false", refreshed ? "true" : "false");
	printf(",\"nr_unaccepted\":%lld,\"nr_free_pages\":%lld",
	       field_value(vmstat.text, "nr_unaccepted"), field_value(vmstat.text, "nr_free_pages"));
	printf(",\"meminfo_unaccepted_kib\":%lld,\"mem_free_kib\":%lld,\"mem_total_kib\":%lld",
	       field_value(meminfo.text, "Unaccepted"), field_value(meminfo.text, "MemFree"),
	       field_value(meminfo.text, "MemTotal"));
	print_nodes();
	print_zones();
	print_buddyinfo();
	printf(",\"vmstat\":{");
	print_members(vmstat.text);
	printf("},\"emulation\":");
	if (emulation.fd >= 0) {
		putchar('{');
		print_members(emulation.text);
		putchar('}');
	} else {
		printf("null");
	}
	printf("}\n");
	return fflush(stdout) ? 1 : 0;
}
