// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test hooks for unaccepted memory: what userspace cannot ask for.
 *
 * debugfs unaccepted_test/command takes one command a write, a verb and
 * key=value words; unaccepted_test/result has what came of it, a "name value"
 * a line. docs/suite.md of the test harness lists the verbs.
 *
 * The same file is built into a kernel (mm/unaccepted_test.c, by the carried
 * patch) and, for a kernel that is to stay as it is, as a loadable module. What
 * a module cannot have is whatever comes before modules are loaded:
 * unaccepted_test_early=. "status" says so.
 */
#define pr_fmt(fmt) "unaccepted_test: " fmt

#include <linux/cma.h>
#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/debugfs.h>
#include <linux/dma-map-ops.h>
#include <linux/efi.h>
#include <linux/gfp.h>
#include <linux/interrupt.h>
#include <linux/irq_work.h>
#include <linux/kasan.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/module.h>
#include <linux/page-isolation.h>
#include <linux/sched/clock.h>
#include <linux/seq_buf.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include <asm/word-at-a-time.h>
#ifdef MODULE
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/static_call.h>
/* In mm/page_alloc.h of newer kernels */
void drain_all_pages(struct zone *zone);
#else
#include <asm/efi.h>
#include <asm/unaccepted_memory.h>
#include "internal.h"
/* The allocator's own declarations; older kernels have them in internal.h */
#if __has_include("page_alloc.h")
#include "page_alloc.h"
#endif
#include "slab.h"
#endif

#define RESULT_SIZE	(64 << 10)
#define MAX_FINDINGS	16

enum context {
	CONTEXT_TASK,
	CONTEXT_IRQSOFF,
	CONTEXT_SOFTIRQ,
	CONTEXT_HARDIRQ,
	CONTEXT_CPU_UP,
};

struct request {
	char verb[24];
	char gfp_name[16];
	gfp_t gfp;
	unsigned long start;
	unsigned long size;
	unsigned long stride;
	unsigned long count;
	unsigned int order;
	unsigned int cpus;
	unsigned int repeat;
	int node;
	enum context context;
};

/* One CPU's part of a request, and what came of it */
struct part {
	const struct request *rq;
	unsigned int index;
	unsigned long done;
	unsigned long failed;
	unsigned long corrupt;
	u64 total_ns;
	u64 max_ns;
	struct completion *ready;
	struct completion *go;
	struct completion finished;
};

#ifdef MODULE
/*
 * Most of what the hooks call is not for modules: accept_memory(), isolation,
 * the allocators of contiguous ranges. Some of it is exported by one version and
 * not by the next, so none of it is linked against. The addresses come from
 * kallsyms_lookup_name(), which is not exported either (since 5.7): a kprobe, one
 * that is never armed, finds that.
 *
 * The calls are static calls, and so direct ones: with kernel IBT an indirect
 * call traps in a function whose address nothing in the kernel takes.
 */
#ifdef CONFIG_CMA
#define CMA_FUNCTIONS(FN) FN(cma_alloc) FN(cma_release)
#else
#define CMA_FUNCTIONS(FN)
#endif
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 15, 0)
#define NOLOCK_FUNCTIONS(FN)
#else
#define NOLOCK_FUNCTIONS(FN) FN(alloc_pages_nolock_noprof)
#endif
#define UNEXPORTED(FN)					\
	FN(accept_memory)				\
	FN(range_contains_unaccepted_memory)		\
	FN(alloc_contig_range_noprof)			\
	FN(alloc_contig_pages_noprof)			\
	FN(free_contig_range)				\
	FN(start_isolate_page_range)			\
	FN(undo_isolate_page_range)			\
	FN(test_pages_isolated)				\
	FN(drain_all_pages)				\
	FN(is_free_buddy_page)				\
	FN(irq_work_queue_on)				\
	FN(first_online_pgdat)				\
	FN(next_zone)					\
	CMA_FUNCTIONS(FN)				\
	NOLOCK_FUNCTIONS(FN)

#define FN(name) DEFINE_STATIC_CALL_NULL(found_##name, name);
UNEXPORTED(FN)
#undef FN
DEFINE_STATIC_CALL_NULL(lookup, kallsyms_lookup_name);

#ifdef CONFIG_DMA_CMA
static struct cma **default_cma;
#endif

