/* SPDX-License-Identifier: MIT */
#include "cvm.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

uint64_t monotonic_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t thread_cpu_ns(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t boottime_ns(void)
{
	return clock_ns(CLOCK_BOOTTIME);
}

ssize_t read_again(int fd, char *buf, size_t size)
{
	size_t len = 0;

	while (len < size - 1) {
		/* A seq file hands out about a page per read (fs/seq_file.c). */
		ssize_t got = pread(fd, buf + len, size - 1 - len, (off_t)len);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -1;
		if (got == 0)
			break;
		len += (size_t)got;
	}
	buf[len] = '\0';
	return (ssize_t)len;
}

ssize_t read_path(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t len;
	int error;

	buf[0] = '\0';
	if (fd < 0)
		return -1;
	len = read_again(fd, buf, size);
	error = errno;
	close(fd);
	errno = error;
	return len;
}

unsigned int possible_cpus(void)
{
	char list[256], *last = list; /* "0-7" */

	if (read_path("/sys/devices/system/cpu/possible", list, sizeof(list)) <= 0)
		return 4096;
	while (strpbrk(last, "-,"))
		last = strpbrk(last, "-,") + 1;
	return (unsigned int)strtoul(last, NULL, 10) + 1;
}

int write_all(int fd, const void *data, size_t len)
{
	const char *from = data;

	while (len > 0) {
		ssize_t done = write(fd, from, len);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -1;
		from += done;
		len -= (size_t)done;
	}
	return 0;
}

long long field_value(const char *text, const char *name)
{
	size_t len = strlen(name);

	for (const char *line = text; line && *line; line = strchr(line, '\n'), line += line != NULL) {
		if (strncmp(line, name, len) == 0 && (line[len] == ' ' || line[len] == ':'))
			return strtoll(line + len + 1, NULL, 10);
	}
	return -1;
}

bool parse_bytes(const char *text, uint64_t *bytes)
{
	static const char suffixes[] = "KMGT";
	unsigned long long value;
	const char *suffix;
	int shift = 0;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno)
		return false;
	if (*end) {
		suffix = strchr(suffixes, toupper((unsigned char)*end));
		if (!suffix || end[1])
			return false;
		shift = 10 * (int)(suffix - suffixes + 1);
	}
	if (value > UINT64_MAX >> shift)
		return false;
	*bytes = (uint64_t)value << shift;
	return true;
}

void put(struct text *t, const char *format, ...)
{
	size_t room = t->size - t->len;
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(t->data + t->len, room, format, args);
	va_end(args);
	if (len < 0 || (size_t)len >= room) {
		t->data[t->len] = '\0';
		t->full = true;
		return;
	}
	t->len += (size_t)len;
}

void put_string(struct text *t, const char *s)
{
	put(t, "\"");
	for (; *s && *s != '\n'; s++) {
		if (*s == '"' || *s == '\\')
			put(t, "\\%c", *s);
		else if ((unsigned char)*s < 0x20)
			put(t, "\\u%04x", *s);
		else
			put(t, "%c", *s);
	}
	put(t, "\"");
}
