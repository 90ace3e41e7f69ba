/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM unaccepted_memory

#if !defined(_TRACE_UNACCEPTED_MEMORY_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_UNACCEPTED_MEMORY_H

#include <linux/tracepoint.h>

/*
 * One event for each contiguous range handed to the platform. The ranges of
 * one accept_memory() call follow each other on one CPU: first=1 begins a call.
 * start == end: the call waited, and then there was nothing left to accept.
 */
TRACE_EVENT(accept_memory,

	TP_PROTO(u64 start, u64 end, unsigned int units, bool first,
		 u64 duration_ns, u64 wait_ns, bool irqs_off,
		 unsigned long caller),

	TP_ARGS(start, end, units, first, duration_ns, wait_ns, irqs_off,
		caller),

	TP_STRUCT__entry(
		__field(u64, start)
		__field(u64, end)
		__field(u64, duration_ns)
		__field(u64, wait_ns)
		__field(unsigned long, caller)
		__field(unsigned int, units)
		__field(u8, first)
		__field(u8, irqs_off)
	),

	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
		__entry->duration_ns = duration_ns;
		__entry->wait_ns = wait_ns;
		__entry->caller = caller;
		__entry->units = units;
		__entry->first = first;
		__entry->irqs_off = irqs_off;
	),

	TP_printk("start=0x%llx end=0x%llx units=%u first=%u duration_ns=%llu wait_ns=%llu irqs_off=%u caller=%pS",
		  __entry->start, __entry->end, __entry->units, __entry->first,
		  __entry->duration_ns, __entry->wait_ns, __entry->irqs_off,
		  (void *)__entry->caller)
);

#endif /* _TRACE_UNACCEPTED_MEMORY_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