static int __init find_unexported(void)
{
	struct kprobe probe = {
		.symbol_name = "kallsyms_lookup_name",
		.flags = KPROBE_FLAG_DISABLED,
	};
	unsigned long address;
	int error = register_kprobe(&probe);

	if (error) {
		pr_err("no kallsyms_lookup_name() in this kernel (%d)\n", error);
		return -EOPNOTSUPP;
	}
	address = (unsigned long)probe.addr;
	unregister_kprobe(&probe);
	static_call_update(lookup, (typeof(&kallsyms_lookup_name))address);

#define FN(name)							\
	address = static_call(lookup)(#name);				\
	if (!address) {							\
		pr_err("no " #name "() in this kernel\n");		\
		return -EOPNOTSUPP;					\
	}								\
	static_call_update(found_##name, (typeof(&name))address);
	UNEXPORTED(FN)
#undef FN
#ifdef CONFIG_DMA_CMA
	default_cma = (struct cma **)static_call(lookup)("dma_contiguous_default_area");
#endif
	return 0;
}

#define accept_memory			static_call(found_accept_memory)
#define range_contains_unaccepted_memory static_call(found_range_contains_unaccepted_memory)
#define alloc_contig_range_noprof	static_call(found_alloc_contig_range_noprof)
#define alloc_contig_pages_noprof	static_call(found_alloc_contig_pages_noprof)
#define free_contig_range		static_call(found_free_contig_range)
#define start_isolate_page_range	static_call(found_start_isolate_page_range)
#define undo_isolate_page_range		static_call(found_undo_isolate_page_range)
#define test_pages_isolated		static_call(found_test_pages_isolated)
#define drain_all_pages			static_call(found_drain_all_pages)
#define is_free_buddy_page		static_call(found_is_free_buddy_page)
#define irq_work_queue_on		static_call(found_irq_work_queue_on)
#define first_online_pgdat		static_call(found_first_online_pgdat)
#define next_zone			static_call(found_next_zone)
#define cma_alloc			static_call(found_cma_alloc)
#define cma_release			static_call(found_cma_release)
#define alloc_pages_nolock_noprof	static_call(found_alloc_pages_nolock_noprof)

/* As in asm/unaccepted_memory.h, which takes in what is not for modules */
static struct efi_unaccepted_memory *efi_get_unaccepted_table(void)
{
	if (efi.unaccepted == EFI_INVALID_TABLE_ADDR)
		return NULL;
	return __va(efi.unaccepted);
}
#endif /* MODULE */

static DEFINE_MUTEX(command_lock);
static struct seq_buf result;

static LIST_HEAD(held);
static DEFINE_SPINLOCK(held_lock);
static unsigned long held_pages;

/* Taken away until the guest ends */
static LIST_HEAD(ballast);
static unsigned long ballast_pages;

struct held_range {
	struct list_head list;
	unsigned long pfn;
	unsigned long nr;
	struct cma *cma;
};
static LIST_HEAD(held_ranges);

#ifndef MODULE
static unsigned int early_order;
static unsigned long early_wanted, early_failed, early_got;
#endif

/* The allocator's functions, under one name for all versions */

static unsigned long bulk(gfp_t gfp, int count, struct page **pages)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 14, 0)
	return alloc_pages_bulk_array(gfp, count, pages);
#else
	return alloc_pages_bulk(gfp, count, pages);
#endif
}

static int contig_range(unsigned long start, unsigned long end, gfp_t gfp)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 16, 0)
	return alloc_contig_range(start, end, MIGRATE_MOVABLE, gfp);
#else
	return alloc_contig_range(start, end, ACR_FLAGS_NONE, gfp);
#endif
}

static int isolate(unsigned long start, unsigned long end)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)
	return start_isolate_page_range(start, end, MIGRATE_MOVABLE, 0, GFP_KERNEL);
#else
	return start_isolate_page_range(start, end, PB_ISOLATE_MODE_OTHER);
#endif
}

static int isolated(unsigned long start, unsigned long end)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)
	return test_pages_isolated(start, end, 0);
#else
	return test_pages_isolated(start, end, PB_ISOLATE_MODE_OTHER);
#endif
}

static void undo_isolate(unsigned long start, unsigned long end)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)
	undo_isolate_page_range(start, end, MIGRATE_MOVABLE);
#else
	undo_isolate_page_range(start, end);
#endif
}

static struct page *nolock(int node, unsigned int order)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 15, 0)
	return NULL;
#else
	return alloc_pages_nolock(0, node, order);
#endif
}

static bool has_nolock(void)
{
	return LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0);
}

static struct cma *cma_area(void)
{
#if defined(MODULE) && defined(CONFIG_DMA_CMA)
	return default_cma ? *default_cma : NULL;
#else
	return dev_get_cma_area(NULL);
#endif
}

static struct page *take_from_cma(struct cma *cma, unsigned long nr)
{
#ifdef CONFIG_CMA
	return cma_alloc(cma, nr, 0, false);
#else
	return NULL;
#endif
}

static void give_to_cma(struct cma *cma, struct page *pages, unsigned long nr)
{
#ifdef CONFIG_CMA
	cma_release(cma, pages, nr);
#endif
}

static void say(const char *name, unsigned long long value)
{
	seq_buf_printf(&result, "%s %llu\n", name, value);
}

/* Held pages */

static void hold(struct page *page, unsigned int order)
{
	unsigned long flags;

	set_page_private(page, order);
	spin_lock_irqsave(&held_lock, flags);
	list_add(&page->lru, &held);
	held_pages += 1UL << order;
	spin_unlock_irqrestore(&held_lock, flags);
}

