/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _ASM_X86_UNACCEPTED_EMULATION_H
#define _ASM_X86_UNACCEPTED_EMULATION_H

/*
 * Emulated unaccepted memory. The parser is shared by the kernel, the EFI stub
 * and the decompressor, so that the three always agree on whether the
 * emulation is on. Hence no library calls and no tables of pointers here.
 */

#include <linux/types.h>

/* What the static bitmaps cover; memory above stays accepted */
#define UNACCEPTED_EMULATION_LIMIT	(1ULL << 40)

enum unaccepted_emulation_route {
	UNACCEPTED_ROUTE_NONE,
	UNACCEPTED_ROUTE_DIRECT,
	UNACCEPTED_ROUTE_EFI,
};

enum unaccepted_emulation_hotplug {
	UNACCEPTED_HOTPLUG_OFF,
	UNACCEPTED_HOTPLUG_LAZY,
	UNACCEPTED_HOTPLUG_EAGER,
	UNACCEPTED_HOTPLUG_ONLINE,
};

struct unaccepted_emulation_param {
	enum unaccepted_emulation_route route;
	enum unaccepted_emulation_hotplug hotplug;
	u64 from;
	u64 to;
	u64 cost_ns;
	bool zero;
	bool strict;
};

/* Is [s, end) the given word? */
static inline bool unaccepted_emulation_word(const char *s, const char *end,
					     const char *word)
{
	while (s < end && *word && *s == *word) {
		s++;
		word++;
	}
	return s == end && !*word;
}

/* All of [s, end) as a number, decimal or 0x; K, M, G, T if @size */
static inline bool unaccepted_emulation_number(const char *s, const char *end,
					       bool size, u64 *result)
{
	unsigned int base = 10, shift = 0;
	u64 value = 0;

	if (end - s > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
		base = 16;
		s += 2;
	}
	if (size && end - s > 1) {
		switch (end[-1]) {
		case 'K': case 'k':
			shift = 10;
			break;
		case 'M': case 'm':
			shift = 20;
			break;
		case 'G': case 'g':
			shift = 30;
			break;
		case 'T': case 't':
			shift = 40;
			break;
		}
		if (shift)
			end--;
	}
	if (s == end)
		return false;

	for (; s < end; s++) {
		unsigned int digit;

		if (*s >= '0' && *s <= '9')
			digit = *s - '0';
		else if (base == 16 && *s >= 'a' && *s <= 'f')
			digit = *s - 'a' + 10;
		else if (base == 16 && *s >= 'A' && *s <= 'F')
			digit = *s - 'A' + 10;
		else
			return false;

		if (value > (~0ULL >> 5))
			return false;
		value = value * base + digit;
	}
	if (shift && value >> (63 - shift))
		return false;

	*result = value << shift;
	return true;
}

static inline bool unaccepted_emulation_flag(const char *s, const char *end,
					     bool *result)
{
	if (end - s != 1 || (*s != '0' && *s != '1'))
		return false;
	*result = *s == '1';
	return true;
}

/*
 * Parse "key=value,key=value...". Returns NULL if all of it is good, otherwise
 * the key=value at fault, or the whole string if route is missing or the range
 * is empty. @p is of no use then.
 */
