// SPDX-License-Identifier: GPL-2.0-only
/*
 * Emulated unaccepted memory
 *
 * Lets a guest that is not confidential run the kernel's own code for
 * unaccepted memory. Two records of what is unaccepted are kept apart on
 * purpose: the table, which the kernel uses and clears, and the bitmap of the
 * back end in this file, which stands for what the hardware knows. Where the
 * two disagree, or memory is touched or accepted against the back end's record,
 * the kernel under test is wrong.
 */

#define pr_fmt(fmt) "unaccepted_emulation: " fmt

#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/debugfs.h>
#include <linux/efi.h>
#include <linux/export.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/memblock.h>
#include <linux/memory.h>
#include <linux/memory_hotplug.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/panic.h>
#include <linux/printk.h>
#include <linux/sched/debug.h>
#include <linux/seq_file.h>
#include <linux/timex.h>

#include <linux/cc_platform.h>
#include <asm/pgtable.h>
#include <asm/tlbflush.h>
#include <asm/trap_pf.h>
#include <asm/tsc.h>
#include <asm/unaccepted_emulation.h>
#include <asm/unaccepted_memory.h>

#include <trace/events/unaccepted_memory.h>

#define UNIT_SHIFT	PMD_SHIFT
#define UNIT_SIZE	PMD_SIZE
#define UNIT_PFN_SHIFT	(UNIT_SHIFT - PAGE_SHIFT)
#define MAX_UNITS	(UNACCEPTED_EMULATION_LIMIT >> UNIT_SHIFT)
#define MAX_REPORTS	16

/* The back end: what the emulated hardware has not accepted */
static DECLARE_BITMAP(backend, MAX_UNITS) __page_aligned_bss;
/* Units taken out of the direct map, and those ever handled here */
static DECLARE_BITMAP(absent, MAX_UNITS) __page_aligned_bss;
static DECLARE_BITMAP(managed, MAX_UNITS) __page_aligned_bss;

/* The table of the direct route; on the EFI route the stub provides it */
static union {
	struct efi_unaccepted_memory table;
	u8 bytes[sizeof(struct efi_unaccepted_memory) + MAX_UNITS / BITS_PER_BYTE];
} direct_table __page_aligned_bss;

bool unaccepted_emulation_active __ro_after_init;
static bool adopted __ro_after_init;
static bool armed __ro_after_init;
static bool wanted __initdata;
static struct unaccepted_emulation_param param __ro_after_init;
static u32 fallback_khz __ro_after_init;

static u64 cost_ns;

static atomic64_t units_marked;
static atomic64_t units_added;
static atomic64_t units_removed;
static atomic64_t units_outside_table;
static atomic64_t accept_calls;
static atomic64_t accept_units;
static atomic64_t double_accepts;
static atomic64_t illegal_accesses;
static atomic64_t calls_before_init;
static atomic64_t units_before_init;
static atomic64_t untraced_calls;
static atomic64_t untraced_units;
static atomic64_t accept_cycles;
static atomic64_t max_accept_cycles;
static atomic64_t cost_uncharged_ns;
static atomic_t reports;

/* For the self-test: a unit known to be accepted */
static unsigned long last_accepted = MAX_UNITS;

static const char *route_name(void)
{
	return param.route == UNACCEPTED_ROUTE_EFI ? "efi" : "direct";
}

static const char *hotplug_name(void)
{
	switch (param.hotplug) {
	case UNACCEPTED_HOTPLUG_LAZY:
		return "lazy";
	case UNACCEPTED_HOTPLUG_EAGER:
		return "eager";
	case UNACCEPTED_HOTPLUG_ONLINE:
		return "online";
	default:
		return "off";
	}
}

static unsigned long table_base_unit(const struct efi_unaccepted_memory *table)
{
	return table->phys_base >> UNIT_SHIFT;
}

/* One past the last unit that both the table and the back end can hold */
static unsigned long table_end_unit(const struct efi_unaccepted_memory *table)
{
	return min_t(u64, table_base_unit(table) + table->size * BITS_PER_BYTE,
		     MAX_UNITS);
}

static bool table_has(const struct efi_unaccepted_memory *table,
		      unsigned long unit)
{
	return unit >= table_base_unit(table) && unit < table_end_unit(table) &&
	       test_bit(unit - table_base_unit(table), table->bitmap);
}

/* The first unit from @unit on that is pending in either record */
static unsigned long next_pending(const struct efi_unaccepted_memory *table,
				  unsigned long unit)
{
	unsigned long base = table_base_unit(table);
	unsigned long end = table_end_unit(table);
	unsigned long in_backend = find_next_bit(backend, MAX_UNITS, unit);
	unsigned long in_table;

	if (unit >= end)
		return in_backend;
	in_table = base + find_next_bit(table->bitmap, end - base,
					max(unit, base) - base);
	return min(in_backend, in_table < end ? in_table : MAX_UNITS);
}