static void free_held(void)
{
	struct held_range *range, *next_range;
	unsigned long flags;
	LIST_HEAD(mine);
	struct page *page, *next;

	spin_lock_irqsave(&held_lock, flags);
	list_splice_init(&held, &mine);
	held_pages = 0;
	spin_unlock_irqrestore(&held_lock, flags);

	list_for_each_entry_safe(page, next, &mine, lru) {
		unsigned int order = page_private(page);

		list_del(&page->lru);
		set_page_private(page, 0);
		__free_pages(page, order);
		cond_resched();
	}
	list_for_each_entry_safe(range, next_range, &held_ranges, list) {
		list_del(&range->list);
		if (range->cma)
			give_to_cma(range->cma, pfn_to_page(range->pfn), range->nr);
		else
			free_contig_range(range->pfn, range->nr);
		kfree(range);
	}
}

static int hold_range(unsigned long pfn, unsigned long nr, struct cma *cma)
{
	struct held_range *range = kmalloc(sizeof(*range), GFP_KERNEL);

	if (!range)
		return -ENOMEM;
	range->pfn = pfn;
	range->nr = nr;
	range->cma = cma;
	list_add(&range->list, &held_ranges);
	return 0;
}

/*
 * Write to each page and read it back, and read over its end as
 * load_unaligned_zeropad() does, into whatever follows.
 */
static unsigned long use_pages(struct page *page, unsigned long nr)
{
	unsigned long corrupt = 0, i;

	for (i = 0; i < nr; i++) {
		unsigned long *first = page_address(page + i);
		unsigned long *last = first + PAGE_SIZE / sizeof(*first) - 1;

		WRITE_ONCE(*first, (unsigned long)first);
		WRITE_ONCE(*last, (unsigned long)last);
	}
	for (i = 0; i < nr; i++) {
		unsigned long *first = page_address(page + i);
		unsigned long *last = first + PAGE_SIZE / sizeof(*first) - 1;

		corrupt += READ_ONCE(*first) != (unsigned long)first;
		corrupt += READ_ONCE(*last) != (unsigned long)last;
		/* Bytes beyond the end are no part of the answer */
		load_unaligned_zeropad((char *)last + 5);
	}
	return corrupt;
}

/* Allocation, in any context and on any number of CPUs */

static void alloc_one(struct part *part)
{
	const struct request *rq = part->rq;
	bool locked = strcmp(rq->gfp_name, "nolock");
	struct page *page;
	u64 start, took;

	start = sched_clock();
	page = locked ? alloc_pages_node(rq->node, rq->gfp, rq->order) :
			nolock(rq->node, rq->order);
	took = sched_clock() - start;

	part->total_ns += took;
	part->max_ns = max(part->max_ns, took);
	if (!page) {
		part->failed++;
		return;
	}
	part->done++;
	part->corrupt += use_pages(page, 1UL << rq->order);
	hold(page, rq->order);
}

struct deferred {
	struct tasklet_struct tasklet;
	struct part *part;
	struct completion done;
};

static void alloc_in_softirq(struct tasklet_struct *tasklet)
{
	struct deferred *d = container_of(tasklet, struct deferred, tasklet);

	alloc_one(d->part);
	complete(&d->done);
}

struct interrupt {
	struct irq_work work;
	struct part *part;
};

static void alloc_in_hardirq(struct irq_work *work)
{
	alloc_one(container_of(work, struct interrupt, work)->part);
}

static void alloc_all(struct part *part)
{
	const struct request *rq = part->rq;
	unsigned long i;

	for (i = 0; i < rq->count; i++) {
		unsigned long flags;

		switch (rq->context) {
		case CONTEXT_TASK:
		case CONTEXT_CPU_UP:
			alloc_one(part);
			break;
		case CONTEXT_IRQSOFF:
			local_irq_save(flags);
			alloc_one(part);
			local_irq_restore(flags);
			break;
		case CONTEXT_SOFTIRQ: {
			struct deferred d = { .part = part };

			init_completion(&d.done);
			tasklet_setup(&d.tasklet, alloc_in_softirq);
			tasklet_schedule(&d.tasklet);
			wait_for_completion(&d.done);
			tasklet_kill(&d.tasklet);
			break;
		}
		case CONTEXT_HARDIRQ: {
			/*
			 * An interrupt on the next CPU; on this one if it is
			 * alone. As a device's, and unlike a function call, it
			 * is a thread under PREEMPT_RT, and so may allocate.
			 */
			int cpu = cpumask_next(raw_smp_processor_id(), cpu_online_mask);
			struct interrupt irq = { .part = part };

			if (cpu >= nr_cpu_ids)
				cpu = cpumask_first(cpu_online_mask);
			init_irq_work(&irq.work, alloc_in_hardirq);
			irq_work_queue_on(&irq.work, cpu);
			irq_work_sync(&irq.work);
			break;
		}
		}
		/* One failure means that the rest fails as well */
		if (part->failed > 64)
			break;
		cond_resched();
	}
}

/* Under cpu_hotplug_lock, taken for writing, as all that prepares a CPU */
static struct part *cpu_up_part;

static int alloc_in_cpu_up(unsigned int cpu)
{
	alloc_all(cpu_up_part);
	return 0;
}

