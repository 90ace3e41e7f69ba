/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _LINUX_UNACCEPTED_BUGS_H
#define _LINUX_UNACCEPTED_BUGS_H

/*
 * Bugs that the acceptance of memory once had, or could have, each brought back
 * by unaccepted_bug=<name>. For testing tests: a suite that does not fail with
 * one of these on would not have found the bug either.
 */

#include <linux/compiler.h>
#include <linux/types.h>
#include <linux/version.h>

enum unaccepted_bug {
	UNACCEPTED_BUG_NONE,
	UNACCEPTED_BUG_BULK,
	UNACCEPTED_BUG_ENDLESS_RECLAIM,
	UNACCEPTED_BUG_GUARD_ALIGNMENT,
	UNACCEPTED_BUG_HOTPLUG_LOCK,
	UNACCEPTED_BUG_ISOLATION,
	UNACCEPTED_BUG_KCORE,
	UNACCEPTED_BUG_KEXEC_SEGMENTS,
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
	UNACCEPTED_BUG_NOLOCK, /* 6.12 has no alloc_pages_nolock() */
#endif
	UNACCEPTED_BUG_OVERLAP_IGNORED,
	UNACCEPTED_BUG_OVERLAP_OFF_BY_ONE,
	UNACCEPTED_BUG_PARALLEL_LOCK,
	UNACCEPTED_BUG_TABLE_RESERVATION,
	UNACCEPTED_BUG_TABLE_UNMAPPED,
	UNACCEPTED_BUG_UNACCEPTED_LEAK,
	UNACCEPTED_BUG_VMSTAT_SHIFT,
	UNACCEPTED_BUG_ZERO_WATERMARK,
};

#ifdef CONFIG_UNACCEPTED_MEMORY_BUGS
extern enum unaccepted_bug unaccepted_bug_on;

static inline bool unaccepted_bug(enum unaccepted_bug bug)
{
	return unlikely(READ_ONCE(unaccepted_bug_on) == bug);
}
#else
static inline bool unaccepted_bug(enum unaccepted_bug bug)
{
	return false;
}
#endif

#endif /* _LINUX_UNACCEPTED_BUGS_H */
