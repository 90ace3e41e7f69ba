/* SPDX-License-Identifier: MIT */
#include "procfs.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void source_open(struct source *source, const char *path, size_t size)
{
	source->fd = open(path, O_RDONLY | O_CLOEXEC);
	source->size = size;
	/* Populated now, so that reading does not allocate what it is to count. */
	source->text = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (source->text == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
}

void source_read(struct source *source)
{
	if (source->fd < 0 || read_again(source->fd, source->text, source->size) < 0)
		source->text[0] = '\0';
}

void source_read_head(struct source *source, size_t size)
{
	ssize_t got = source->fd < 0 ? -1 : pread(source->fd, source->text, size, 0);

	source->text[got > 0 ? got : 0] = '\0';
}

size_t zoneinfo_size(size_t nodes)
{
	size_t zone = (4 << 10) + (size_t)possible_cpus() * 128;

	return (64 << 10) + (nodes ? nodes : 1) * 6 * zone;
}

/* The kernel lists the nodes as "0-1,4": to try all numbers costs more than all else. */
size_t open_nodes(struct node *nodes, size_t size)
{
	char list[256], path[64], *at = list;
	size_t count = 0;

	if (read_path("/sys/devices/system/node/online", list, sizeof(list)) < 0)
		return 0;
	while (*at >= '0' && *at <= '9') {
		long first = strtol(at, &at, 10);
		long last = *at == '-' ? strtol(at + 1, &at, 10) : first;

		for (long number = first; number <= last && count < size; number++) {
			snprintf(path, sizeof(path), "/sys/devices/system/node/node%ld/meminfo", number);
			source_open(&nodes[count].meminfo, path, 4096);
			nodes[count].number = (int)number;
			if (nodes[count].meminfo.fd >= 0)
				count++;
			else
				munmap(nodes[count].meminfo.text, 4096);
		}
		at += *at == ',';
	}
	return count;
}

long long node_field(const struct node *node, const char *name)
{
	char line[64];
	int len = snprintf(line, sizeof(line), "Node %d %s:", node->number, name);
	const char *found = strstr(node->meminfo.text, line);

	return found ? strtoll(found + len, NULL, 10) : ABSENT;
}

/* The number after `name` and spaces at the start of `line`; false if it does not start so. */
static bool starts(const char *line, const char *name, long long *value)
{
	size_t len = strlen(name);

	if (strncmp(line, name, len) != 0 || (line[len] != ' ' && name[len - 1] != ' '))
		return false;
	*value = strtoll(line + len, NULL, 10);
	return true;
}

/* Not with sscanf(): it measures the rest of the text for each line. */
size_t parse_zones(const char *text, struct zone *zones, size_t size)
{
	struct zone *zone = NULL;
	bool counted = false;
	size_t count = 0;

	for (const char *line = text; line && *line; line = strchr(line, '\n'), line += line != NULL) {
		long long value;

		/* "Node 0, zone   Normal", then indented "name value" lines; per CPU "count: 12". */
		if (*line == 'N' && starts(line, "Node ", &value)) {
			const char *name = strstr(line, "zone ");
			size_t len;

			if (!name || count == size)
				break;
			name += 5 + strspn(name + 5, " ");
			len = strcspn(name, "\n");
			zone = &zones[count++];
			memset(zone, 0, sizeof(*zone));
			zone->node = (int)value;
			memcpy(zone->name, name, len < sizeof(zone->name) ? len : sizeof(zone->name) - 1);
			continue;
		}
		if (!zone || *line != ' ')
			continue;
		while (*line == ' ')
			line++;
		if (starts(line, "managed", &value)) {
			zone->managed = value;
		} else if (starts(line, "nr_free_pages", &value)) {
			zone->nr_free_pages = value;
		} else if (starts(line, "nr_unaccepted", &value)) {
			zone->nr_unaccepted = value;
			counted = true;
		} else if (starts(line, "count:", &value)) {
			zone->pcp += value;
		}
	}
	for (size_t i = 0; i < count && !counted; i++)
		zones[i].nr_unaccepted = ABSENT;
	return count;
}