/* Takes the last CPU down and up, and allocates on its way up */
static int on_cpu_up(const struct request *rq)
{
	unsigned int cpu = cpumask_last(cpu_online_mask);
	struct part part = { .rq = rq };
	int state, error;

	if (!cpu)
		return -ENODEV;
	error = remove_cpu(cpu);
	if (error)
		return error;
	cpu_up_part = &part;
	state = cpuhp_setup_state_nocalls(CPUHP_BP_PREPARE_DYN, "mm/unaccepted_test:prepare",
					  alloc_in_cpu_up, NULL);
	error = add_cpu(cpu);
	if (state >= 0)
		cpuhp_remove_state_nocalls(state);
	cpu_up_part = NULL;

	say("done", part.done);
	say("failed", part.failed);
	say("corrupt", part.corrupt);
	say("total_ns", part.total_ns);
	say("max_ns", part.max_ns);
	return state < 0 ? state : error;
}

/* Accepts ranges that overlap or touch those of other CPUs */
static void accept_all(struct part *part)
{
	const struct request *rq = part->rq;
	unsigned int i;

	for (i = 0; i < rq->repeat; i++) {
		phys_addr_t at = rq->start + part->index * rq->stride;
		u64 start = sched_clock(), took;

		accept_memory(at, rq->size);
		took = sched_clock() - start;
		part->total_ns += took;
		part->max_ns = max(part->max_ns, took);
		if (range_contains_unaccepted_memory(at, rq->size))
			part->failed++;
		else
			part->done++;
	}
}

static int worker(void *data)
{
	struct part *part = data;

	complete(part->ready);
	wait_for_completion(part->go);
	if (!strcmp(part->rq->verb, "accept"))
		accept_all(part);
	else
		alloc_all(part);
	complete(&part->finished);
	return 0;
}

static int on_cpus(const struct request *rq)
{
	DECLARE_COMPLETION_ONSTACK(ready);
	DECLARE_COMPLETION_ONSTACK(go);
	unsigned long done = 0, failed = 0, corrupt = 0;
	unsigned int i, started = 0;
	u64 total = 0, longest = 0;
	struct part *parts;
	int cpu;

	parts = kcalloc(rq->cpus, sizeof(*parts), GFP_KERNEL);
	if (!parts)
		return -ENOMEM;

	cpus_read_lock();
	cpu = cpumask_first(cpu_online_mask);
	for (i = 0; i < rq->cpus; i++) {
		struct part *part = &parts[i];
		struct task_struct *task;

		part->rq = rq;
		part->index = i;
		part->ready = &ready;
		part->go = &go;
		init_completion(&part->finished);
		task = kthread_create(worker, part, "unaccepted_test/%u", i);
		if (IS_ERR(task))
			break;
		kthread_bind(task, cpu);
		wake_up_process(task);
		started++;
		cpu = cpumask_next(cpu, cpu_online_mask);
		if (cpu >= nr_cpu_ids)
			cpu = cpumask_first(cpu_online_mask);
	}
	for (i = 0; i < started; i++)
		wait_for_completion(&ready);
	complete_all(&go);
	for (i = 0; i < started; i++)
		wait_for_completion(&parts[i].finished);
	cpus_read_unlock();

	for (i = 0; i < started; i++) {
		done += parts[i].done;
		failed += parts[i].failed;
		corrupt += parts[i].corrupt;
		total += parts[i].total_ns;
		longest = max(longest, parts[i].max_ns);
	}
	kfree(parts);

	say("workers", started);
	say("done", done);
	say("failed", failed);
	say("corrupt", corrupt);
	say("total_ns", total);
	say("max_ns", longest);
	return started == rq->cpus ? 0 : -ENOMEM;
}

/* Single requests */

static int do_bulk(const struct request *rq)
{
	unsigned long got = 0, calls = 0, whole = 0, corrupt = 0, wanted = 0, i;
	struct page **pages;

	pages = kvcalloc(rq->count, sizeof(*pages), GFP_KERNEL);
	if (!pages)
		return -ENOMEM;

	for (calls = 0; calls < rq->repeat; calls++) {
		unsigned long n;

		memset(pages, 0, rq->count * sizeof(*pages));
		n = bulk(rq->gfp, rq->count, pages);
		wanted += rq->count;
		got += n;
		whole += n == rq->count;
		for (i = 0; i < n; i++) {
			corrupt += use_pages(pages[i], 1);
			hold(pages[i], 0);
		}
		cond_resched();
	}
	kvfree(pages);

	say("wanted", wanted);
	say("done", got);
	say("calls", calls);
	say("whole_calls", whole);
	say("corrupt", corrupt);
	return 0;
}

static int do_contig(const struct request *rq)
{
	unsigned long nr = rq->size >> PAGE_SHIFT, failed = 0, done = 0, corrupt = 0, i;
	int nid = rq->node == NUMA_NO_NODE ? numa_mem_id() : rq->node;
	int error = 0;

	for (i = 0; i < rq->count; i++) {
		struct page *page = alloc_contig_pages(nr, rq->gfp, nid, NULL);

		if (!page) {
			failed++;
			continue;
		}
		done++;
		corrupt += use_pages(page, nr);
		error = hold_range(page_to_pfn(page), nr, NULL);
		if (error)
			break;
	}
	say("done", done);
	say("failed", failed);
	say("corrupt", corrupt);
	return error;
}

