/* SPDX-License-Identifier: MIT */
#include "options.h"

#include <getopt.h>
#include <stdio.h>

#define MAX_ROWS 24
#define FIRST 256 /* beyond what getopt uses for itself */

static void print_usage(const char *program, const struct row *rows)
{
	fprintf(stderr, "usage: cvm %s [OPTION...]\n", program);
	for (; rows->name; rows++)
		fprintf(stderr, "  --%-12s %s\n", rows->name, rows->help);
}

static bool take(const struct row *row, const char *value)
{
	if (row->flag) {
		*row->flag = true;
		return true;
	}
	if (row->text) {
		*row->text = value;
		return true;
	}
	return parse_bytes(value, row->number) && *row->number >= row->least &&
	       *row->number <= row->most;
}

bool read_options(const char *program, const struct row *rows, int argc, char **argv)
{
	struct option known[MAX_ROWS + 1] = { 0 };
	int option;

	for (int i = 0; rows[i].name && i < MAX_ROWS; i++)
		known[i] = (struct option){ rows[i].name,
					    rows[i].flag ? no_argument : required_argument, NULL,
					    FIRST + i };
	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (option >= FIRST && take(&rows[option - FIRST], optarg))
			continue;
		if (option >= FIRST)
			fprintf(stderr, "cvm %s: bad value for --%s: %s\n", program,
				rows[option - FIRST].name, optarg);
		print_usage(program, rows);
		return false;
	}
	if (optind == argc)
		return true;
	print_usage(program, rows);
	return false;
}
