/* SPDX-License-Identifier: MIT */
/*
 * `cvm trace`: the trace's binary pages of every CPU on stdout, and the names that go with them.
 *
 * Reading consumes. Frames follow each other, each a struct frame and its bytes: the pages of one
 * CPU as trace_pipe_raw gives them, or one of the text files that explain them. The last frame is
 * FRAME_END. `cvm symbols ADDRESS...` names kernel addresses, one line each.
 */
#include "cvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TRACEFS "/sys/kernel/tracing/"
#define PAGES_AT_ONCE (64 << 10)

enum { FRAME_PAGES = 1, FRAME_COMMS = 2, FRAME_END = 3 };

struct frame {
	uint32_t kind, number, bytes; /* number: the CPU */
};

static int send_frame(uint32_t kind, uint32_t number, const void *data, size_t bytes)
{
	struct frame frame = { kind, number, (uint32_t)bytes };

	return write_all(STDOUT_FILENO, &frame, sizeof(frame)) ||
	       write_all(STDOUT_FILENO, data, bytes);
}

/* All whole pages of one CPU. A read gives at most one page, and EAGAIN when there is no more. */
static int send_cpu(unsigned int cpu, int fd, size_t page)
{
	static char pages[PAGES_AT_ONCE];
	size_t have = 0;

	for (;;) {
		ssize_t got = read(fd, pages + have, page);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno != EAGAIN)
			return -1;
		if (got > 0 && (size_t)got != page) {
			errno = EIO; /* a sub-buffer of another size: the host would misread it */
			return -1;
		}
		have += got > 0 ? page : 0;
		if (have && (got <= 0 || have + page > sizeof(pages))) {
			if (send_frame(FRAME_PAGES, cpu, pages, have))
				return -1;
			have = 0;
		}
		if (got <= 0)
			return 0;
	}
}

int trace_main(int argc, char **argv)
{
	static char comms[1 << 20];
	unsigned int possible = possible_cpus(), cpus = 0;
	ssize_t len;

	(void)argv;
	if (argc != 1) {
		fprintf(stderr, "usage: cvm trace\n");
		return 2;
	}
	len = read_path(TRACEFS "saved_cmdlines", comms, sizeof(comms));
	if (len < 0 || send_frame(FRAME_COMMS, 0, comms, (size_t)len)) {
		perror("cvm trace: saved_cmdlines");
		return 1;
	}
	for (unsigned int cpu = 0; cpu < possible; cpu++) {
		char path[80];
		int fd;

		snprintf(path, sizeof(path), TRACEFS "per_cpu/cpu%u/trace_pipe_raw", cpu);
		fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0 || send_cpu(cpu, fd, 4096)) {
			perror(path);
			return 1;
		}
		close(fd);
		cpus++;
	}
	return cpus == 0 || send_frame(FRAME_END, cpus, NULL, 0);
}

int take_trace_text(void)
{
	static char text[64 << 10];
	int fd = open(TRACEFS "trace_pipe", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	while (fd >= 0) {
		ssize_t got = read(fd, text, sizeof(text));

		if (got < 0 && errno == EINTR)
			continue;
		if (got == 0 || (got < 0 && errno == EAGAIN)) {
			close(fd);
			return 0;
		}
		if (got < 0 || write_all(STDOUT_FILENO, text, (size_t)got))
			break;
	}
	perror(TRACEFS "trace_pipe");
	return 1;
}

int symbols_main(int argc, char **argv)
{
	static struct {
		uint64_t address, base;
		char name[256];
	} wanted[256];
	int count = argc - 1;
	FILE *file = fopen("/proc/kallsyms", "re");
	char line[600];

	if (count < 1 || count > (int)ARRAY_LEN(wanted) || !file) {
		fprintf(stderr, "usage: cvm symbols ADDRESS... (at most %zu)\n", ARRAY_LEN(wanted));
		return 2;
	}
	for (int i = 0; i < count; i++)
		wanted[i].address = strtoull(argv[i + 1], NULL, 16);
	while (fgets(line, sizeof(line), file)) {
		char *rest, *name;
		uint64_t at = strtoull(line, &rest, 16);

		if (at == 0 || *rest != ' ' || !strchr("tTwW", rest[1]))
			continue;
		name = rest + 3;
		name[strcspn(name, "\t\n")] = '\0';
		for (int i = 0; i < count; i++) {
			if (at <= wanted[i].address && at > wanted[i].base) {
				wanted[i].base = at;
				snprintf(wanted[i].name, sizeof(wanted[i].name), "%s", name);
			}
		}
	}
	fclose(file);
	for (int i = 0; i < count; i++) {
		if (wanted[i].base)
			printf("%s %s+0x%llx\n", argv[i + 1], wanted[i].name,
			       (unsigned long long)(wanted[i].address - wanted[i].base));
		else
			printf("%s %s\n", argv[i + 1], argv[i + 1]);
	}
	return 0;
}
