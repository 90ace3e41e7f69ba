/* SPDX-License-Identifier: MIT */
/* What the guest programs share. One static binary, `cvm`, holds them all (main.c). */
#ifndef CVM_H
#define CVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define NSEC_PER_SEC 1000000000ULL

/* Every program: its name, its function, what it does. A new one is a row here, and a file. */
#define PROGRAMS(program) \
	program("touch", touch_main, "first-touch memory, report latencies") \
	program("fill", fill_main, "fill the page cache or a tmpfs") \
	program("slab", slab_main, "many inodes and dentries") \
	program("fork-storm", fork_storm_main, "processes that live a moment") \
	program("atomic", atomic_main, "allocations that may not sleep") \
	program("mlock", mlock_main, "lock memory") \
	program("fragment", fragment_main, "fragment memory, then ask for huge pages") \
	program("near-oom", near_oom_main, "touch all but a margin") \
	program("drain", drain_main, "have everything accepted") \
	program("churn", churn_main, "allocate, copy, search, free") \
	program("sample", sample_main, "sample the kernel's memory counters") \
	program("counters", counters_main, "all memory counters once, as JSON") \
	program("trace", trace_main, "the trace of every CPU, in binary frames") \
	program("window", window_main, "counters, trace statistics and events so far") \
	program("symbols", symbols_main, "names of kernel addresses") \
	program("init", init_main, NULL)

#define DECLARE(name, function, help) int function(int argc, char **argv);
PROGRAMS(DECLARE)

/* CLOCK_MONOTONIC and CLOCK_BOOTTIME in nanoseconds. */
uint64_t monotonic_ns(void);
uint64_t thread_cpu_ns(void);
uint64_t boottime_ns(void);

/* One more than the highest number that a CPU can have here. */
unsigned int possible_cpus(void);

/* Read a whole file into buf, NUL-terminated. Returns the length, or -1 with errno. */
ssize_t read_path(const char *path, char *buf, size_t size);
/* The same from an open descriptor, from offset 0, which seq files generate anew. */
ssize_t read_again(int fd, char *buf, size_t size);
/* Write everything or fail. */
int write_all(int fd, const void *data, size_t len);

/* Write the trace's events to stdout and take them out of it, so that each is seen exactly once: to read
 * and then to clear loses, or shows twice, what comes in between. Returns 0, or 1 after perror(). */
int take_trace_text(void);

/* The value of the line "NAME VALUE" or "NAME: VALUE" in text; -1 if there is none. */
long long field_value(const char *text, const char *name);
/* Parse "4096", "8M", "2G" (K, M, G, T: powers of 1024). Returns false if it is not a size. */
bool parse_bytes(const char *text, uint64_t *bytes);

/* A text being built in a fixed buffer; what does not fit sets `full`. */
struct text {
	char *data;
	size_t size, len;
	bool full;
};

void put(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A JSON string with its quotes. Ends at NUL or newline. */
void put_string(struct text *t, const char *s);

#endif
