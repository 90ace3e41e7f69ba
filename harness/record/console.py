# SPDX-License-Identifier: MIT
"""Console bytes in, splats out, in bounded memory: what a kernel says when it is in trouble. What
userspace prints to /dev/console counts the same: a false alarm can be looked into."""

import enum
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from harness.base.text import printable

MAX_LINE = 4096
"""Bytes of a line that are looked at; printk's own limit is 1 KiB (LOG_LINE_MAX)."""
MAX_CONTEXT = 80
"""Lines kept after the one that names the trouble; a report with a stack takes about 60."""
MAX_SPLATS = 200
"""Splats kept of one guest."""
TAIL_LINES = 50
"""Last lines kept for failure messages."""


class Kind(enum.StrEnum):
    PANIC = "panic"
    OOPS = "oops"
    BUG = "bug"
    WARN = "warn"
    SOFT_LOCKUP = "soft-lockup"
    HARD_LOCKUP = "hard-lockup"
    WORKQUEUE_LOCKUP = "workqueue-lockup"
    RCU_STALL = "rcu-stall"
    HUNG_TASK = "hung-task"
    OOM = "oom"
    LOCKDEP = "lockdep"
    SANITIZER = "sanitizer"
    ATOMIC = "atomic-context"
    BAD_PAGE = "bad-page"
    LIST = "list-corruption"
    ILLEGAL_ACCESS = "illegal-access"
    DOUBLE_ACCEPT = "double-accept"
    ACCEPT_FAILED = "accept-failed"
    COCO = "confidential-platform"
    FIRMWARE = "firmware"


FATAL = frozenset({Kind.PANIC, Kind.ACCEPT_FAILED, Kind.FIRMWARE})
"""After these the guest does no more work: waiting for it is pointless."""

