/* SPDX-License-Identifier: MIT */
/*
 * What keeps a guest still in which instructions are counted: the kernel parameter harness.still, given
 * with the icount clock (harness/targets/emulated.py).
 */
#include "guest.h"

#include "crew.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FEATURES "/sys/kernel/debug/sched/features"
/* The periods of what the kernel does by itself, seconds at most, fit into it; and it is longer than
 * TCP puts off an acknowledgement. */
#define BEAT_NS (4 * NSEC_PER_SEC)

static bool still(void)
{
	return kernel_parameter("harness.still");
}

/*
 * A woken task is to wait for the next tick. If it is to run at once, the kernel saves itself a look at
 * the clock when it switches to it (rq_clock_skip_update() in wakeup_preempt(), kernel/sched/core.c,
 * 6.12), and books all that the task before has done since the wakeup to the woken one. Without
 * preemption in the kernel that can be a whole acceptance, millions of instructions.
 */
void keep_still(void)
{
	static const char feature[] = "NO_WAKEUP_PREEMPTION";
	int fd;

	if (!still())
		return;
	fd = open(FEATURES, O_WRONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return; /* a kernel without CONFIG_SCHED_DEBUG */
	if (fd < 0 || write_all(fd, feature, strlen(feature)))
		report_error("write " FEATURES, errno);
	if (fd >= 0)
		close(fd);
}

/*
 * Until the next beat of guest time that is not too near: by then what came with the command is
 * answered, acknowledged and freed, and every run begins at the same place between two ticks.
 */
void await_beat(void)
{
	uint64_t beat = (monotonic_ns() + BEAT_NS / 4) / BEAT_NS + 1;
	struct timespec until = { .tv_sec = (time_t)(beat * BEAT_NS / NSEC_PER_SEC) };

	if (!still())
		return;
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}