static int do_range(const struct request *rq)
{
	unsigned long pfn = PHYS_PFN(rq->start), nr = rq->size >> PAGE_SHIFT;
	int error = contig_range(pfn, pfn + nr, rq->gfp);

	say("done", !error);
	say("failed", !!error);
	say("errno", -error);
	if (error)
		return 0;
	say("corrupt", use_pages(pfn_to_page(pfn), nr));
	say("unaccepted_left", range_contains_unaccepted_memory(rq->start, rq->size));
	return hold_range(pfn, nr, NULL);
}

static int do_isolate(const struct request *rq)
{
	unsigned long pfn = PHYS_PFN(rq->start), nr = rq->size >> PAGE_SHIFT;
	int error = isolate(pfn, pfn + nr);

	say("done", !error);
	say("failed", !!error);
	say("errno", -error);
	if (error)
		return 0;
	say("isolated", !isolated(pfn, pfn + nr));
	say("unaccepted_left", range_contains_unaccepted_memory(rq->start, rq->size));
	undo_isolate(pfn, pfn + nr);
	return 0;
}

static int do_cma(const struct request *rq)
{
	unsigned long nr = rq->size >> PAGE_SHIFT;
	struct cma *cma = cma_area();
	struct page *page;

	if (!cma)
		return -ENODEV;
	page = take_from_cma(cma, nr);
	say("done", !!page);
	say("failed", !page);
	if (!page)
		return 0;
	say("corrupt", use_pages(page, nr));
	return hold_range(page_to_pfn(page), nr, cma);
}

static int do_slab(const struct request *rq)
{
	unsigned long done = 0, corrupt = 0, i;
	void **objects = kvcalloc(rq->count, sizeof(*objects), GFP_KERNEL);
	struct kmem_cache *cache = NULL;

	if (!objects)
		return -ENOMEM;
	for (i = 0; i < rq->count; i++) {
		objects[i] = kmalloc(rq->size, rq->gfp);
		if (!objects[i])
			break;
		memset(objects[i], i & 0xff, rq->size);
		done++;
		cond_resched();
	}
#ifndef MODULE
	/* Whose slab it is, is mm's own affair */
	if (done && virt_to_slab(objects[0]))
		cache = virt_to_slab(objects[0])->slab_cache;
#endif
	for (i = 0; i < done; i++) {
		corrupt += !!memchr_inv(objects[i], i & 0xff, rq->size);
		kfree(objects[i]);
	}
	/* Empty slabs, and what KASAN keeps back, would be freed in a later test */
	if (cache)
		kmem_cache_shrink(cache);
	kvfree(objects);
	say("done", done);
	say("failed", rq->count - done);
	say("corrupt", corrupt);
	return 0;
}

static int do_vmalloc(const struct request *rq)
{
	unsigned char *area = vmalloc(rq->size);

	say("done", !!area);
	say("failed", !area);
	if (!area)
		return 0;
	memset(area, 0xa5, rq->size);
	say("corrupt", !!memchr_inv(area, 0xa5, rq->size));
	vfree(area);
	return 0;
}

/* Scans: page types, free lists and the table against each other */

static bool unit_pending(struct efi_unaccepted_memory *table, unsigned long unit)
{
	return unit < table->size * BITS_PER_BYTE && test_bit(unit, table->bitmap);
}

/* Any unit under [start, end) pending in the table, without the guard rule? */
static bool pending_in(struct efi_unaccepted_memory *table, phys_addr_t start,
		       phys_addr_t end)
{
	phys_addr_t at;

	if (end <= table->phys_base)
		return false;
	for (at = max_t(phys_addr_t, start, table->phys_base); at < end;
	     at = ALIGN_DOWN(at, table->unit_size) + table->unit_size) {
		if (unit_pending(table, (at - table->phys_base) / table->unit_size))
			return true;
	}
	return false;
}

static bool guarded(struct efi_unaccepted_memory *table, phys_addr_t end)
{
	if (!IS_ALIGNED(end, table->unit_size) || end < table->phys_base)
		return true;
	return !unit_pending(table, (end - table->phys_base) / table->unit_size);
}

struct findings {
	const char *name;
	unsigned long count;
	phys_addr_t first;
};

static void find(struct findings *f, phys_addr_t at)
{
	if (!f->count++)
		f->first = at;
}

static void say_findings(const struct findings *f)
{
	say(f->name, f->count);
	if (f->count)
		seq_buf_printf(&result, "%s_first 0x%llx\n", f->name, (u64)f->first);
}

/* The lists of one zone, under its lock */
static void scan_zone(struct zone *zone, struct efi_unaccepted_memory *table,
		      struct findings *f, unsigned long *blocks)
{
	unsigned long flags, nr = 0, order, type;
	struct page *page;

