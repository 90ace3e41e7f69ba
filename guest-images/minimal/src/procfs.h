/* SPDX-License-Identifier: MIT */
/* The kernel's memory counters as text files, opened once and read again and again. */
#ifndef PROCFS_H
#define PROCFS_H

#include "cvm.h"

#define MAX_NODES 64
#define MAX_ZONES (MAX_NODES * 6)
#define ABSENT (-1LL)

/* A file and its last content. fd -1: it could not be opened, the content is "". */
struct source {
	int fd;
	size_t size;
	char *text;
};

struct node {
	int number;
	struct source meminfo;
};

/* One zone of /proc/zoneinfo, in pages. */
struct zone {
	int node;
	char name[16];
	long long managed, nr_free_pages, nr_unaccepted, pcp;
};

void source_open(struct source *source, const char *path, size_t size);
void source_read(struct source *source);
/* Only its beginning, `size` bytes at most: a seq file then makes no more than that. */
void source_read_head(struct source *source, size_t size);

/* Room for /proc/zoneinfo, which has some 100 bytes for each CPU in each zone. */
size_t zoneinfo_size(size_t nodes);

/* Open the meminfo file of each online node. Returns their number. */
size_t open_nodes(struct node *nodes, size_t size);
/* "Unaccepted" and the like of one node's meminfo, whose lines begin with "Node N ". KiB. */
long long node_field(const struct node *node, const char *name);

/* Parse /proc/zoneinfo; zones without pages are among them, with zeros. Returns their number.
 * nr_unaccepted is ABSENT in all of them where the kernel does not count it. */
size_t parse_zones(const char *text, struct zone *zones, size_t size);

#endif