# First match wins. \b-free on purpose: printk text may follow unterminated userspace output.
_TABLE: tuple[tuple[Kind, str], ...] = (
    # kernel/panic.c: panic(), vpanic(); "PANIC: " arch/x86/mm/extable.c, coco/sev/vc-handle.c
    (Kind.PANIC, r"Kernel panic - not syncing|PANIC: "),
    # patches/: the emulated platform's strict mode
    (Kind.ILLEGAL_ACCESS, r"unaccepted_emulation: ILLEGAL ACCESS"),
    (Kind.DOUBLE_ACCEPT, r"unaccepted_emulation: DOUBLE ACCEPT"),
    # arch/x86/boot/compressed/mem.c and error.c (stub); asm/unaccepted_memory.h (kernel)
    (
        Kind.ACCEPT_FAILED,
        r"Cannot accept memory: unknown platform|TDX: Failed to accept memory| -- System halted",
    ),
    # edk2: OvmfPkg/Library/X86QemuLoadImageLib; MdeModulePkg/Universal/BdsDxe/BdsEntry.c
    (
        Kind.FIRMWARE,
        r"OVMF: Secure boot image verification failed|BdsDxe: No bootable option",
    ),
    # arch/x86/coco/tdx/tdx.c; coco/sev/shared.c, core.c (6.12), noinstr.c, vc-handle.c (7.3)
    (
        Kind.COCO,
        r"Unexpected #VE|PVALIDATE fail|#VC exception|in #VC instruction emulation",
    ),
    # arch/x86/mm/fault.c: show_fault_oops(); arch/x86/kernel/dumpstack.c: __die_header();
    # traps.c: exc_general_protection(), before 6.9 without "Oops: " (mind the userspace message
    # "traps: … general protection fault ip:", which is not about the kernel)
    (
        Kind.OOPS,
        r"BUG: unable to handle|BUG: kernel NULL pointer|Oops: |Oops\[#|"
        r"general protection fault(?:, |: [0-9a-f]{4} \[#)",
    ),
    # lib/list_debug.c
    (Kind.LIST, r"list_(?:add|del) (?:double add|corruption)"),
    # lib/bug.c: report_bug()
    (Kind.BUG, r"kernel BUG at "),
    # kernel/watchdog.c: watchdog_timer_fn(), watchdog_hardlockup_check()
    (Kind.SOFT_LOCKUP, r"BUG: soft lockup - CPU"),
    (Kind.HARD_LOCKUP, r"Watchdog detected hard LOCKUP"),
    # kernel/workqueue.c: wq_watchdog_timer_fn()
    (Kind.WORKQUEUE_LOCKUP, r"BUG: workqueue lockup"),
    # kernel/rcu/tree_stall.h, tree_exp.h, tasks.h: "INFO: rcu_preempt detected stalls on CPUs"
    (Kind.RCU_STALL, r"INFO: rcu\S* (?:self-detected stall|detected (?:expedited )?stalls)"),
    # kernel/hung_task.c: "blocked for more than", 7.3 also "blocked in I/O wait for more than"
    (Kind.HUNG_TASK, r"INFO: task .{1,64} blocked(?: in I/O wait)? for more than "),
    # mm/oom_kill.c: dump_header(), __oom_kill_process(), out_of_memory()
    (
        Kind.OOM,
        r"invoked oom-killer: |Out of memory(?: \(oom_kill_allocating_task\))?: Killed process|"
        r"Memory cgroup out of memory: |Out of memory and no killable",
    ),
    # kernel/locking/lockdep.c
    (
        Kind.LOCKDEP,
        r"WARNING: possible |WARNING: inconsistent lock state|WARNING: suspicious RCU usage|"
        r"WARNING: bad unlock balance|WARNING: bad contention|WARNING: held lock freed|"
        r"WARNING: Nested lock|WARNING: lock held when returning|still has locks held!|"
        r"unsafe lock order detected|BUG: Invalid wait context|BUG: MAX_(?:LOCK|STACK)|"
        r"INFO: trying to register non-static key",
    ),
    # mm/kasan/report.c, mm/kfence/report.c, mm/kmsan/report.c, kernel/kcsan/report.c, lib/ubsan.c,
    # mm/page_poison.c: check_poison_mem(); mm/slub.c: slab_bug(), "BUG kmalloc-64 (Tainted: ...): "
    (
        Kind.SANITIZER,
        r"BUG: K[AMC]SAN: |BUG: KFENCE: |UBSAN: |BUG: DEBUG_|"
        r"pagealloc: (?:memory corruption|single bit error)|BUG \S{1,64} \((?:Not t|T)ainted",
    ),
    # kernel/sched/core.c: __schedule_bug(), __might_resched(); lib/smp_processor_id.c
    (Kind.ATOMIC, r"BUG: scheduling while atomic|BUG: sleeping function|BUG: using \S+ in preempt"),
    # mm/page_alloc.c: bad_page(); mm/memory.c: print_bad_pte(); kernel/fork.c: check_mm()
    (Kind.BAD_PAGE, r"BUG: Bad |BUG: non-zero pgtables_bytes|Bad rss-counter state"),
    # kernel/panic.c: __warn(), to 6.12 "WARNING: CPU: 0 PID: 1 at", 7.3 "WARNING: file.c:12 at f"
    (Kind.WARN, r"WARNING: CPU: \d+ PID: |WARNING: \S{1,200}:\d+ at |WARNING: at \S+, CPU#"),
)
_ANY = re.compile("|".join(f"({pattern})" for _, pattern in _TABLE).encode())
_KINDS = tuple(kind for kind, _ in _TABLE)
# A literal that every pattern above contains: most lines are turned away by this alone.
_HINT = re.compile(
    rb"BUG|WARNING|INFO: |Oops|anic|PANIC|accept|ACCE|LOCKUP|fault|emory|corruption|"
    rb"SAN: |locks held|lock order|halted|#V|PVALIDATE|oom-killer|list_|rss-counter|"
    rb"bootable|verification|pagealloc"
)

# kernel/printk/printk.c: info_print_prefix(): "[   12.345678][    T1] "
_PREFIX = re.compile(rb"(?:<\d{1,3}>)?\[ {0,5}(\d{1,10})\.(\d{6})\](?:\[ {0,6}[TC]\d+\])? ?")

# kernel/panic.c: print_oops_end_marker(), vpanic(); lib/ubsan.c: ubsan_epilogue()
_END = re.compile(rb"---\[ end (?:trace|Kernel panic)|^=={20,}$")

