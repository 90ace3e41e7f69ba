# SPDX-License-Identifier: MIT
"""Accept events from dynamic probes, and which source of them a guest has. Probes are fprobes where
the kernel has them, else kprobes and kretprobes (Documentation/trace/fprobetrace.rst,
kprobetrace.rst, 6.12). SEV's code takes no fprobe in 6.12 (arch/x86/coco/sev/Makefile,
CFLAGS_REMOVE_core.o), and a kprobe only with CONFIG_KPROBE_EVENTS_ON_NOTRACE, which Debian has not:
there kprobes are put where accept_memory() calls it. What is accepted before early_initcall is seen
only in the counters."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.analysis.probe_pairs import HitWindows, Pairs, write_pairs
from harness.analysis.probes import CALL, PLATFORM_CALL, PLATFORM_RETURN, PROBES_FILE, RETURN
from harness.base.spec import GuestSpec, TargetName
from harness.base.status import PreconditionError
from harness.collect import tracefs
from harness.collect.accepts import AcceptTrace, EventTrace, HistTrace
from harness.collect.call_site import CALL_SIZE, call_site
from harness.collect.plan import Collect, TraceMode
from harness.guest.guest import Guest
from harness.record.events import EventsWriter, TraceFacts
from harness.record.frames import FileStream, parse_frames
from harness.record.ringbuffer import parse_format
from harness.targets.base import BOOT_TRACE_KIB, Target
from harness.targets.registry import TARGETS, target_for

GROUP = "cvm"
NO_CPU = -1
"""Under which losses are counted that belong to no CPU's ring buffer."""
EVENTS_PER_BLOCK = 6
_ARGUMENTS = {
    CALL: "start=$arg1:u64 size=$arg2:u64",
    PLATFORM_CALL: "start=$arg1:u64 end=$arg2:u64",
}
_AT_CALL = {PLATFORM_CALL: "start=%di:u64 end=%si:u64"}
"""The same arguments, in their registers before the call."""
_NAMES = {CALL: "call", RETURN: "return", PLATFORM_CALL: "accept", PLATFORM_RETURN: "accepted"}
_MAX_ACTIVE = 1024
"""Concurrent calls a kretprobe can follow; the default of twice the CPUs drops the others."""
_MISSES = re.compile(r"^\s*(\S{1,100})\s+\d{1,19}\s+(\d{1,19})\s*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Probe:
    kind: int
    name: str
    function: str
    offset: int | None = None
    """Of an instruction in the function; None: its entry, or its return, by `kind`."""

    def definition(self, flavour: str) -> str:
        """The line that makes it; `flavour` is "fprobe" or "kprobe"."""
        if self.offset is not None:
            place = f"{self.function}+{self.offset:#x}"
            return f"p:{GROUP}/{self.name} {place} {_AT_CALL.get(self.kind, '')}".rstrip()
        leaves = self.kind in (RETURN, PLATFORM_RETURN)
        if flavour == "fprobe":
            what, place = "f", self.function + "%return" * leaves
        else:
            what, place = (f"r{_MAX_ACTIVE}" if leaves else "p"), self.function
        return f"{what}:{GROUP}/{self.name} {place} {_ARGUMENTS.get(self.kind, '')}".rstrip()


def probes_of(number: int, function: str, platform: bool) -> tuple[Probe, Probe]:
    """Entry and return of a function."""
    kinds = (PLATFORM_CALL, PLATFORM_RETURN) if platform else (CALL, RETURN)
    first, second = (Probe(kind, f"{_NAMES[kind]}{number}", function) for kind in kinds)
    return first, second


def platform_probes(target: Target) -> tuple[Probe, Probe]:
    """Those on what arch_accept_memory(), which is inline, calls on the target's guests."""
    return probes_of([*TARGETS].index(target.name), target.accept_function, True)


def probes_at_call(probes: tuple[Probe, Probe], caller: str, offset: int) -> tuple[Probe, Probe]:
    """The same where `caller` calls the function, and where it returns to."""
    places = (offset, offset + CALL_SIZE)
    first, second = (
        dataclasses.replace(probe, function=caller, offset=place)
        for probe, place in zip(probes, places, strict=True)
    )
    return first, second


def boot_words() -> tuple[str, ...]:
    """Words for the kernel's command line that set up kprobes at fs_initcall
    (setup_boot_kprobe_events(), kernel/trace/trace_kprobe.c, 6.12). What is accepted before that is
    seen only in the counters. A function that the kernel has not got costs a line in its log."""
    probes = list(probes_of(0, "accept_memory", False))
    for target in TARGETS.values():
        probes += platform_probes(target)
    definitions = ";".join(probe.definition("kprobe").replace(" ", ",") for probe in probes)
    return (f"kprobe_event={definitions}", f"trace_buf_size={BOOT_TRACE_KIB}k", "trace_clock=mono")


class ProbeTrace(AcceptTrace):
    """Its events have `wait_ns` from the call to the platform's work."""

    source = "probes"

    def __init__(self, guest: Guest, platform: TargetName) -> None:
        super().__init__(guest)
        self._platform = platform_probes(target_for(platform))
        self._flavour = ""
        self._probes: list[Probe] = []
        self._since_ns = self._until_ns = 0

    def define(self) -> None:
        """Make the probes, where boot has not. Raises PreconditionError where the kernel takes
        none."""
        if self._probes:
            return
        calls = probes_of(0, "accept_memory", False)
        if self._exists(calls) and self._exists(self._platform):
            self._flavour = "kprobe since boot"
        else:
            self._flavour = self._choose(calls)
        self._probes += (*calls, *self._platform)

    def begin(self, blocks: int, buffer_kib: int | None) -> None:
        """See AcceptTrace. Raises PreconditionError where the kernel takes no probes."""
        self.define()
        tracefs.make_room(self._guest, blocks, EVENTS_PER_BLOCK, kib=buffer_kib)
        tracefs.use_monotonic_clock(self._guest)
        self._switch(True)
        self._since_ns = self._now_ns()

    def pause(self) -> None:
        self._until_ns = self._now_ns()
        self._switch(False)

    def convert(self, raw: Path, out: Path, lost: Mapping[int, int]) -> TraceFacts:
        """See AcceptTrace. Hits whose other half is missing count as lost."""
        layouts = [
            (p.kind, parse_format(tracefs.event_format(self._guest, f"{GROUP}/{p.name}")))
            for p in self._probes
        ]
        frames = parse_frames(FileStream(raw))
        windows, pairs = HitWindows(frames, layouts), Pairs(self._since_ns, self._until_ns)
        for hits in windows:
            pairs.add(hits)
        pairs.finish()
        callers = pairs.callers()
        names = {address: f"{address:#x}" for address in callers}
        names |= tracefs.symbols(self._guest, callers)
        missed = self._missed() + pairs.unpaired
        facts = TraceFacts(
            f"{self.source} ({self._flavour})",
            {**lost, NO_CPU: missed} if missed else lost,
            windows.dropped,
            since_ns=self._since_ns,
            until_ns=self._until_ns,
        )
        with EventsWriter(out) as writer:
            write_pairs(pairs, frames.comms, names, writer)
            writer.finish(facts)
        return facts

    def _choose(self, calls: tuple[Probe, Probe]) -> str:
        """Define all probes; how they were."""
        function = self._platform[0].function
        if flavour := self._first_taken(calls):
            return flavour
        offset = call_site(self._guest, calls[0].function, function)
        if offset is not None:
            self._platform = probes_at_call(self._platform, calls[0].function, offset)
            if flavour := self._first_taken(calls):
                return f"{flavour}, kprobes where {function}() is called"
        raise PreconditionError(
            "the guest's kernel takes neither fprobes nor kprobes on accept_memory() and "
            f"{function}()",
            hint="it needs CONFIG_UNACCEPTED_MEMORY, and CONFIG_FPROBE_EVENTS or "
            "CONFIG_KPROBE_EVENTS",
        )

    def _first_taken(self, calls: tuple[Probe, Probe]) -> str:
        probes = (*calls, *self._platform)
        return next((f for f in ("fprobe", "kprobe") if self._define(probes, f)), "")

    def _exists(self, some: Sequence[Probe]) -> bool:
        return all(tracefs.has_event(self._guest, f"{GROUP}/{probe.name}") for probe in some)

    def _define(self, some: Sequence[Probe], flavour: str) -> bool:
        """Whether the kernel took all; else it has none of them."""
        lines = " && ".join(f"echo '{p.definition(flavour)}' >> dynamic_events" for p in some)
        script = f"cd {tracefs.TRACEFS} && {{ {lines}; }} 2>/dev/null"
        if self._guest.run(script, check=False).exit_status == 0:
            return True
        for probe in some:
            self._guest.run(
                f"echo '-:{GROUP}/{probe.name}' >> {tracefs.TRACEFS}/dynamic_events 2>/dev/null",
                check=False,
            )
        return False

    def _now_ns(self) -> int:
        message = self._guest.init.status()
        now = message.integer("monotonic_ns") if message else None
        if now is None:
            raise PreconditionError("the guest's init did not answer: its clock is not known")
        return now

    def _switch(self, on: bool) -> None:
        tracefs.switch_event(self._guest, on, GROUP)

    def _missed(self) -> int:
        """Calls that kretprobes could not follow (kprobe_profile; fprobes have no such file)."""
        text = self._guest.run(["cat", f"{tracefs.TRACEFS}/kprobe_profile"], check=False).text
        ours = {probe.name for probe in self._probes}
        return sum(int(m[2]) for m in _MISSES.finditer(text) if m[1] in ours)


class BothTraces(AcceptTrace):
    """The trace event and the probes, in probes.parquet, at once in one ring buffer: to compare
    them."""

    source = "event"

    def __init__(self, guest: Guest, platform: TargetName) -> None:
        super().__init__(guest)
        self._event = EventTrace(guest)
        self._probes = ProbeTrace(guest, platform)

    def begin(self, blocks: int, buffer_kib: int | None) -> None:
        self._event.begin(blocks, buffer_kib)
        self._probes.begin(blocks, buffer_kib)

    def pause(self) -> None:
        self._probes.pause()
        self._event.pause()

    def convert(self, raw: Path, out: Path, lost: Mapping[int, int]) -> TraceFacts:
        self._probes.convert(raw, out.with_name(PROBES_FILE), lost)
        return self._event.convert(raw, out, lost)


def accept_trace(
    guest: Guest,
    spec: GuestSpec,
    collect: Collect,
    refused: Callable[[str], None] = lambda why: None,
) -> AcceptTrace | None:
    """The source that `collect` asks for; None where nothing is to be traced, or no source can and
    none was asked for by name: `refused` is told why. Raises PreconditionError where one was."""
    mode = collect.trace
    if mode is TraceMode.OFF or (mode is TraceMode.AUTO and not spec.trace_boot):
        return None
    if mode is TraceMode.PROBES:
        return ProbeTrace(guest, spec.target)
    if tracefs.has_event(guest):
        if mode is TraceMode.HIST:
            return HistTrace(guest)
        return BothTraces(guest, spec.target) if mode is TraceMode.BOTH else EventTrace(guest)
    if mode in (TraceMode.EVENT, TraceMode.BOTH, TraceMode.HIST):
        raise PreconditionError(
            f"the guest's kernel has no trace event {tracefs.ACCEPT_EVENT}",
            hint="use --trace-from=probes, or a kernel with the carried patch",
        )
    probes = ProbeTrace(guest, spec.target)
    try:
        probes.define()
    except PreconditionError as error:
        refused(str(error))
        return None
    return probes
