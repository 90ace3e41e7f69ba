# SPDX-License-Identifier: MIT
"""From a spec to a booted guest: build what is missing, choose what is left open, boot, record."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from harness.analysis.invariants import host_check
from harness.base.progress import Progress, silent
from harness.base.spec import GuestSpec, SnapshotMode
from harness.base.status import GuestFailure, HarnessError, HostError
from harness.base.store import Store
from harness.collect.plan import Collect
from harness.collect.platform import store_platform, violations_in
from harness.guest.guest import Guest
from harness.host.reserve import Claim, Supply, reserve
from harness.host.state import HostWatch
from harness.image.build import build_image, build_plugin, build_program
from harness.image.modules import check_modules
from harness.kernel.addresses import VMLINUX, annotate, call_trace, frames, load_image, source_lines
from harness.kernel.build import build_kernel
from harness.kernel.hook_module import HookModule
from harness.kernel.kernel import Kernel, KernelRequest, kernel_of_disk
from harness.record.console import unexpected
from harness.record.run import run_record
from harness.record.rundir import RunDir
from harness.run.boots import boot_again
from harness.run.prepared import INITRD, GuestRequest, Prepared
from harness.run.restorer import Restorer
from harness.run.run import Run
from harness.targets.base import Target, check_kernel, need_hotplug
from harness.targets.claims import claim_of, supply_for
from harness.targets.facts import host_facts
from harness.targets.registry import target_for

_COMMON_FRAGMENTS = ("base", "acceptance", "trace")


class Session:
    """What many runs share: store, QEMU, runs directory."""

    def __init__(
        self,
        *,
        store: Store | None = None,
        runs: Path = Path("runs"),
        progress: Progress = silent,
        snapshot: SnapshotMode = SnapshotMode.OFF,
    ) -> None:
        """`snapshot` says how `boot` comes by its guests: see harness/run/restorer.py."""
        self.store = store or Store()
        self.runs = runs
        self.progress = progress
        self._hooks: dict[str, HookModule] = {}
        self._restorer = Restorer(
            self.store, snapshot, lambda line: progress("snapshot", 0, None, line)
        )

    def kernel_for(
        self,
        spec: GuestSpec,
        source: str,
        *,
        patches: Sequence[Path] = (),
        settings: Sequence[str] = (),
        extra: Sequence[str] = (),
        carried: bool = True,
    ) -> Kernel:
        """The kernel built from `source` with the config fragments that `spec`'s target needs.

        `patches` go on top of the carried ones, `extra` fragments and `settings` on top of the
        config. Without `carried` the source stays as it is. Built at most once for the same inputs.
        """
        if spec.confidential.disk:
            return kernel_of_disk(spec.confidential.disk)
        request = self.request_for(spec, source, patches, settings, extra, carried)
        return build_kernel(request, self.store, self.progress)

    @staticmethod
    def request_for(
        spec: GuestSpec,
        source: str,
        patches: Sequence[Path] = (),
        settings: Sequence[str] = (),
        extra: Sequence[str] = (),
        carried: bool = True,
    ) -> KernelRequest:
        target = target_for(spec.target)
        return KernelRequest(
            source=source,
            fragments=(*_COMMON_FRAGMENTS, *target.fragments),
            patches=tuple(patches),
            settings=tuple(settings),
            extra=tuple(extra),
            carried=carried,
            carried_fragments=target.carried_fragments,
        )

    def prepare(self, spec: GuestSpec, kernel: Kernel) -> Prepared:
        """Build the image and look at the host. Raises HostError where it cannot run `spec`. Raises
        PreconditionError for a kernel that cannot be what `spec` asks for, NotApplicable where no
        kernel can, UsageError where the target cannot."""
        target = target_for(spec.target)
        target.check(spec)
        if spec.maxmem is not None:
            need_hotplug(target, spec)
        check_kernel(target, kernel)
        check_modules(kernel)
        host = host_facts(spec, self.store, progress=self.progress)
        image = build_image(self.store, spec.layers, modules=kernel.modules)
        program = build_program(self.store) if spec.confidential.disk else None
        plugin = build_plugin(self.store, host.qemu) if spec.by_function else None
        spec = replace(spec, accel=host.accel)
        return Prepared(spec, target, kernel, image, host, program, plugin)

    @contextlib.contextmanager
    def boot(
        self,
        prepared: Prepared,
        *,
        rerun: str = "",
        collect: Collect | None = None,
    ) -> Iterator[Run]:
        """A booted, proven guest in a run directory of its own; `rerun` is how to repeat it.
        However the block ends, the guest is gone and run.json holds the verdict afterwards."""
        claim = claim_of(prepared.spec)
        with (
            reserve(claim, supply_for(prepared.spec, prepared.host), waiting=self._waiting),
            watch_for(prepared.target, prepared.spec) or contextlib.nullcontext() as watch,
            self._boot(prepared, rerun, collect or Collect(), watch) as run,
        ):
            yield run

    def _hooks_for(self, kernel: Kernel) -> HookModule:
        """Kept for the session: what could not be built is not tried again for each guest."""
        made = HookModule(kernel, self.store, self.progress)
        return self._hooks.setdefault(kernel.digest, made)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """The host for this process alone, for a series of guests whose times are compared."""
        with reserve(Claim(exclusive=True), Supply(), waiting=self._waiting):
            yield

    def timing(self, spec: GuestSpec) -> contextlib.AbstractContextManager[None]:
        """For a series whose times are compared: on hardware the host for it alone. Emulated guests
        are slower than what disturbs them by so much that this would only wait."""
        hardware = target_for(spec.target).on_hardware(spec)
        return self.alone() if hardware else contextlib.nullcontext()

    def _waiting(self, why: str) -> None:
        self.progress("wait", 0, None, f"waiting: {why}")

    @contextlib.contextmanager
    def _boot(
        self, prepared: Prepared, rerun: str, collect: Collect, watch: HostWatch | None
    ) -> Iterator[Run]:
        directory = RunDir.create(self.runs)
        request = GuestRequest(prepared, directory, rerun)
        try:
            with contextlib.ExitStack() as stack:
                guest = self._restorer.restored(request, stack)
                if guest is None:
                    guest = boot_again(
                        lambda: stack.enter_context(_cold_guest(request)),
                        directory,
                        lambda line: self.progress("boot", 0, None, line),
                    )
                hooks = self._hooks_for(prepared.kernel)
                run = Run(directory, prepared, guest, collect, watch, hooks)
                try:
                    run.prove()
                    yield run
                finally:
                    run.record_boot()
                    bad = unexpected(guest.splats, guest.expected_splats)
                    trace = [line for splat in bad for line in splat.context]
                    _locate(prepared.kernel, trace, directory)
        except BaseException as error:
            if watch:
                directory.update(host_watch=watch.record())
            blamed = _blame(error, directory)
            if isinstance(blamed, HarnessError):
                blamed.details = (*blamed.details, *_violations(prepared, directory))
                known = _locate(prepared.kernel, blamed.details, directory)
                blamed.details = annotate(blamed.details, known)
            directory.fail(blamed)
            if rerun and isinstance(blamed, HarnessError):
                blamed.details = (*blamed.details, f"rerun: {rerun}")
            if blamed is error:
                raise
            raise blamed from error
        finally:
            _keep_stream(directory)
            # The initrd can be made again from the cache and the keys; 3 MB a run add up.
            (directory.path / INITRD).unlink(missing_ok=True)


def watch_for(target: Target, spec: GuestSpec) -> HostWatch | None:
    """For a guest on hardware. One on an emulated platform cannot do anything to its host's kernel
    that any program could not."""
    return HostWatch() if target.on_hardware(spec) else None


def _locate(kernel: Kernel, lines: Sequence[str], directory: RunDir) -> dict[str, str]:
    """File and line of each frame of a call trace in `lines`, also put on record. Empty for a
    kernel that was not built here, and without binutils."""
    known: dict[str, str] = {**directory.record.get("source_lines", {})}
    trace = [frame for frame in frames(lines) if frame.where not in known]
    vmlinux = kernel.bzimage.with_name(VMLINUX)
    if trace and vmlinux.is_file():
        with contextlib.suppress(HostError):
            known |= source_lines(vmlinux, trace)
            directory.update(source_lines=known)
    return known


def _violations(prepared: Prepared, directory: RunDir) -> tuple[str, ...]:
    """Put the emulated platform's violations on record; the call trace of the first. Without
    symbols for a kernel that was not built here."""
    if not prepared.target.platform_emulated(prepared.spec):
        return ()
    found = violations_in(directory.path)
    if not found:
        return ()
    first, trace = found[0], tuple[str, ...]()
    vmlinux = prepared.kernel.bzimage.with_name(VMLINUX)
    if first.rip is not None and vmlinux.is_file():
        with contextlib.suppress(HostError, OSError, ValueError):
            code = bytes.fromhex(first.code)
            trace = call_trace(load_image(vmlinux), first.rip, code, first.stack)
    directory.update(violations=[msgspec.to_builtins(one) for one in found], backtrace=trace)
    return trace


def _keep_stream(directory: RunDir) -> None:
    """Of a run that was not concluded: what its platform saw up to the end."""
    try:
        store_platform(directory.path)
    except HarnessError as error:
        directory.update(platform_stream=error.cause)


def _blame(error: BaseException, directory: RunDir) -> BaseException:
    """What a run died of: on hardware a report of the host's kernel comes before all else."""
    check = host_check(run_record(directory.record).host_watch)
    if check is None or check.status is not GuestFailure.status:
        return error
    details = [str(error), *(error.details if isinstance(error, HarnessError) else ())]
    return GuestFailure(f"{check.name}: {check.detail}", details=details)


def _cold_guest(request: GuestRequest) -> Guest:
    keys = request.new_keys()
    return Guest(request.machine(keys), request.directory.path, keys=keys)
