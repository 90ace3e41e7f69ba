/* SPDX-License-Identifier: MIT */
/* The options of a workload's program as a table: one row is parsing, bounds and help. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include "cvm.h"

/* Exactly one of number, text and flag is set. The table ends with a row without a name. */
struct row {
	const char *name, *help;
	uint64_t *number; /* takes suffixes K, M, G, T */
	uint64_t least, most;
	const char **text;
	bool *flag;
};

/* Fill in what is given. False, after printing what there is, for anything else. */
bool read_options(const char *program, const struct row *rows, int argc, char **argv);

#endif