/* Time */

static u32 cycles_khz(void)
{
	return tsc_khz ? tsc_khz : fallback_khz;
}

static u64 cycles_to_ns(u64 cycles)
{
	u32 khz = cycles_khz();

	return khz ? mul_u64_u32_div(cycles, 1000000, khz) : 0;
}

/* udelay() is not calibrated when the first memory is accepted: use the TSC */
static void spend(u64 ns)
{
	u32 khz = cycles_khz();
	u64 start, cycles;

	if (!ns)
		return;
	if (!khz) {
		atomic64_add(ns, &cost_uncharged_ns);
		return;
	}

	cycles = mul_u64_u32_div(ns, khz, 1000000);
	start = rdtsc_ordered();
	while (rdtsc_ordered() - start < cycles)
		cpu_relax();
}

/*
 * The kernel's own early calibration gives up on a busy host, and tries again
 * only after most of the memory accepted during boot. Time 20 ms of the PIT's
 * channel 2 and take the best of three.
 */
static u32 __init calibrate_khz(void)
{
	unsigned int latch = PIT_TICK_RATE / 50;
	u64 best = ~0ULL;
	int try;

	for (try = 0; try < 3; try++) {
		unsigned int polls = 0;
		u64 start, end;

		outb((inb(0x61) & ~0x02) | 0x01, 0x61);
		outb(0xb0, 0x43);
		outb(latch & 0xff, 0x42);
		outb(latch >> 8, 0x42);

		start = rdtsc_ordered();
		while (!(inb(0x61) & 0x20)) {
			if (++polls > 1000000)
				return 0;
		}
		end = rdtsc_ordered();

		best = min(best, end - start);
	}

	/* Less than 100 MHz: there is no PIT */
	return best / 20 < 100000 ? 0 : best / 20;
}

/* Strict mode: unaccepted memory is not in the direct map */

