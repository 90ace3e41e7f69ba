/* SPDX-License-Identifier: MIT */
#include "recorder.h"

/* Put `s` in at position `at`, which is free, or below it. */
static void sift_down(struct recorder *r, uint32_t at, struct slow s)
{
	for (;;) {
		uint32_t child = 2 * at + 1;

		if (child >= r->kept)
			break;
		if (child + 1 < r->kept && r->slowest[child + 1].ns < r->slowest[child].ns)
			child++;
		if (r->slowest[child].ns >= s.ns)
			break;
		r->slowest[at] = r->slowest[child];
		at = child;
	}
	r->slowest[at] = s;
}

static void keep(struct recorder *r, struct slow s)
{
	uint32_t at;

	if (r->kept == r->limit) {
		if (s.ns > r->slowest[0].ns)
			sift_down(r, 0, s);
		return;
	}
	for (at = r->kept++; at > 0 && r->slowest[(at - 1) / 2].ns > s.ns; at = (at - 1) / 2)
		r->slowest[at] = r->slowest[(at - 1) / 2];
	r->slowest[at] = s;
}

void record(struct recorder *r, uint64_t start_ns, uint64_t ns)
{
	r->counts[histogram_index(ns)]++;
	r->min_ns = r->operations == 0 || ns < r->min_ns ? ns : r->min_ns;
	r->max_ns = ns > r->max_ns ? ns : r->max_ns;
	r->operations++;
	r->total_ns += ns;
	keep(r, (struct slow){ start_ns, ns });
}
