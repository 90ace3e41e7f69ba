/* SPDX-License-Identifier: MIT */
/* What PID 1 says: on its port to the host, and in the kernel's log. */
#include "guest.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void send_line(struct text *t)
{
	if (!t->full)
		port_send(t->data);
}

void log_line(const char *line)
{
	int kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	char data[600];
	/* Not dprintf(): it asks for the file offset, which /dev/kmsg refuses to tell. */
	int len = snprintf(data, sizeof(data), "<6>harness-init: %s\n", line);

	write_all(kmsg >= 0 ? kmsg : STDERR_FILENO, data, (size_t)len);
	if (kmsg >= 0)
		close(kmsg);
}

void report_error(const char *step, int code)
{
	char data[512];
	struct text t = { .data = data, .size = sizeof(data) };

	put(&t, "{\"event\":\"error\",\"step\":");
	put_string(&t, step);
	put(&t, ",\"errno\":%d,\"message\":", code);
	put_string(&t, strerror(code));
	put(&t, ",\"monotonic_ns\":%llu}", (unsigned long long)monotonic_ns());
	send_line(&t);
	log_line(data);
}
