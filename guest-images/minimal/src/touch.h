/* SPDX-License-Identifier: MIT */
/* What the front (touch.c) and the workers (touch_worker.c) of `cvm touch` share. */
#ifndef TOUCH_H
#define TOUCH_H

#include "crew.h"

#define SMALL_PAGE 4096ULL
#define THP_BYTES (2ULL << 20)

enum page { PAGE_4K, PAGE_THP, PAGE_HUGETLB };
enum pattern { SEQUENTIAL, RANDOM, STRIDED };

struct plan {
	uint64_t bytes, stride, seed, step, pause_ns;
	uint64_t page_bytes; /* of one operation */
	uint64_t share;      /* bytes of each worker: a multiple of page_bytes */
	unsigned int processes, threads;
	enum page page;
	enum pattern pattern;
	bool pin, progress, verify, hold, bind;
};

/* The work of process `index`; `plan` is a struct plan. */
crew_process touch_process;
/* Anonymous memory for pages of this kind, aligned to it; NULL if there is none. */
char *map_pages(uint64_t bytes, enum page page);
/* AnonHugePages of this process. */
uint64_t huge_bytes(void);

#endif
