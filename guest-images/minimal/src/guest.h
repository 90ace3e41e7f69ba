/* SPDX-License-Identifier: MIT */
/* The parts of PID 1. */
#ifndef GUEST_H
#define GUEST_H

#include "cvm.h"

/* report.c: what PID 1 says. A message that did not fit is not sent. */
void send_line(struct text *t);
/* Into the kernel's log. */
void log_line(const char *line);
/* Say on the port and on the console that a step failed; `code` is an errno. */
void report_error(const char *step, int code);

/* boot.c: steps that happen once. */
void mount_all(void);
void seed_entropy(void);
/* Mix in `len` (at most 64) random bytes of the host's, and use them from here on. */
void credit_entropy(const char *bytes, size_t len);
/* Returns how many modules went in. */
int load_modules(void);
/* Bring up lo and eth0. False as long as eth0 does not exist. */
bool network_up(void);
/* The value of NAME=VALUE on the kernel's command line, or "" for a bare NAME; NULL if absent. */
const char *kernel_parameter(const char *name);

/* still.c: for a guest that is to be still (kernel parameter harness.still). */
void keep_still(void);

/* resume.c: "NONCE REALTIME_NS SEED" from the host of a guest restored from a snapshot. */
void resume(const char *arguments);

/* port.c: the virtio-serial port to the host. */
#define PORT_NAME "org.cvm-harness.ready"
/* Open the port if it exists by now and add it to `epoll`. True once it is open. */
bool port_open(int epoll);
/* Queue one line; it is sent as soon as the host listens. */
void port_send(const char *line);
/* React to an event: send what is queued, call `command` for each line received. */
void port_event(void (*command)(const char *line));

#endif
