# SPDX-License-Identifier: MIT
"""One guest from boot to verdict: prove, read, collect, load, read again, judge the difference."""

import contextlib
import dataclasses
import time
from typing import Any

from harness.analysis.analyse import PENDING_FILE, WORKLOAD_FILE, Analysis, analyse
from harness.base.progress import Progress, silent
from harness.base.status import HarnessError, HostError, PreconditionError
from harness.base.units import MAX_ORDER_PAGES, PAGE_SIZE, format_size
from harness.collect.accepts import AcceptTrace
from harness.collect.plan import Collect
from harness.collect.platform import PlatformWitness
from harness.collect.probes import accept_trace
from harness.collect.readings import measure_clock, read_counters, save_functions
from harness.collect.sampler import Sampler
from harness.guest.guest import Guest
from harness.host.state import HostWatch
from harness.kernel.hook_module import HookModule
from harness.kernel.kernel import overhead
from harness.record.clocks import ClockPoint
from harness.record.counters import Counters
from harness.record.rundir import RunDir, plain, write_json
from harness.record.samples import FILE as SAMPLES_FILE
from harness.run.prepared import Prepared
from harness.targets.base import GuestEvidence, Proof, lazy_in_force
from harness.workloads.base import Notify, Workload, WorkloadResult

_MAX_CONSOLE = 4 << 20
_MAX_ANSWER = 64 << 10
_HINT = "use a kernel built with this target's config, e.g. --kernel debian:6.12"
_MAX_PENDING = 64 << 20
_PENDING = "/sys/kernel/debug/unaccepted_emulation/pending"


