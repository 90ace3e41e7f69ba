/* SPDX-License-Identifier: MIT */
/*
 * The virtio-serial port. It is polled edge-triggered: while the host has not connected, the
 * driver reports EPOLLHUP all the time, but it wakes its waiters when the host connects, sends, or
 * has taken what was written (drivers/char/virtio_console.c: handle_control_message(), in_intr(),
 * reclaim_consumed_buffers()).
 */
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define CLASS "/sys/class/virtio-ports"

static int port = -1;
static char queue[16384];
static size_t queued;
static char input[256];
static size_t input_len;

static bool find_port(char *path, size_t size)
{
	DIR *class = opendir(CLASS);
	bool found = false;
	struct dirent *entry;

	if (!class)
		return false;
	while (!found && (entry = readdir(class))) {
		char name_path[sizeof(CLASS) + sizeof(entry->d_name) + sizeof("/name")];
		char name[128];

		snprintf(name_path, sizeof(name_path), CLASS "/%s/name", entry->d_name);
		if (entry->d_name[0] == '.' || read_path(name_path, name, sizeof(name)) < 0)
			continue;
		name[strcspn(name, "\n")] = '\0';
		found = strcmp(name, PORT_NAME) == 0;
		if (found)
			snprintf(path, size, "/dev/%s", entry->d_name);
	}
	closedir(class);
	return found;
}

static void flush_queue(void)
{
	while (port >= 0 && queued > 0) {
		ssize_t sent = write(port, queue, queued);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			return; /* nobody listens yet: an edge will tell */
		queued -= (size_t)sent;
		memmove(queue, queue + sent, queued);
	}
}

bool port_open(int epoll)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };
	char path[300];

	if (port >= 0)
		return true;
	if (!find_port(path, sizeof(path)))
		return false;
	port = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (port < 0)
		return false; /* the node is not there yet; its event comes later than the port's */
	event.data.fd = port;
	epoll_ctl(epoll, EPOLL_CTL_ADD, port, &event);
	flush_queue();
	return true;
}

void port_send(const char *line)
{
	size_t len = strlen(line);

	if (queued + len + 1 <= sizeof(queue)) {
		memcpy(queue + queued, line, len);
		queue[queued + len] = '\n';
		queued += len + 1;
	}
	flush_queue();
}

void port_event(void (*command)(const char *line))
{
	char chunk[256];
	ssize_t got;

	flush_queue();
	/* 0: the host is not connected. Not the end: it may come (back). */
	while ((got = read(port, chunk, sizeof(chunk))) > 0) {
		for (ssize_t i = 0; i < got; i++) {
			if (chunk[i] == '\n') {
				input[input_len] = '\0';
				input_len = 0;
				command(input);
			} else if (input_len < sizeof(input) - 1) {
				input[input_len++] = chunk[i];
			}
		}
	}
}
