/* SPDX-License-Identifier: MIT */
/* What a worker's operations took: a histogram of all, and the slowest of them one by one. */
#ifndef RECORDER_H
#define RECORDER_H

#include "histogram.h"

#include <stdint.h>

/* Operations kept one by one for each worker, so that the host can look what else happened then. */
#define SLOWEST 512
#define SLOWEST_IN_ALL 16384 /* over all workers: bounds the report */

struct slow {
	uint64_t start_ns, ns;
};

struct recorder {
	uint64_t operations, total_ns, min_ns, max_ns;
	uint64_t counts[HISTOGRAM_BUCKETS];
	uint32_t limit, kept; /* limit: at most SLOWEST */
	struct slow slowest[SLOWEST]; /* a heap: the fastest of them is the first */
};

/* An operation that began at CLOCK_MONOTONIC start_ns and took ns. The recorder begins zeroed but for `limit`. */
void record(struct recorder *r, uint64_t start_ns, uint64_t ns);

#endif
