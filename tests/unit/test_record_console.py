# SPDX-License-Identifier: MIT
"""The console scanner: kernel texts as kernels print them, in any pieces, in bounded memory."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.record.console import MAX_CONTEXT, MAX_SPLATS, ConsoleScanner, Kind, Splat, unexpected

OOPS = b"""\
[    5.100000] BUG: unable to handle page fault for address: ffff888100000000
[    5.100001] #PF: supervisor write access in kernel mode
[    5.100002] Oops: Oops: 0002 [#1] SMP NOPTI
[    5.100003] CPU: 1 UID: 0 PID: 77 Comm: touch Not tainted 6.12.0 #1
[    5.100004] RIP: 0010:clear_page_erms+0x7/0x10
[    5.100005] ---[ end trace 0000000000000000 ]---
[    5.200000] note: touch[77] exited with irqs disabled
"""
PANIC = b"""\
[    9.000001] Kernel panic - not syncing: sysrq triggered crash
[    9.000002] CPU: 0 UID: 0 PID: 80 Comm: sh Not tainted
[    9.000003] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---
"""
OOM = b"""\
[   12.5] not a stamp
[   12.500000] touch invoked oom-killer: gfp_mask=0x140dca, order=0, oom_score_adj=0
[   12.500001] Mem-Info:
[   12.500002] Out of memory: Killed process 91 (touch) total-vm:900000kB
"""


def scan(data: bytes, *cuts: int) -> tuple[Splat, ...]:
    scanner = ConsoleScanner()
    ends = sorted(min(cut, len(data)) for cut in cuts)
    for start, end in zip([0, *ends], [*ends, len(data)], strict=True):
        scanner.feed(data[start:end], host_ns=7)
    scanner.close(7)
    return scanner.splats


LINES = [
    (Kind.FIRMWARE, "OVMF: Secure boot image verification failed.  Consider using the '-shim'"),
    (Kind.FIRMWARE, "BdsDxe: No bootable option or device was found."),
    (Kind.PANIC, "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009"),
    (Kind.PANIC, "PANIC: early exception 0x0e IP 10:ffffffff81000000 error 0"),
    (Kind.OOPS, "BUG: kernel NULL pointer dereference, address: 0000000000000000"),
    (Kind.OOPS, "Oops: general protection fault, probably for non-canonical address 0x6b6b"),
    (Kind.OOPS, "general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP"),
    (Kind.OOPS, "general protection fault: 0000 [#1] PREEMPT SMP"),
    (Kind.BUG, "kernel BUG at mm/page_alloc.c:123!"),
    (Kind.WARN, "WARNING: CPU: 1 PID: 60 at mm/page_alloc.c:1141 __free_pages_ok+0x10/0x20"),
    (Kind.WARN, "WARNING: mm/page_alloc.c:1141 at accept_page+0x1/0x2, CPU#1: touch/60"),
    (Kind.WARN, "WARNING: at accept_page+0x1/0x2, CPU#1: touch/60"),
    (Kind.SOFT_LOCKUP, "watchdog: BUG: soft lockup - CPU#3 stuck for 26s! [touch:60]"),
    (Kind.HARD_LOCKUP, "watchdog: Watchdog detected hard LOCKUP on cpu 1"),
    (Kind.HARD_LOCKUP, "watchdog: CPU0: Watchdog detected hard LOCKUP on cpu 1"),
    (Kind.WORKQUEUE_LOCKUP, "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0"),
    (Kind.RCU_STALL, "rcu: INFO: rcu_preempt self-detected stall on CPU"),
    (Kind.RCU_STALL, "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:"),
    (Kind.RCU_STALL, "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-... }"),
    (Kind.RCU_STALL, "INFO: rcu_tasks detected stalls on tasks:"),
    (Kind.HUNG_TASK, "INFO: task kworker/0:1:12 blocked for more than 120 seconds."),
    (Kind.HUNG_TASK, "INFO: task dd:9 blocked in I/O wait for more than 120 seconds."),
    (Kind.OOM, "touch invoked oom-killer: gfp_mask=0x140dca(GFP_HIGHUSER), order=0"),
    (Kind.OOM, "Out of memory: Killed process 91 (touch) total-vm:900000kB"),
    (Kind.OOM, "Memory cgroup out of memory: Killed process 91 (touch) total-vm:9kB"),
    (Kind.LOCKDEP, "WARNING: possible circular locking dependency detected"),
    (Kind.LOCKDEP, "WARNING: inconsistent lock state"),
    (Kind.LOCKDEP, "WARNING: suspicious RCU usage"),
    (Kind.LOCKDEP, "WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected"),
    (Kind.LOCKDEP, "[ BUG: Invalid wait context ]"),
    (Kind.LOCKDEP, "INFO: trying to register non-static key."),
    (Kind.SANITIZER, "BUG: KASAN: use-after-free in accept_page+0x1/0x2"),
    (Kind.SANITIZER, "pagealloc: memory corruption"),
    (Kind.SANITIZER, "pagealloc: single bit error"),
    (Kind.SANITIZER, "BUG kmalloc-64 (Not tainted): Poison overwritten"),
    (Kind.SANITIZER, "BUG mm_struct (Tainted: G        W         ): Redzone overwritten"),
    (Kind.SANITIZER, "BUG: KFENCE: out-of-bounds read in f+0x1/0x2"),
    (Kind.SANITIZER, "UBSAN: array-index-out-of-bounds in mm/page_alloc.c:5:6"),
    (Kind.ATOMIC, "BUG: scheduling while atomic: swapper/0/0/0x00000002"),
    (Kind.ATOMIC, "BUG: sleeping function called from invalid context at mm/page_alloc.c:5"),
    (Kind.BAD_PAGE, "BUG: Bad page state in process touch  pfn:12345"),
    (Kind.BAD_PAGE, "BUG: Bad rss-counter state mm:00000000 type:MM_ANONPAGES val:1"),
    (Kind.LIST, "list_add corruption. next->prev should be prev (ffff), but was 0000."),
    (Kind.ILLEGAL_ACCESS, "unaccepted_emulation: ILLEGAL ACCESS to unaccepted memory at 0x1"),
    (Kind.DOUBLE_ACCEPT, "unaccepted_emulation: DOUBLE ACCEPT of 0x200000"),
    (Kind.ACCEPT_FAILED, "Cannot accept memory: unknown platform"),
    (Kind.ACCEPT_FAILED, "TDX: Failed to accept memory"),
    (Kind.COCO, "tdx: Unexpected #VE: 30"),
    (Kind.COCO, "PVALIDATE failure: pfn: 0x1, action: 1, size: 1, ret: 6, svsm_ret: 0x0"),
    (Kind.COCO, "Unsupported exit-code 0x60 in #VC exception (IP: 0x1)"),
]


@pytest.mark.parametrize(("kind", "text"), LINES)
def test_every_text_is_known(kind: Kind, text: str) -> None:
    (splat,) = scan(f"quiet\n[    1.250000] {text}\r\nquiet\n".encode())
    assert splat.kind is kind
    assert splat.line == text
    assert splat.guest_ns == 1_250_000_000
    assert splat.host_ns == 7


@pytest.mark.parametrize(("kind", "text"), LINES)
def test_without_a_stamp_or_with_a_caller(kind: Kind, text: str) -> None:
    (bare,) = scan(text.encode())
    (called,) = scan(b"[   61.000001][   T12] " + text.encode() + b"\n")
    assert bare.kind is called.kind is kind
    assert bare.guest_ns is None
    assert called.guest_ns == 61_000_001_000


@pytest.mark.parametrize(
    "text",
    [
        "Kernel command line: console=ttyS0 accept_memory=lazy panic=-1 oops=panic",
        "traps: touch[60] general protection fault ip:401000 sp:7ffd error:0 in touch",
        "WARNING: this system was booted without coffee",
        "rcu: RCU calculated value of scheduler-enlistment delay is 25 jiffies.",
        "NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
        "Memory: 1000000K/2097152K available",
        "unaccepted_emulation: active",
        "process: using mwait in idle threads",
        "Warning: unable to open an initial console.",
    ],
)
def test_ordinary_lines_are_not_splats(text: str) -> None:
    assert scan(f"[    1.000000] {text}\n".encode()) == ()


def test_an_oops_is_one_splat_up_to_its_end_mark() -> None:
    oops, panic = scan(OOPS + PANIC)
    assert (oops.kind, panic.kind) == (Kind.OOPS, Kind.PANIC)
    assert "clear_page_erms" in "\n".join(oops.context)
    assert oops.context[-1].startswith("---[ end trace")
    assert panic.fatal
    assert not oops.fatal


def test_an_oom_kill_is_one_splat_that_a_workload_can_expect() -> None:
    splats = scan(OOM)
    assert [s.kind for s in splats] == [Kind.OOM]
    assert unexpected(splats, frozenset({Kind.OOM})) == ()
    assert unexpected(splats, frozenset()) == splats


def test_fatal_is_known_before_the_report_ends() -> None:
    scanner = ConsoleScanner()
    scanner.feed(PANIC[: PANIC.index(b"\n") + 1], 3)
    assert scanner.fatal
    assert scanner.fatal.line == "Kernel panic - not syncing: sysrq triggered crash"


piece = st.one_of(
    st.sampled_from([OOPS, PANIC, OOM, b"\n", b"\r\n", b"x" * 5000, b"\xff\x00\x1b[31m"]),
    st.sampled_from(LINES).map(lambda line: line[1].encode() + b"\n"),
    st.binary(max_size=200),
)


@given(st.lists(piece, max_size=8).map(b"".join), st.lists(st.integers(0, 20000), max_size=8))
def test_pieces_make_no_difference(data: bytes, cuts: list[int]) -> None:
    assert scan(data, *cuts) == scan(data)


@given(st.binary(max_size=2000))
def test_what_is_shown_is_printable(data: bytes) -> None:
    scanner = ConsoleScanner()
    scanner.feed(b"Oops: " + data, 1)
    scanner.close(1)
    shown = [*scanner.tail(), *(s.line for s in scanner.splats)]
    assert all(c == "\t" or c.isprintable() for line in shown for c in line)


def test_a_flood_does_not_grow_memory() -> None:
    scanner = ConsoleScanner()
    report = b"x" * 100 + b"\nWARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n" + b"y" * 70_000
    tracemalloc.start()
    try:
        for _ in range(400):
            scanner.feed(report, 1)
        size, _ = tracemalloc.get_traced_memory()
        for _ in range(400):
            scanner.feed(report, 1)
        grown = tracemalloc.get_traced_memory()[0] - size
    finally:
        tracemalloc.stop()
    assert len(scanner.splats) == MAX_SPLATS
    assert grown < 200_000


def test_context_is_bounded() -> None:
    (splat,) = scan(b"WARNING: at f+0x1/0x2, CPU#1: a/1\n" + b"line\n" * 1000)
    assert len(splat.context) == MAX_CONTEXT