# One incident that takes several of these lines is one splat: an oops after its "BUG: " line, the
# kill after "invoked oom-killer".
_CONTINUES: dict[Kind, frozenset[Kind]] = {
    Kind.OOPS: frozenset({Kind.OOPS, Kind.BUG, Kind.LIST, Kind.SANITIZER}),
    Kind.BUG: frozenset({Kind.LIST}),
    Kind.OOM: frozenset({Kind.OOM}),
    Kind.RCU_STALL: frozenset({Kind.RCU_STALL}),
    Kind.PANIC: frozenset({Kind.PANIC, Kind.ACCEPT_FAILED}),
    Kind.ACCEPT_FAILED: frozenset({Kind.ACCEPT_FAILED, Kind.PANIC}),
    Kind.WARN: frozenset({Kind.LIST, Kind.COCO}),
}


@dataclass(frozen=True)
class Splat:
    """One report of trouble on the console."""

    kind: Kind
    line: str
    """The line that names it, without the time stamp, made printable."""
    host_ns: int
    """Host CLOCK_MONOTONIC when the line had come in."""
    guest_ns: int | None = None
    """The kernel's own stamp (local_clock(), CPU time since boot), if it prints one."""
    context: tuple[str, ...] = ()
    """The lines that followed, to the end mark or MAX_CONTEXT."""

    @property
    def fatal(self) -> bool:
        return self.kind in FATAL

    def describe(self) -> str:
        """One line for a cause: "oops: BUG: unable to handle page fault …"."""
        return f"{self.kind.value}: {self.line}"


class ConsoleScanner:
    """Feed it the console in pieces of any size; the result does not depend on where they end."""

    def __init__(self) -> None:
        self.fatal: Splat | None = None
        """The first splat after which the guest does no more work, without its context."""
        self._partial = bytearray()
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._found: list[tuple[Splat, list[bytes]]] = []
        """With the lines that followed each."""
        self._open: tuple[Splat, list[bytes]] | None = None

    def feed(self, data: bytes, host_ns: int) -> None:
        """Take the next bytes, which came in at host CLOCK_MONOTONIC `host_ns`."""
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._collect(piece)
            self._end_line(host_ns)
        self._collect(rest)

    def close(self, host_ns: int) -> None:
        """The console has ended: what there is of a last line counts as one."""
        if self._partial:
            self._end_line(host_ns)

    @property
    def splats(self) -> tuple[Splat, ...]:
        """What was found so far; the last one's context may still grow."""
        return tuple(
            replace(splat, context=tuple(map(printable, context))) for splat, context in self._found
        )

    def tail(self, count: int = TAIL_LINES) -> tuple[str, ...]:
        """The last lines, made printable; the unfinished one included."""
        lines = [*self._tail, bytes(self._partial)] if self._partial else list(self._tail)
        return tuple(printable(line.rstrip(b"\r")) for line in lines[-count:])

    def _collect(self, piece: bytes) -> None:
        room = MAX_LINE - len(self._partial)
        if room > 0:
            self._partial += piece[:room]

    def _end_line(self, host_ns: int) -> None:
        line = bytes(self._partial).rstrip(b"\r")
        self._partial.clear()
        self._tail.append(line)
        prefix = _PREFIX.match(line)
        text = line[prefix.end() :] if prefix else line
        hit = _ANY.search(text) if _HINT.search(text) else None
        if hit and hit.lastindex:
            kind = _KINDS[hit.lastindex - 1]
            if not (self._open and self._open[0].kind in _CONTINUES.get(kind, frozenset())):
                stamp = int(prefix[1]) * 10**9 + int(prefix[2]) * 1000 if prefix else None
                self._begin(Splat(kind, printable(text), host_ns, stamp))
                return
            if kind in FATAL and self.fatal is None:
                self.fatal = Splat(kind, printable(text), host_ns)
        if self._open:
            context = self._open[1]
            context.append(text)
            if _END.search(text) or len(context) >= MAX_CONTEXT:
                self._open = None

    def _begin(self, splat: Splat) -> None:
        if splat.fatal and self.fatal is None:
            self.fatal = splat
        self._open = None
        if len(self._found) < MAX_SPLATS:
            self._open = (splat, [])
            self._found.append(self._open)


def unexpected(splats: Iterable[Splat], expected: frozenset[Kind]) -> tuple[Splat, ...]:
    """The splats of kinds that the workload did not ask for."""
    return tuple(splat for splat in splats if splat.kind not in expected)
