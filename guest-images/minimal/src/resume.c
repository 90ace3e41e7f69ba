/* SPDX-License-Identifier: MIT */
/*
 * What a guest restored from a snapshot has to do before it may be used: it has the template's
 * clock and the template's random numbers, and so has every other guest restored from it.
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NONCE "/run/harness-nonce"
#define NONCE_HEX 32 /* digits */

static int digit(char c)
{
	const char *digits = "0123456789abcdef";
	const char *found = c ? strchr(digits, c) : NULL;

	return found ? (int)(found - digits) : -1;
}

/* Decode pairs of hexadecimal digits. Returns how many bytes, or -1 if `hex` is anything else. */
static ssize_t unhex(const char *hex, char *bytes, size_t size)
{
	size_t len = strlen(hex);

	if (len % 2 || len / 2 > size)
		return -1;
	for (size_t i = 0; i < len; i += 2) {
		int high = digit(hex[i]), low = digit(hex[i + 1]);

		if (high < 0 || low < 0)
			return -1;
		bytes[i / 2] = (char)(high << 4 | low);
	}
	return (ssize_t)len / 2;
}

static void set_clock(unsigned long long realtime_ns)
{
	struct timespec now = {
		.tv_sec = (time_t)(realtime_ns / NSEC_PER_SEC),
		.tv_nsec = (long)(realtime_ns % NSEC_PER_SEC),
	};

	if (clock_settime(CLOCK_REALTIME, &now))
		report_error("set the clock", errno);
}

/* The host asks for it over SSH: proof that the guest behind the port is the one behind sshd. */
static void keep_nonce(const char *nonce)
{
	int fd = open(NONCE, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write_all(fd, nonce, NONCE_HEX))
		report_error("write " NONCE, errno);
	if (fd >= 0)
		close(fd);
}

void resume(const char *arguments)
{
	char nonce[NONCE_HEX + 1], hex[129], seed[64], data[256], junk;
	struct text t = { .data = data, .size = sizeof(data) };
	unsigned long long realtime_ns;
	ssize_t len = -1;

	if (sscanf(arguments, "%32[0-9a-f] %llu %128[0-9a-f]%c", nonce, &realtime_ns, hex, &junk) ==
		    3 &&
	    strlen(nonce) == NONCE_HEX)
		len = unhex(hex, seed, sizeof(seed));
	if (len <= 0) {
		report_error("understand resume", EINVAL);
		return;
	}
	set_clock(realtime_ns);
	credit_entropy(seed, (size_t)len);
	keep_nonce(nonce);
	put(&t, "{\"event\":\"resumed\",\"nonce\":");
	put_string(&t, nonce);
	put(&t, ",\"monotonic_ns\":%llu}", (unsigned long long)monotonic_ns());
	port_send(data);
}