	spin_lock_irqsave(&zone->lock, flags);
	list_for_each_entry(page, &zone->unaccepted_pages, lru) {
		phys_addr_t at = page_to_phys(page);

		nr++;
		if (!PageUnaccepted(page))
			find(&f[0], at);
		if (!IS_ALIGNED(page_to_pfn(page), MAX_ORDER_NR_PAGES) ||
		    page_zone(page) != zone || PageBuddy(page) || page_count(page))
			find(&f[1], at);
		/* A block can be listed for the sake of the unit behind it alone */
		if (!pending_in(table, at,
				at + (PAGE_SIZE << MAX_PAGE_ORDER) + table->unit_size))
			find(&f[2], at);
	}
	if (nr * MAX_ORDER_NR_PAGES != zone_page_state(zone, NR_UNACCEPTED))
		find(&f[3], PFN_PHYS(zone->zone_start_pfn));
	for (order = 0; order < NR_PAGE_ORDERS; order++) {
		for (type = 0; type < MIGRATE_TYPES; type++) {
			struct list_head *list = &zone->free_area[order].free_list[type];

			list_for_each_entry(page, list, buddy_list) {
				phys_addr_t at = page_to_phys(page);
				phys_addr_t end = at + (PAGE_SIZE << order);

				if (PageUnaccepted(page))
					find(&f[1], at);
				if (pending_in(table, at, end))
					find(&f[4], at);
				if (!guarded(table, end))
					find(&f[5], at);
			}
		}
	}
	spin_unlock_irqrestore(&zone->lock, flags);
	*blocks += nr;
}

/*
 * From the table's side: who has the memory of each pending unit, and the page
 * right before it, from which load_unaligned_zeropad() would read into it?
 */
static void scan_table(struct efi_unaccepted_memory *table, struct findings *f,
		       unsigned long *units)
{
	unsigned long unit;

	for_each_set_bit(unit, table->bitmap, table->size * BITS_PER_BYTE) {
		phys_addr_t at = table->phys_base + unit * table->unit_size;
		unsigned long pfn = PHYS_PFN(at);
		struct page *page, *block;

		(*units)++;
		if (!pfn_valid(pfn))
			continue;
		page = pfn_to_page(pfn);
		block = pfn_to_page(ALIGN_DOWN(pfn, MAX_ORDER_NR_PAGES));
		if (!PageUnaccepted(block)) {
			if (PageReserved(page))
				find(&f[6], at);
			else
				find(&f[7], at);
		}

		/* A unit that follows a pending one has no used page before it */
		if (!pfn || (unit && unit_pending(table, unit - 1)) || !pfn_valid(pfn - 1))
			continue;
		page = pfn_to_page(pfn - 1);
		block = pfn_to_page(ALIGN_DOWN(pfn - 1, MAX_ORDER_NR_PAGES));
		if (PageUnaccepted(block))
			continue;
		if (PageReserved(page))
			find(&f[8], at - PAGE_SIZE);
		else if (!PageBuddy(page) && !is_free_buddy_page(page))
			find(&f[9], at - PAGE_SIZE);
	}
}

static int do_scan(const struct request *rq)
{
	struct findings f[] = {
		{ "listed_without_type" },
		{ "listed_wrong" },
		{ "listed_not_pending" },
		{ "zone_counter_wrong" },
		{ "free_but_pending" },
		{ "free_unguarded" },
		{ "pending_reserved" },
		{ "pending_unlisted" },
		{ "reserved_unguarded" },
		{ "used_unguarded" },
	};
	struct efi_unaccepted_memory *table = efi_get_unaccepted_table();
	unsigned long blocks = 0, units = 0;
	struct zone *zone;
	unsigned int i;

	if (!table)
		return -ENODATA;
	for_each_populated_zone(zone)
		scan_zone(zone, table, f, &blocks);
	scan_table(table, f, &units);
	say("blocks", blocks);
	say("pending_units", units);
	for (i = 0; i < ARRAY_SIZE(f); i++)
		say_findings(&f[i]);
	return 0;
}

/* Reads over the end of every page that is in use and has a pending unit behind */
static int do_zeropad(const struct request *rq)
{
	struct efi_unaccepted_memory *table = efi_get_unaccepted_table();
	unsigned long unit, reads = 0;

	if (!table)
		return -ENODATA;
	for (unit = 1; unit < table->size * BITS_PER_BYTE; unit++) {
		phys_addr_t at = table->phys_base + unit * table->unit_size;
		struct page *page, *block;

		if (unit_pending(table, unit - 1) || !pfn_valid(PHYS_PFN(at) - 1))
			continue;
		page = pfn_to_page(PHYS_PFN(at) - 1);
		block = pfn_to_page(ALIGN_DOWN(PHYS_PFN(at) - 1, MAX_ORDER_NR_PAGES));
		/* Free pages may be out of the direct map, by DEBUG_PAGEALLOC */
		if (PageUnaccepted(block) || PageReserved(page) || !page_count(page))
			continue;
		/*
		 * The word is somebody else's: if the page behind is not mapped,
		 * KASAN sees it read, and it can hold an object's redzone.
		 */
		kasan_disable_current();
		load_unaligned_zeropad((char *)__va(at) - 3);
		kasan_enable_current();
		reads++;
	}
	say("reads", reads);
	return 0;
}

/* Is there a free block of this order or above, so that none has to be accepted? */
static bool has_free_block(int order)
{
	struct zone *zone;
	int above;

	for_each_populated_zone(zone) {
		for (above = order; above < NR_PAGE_ORDERS; above++) {
			if (READ_ONCE(zone->free_area[above].nr_free))
				return true;
		}
	}
	return false;
}

