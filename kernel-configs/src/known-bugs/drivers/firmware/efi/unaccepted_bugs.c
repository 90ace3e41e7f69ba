// SPDX-License-Identifier: GPL-2.0-only

#define pr_fmt(fmt) "unaccepted_bug: " fmt

#include <linux/cache.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/printk.h>
#include <linux/string.h>
#include <linux/unaccepted_bugs.h>
#include <linux/version.h>

enum unaccepted_bug unaccepted_bug_on __ro_after_init;

static const char * const names[] __initconst = {
	[UNACCEPTED_BUG_NONE]			= "none",
	[UNACCEPTED_BUG_BULK]			= "bulk",
	[UNACCEPTED_BUG_ENDLESS_RECLAIM]	= "endless-reclaim",
	[UNACCEPTED_BUG_GUARD_ALIGNMENT]	= "guard-alignment",
	[UNACCEPTED_BUG_HOTPLUG_LOCK]		= "hotplug-lock",
	[UNACCEPTED_BUG_ISOLATION]		= "isolation",
	[UNACCEPTED_BUG_KCORE]			= "kcore",
	[UNACCEPTED_BUG_KEXEC_SEGMENTS]		= "kexec-segments",
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
	[UNACCEPTED_BUG_NOLOCK]			= "nolock",
#endif
	[UNACCEPTED_BUG_OVERLAP_IGNORED]	= "overlap-ignored",
	[UNACCEPTED_BUG_OVERLAP_OFF_BY_ONE]	= "overlap-off-by-one",
	[UNACCEPTED_BUG_PARALLEL_LOCK]		= "parallel-lock",
	[UNACCEPTED_BUG_TABLE_RESERVATION]	= "table-reservation",
	[UNACCEPTED_BUG_TABLE_UNMAPPED]		= "table-unmapped",
	[UNACCEPTED_BUG_UNACCEPTED_LEAK]	= "unaccepted-leak",
	[UNACCEPTED_BUG_VMSTAT_SHIFT]		= "vmstat-shift",
	[UNACCEPTED_BUG_ZERO_WATERMARK]		= "zero-watermark",
};

static int __init unaccepted_bug_parse(char *name)
{
	int bug = name ? match_string(names, ARRAY_SIZE(names), name) : -1;

	if (bug < 0) {
		pr_err("no such bug here: %s\n", name ?: "(no name)");
		return 0;
	}
	unaccepted_bug_on = bug;
	pr_warn("%s is on\n", names[bug]);
	return 0;
}
early_param("unaccepted_bug", unaccepted_bug_parse);