class Run:
    """A booted guest with its run directory. Made by `Session.boot`."""

    def __init__(
        self,
        directory: RunDir,
        prepared: Prepared,
        guest: Guest,
        collect: Collect,
        watch: HostWatch | None,
        hook_module: HookModule | None = None,
    ) -> None:
        self.directory = directory
        self.hook_module = hook_module
        """The test hooks for its kernel, where that has none built in."""
        self.overhead = overhead(prepared.kernel)
        """What its kernel's own checks cost it."""
        self._watch = watch
        self.spec = prepared.spec
        self.guest = guest
        self.collect = collect
        self._target = prepared.target
        self._trace: AcceptTrace | None = None
        self._sampler: Sampler | None = None
        self._clock: list[ClockPoint] = []
        self._workloads: list[dict[str, Any]] = []
        self._marks: dict[str, int] = {}
        self._progress: Progress = silent
        self._stage = ""
        self.before: Counters | None = None
        self._witness = PlatformWitness(guest, directory.path) if guest.machine.witness else None

    @property
    def platform(self) -> PlatformWitness | None:
        """QEMU's emulated platform, which counts for itself; None where there is none."""
        return self._witness

    @property
    def traced(self) -> bool:
        """Whether the carried patch's trace event is on."""
        return self._trace is not None and self._trace.source == "event"

    def counters(self) -> Counters:
        """Read every counter of unaccepted memory at once. Raises PreconditionError."""
        return read_counters(self.guest)

    def _reading(self, moment: str) -> Counters:
        """Every counter, and what the emulated platform says at the same moment, on record."""
        witness = self._witness
        if witness is None:
            return self.counters()
        pending = self.directory.path / PENDING_FILE if moment == "after" else None
        counters = witness.read(moment, pending)
        if moment == "proven":
            witness.statistics["before"] = witness.statistics["proven"]
        platform = {"statistics": witness.statistics, "at_rest": witness.at_rest}
        self.directory.update(platform=platform)
        return counters

    def prove(self) -> None:
        """Check that the guest is what its target claims; record it; take the first reading. Raises
        PreconditionError where a proof does not hold, naming it and what was seen."""
        self.before = before = self._reading("proven")
        evidence = self._evidence(before)
        proofs = self._proofs(evidence)
        if not all(proof.holds for proof in proofs):
            # The 8250 driver waits 10 ms for the serial port and then writes over what is in it,
            # so on a busy host lines lose characters; the kernel has kept what it printed.
            kept = self.guest.run("dmesg", check=False, max_output=_MAX_CONSOLE).text
            proofs = self._proofs(
                dataclasses.replace(evidence, console=f"{evidence.console}\n{kept}")
            )
        self.directory.update(proofs=proofs, counters_before=before)
        for proof in proofs:
            if not proof.holds:
                raise PreconditionError(
                    f"this guest does not prove to be what was asked for "
                    f"({self.spec.target.value}, {self.spec.accept.value}): {proof.name}: "
                    f"{proof.evidence}",
                    hint=proof.hint or _HINT,
                )
        self._open_record(before)

    def _proofs(self, evidence: GuestEvidence) -> tuple[Proof, ...]:
        least = self._target.least_unaccepted_pages(self.spec)
        lazy = lazy_in_force(evidence, self.spec.accept, least, self._target.more_unaccepted)
        return (*self._target.proofs(evidence), lazy)

    def _open_record(self, before: Counters) -> None:
        """Have the running kernel's events and clock recorded from here on."""
        self._compare_clocks()
        self._trace = accept_trace(
            self.guest,
            self.spec,
            self.collect,
            lambda why: self.directory.update(trace_refused=why),
        )
        if self._trace:
            pages = before.unaccepted_pages + (self.spec.maxmem or 0) // PAGE_SIZE
            self._trace.begin(pages // MAX_ORDER_PAGES, self.collect.buffer_kib)
            if self._trace.source != "event":
                # Probes know nothing of what came before them: neither shall the first reading.
                self.before = self._reading("before")
                self.directory.update(counters_before=self.before)

    def _evidence(self, before: Counters) -> GuestEvidence:
        console = (self.directory.path / "console.log").read_bytes()[:_MAX_CONSOLE]
        return GuestEvidence(
            console=console.decode(errors="replace"),
            cmdline=self.guest.boot.ready.cmdline,
            emulation_stats=before.emulation,
            nr_unaccepted_at_init=self.guest.boot.init.nr_unaccepted_pages,
            answers={
                command: self.guest.run(command, check=False, max_output=_MAX_ANSWER).text
                for command in self._target.guest_questions
            },
            qmp={command: self._ask_qemu(command) for command in self._target.qmp_questions},
        )

    def _ask_qemu(self, command: str) -> object:
        try:
            return self.guest.qmp.execute(command)
        except HostError as refusal:
            return refusal.cause

    def load(
        self,
        workload: Workload,
        notify: Notify = lambda _: None,
        progress: Progress = silent,
    ) -> WorkloadResult:
        """Run `workload` in the guest and record its report. The counters are sampled meanwhile.
        `notify` hears what the workload says, `progress` how nr_unaccepted falls under it."""
        self._progress, self._stage = progress, workload.name

        def say(line: str) -> None:
            self._stage = line
            notify(line)

        self.guest.expected_splats |= workload.expected_splats
        if workload.replaces_kernel:
            self._stop_sampler()  # it would end with the kernel
        else:
            self._start_sampler()
        self._mark("start_host_ns", first=True)
        result = workload.run(self.guest, say)
        if workload.replaces_kernel:
            self._renew()
        self._mark("end_host_ns")
        self._workloads.append(
            plain(result) | {"name": workload.name, "parameters": dataclasses.asdict(workload)}
        )
        write_json(self.directory.path / WORKLOAD_FILE, _summary(self._workloads))
        return result

    def _renew(self) -> None:
        """Another kernel runs in the guest: from here on the record is about that one. What the
        kernel before had is gone with its memory: its trace, its clock, its counters. Its first
        reading stays on record, as the precondition of the workload."""
        if "counters_first_kernel" not in self.directory.record:
            self.directory.update(counters_first_kernel=self.before)
        self.before = before = self._reading("before")
        self.directory.update(counters_before=before)
        (self.directory.path / SAMPLES_FILE).unlink(missing_ok=True)
        self._clock, self._marks = [], {}
        self._open_record(before)
        self._mark("start_host_ns")

    def record_boot(self) -> None:
        """Write the boot's stages, messages and splats; also for a guest that did not get far."""
        self.directory.update(
            boot=self.guest.boot,
            splats=self.guest.splats,
            expected_splats=sorted(self.guest.expected_splats),
        )

    def conclude(self) -> Analysis:
        """Take the last reading, judge, write the verdict to run.json."""
        if self.before is None:
            raise PreconditionError("the guest was never proven, so there is nothing to judge")
        self.guest.check_emulator()
        self._stop_sampler()
        if self._trace:
            self._trace.pause()
        after = self._reading("after")
        self.directory.update(counters_after=after)
        if after.emulation:
            pending = self.guest.get(_PENDING, _MAX_PENDING)
            (self.directory.path / PENDING_FILE).write_bytes(pending)
        if self._trace:
            self.directory.update(trace=self._trace.save(self.directory.path))
        if self.spec.by_function:
            save_functions(self.guest, self.directory.path)
        self._compare_clocks()
        self.record_boot()
        if self._watch:
            self.directory.update(host_watch=self._watch.record())
        found = analyse(self.directory.path)
        accepts = found.accepts.summary if found.accepts else None
        self.directory.update(checks=found.checks, accepts=accepts)
        self.directory.finish(found.status, found.cause)
        return found

    def _start_sampler(self) -> None:
        hz = self.collect.rate(self.spec.clock)
        if self._sampler is None and hz:
            self._sampler = Sampler(self.guest, self.directory.path, hz, self._tell_unaccepted)

    def _tell_unaccepted(self, pages: int) -> None:
        if self.before is None or self.before.unaccepted_pages <= 0:
            return
        total = self.before.unaccepted_pages
        note = (
            f"{format_size((total - pages) * PAGE_SIZE)} accepted, "
            f"{format_size(pages * PAGE_SIZE)} left"
        )
        self._progress(self._stage, total - pages, total, note)

    def _stop_sampler(self) -> None:
        if self._sampler:
            self._sampler.stop()
            self._sampler = None

    def _mark(self, name: str, *, first: bool = False) -> None:
        if not (first and name in self._marks):
            self._marks[name] = time.monotonic_ns()
        self.directory.update(workload_marks=self._marks)

    def _compare_clocks(self) -> None:
        # A guest that answers SSH but not on the port has lost its init: later checks say so.
        with contextlib.suppress(HarnessError):
            self._clock.append(measure_clock(self.guest))
            self.directory.update(clock_points=self._clock)


def _summary(workloads: list[dict[str, Any]]) -> dict[str, Any]:
    cpu_ns = [load["cpu_ns"] for load in workloads if load["cpu_ns"] is not None]
    return {
        "name": "+".join(load["name"] for load in workloads),
        "touched_bytes": sum(load["touched_bytes"] for load in workloads),
        "elapsed_ns": sum(load["elapsed_ns"] for load in workloads),
        "cpu_ns": sum(cpu_ns) if cpu_ns else None,
        "workloads": workloads,
    }