static inline const char *
unaccepted_emulation_parse(const char *str, struct unaccepted_emulation_param *p)
{
	const char *item = str;

	p->route = UNACCEPTED_ROUTE_NONE;
	p->hotplug = UNACCEPTED_HOTPLUG_LAZY;
	p->from = 16 << 20;
	p->to = UNACCEPTED_EMULATION_LIMIT;
	p->cost_ns = 0;
	p->zero = false;
	p->strict = true;

	while (*item) {
		const char *eq, *val, *end;
		bool ok = false;

		for (end = item; *end && *end != ','; end++)
			;
		for (eq = item; eq < end && *eq != '='; eq++)
			;
		if (eq == end)
			return item;
		val = eq + 1;

		if (unaccepted_emulation_word(item, eq, "route")) {
			ok = true;
			if (unaccepted_emulation_word(val, end, "direct"))
				p->route = UNACCEPTED_ROUTE_DIRECT;
			else if (unaccepted_emulation_word(val, end, "efi"))
				p->route = UNACCEPTED_ROUTE_EFI;
			else
				ok = false;
		} else if (unaccepted_emulation_word(item, eq, "hotplug")) {
			ok = true;
			if (unaccepted_emulation_word(val, end, "off"))
				p->hotplug = UNACCEPTED_HOTPLUG_OFF;
			else if (unaccepted_emulation_word(val, end, "lazy"))
				p->hotplug = UNACCEPTED_HOTPLUG_LAZY;
			else if (unaccepted_emulation_word(val, end, "eager"))
				p->hotplug = UNACCEPTED_HOTPLUG_EAGER;
			else if (unaccepted_emulation_word(val, end, "online"))
				p->hotplug = UNACCEPTED_HOTPLUG_ONLINE;
			else
				ok = false;
		} else if (unaccepted_emulation_word(item, eq, "from")) {
			ok = unaccepted_emulation_number(val, end, true, &p->from);
		} else if (unaccepted_emulation_word(item, eq, "to")) {
			ok = unaccepted_emulation_number(val, end, true, &p->to);
		} else if (unaccepted_emulation_word(item, eq, "cost")) {
			/* A second for each unit is more than any platform */
			ok = unaccepted_emulation_number(val, end, false,
							 &p->cost_ns) &&
			     p->cost_ns <= 1000000000;
		} else if (unaccepted_emulation_word(item, eq, "zero")) {
			ok = unaccepted_emulation_flag(val, end, &p->zero);
		} else if (unaccepted_emulation_word(item, eq, "strict")) {
			ok = unaccepted_emulation_flag(val, end, &p->strict);
		}
		if (!ok)
			return item;

		item = *end ? end + 1 : end;
	}

	if (p->to > UNACCEPTED_EMULATION_LIMIT)
		p->to = UNACCEPTED_EMULATION_LIMIT;
	if (p->route == UNACCEPTED_ROUTE_NONE || p->from >= p->to)
		return str;
	return NULL;
}

struct pt_regs;
struct mhp_params;

#ifdef CONFIG_UNACCEPTED_MEMORY_EMULATION

/* EFI stub: memory was relabelled, so acceptance has nothing to do */
extern bool efi_unaccepted_emulation;

/* Kernel proper: the emulated platform stands behind arch_accept_memory() */
extern bool unaccepted_emulation_active;

void unaccepted_emulation_accept(phys_addr_t start, phys_addr_t end);
void unaccepted_emulation_setup(void);
bool unaccepted_emulation_needs_small_pages(void);
void unaccepted_emulation_arm(void);
bool unaccepted_emulation_fault(struct pt_regs *regs, unsigned long error_code,
				unsigned long address);
void unaccepted_emulation_check(phys_addr_t start, u64 size, const char *what);
bool unaccepted_emulation_keeps_out(phys_addr_t start, u64 size);
void unaccepted_emulation_add_memory(u64 start, u64 size,
				     struct mhp_params *params);
void unaccepted_emulation_remove_memory(u64 start, u64 size);
#ifdef CONFIG_MEMORY_HOTPLUG
void unaccepted_emulation_unplug(u64 start, u64 size);
void unaccepted_emulation_plug(u64 start, u64 size);
bool unaccepted_emulation_is_pending(u64 start, u64 size);
#endif

/* The lock of the table in drivers/firmware/efi/unaccepted_memory.c */
unsigned long unaccepted_table_lock(void);
void unaccepted_table_unlock(unsigned long flags);
/* Under that lock: is this unit of the table being accepted right now? */
bool unaccepted_table_unit_in_flight(unsigned long unit);

#else /* !CONFIG_UNACCEPTED_MEMORY_EMULATION */

#define unaccepted_emulation_active	false

static inline void unaccepted_emulation_accept(phys_addr_t start,
					       phys_addr_t end) { }
static inline void unaccepted_emulation_setup(void) { }
static inline bool unaccepted_emulation_needs_small_pages(void)
{
	return false;
}
static inline void unaccepted_emulation_arm(void) { }
static inline bool unaccepted_emulation_fault(struct pt_regs *regs,
					      unsigned long error_code,
					      unsigned long address)
{
	return false;
}
static inline void unaccepted_emulation_check(phys_addr_t start, u64 size,
					      const char *what) { }
static inline bool unaccepted_emulation_keeps_out(phys_addr_t start, u64 size)
{
	return false;
}
static inline void unaccepted_emulation_add_memory(u64 start, u64 size,
						   struct mhp_params *params) { }
static inline void unaccepted_emulation_remove_memory(u64 start, u64 size) { }

#endif /* !CONFIG_UNACCEPTED_MEMORY_EMULATION */
#endif /* _ASM_X86_UNACCEPTED_EMULATION_H */