static pmd_t *unit_pmd(unsigned long unit)
{
	unsigned long addr = (unsigned long)__va((u64)unit << UNIT_SHIFT);
	pgd_t *pgd = pgd_offset_k(addr);
	p4d_t *p4d;
	pud_t *pud;

	if (!pgd_present(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (!p4d_present(*p4d) || p4d_leaf(*p4d))
		return NULL;
	pud = pud_offset(p4d, addr);
	if (!pud_present(*pud) || pud_leaf(*pud))
		return NULL;
	return pmd_offset(pud, addr);
}

/*
 * Called in any context, also from faults, so no locks: a unit owns its entry,
 * and while it is unaccepted nobody else has a reason to change that entry.
 */
static bool unit_set_present(unsigned long unit, bool present)
{
	pmd_t *pmdp = unit_pmd(unit);
	pmd_t pmd;

	if (!pmdp)
		return false;
	pmd = READ_ONCE(*pmdp);
	if (pmd_none(pmd))
		return false;

	if (pmd_val(pmd) & _PAGE_PSE) {
		pmdval_t prot = pmd_flags(pmd);

		if (present)
			prot |= _PAGE_PRESENT;
		else
			prot &= ~_PAGE_PRESENT;
		/* Takes care of the inverted address of absent entries */
		pmd = pfn_pmd(pmd_pfn(pmd), __pgprot(prot));
	} else if (present) {
		pmd = __pmd(pmd_val(pmd) | _PAGE_PRESENT);
	} else {
		pmd = __pmd(pmd_val(pmd) & ~_PAGE_PRESENT);
	}
	set_pmd(pmdp, pmd);
	return true;
}

/* No flush: the CPU does not cache entries that are not present */
static void unit_restore(unsigned long unit)
{
	if (armed && test_and_clear_bit(unit, absent))
		unit_set_present(unit, true);
}

/* The caller flushes */
static void unit_withdraw(unsigned long unit)
{
	set_bit(unit, managed);
	set_bit(unit, absent);
	if (!unit_set_present(unit, false))
		clear_bit(unit, absent);
}

/*
 * Whether any of this is out of the direct map. DEBUG_PAGEALLOC changes single
 * pages there and would take an entry that is not present for a large page. It
 * maps memory that goes online, which is before that is accepted.
 */
bool unaccepted_emulation_keeps_out(phys_addr_t start, u64 size)
{
	unsigned long end = DIV_ROUND_UP(start + size, UNIT_SIZE);

	return armed && end <= MAX_UNITS &&
	       find_next_bit(absent, end, start >> UNIT_SHIFT) < end;
}

/* Reports */

/*
 * Violations are found with interrupts off and with any lock held, also those
 * of the console and the run queues: only store the text here, and let it be
 * printed from a safe place soon after.
 */
static bool report_begin(unsigned long *flags)
{
	if (atomic_inc_return(&reports) > MAX_REPORTS)
		return false;

	local_irq_save(*flags);
	printk_deferred_enter();
	return true;
}

static void report_end(unsigned long flags)
{
	if (atomic_read(&reports) == MAX_REPORTS)
		pr_err("no more reports, see the counters in debugfs\n");
	add_taint(TAINT_WARN, LOCKDEP_STILL_OK);
	printk_deferred_exit();
	local_irq_restore(flags);
}

bool unaccepted_emulation_fault(struct pt_regs *regs, unsigned long error_code,
				unsigned long address)
{
	unsigned long unit, flags;
	unsigned int tries;
	pmd_t *pmdp, pmd;

	if (!armed || address < PAGE_OFFSET)
		return false;
	/* A user's access is stopped by the kernel's page tables */
	if (error_code & (X86_PF_USER | X86_PF_PROT | X86_PF_RSVD))
		return false;

	unit = (address - PAGE_OFFSET) >> UNIT_SHIFT;
	if (unit >= MAX_UNITS || !test_bit(unit, managed))
		return false;
	pmdp = unit_pmd(unit);
	if (!pmdp)
		return false;

	if (test_and_clear_bit(unit, absent)) {
		atomic64_inc(&illegal_accesses);
		if (report_begin(&flags)) {
			pr_err("ILLEGAL ACCESS to unaccepted memory at phys 0x%lx (virt 0x%lx) ip %pS\n",
			       address - PAGE_OFFSET, address, (void *)regs->ip);
			show_regs(regs);
			report_end(flags);
		}
		/* Hardware would end the guest here. Go on, for the report */
		unit_set_present(unit, true);
		return true;
	}

	/* Another CPU cleared the bit and is about to restore the entry */
	for (tries = 0; tries < 1000000; tries++) {
		pmd = READ_ONCE(*pmdp);
		if (pmd_val(pmd) & _PAGE_PRESENT)
			break;
		if (pmd_none(pmd))
			return false;
		cpu_relax();
	}
	if (!(pmd_val(pmd) & _PAGE_PRESENT))
		return false;
	if (pmd_leaf(pmd))
		return true;
	return pte_flags(*pte_offset_kernel(pmdp, address)) & _PAGE_PRESENT;
}

/* For accesses that do not use the direct map */
void unaccepted_emulation_check(phys_addr_t start, u64 size, const char *what)
{
	unsigned long unit, end, flags;

	if (!unaccepted_emulation_active || !size)
		return;

	end = min_t(u64, DIV_ROUND_UP(start + size, UNIT_SIZE), MAX_UNITS);
	for (unit = start >> UNIT_SHIFT; unit < end; unit++) {
		if (test_bit(unit, backend))
			break;
	}
	if (unit >= end)
		return;

	atomic64_inc(&illegal_accesses);
	if (report_begin(&flags)) {
		phys_addr_t phys = max_t(u64, start, (u64)unit << UNIT_SHIFT);

		pr_err("ILLEGAL ACCESS to unaccepted memory at phys 0x%llx (virt 0x0) ip %pS via %s\n",
		       phys, (void *)_RET_IP_, what);
		dump_stack();
		report_end(flags);
	}
}

/* Acceptance */

static void adopt_table(void)
{
	struct efi_unaccepted_memory *table = efi_get_unaccepted_table();
	unsigned long unit, base, end, count = 0;

	adopted = true;
	if (!table)
		return;

	base = table_base_unit(table);
	end = table_end_unit(table);
	for (unit = base; unit < end; unit++) {
		if (!table_has(table, unit))
			continue;
		__set_bit(unit, backend);
		__set_bit(unit, managed);
		count++;
	}
	atomic64_set(&units_marked, count);
}

static void note_time(u64 cycles)
{
	s64 max = atomic64_read(&max_accept_cycles);

	atomic64_add(cycles, &accept_cycles);
	while (cycles > max &&
	       !atomic64_try_cmpxchg(&max_accept_cycles, &max, cycles))
		;
}

static void report_double(unsigned long first, unsigned long last,
			  unsigned long caller)
{
	unsigned long flags;

	if (!report_begin(&flags))
		return;
	pr_err("DOUBLE ACCEPT of phys 0x%llx-0x%llx caller %pS\n",
	       (u64)first << UNIT_SHIFT, (u64)(last + 1) << UNIT_SHIFT,
	       (void *)caller);
	dump_stack();
	report_end(flags);
}

/*
 * Interrupts are off, and the context is any, from early boot to a hard
 * interrupt: no locks, no allocation, no printing unless there is a violation.
 */
void unaccepted_emulation_accept(phys_addr_t start, phys_addr_t end)
{
	unsigned long unit, last, first_double = MAX_UNITS, last_double = 0;
	bool before_init = system_state < SYSTEM_RUNNING;
	/* So that events and these add up to all, also before trace_init() */
	bool untraced = !trace_accept_memory_enabled();
	u64 begin = rdtsc_ordered();

	/* The stub's table can be in use before unaccepted_emulation_setup() */
	if (unlikely(!adopted))
		adopt_table();

	atomic64_inc(&accept_calls);
	if (before_init)
		atomic64_inc(&calls_before_init);
	if (untraced)
		atomic64_inc(&untraced_calls);

	last = min_t(u64, DIV_ROUND_UP(end, UNIT_SIZE), MAX_UNITS);
	for (unit = start >> UNIT_SHIFT; unit < last; unit++) {
		if (!test_and_clear_bit(unit, backend)) {
			atomic64_inc(&double_accepts);
			first_double = min(first_double, unit);
			last_double = unit;
			continue;
		}
		atomic64_inc(&accept_units);
		if (before_init)
			atomic64_inc(&units_before_init);
		if (untraced)
			atomic64_inc(&untraced_units);

		spend(READ_ONCE(cost_ns));
		unit_restore(unit);
		if (param.zero)
			memset(__va((u64)unit << UNIT_SHIFT), 0, UNIT_SIZE);
		WRITE_ONCE(last_accepted, unit);
	}

	if (first_double < MAX_UNITS)
		report_double(first_double, last_double, _RET_IP_);

	note_time(rdtsc_ordered() - begin);
}

/* Start */

static int __init unaccepted_emulation_param(char *str)
{
	const char *bad;

	wanted = false;
	unaccepted_emulation_active = false;

	bad = unaccepted_emulation_parse(str ? str : "", &param);
	if (bad == str || !str) {
		pr_err("off: bad or incomplete parameter '%s'\n", str ? str : "");
		return 0;
	}
	if (bad) {
		pr_err("off: bad '%.*s' in the parameter\n",
		       (int)strcspn(bad, ","), bad);
		return 0;
	}
	if (cpu_feature_enabled(X86_FEATURE_TDX_GUEST) ||
	    cc_platform_has(CC_ATTR_GUEST_SEV_SNP)) {
		pr_err("off: this guest has a real platform\n");
		return 0;
	}

	cost_ns = param.cost_ns;
	wanted = true;
	/* memblock can accept memory of the stub's table from now on */
	unaccepted_emulation_active = param.route == UNACCEPTED_ROUTE_EFI;
	return 0;
}
early_param("unaccepted_emulation", unaccepted_emulation_param);

static void __init mark_free_memory(void)
{
	struct efi_unaccepted_memory *table = &direct_table.table;
	unsigned long count = 0;
	phys_addr_t start, end;
	u64 i;

	table->version = 1;
	table->unit_size = UNIT_SIZE;
	table->phys_base = 0;
	table->size = MAX_UNITS / BITS_PER_BYTE;

	for_each_free_mem_range(i, NUMA_NO_NODE, MEMBLOCK_NONE, &start, &end,
				NULL) {
		unsigned long first, last;

		first = DIV_ROUND_UP(max_t(u64, start, param.from), UNIT_SIZE);
		last = min_t(u64, end, param.to) >> UNIT_SHIFT;
		if (first >= last)
			continue;

		bitmap_set(table->bitmap, first, last - first);
		bitmap_set(backend, first, last - first);
		bitmap_set(managed, first, last - first);
		count += last - first;
	}
	atomic64_set(&units_marked, count);
	efi.unaccepted = __pa_symbol(table);
	adopted = true;
}

/*
 * After all that is in use is reserved, and before memblock hands out the
 * first memory of its own accord.
 */
void __init unaccepted_emulation_setup(void)
{
	bool has_table = efi.unaccepted != EFI_INVALID_TABLE_ADDR;

	if (!wanted)
		return;

	if (param.route == UNACCEPTED_ROUTE_EFI) {
		if (!has_table) {
			pr_err("off: route=efi, but the EFI stub left no table\n");
			unaccepted_emulation_active = false;
			return;
		}
	} else if (has_table) {
		pr_err("off: route=direct, but the firmware has a table\n");
		return;
	}

	if (!tsc_khz && boot_cpu_has(X86_FEATURE_TSC))
		fallback_khz = calibrate_khz();

	if (param.route == UNACCEPTED_ROUTE_DIRECT)
		mark_free_memory();
	else if (!adopted)
		adopt_table();
	unaccepted_emulation_active = true;

	pr_info("active route=%s from=0x%llx to=0x%llx cost_ns=%llu zero=%d strict=%d hotplug=%s units=%lld\n",
		route_name(), param.from, param.to, cost_ns, param.zero,
		param.strict, hotplug_name(),
		(s64)atomic64_read(&units_marked));
}

bool __init unaccepted_emulation_needs_small_pages(void)
{
	return unaccepted_emulation_active && param.strict;
}

/* The direct map is complete and in use; from here on accesses are caught */
void __init unaccepted_emulation_arm(void)
{
	unsigned long unit, failed = 0;

	if (!unaccepted_emulation_needs_small_pages())
		return;

	armed = true;
	for_each_set_bit(unit, backend, MAX_UNITS) {
		unit_withdraw(unit);
		if (!test_bit(unit, absent))
			failed++;
	}
	__flush_tlb_all();

	if (failed)
		pr_warn("%lu units could not be taken out of the direct map\n",
			failed);
}

/* Hot-plug */

#ifdef CONFIG_MEMORY_HOTPLUG
/* Whoever accepts one of the units clears it in the table when all is done */
static bool being_accepted(struct efi_unaccepted_memory *table,
			   unsigned long first, unsigned long last)
{
	unsigned long unit, flags;
	bool found = false;

	flags = unaccepted_table_lock();
	for (unit = first; unit < last && !found; unit++)
		found = unaccepted_table_unit_in_flight(unit - table_base_unit(table));
	unaccepted_table_unlock(flags);
	return found;
}

/* From here on the units have to be accepted. Nobody uses them */
static void make_pending(struct efi_unaccepted_memory *table,
			 unsigned long first, unsigned long last)
{
	unsigned long unit, flags;

	while (being_accepted(table, first, last))
		cond_resched();

	/*
	 * Before the table has them: as soon as it does, whoever accepts what
	 * lies before accepts the first one too, and puts it back.
	 */
	if (armed) {
		for (unit = first; unit < last; unit++) {
			if (test_bit(unit, backend))
				continue;
			/* Free pages: DEBUG_PAGEALLOC has them unmapped */
			debug_pagealloc_map_pages(pfn_to_page(unit << UNIT_PFN_SHIFT),
						  1 << UNIT_PFN_SHIFT);
			unit_withdraw(unit);
		}
		flush_tlb_kernel_range((unsigned long)__va((u64)first << UNIT_SHIFT),
				       (unsigned long)__va((u64)last << UNIT_SHIFT));
	}

	flags = unaccepted_table_lock();
	for (unit = first; unit < last; unit++) {
		if (test_and_set_bit(unit, backend))
			continue;
		__set_bit(unit - table_base_unit(table), table->bitmap);
		atomic64_inc(&units_added);
	}
	unaccepted_table_unlock(flags);
}

/*
 * load_unaligned_zeropad() reads up to a word past what is in use. When memory
 * is accepted, accept_memory() sees to it that this is no unaccepted memory;
 * when unaccepted memory appears behind accepted memory, it is up to us.
 */
static void keep_guard(unsigned long first)
{
	if (first && pfn_valid(PHYS_PFN((u64)(first - 1) << UNIT_SHIFT)) &&
	    !test_bit(first - 1, backend))
		accept_memory((u64)first << UNIT_SHIFT, PAGE_SIZE);
}

/* accept_memory() keeps interrupts off: not for all of a large range at once */
static void accept_range(u64 start, u64 size)
{
	u64 step = PAGE_SIZE << MAX_PAGE_ORDER, end = start + size, next;

	for (; start < end; start = next) {
		next = min(end, ALIGN_DOWN(start, step) + step);
		accept_memory(start, next - start);
		cond_resched();
	}
}

/* The range is in the direct map, and not yet known to anybody else */
void __ref unaccepted_emulation_add_memory(u64 start, u64 size,
					   struct mhp_params *params)
{
	struct efi_unaccepted_memory *table;
	unsigned long first, last, end;

	if (!unaccepted_emulation_active || params->pgmap ||
	    param.hotplug == UNACCEPTED_HOTPLUG_OFF)
		return;
	table = efi_get_unaccepted_table();
	if (!table)
		return;

	first = DIV_ROUND_UP(start, UNIT_SIZE);
	end = (start + size) >> UNIT_SHIFT;
	last = min(end, table_end_unit(table));
	first = max(first, table_base_unit(table));
	if (first >= last)
		last = first;
	if (end > last) {
		pr_warn_once("hot-added memory beyond the table stays accepted\n");
		atomic64_add(end - max(last, min(first, end)),
			     &units_outside_table);
	}

	if (first == last)
		return;
	make_pending(table, first, last);
	keep_guard(first);

	/* The memory map is written before the range is put online */
	if (params->altmap)
		accept_memory(start,
			      PFN_PHYS(vmem_altmap_offset(params->altmap)));
	if (param.hotplug == UNACCEPTED_HOTPLUG_EAGER)
		accept_range(start, size);
}

void __ref unaccepted_emulation_remove_memory(u64 start, u64 size)
{
	struct efi_unaccepted_memory *table;
	unsigned long unit, first, last, flags;

	if (!unaccepted_emulation_active)
		return;
	table = efi_get_unaccepted_table();
	if (!table)
		return;

	first = max_t(u64, DIV_ROUND_UP(start, UNIT_SIZE),
		      table_base_unit(table));
	last = min_t(u64, (start + size) >> UNIT_SHIFT, table_end_unit(table));

	for (unit = first; unit < last; unit++) {
		unit_restore(unit);
		clear_bit(unit, managed);
	}

	flags = unaccepted_table_lock();
	for (unit = first; unit < last; unit++) {
		if (test_and_clear_bit(unit, backend))
			atomic64_inc(&units_removed);
		__clear_bit(unit - table_base_unit(table), table->bitmap);
	}
	unaccepted_table_unlock(flags);
}

/* Make a part of a memory block that stays pending. False if that is not ours */
static bool make_part_pending(u64 start, u64 size)
{
	struct efi_unaccepted_memory *table;
	unsigned long first, last;

	if (!unaccepted_emulation_active ||
	    param.hotplug == UNACCEPTED_HOTPLUG_OFF)
		return false;
	/* With the block not there, all of it was forgotten */
	table = efi_get_unaccepted_table();
	if (!table || !pfn_valid(PHYS_PFN(start)))
		return false;

	first = max_t(u64, DIV_ROUND_UP(start, UNIT_SIZE),
		      table_base_unit(table));
	last = min_t(u64, (start + size) >> UNIT_SHIFT, table_end_unit(table));
	if (first >= last)
		return false;
	make_pending(table, first, last);
	return true;
}

/* virtio-mem has given a part of a memory block back to the host */
void unaccepted_emulation_unplug(u64 start, u64 size)
{
	make_part_pending(start, size);
}
EXPORT_SYMBOL_GPL(unaccepted_emulation_unplug);

/*
 * ... and has got it, for the first time or again. Units that were accepted in
 * between, as the guard of memory before them, are other memory now.
 */
void unaccepted_emulation_plug(u64 start, u64 size)
{
	if (!make_part_pending(start, size))
		return;
	keep_guard(DIV_ROUND_UP(start, UNIT_SIZE));
	if (param.hotplug == UNACCEPTED_HOTPLUG_EAGER ||
	    (param.hotplug == UNACCEPTED_HOTPLUG_ONLINE &&
	     pfn_to_online_page(PHYS_PFN(start))))
		accept_range(start, size);
}
EXPORT_SYMBOL_GPL(unaccepted_emulation_plug);

/* Does the page allocator have to be given it as memory it has not seen? */
bool unaccepted_emulation_is_pending(u64 start, u64 size)
{
	unsigned long last;

	if (!unaccepted_emulation_active)
		return false;
	last = min_t(u64, DIV_ROUND_UP(start + size, UNIT_SIZE), MAX_UNITS);
	return find_next_bit(backend, last, start >> UNIT_SHIFT) < last;
}
EXPORT_SYMBOL_GPL(unaccepted_emulation_is_pending);

static int going_online(struct notifier_block *nb, unsigned long action,
			void *arg)
{
	struct memory_notify *mn = arg;

	if (action == MEM_GOING_ONLINE)
		accept_range(PFN_PHYS(mn->start_pfn), PFN_PHYS(mn->nr_pages));
	return NOTIFY_OK;
}

static struct notifier_block online_notifier = {
	.notifier_call = going_online,
};

static void __init hotplug_init(void)
{
	if (param.hotplug == UNACCEPTED_HOTPLUG_ONLINE)
		register_memory_notifier(&online_notifier);
}
#else
void unaccepted_emulation_add_memory(u64 start, u64 size,
				     struct mhp_params *params) { }
void unaccepted_emulation_remove_memory(u64 start, u64 size) { }
static void hotplug_init(void) { }
#endif

/* debugfs */

struct snapshot {
	unsigned long table_pending;
	unsigned long pending_offline;
	unsigned long backend_pending;
	unsigned long in_flight;
	unsigned long divergent;
	u64 first_divergent;
	u64 accept_units;
	u64 untraced_units;
};

/* Memory that the page allocator does not have: on no list of unaccepted pages */
static bool unit_offline(unsigned long unit)
{
	struct page *page = pfn_to_online_page(PHYS_PFN((u64)unit << UNIT_SHIFT));

	return !page || PageOffline(page);
}

static void take_snapshot(struct efi_unaccepted_memory *table,
			  struct snapshot *s)
{
	unsigned long unit, base = table_base_unit(table), flags;
	unsigned long nbits = table_end_unit(table) - base;
	bool differ;

	memset(s, 0, sizeof(*s));

	flags = unaccepted_table_lock();
	s->table_pending = bitmap_weight(table->bitmap, nbits);
	s->backend_pending = bitmap_weight(backend, MAX_UNITS);
	s->accept_units = atomic64_read(&accept_units);
	s->untraced_units = atomic64_read(&untraced_units);

	for_each_set_bit(unit, table->bitmap, nbits) {
		if (unit_offline(base + unit))
			s->pending_offline++;
	}

	/* The common case in one go, if the bitmaps start alike */
	if (!base)
		differ = !bitmap_equal(table->bitmap, backend, nbits);
	else
		differ = true;

	for (unit = differ ? next_pending(table, 0) : MAX_UNITS;
	     unit < MAX_UNITS; unit = next_pending(table, unit + 1)) {
		bool in_table = table_has(table, unit);
		bool in_backend = test_bit(unit, backend);

		if (in_table == in_backend)
			continue;
		/* Accepted by the back end, and the table follows shortly */
		if (in_table && unaccepted_table_unit_in_flight(unit - base)) {
			s->in_flight++;
			continue;
		}
		if (!s->divergent++)
			s->first_divergent = (u64)unit << UNIT_SHIFT;
	}
	unaccepted_table_unlock(flags);
}

static int stats_show(struct seq_file *m, void *v)
{
	struct efi_unaccepted_memory *table = efi_get_unaccepted_table();
	struct snapshot s;

	if (!table)
		return -ENODEV;
	take_snapshot(table, &s);

	seq_puts(m, "version 1\n");
	seq_printf(m, "active %d\n", unaccepted_emulation_active);
	seq_printf(m, "route %s\n", route_name());
	seq_printf(m, "hotplug %s\n", hotplug_name());
	seq_printf(m, "strict %d\n", param.strict);
	seq_printf(m, "zero %d\n", param.zero);
	seq_printf(m, "cost_ns %llu\n", READ_ONCE(cost_ns));
	seq_printf(m, "unit_size %lu\n", UNIT_SIZE);
	seq_printf(m, "phys_base 0x%llx\n", table->phys_base);
	seq_printf(m, "table_units %llu\n", table->size * BITS_PER_BYTE);
	seq_printf(m, "units_marked %lld\n", (s64)atomic64_read(&units_marked));
	seq_printf(m, "units_added %lld\n", (s64)atomic64_read(&units_added));
	seq_printf(m, "units_removed %lld\n",
		   (s64)atomic64_read(&units_removed));
	seq_printf(m, "units_outside_table %lld\n",
		   (s64)atomic64_read(&units_outside_table));
	seq_printf(m, "accept_calls %lld\n", (s64)atomic64_read(&accept_calls));
	seq_printf(m, "accept_units %llu\n", s.accept_units);
	seq_printf(m, "double_accepts %lld\n",
		   (s64)atomic64_read(&double_accepts));
	seq_printf(m, "illegal_accesses %lld\n",
		   (s64)atomic64_read(&illegal_accesses));
	seq_printf(m, "table_pending %lu\n", s.table_pending);
	seq_printf(m, "pending_offline %lu\n", s.pending_offline);
	seq_printf(m, "backend_pending %lu\n", s.backend_pending);
	seq_printf(m, "in_flight %lu\n", s.in_flight);
	seq_printf(m, "divergent %lu\n", s.divergent);
	if (s.divergent)
		seq_printf(m, "first_divergent_phys 0x%llx\n",
			   s.first_divergent);
	else
		seq_puts(m, "first_divergent_phys none\n");
	seq_printf(m, "calls_before_init %lld\n",
		   (s64)atomic64_read(&calls_before_init));
	seq_printf(m, "units_before_init %lld\n",
		   (s64)atomic64_read(&units_before_init));
	seq_printf(m, "untraced_calls %lld\n",
		   (s64)atomic64_read(&untraced_calls));
	seq_printf(m, "untraced_units %llu\n", s.untraced_units);
	seq_printf(m, "accept_ns %llu\n",
		   cycles_to_ns(atomic64_read(&accept_cycles)));
	seq_printf(m, "max_accept_ns %llu\n",
		   cycles_to_ns(atomic64_read(&max_accept_cycles)));
	seq_printf(m, "cost_uncharged_ns %lld\n",
		   (s64)atomic64_read(&cost_uncharged_ns));
	seq_printf(m, "tsc_khz %u\n", cycles_khz());
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(stats);

/* Bit 0: pending in the table, bit 1: pending in the back end */
static unsigned int unit_state(struct efi_unaccepted_memory *table,
			       unsigned long unit)
{
	return (table_has(table, unit) ? 1 : 0) |
	       (test_bit(unit, backend) ? 2 : 0);
}

/* Position: the first unit to look at. Runs are found again when shown. */
static void *pending_start(struct seq_file *m, loff_t *pos)
{
	struct efi_unaccepted_memory *table = efi_get_unaccepted_table();
	unsigned long unit = *pos;

	if (!table || unit >= MAX_UNITS)
		return NULL;
	unit = next_pending(table, unit);
	*pos = unit;
	return unit < MAX_UNITS ? pos : NULL;
}

static unsigned long run_end(struct efi_unaccepted_memory *table,
			     unsigned long unit, unsigned int state)
{
	while (unit < MAX_UNITS && unit_state(table, unit) == state)
		unit++;
	return unit;
}

static void *pending_next(struct seq_file *m, void *v, loff_t *pos)
{
	/* pending_show() left the end of the run it has shown */
	*pos = (unsigned long)m->private;
	return pending_start(m, pos);
}

static void pending_stop(struct seq_file *m, void *v)
{
}

static int pending_show(struct seq_file *m, void *v)
{
	struct efi_unaccepted_memory *table = efi_get_unaccepted_table();
	unsigned long unit = *(loff_t *)v, end;
	unsigned int state = unit_state(table, unit);

	end = run_end(table, unit, state);
	/* Accepted since: move on */
	if (end == unit)
		end++;
	m->private = (void *)end;
	if (state)
		seq_printf(m, "0x%llx-0x%llx table=%u backend=%u\n",
			   (u64)unit << UNIT_SHIFT, (u64)end << UNIT_SHIFT,
			   state & 1, state >> 1);
	return 0;
}

static const struct seq_operations pending_sops = {
	.start	= pending_start,
	.next	= pending_next,
	.stop	= pending_stop,
	.show	= pending_show,
};
DEFINE_SEQ_ATTRIBUTE(pending);

static ssize_t selftest_touch_write(struct file *file, const char __user *buf,
				    size_t count, loff_t *ppos)
{
	unsigned long unit = MAX_UNITS;
	u8 *byte;

	/*
	 * The last unit that is pending and, in strict mode, has not been
	 * touched before: each unit reports once.
	 */
	do {
		if (!unit--)
			return -ENODATA;
	} while (!test_bit(unit, backend) || (armed && !test_bit(unit, absent)));

	byte = __va((u64)unit << UNIT_SHIFT);
	READ_ONCE(*byte);
	return count;
}

static ssize_t selftest_double_accept_write(struct file *file,
					    const char __user *buf,
					    size_t count, loff_t *ppos)
{
	unsigned long unit = READ_ONCE(last_accepted);
	unsigned long flags;

	if (unit >= MAX_UNITS || test_bit(unit, backend))
		return -ENODATA;

	local_irq_save(flags);
	arch_accept_memory((u64)unit << UNIT_SHIFT,
			   (u64)(unit + 1) << UNIT_SHIFT);
	local_irq_restore(flags);
	return count;
}

static const struct file_operations selftest_touch_fops = {
	.owner	= THIS_MODULE,
	.open	= simple_open,
	.write	= selftest_touch_write,
};

static const struct file_operations selftest_double_accept_fops = {
	.owner	= THIS_MODULE,
	.open	= simple_open,
	.write	= selftest_double_accept_write,
};

static int __init unaccepted_emulation_init(void)
{
	struct dentry *dir;

	if (!unaccepted_emulation_active)
		return 0;

	hotplug_init();

	dir = debugfs_create_dir("unaccepted_emulation", NULL);
	debugfs_create_file("stats", 0400, dir, NULL, &stats_fops);
	debugfs_create_file("pending", 0400, dir, NULL, &pending_fops);
	debugfs_create_u64("cost_ns", 0600, dir, &cost_ns);
	debugfs_create_file("selftest_touch", 0200, dir, NULL,
			    &selftest_touch_fops);
	debugfs_create_file("selftest_double_accept", 0200, dir, NULL,
			    &selftest_double_accept_fops);
	return 0;
}
/* Before ACPI adds the memory devices that are present at boot */
arch_initcall(unaccepted_emulation_init);