/*
 * Takes free accepted memory away for good, so that what is allocated next has
 * to be accepted. Without reclaim flags: it must not disturb what it prepares.
 */
static int do_soak(const struct request *rq)
{
	unsigned long leave = rq->size >> PAGE_SHIFT, soaked = 0, accepted = 0;
	int order;

	if (!global_zone_page_state(NR_UNACCEPTED))
		return -ENODATA;
	/* What CPUs keep for themselves does not count as free, and is handed out first */
	drain_all_pages(NULL);
	for (order = MAX_PAGE_ORDER; order >= (int)rq->order && !accepted; order--) {
		for (;;) {
			unsigned long before = global_zone_page_state(NR_UNACCEPTED);
			struct page *page;

			if (global_zone_page_state(NR_FREE_PAGES) <= before + leave +
			    (1UL << order) || !has_free_block(order))
				break;
			page = alloc_pages(__GFP_NOWARN, order);
			if (!page)
				break;
			list_add(&page->lru, &ballast);
			soaked += 1UL << order;
			if (global_zone_page_state(NR_UNACCEPTED) < before) {
				accepted++;
				break;
			}
			cond_resched();
		}
	}
	ballast_pages += soaked;
	say("soaked_pages", soaked);
	say("accepted_blocks", accepted);
	return 0;
}

static int do_status(const struct request *rq)
{
	say("held_pages", held_pages);
	say("ballast_pages", ballast_pages);
	say("has_nolock", has_nolock());
	say("has_cma", !!cma_area());
#ifdef MODULE
	/* Modules come when watermarks have long been set up */
	say("has_early", 0);
#else
	say("has_early", 1);
	say("early_wanted", early_wanted);
	say("early_got", early_got);
	say("early_failed", early_failed);
#endif
	return 0;
}

static int do_free(const struct request *rq)
{
	say("freed_pages", held_pages);
	free_held();
	return 0;
}

/* Frees held pages but for every stride-th: fragments what they were taken from */
static int do_thin(const struct request *rq)
{
	unsigned long stride = max(rq->stride, 1UL), seen = 0, freed = 0, flags;
	struct page *page, *next;
	LIST_HEAD(mine);

	spin_lock_irqsave(&held_lock, flags);
	list_for_each_entry_safe(page, next, &held, lru) {
		if (seen++ % stride) {
			list_move(&page->lru, &mine);
			freed += 1UL << page_private(page);
		}
	}
	held_pages -= freed;
	spin_unlock_irqrestore(&held_lock, flags);

	list_for_each_entry_safe(page, next, &mine, lru) {
		unsigned int order = page_private(page);

		list_del(&page->lru);
		set_page_private(page, 0);
		__free_pages(page, order);
		cond_resched();
	}
	say("freed_pages", freed);
	return 0;
}

static int do_alloc(const struct request *rq)
{
	if (!strcmp(rq->gfp_name, "nolock") && !has_nolock())
		return -EOPNOTSUPP;
	if (rq->context != CONTEXT_TASK && rq->context != CONTEXT_CPU_UP &&
	    gfpflags_allow_blocking(rq->gfp))
		return -EINVAL;
	return rq->context == CONTEXT_CPU_UP ? on_cpu_up(rq) : on_cpus(rq);
}

static const struct verb {
	const char *name;
	int (*run)(const struct request *rq);
} verbs[] = {
	{ "alloc", do_alloc },
	{ "accept", on_cpus },
	{ "bulk", do_bulk },
	{ "contig", do_contig },
	{ "range", do_range },
	{ "isolate", do_isolate },
	{ "cma", do_cma },
	{ "slab", do_slab },
	{ "vmalloc", do_vmalloc },
	{ "scan", do_scan },
	{ "zeropad", do_zeropad },
	{ "soak", do_soak },
	{ "thin", do_thin },
	{ "status", do_status },
	{ "free", do_free },
};

static const struct {
	const char *name;
	gfp_t gfp;
} gfps[] = {
	{ "kernel", GFP_KERNEL | __GFP_NOWARN },
	{ "noretry", GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN },
	{ "atomic", GFP_ATOMIC | __GFP_NOWARN },
	{ "nowait", GFP_NOWAIT | __GFP_NOWARN },
	{ "movable", GFP_HIGHUSER_MOVABLE | __GFP_NOWARN },
	{ "dma32", GFP_KERNEL | GFP_DMA32 | __GFP_NOWARN },
	{ "thp", GFP_TRANSHUGE_LIGHT | __GFP_NOWARN },
	{ "nolock", 0 },
};

static const char * const contexts[] = {
	"task", "irqsoff", "softirq", "hardirq", "cpuup"
};

static int parse_word(struct request *rq, const char *word, const char *value)
{
	unsigned int i;

	if (!strcmp(word, "gfp")) {
		for (i = 0; i < ARRAY_SIZE(gfps); i++) {
			if (!strcmp(value, gfps[i].name)) {
				rq->gfp = gfps[i].gfp;
				strscpy(rq->gfp_name, value);
				return 0;
			}
		}
		return -EINVAL;
	}
	if (!strcmp(word, "context")) {
		i = match_string(contexts, ARRAY_SIZE(contexts), value);
		if ((int)i < 0)
			return -EINVAL;
		rq->context = i;
		return 0;
	}
	if (!strcmp(word, "start"))
		return kstrtoul(value, 0, &rq->start);
	if (!strcmp(word, "size"))
		return kstrtoul(value, 0, &rq->size);
	if (!strcmp(word, "stride"))
		return kstrtoul(value, 0, &rq->stride);
	if (!strcmp(word, "count"))
		return kstrtoul(value, 0, &rq->count);
	if (!strcmp(word, "order"))
		return kstrtouint(value, 0, &rq->order);
	if (!strcmp(word, "cpus"))
		return kstrtouint(value, 0, &rq->cpus);
	if (!strcmp(word, "repeat"))
		return kstrtouint(value, 0, &rq->repeat);
	if (!strcmp(word, "node"))
		return kstrtoint(value, 0, &rq->node);
	return -EINVAL;
}

static int parse(struct request *rq, char *text)
{
	char *word = strsep(&text, " ");
	int error;

	*rq = (struct request){
		.gfp = GFP_KERNEL | __GFP_NOWARN,
		.gfp_name = "kernel",
		.count = 1,
		.cpus = 1,
		.repeat = 1,
		.size = PAGE_SIZE,
		.node = NUMA_NO_NODE,
	};
	strscpy(rq->verb, word);
	while (text && *text) {
		char *value;

		word = strsep(&text, " ");
		value = strchr(word, '=');
		if (!value)
			return -EINVAL;
		*value++ = '\0';
		error = parse_word(rq, word, value);
		if (error)
			return error;
	}
	if (rq->order > MAX_PAGE_ORDER || !rq->cpus || rq->cpus > 1024 ||
	    rq->repeat > 1000000 || rq->count > (1UL << 24) || !rq->size ||
	    (rq->node != NUMA_NO_NODE &&
	     (rq->node < 0 || rq->node >= MAX_NUMNODES || !node_online(rq->node))))
		return -ERANGE;
	return 0;
}

static ssize_t command_write(struct file *file, const char __user *from,
			     size_t len, loff_t *pos)
{
	struct request rq;
	char text[256];
	unsigned int i;
	int error;

	if (len >= sizeof(text))
		return -E2BIG;
	if (copy_from_user(text, from, len))
		return -EFAULT;
	text[len] = '\0';

	mutex_lock(&command_lock);
	seq_buf_clear(&result);
	error = parse(&rq, strim(text));
	if (!error) {
		error = -ENOENT;
		for (i = 0; i < ARRAY_SIZE(verbs); i++) {
			if (!strcmp(rq.verb, verbs[i].name)) {
				error = verbs[i].run(&rq);
				break;
			}
		}
	}
	mutex_unlock(&command_lock);
	return error ? error : len;
}

static ssize_t result_read(struct file *file, char __user *to, size_t len, loff_t *pos)
{
	ssize_t got;

	mutex_lock(&command_lock);
	got = simple_read_from_buffer(to, len, pos, result.buffer, seq_buf_used(&result));
	mutex_unlock(&command_lock);
	return got;
}

static const struct file_operations command_fops = {
	.owner	= THIS_MODULE,
	.open	= simple_open,
	.write	= command_write,
};

static const struct file_operations result_fops = {
	.owner	= THIS_MODULE,
	.open	= simple_open,
	.read	= result_read,
};

#ifndef MODULE
static int __init early_parse(char *arg)
{
	return sscanf(arg, "%u:%lu", &early_order, &early_wanted) == 2 &&
	       early_order <= MAX_PAGE_ORDER ? 0 : -EINVAL;
}
early_param("unaccepted_test_early", early_parse);

/* After the buddy allocator took over, before watermarks are set up */
static int __init early_alloc(void)
{
	unsigned long i;

	for (i = 0; i < early_wanted; i++) {
		struct page *page = alloc_pages(GFP_NOWAIT | __GFP_NOWARN, early_order);

		if (!page) {
			early_failed++;
			continue;
		}
		early_got++;
		hold(page, early_order);
	}
	return 0;
}
core_initcall(early_alloc);
#endif

static int __init unaccepted_test_init(void)
{
	struct dentry *dir;
	char *buffer;
#ifdef MODULE
	int error = find_unexported();

	if (error)
		return error;
#endif
	buffer = vmalloc(RESULT_SIZE);
	if (!buffer)
		return -ENOMEM;
	seq_buf_init(&result, buffer, RESULT_SIZE);
	dir = debugfs_create_dir("unaccepted_test", NULL);
	debugfs_create_file("command", 0200, dir, NULL, &command_fops);
	debugfs_create_file("result", 0400, dir, NULL, &result_fops);
	return 0;
}
late_initcall(unaccepted_test_init);

/* Without an exit: what is held is held until the guest ends */
MODULE_DESCRIPTION("Test hooks for unaccepted memory");
MODULE_LICENSE("GPL");
