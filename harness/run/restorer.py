# SPDX-License-Identifier: MIT
"""Guests from snapshots, where that is possible; the caller boots where it is not.

The first run of a guest boots a template and saves it; from then on each starts from it in a
fraction of a second, all from the same state of acceptance.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

from harness.base.spec import SnapshotMode
from harness.base.status import EmulatorFlaw, HarnessError, HostError
from harness.base.store import Store, digest_file, digest_of
from harness.guest.guest import Guest
from harness.guest.machine import Machine, devices
from harness.guest.snapshot import machine as snapshot_machine
from harness.guest.snapshot.restore import AfterFirmware, Restored
from harness.guest.snapshot.save import save_template
from harness.guest.snapshot.snapshot import BadSnapshot, OpenSnapshot
from harness.guest.snapshot.store import VERSION, SnapshotStore
from harness.image.keys import Keys
from harness.record.rundir import RunDir
from harness.run.boots import boot_again, set_aside
from harness.run.prepared import INITRD, GuestRequest, Prepared
from harness.workloads.base import Notify

_RESTORES = 2
"""A snapshot that cannot be restored is made anew once; then the guest is booted."""
_ASIDE = "failed-snapshot"


class _Unusable(Exception):
    """There is no restored guest; the text says why."""


class _NoFirmware(Exception):
    """Firmware cannot be saved before it reads the kernel; the text says why."""


class Restorer:
    """Hands out restored guests of one session."""

    def __init__(self, store: Store, mode: SnapshotMode, progress: Notify) -> None:
        self._snapshots = SnapshotStore(store)
        self._mode = mode
        self._progress = progress
        self._broken = ""
        """Why snapshots do not work here, once that is known."""
        self._no_firmware = ""
        """The same for snapshots of firmware."""

    def restored(self, request: GuestRequest, stack: contextlib.ExitStack) -> Guest | None:
        """A restored guest that `stack` ends; None if it has to be booted, with why on record.

        Raises what booting the template raises, which is what booting the guest would have.
        """
        reason = self._broken or why_not(request.prepared, self._mode)
        attempt = self._attempt if self._mode is SnapshotMode.AUTO else self._after_firmware
        tries = 0 if reason else _RESTORES
        while tries:
            tries -= 1
            try:
                return attempt(request, stack)
            except _NoFirmware as error:
                reason = self._no_firmware = str(error)
                self._progress(f"no snapshot of the firmware: {reason}")
                tries += 1  # once more, without one
            except _Unusable as error:
                reason = str(error)
                self._progress(f"no guest from a snapshot: {reason}")
            if not tries:
                self._broken = reason
        request.directory.update(snapshot={"used": False, "reason": reason})
        return None

    def _attempt(self, request: GuestRequest, stack: contextlib.ExitStack) -> Guest:
        """A guest from a template of its own kernel."""
        # Whether the guest's firmware, which any kernel can follow, is saved for itself.
        holds = can_hold(request.prepared) and not self._no_firmware
        digest = snapshot_digest(request.prepared, holds=holds)
        try:
            snapshot, discarded = self._open(
                digest, lambda entry: self._save(request, digest, entry, holds)
            )
        except BadSnapshot as error:
            self._snapshots.discard(digest)
            raise _Unusable(f"the snapshot just made is no good: {error}") from error
        with snapshot:
            keys = snapshot.lend_keys(request.directory.path / "keys")
            machine = _held(request.machine(keys), holds)
            request.directory.update(snapshot=_facts(snapshot, discarded))
            return self._enter(request, machine, snapshot, Restored(snapshot), keys, stack)

    def _after_firmware(self, request: GuestRequest, stack: contextlib.ExitStack) -> Guest:
        """A guest that boots its kernel, where firmware that had run before hands over to it."""
        if self._no_firmware:
            raise _Unusable(self._no_firmware)
        keys = request.new_keys()
        machine = snapshot_machine.holding(request.machine(keys))
        with self._firmware(request, machine) as snapshot:
            request.directory.update(snapshot=_facts(snapshot, "") | {"of": "firmware"})
            return self._enter(request, machine, snapshot, AfterFirmware(snapshot), keys, stack)

    def _enter(
        self,
        request: GuestRequest,
        machine: Machine,
        snapshot: OpenSnapshot,
        start: Restored | AfterFirmware,
        keys: Keys,
        stack: contextlib.ExitStack,
    ) -> Guest:
        restored = snapshot_machine.restored(machine, snapshot.ram, snapshot.state)
        guest = Guest(restored, request.directory.path, keys=keys, start=start)
        try:
            return stack.enter_context(guest)
        except HarnessError as error:
            ran = "restored" if start.boots else "ready"
            if ran in guest.boot.stages:  # the guest ran: what befell it is its own
                raise
            set_aside(request.directory.path, _ASIDE)
            self._snapshots.discard(snapshot.manifest.digest)
            raise _Unusable(f"restoring failed: {error.cause}") from error

    def _open(self, digest: str, save: Callable[[Path], None]) -> tuple[OpenSnapshot, str]:
        def waiting() -> None:
            self._progress("waiting for a snapshot that another run makes")

        return self._snapshots.open(digest, save, waiting=waiting)

    def _firmware(self, request: GuestRequest, machine: Machine) -> OpenSnapshot:
        """The firmware's snapshot, made if there is none. Raises _NoFirmware."""
        digest = firmware_digest(request.prepared)

        def save(entry: Path) -> None:
            self._progress("running the firmware up to the kernel, to save it")
            self._boot_template(machine, None, digest, entry, request.directory)

        try:
            return self._open(digest, save)[0]
        except (HarnessError, BadSnapshot) as error:
            set_aside(request.directory.path, "failed-firmware")
            raise _NoFirmware(str(error)) from error

    def _save(self, request: GuestRequest, digest: str, entry: Path, holds: bool) -> None:
        # All as for a guest that is booted: if this one fails, the run says so like any other.
        keys = request.new_keys()
        machine = _held(request.machine(keys), holds)
        firmware = self._firmware(request, machine) if holds else None
        self._progress("booting the template of a snapshot")
        with firmware or contextlib.nullcontext():
            self._boot_template(machine, keys, digest, entry, request.directory, firmware)

    def _boot_template(
        self,
        machine: Machine,
        keys: Keys | None,
        digest: str,
        entry: Path,
        directory: RunDir,
        firmware: OpenSnapshot | None = None,
    ) -> None:
        def save(*, in_files: bool) -> None:
            for leftover in entry.iterdir():
                if leftover.is_file():
                    leftover.unlink()
            save_template(
                *(machine, keys, entry, digest, directory.path),
                in_files=in_files,
                firmware=firmware,
            )

        try:
            boot_again(lambda: save(in_files=True), directory, self._progress)
        except EmulatorFlaw:
            raise
        except HostError as error:
            # Memory in a file wants a file system that can map it, and a QEMU that can leave it
            # there. What takes neither is a stream with all of the memory in it.
            self._progress(f"saving the guest's memory in a stream: {error.cause}")
            set_aside(directory.path, _ASIDE)
            boot_again(lambda: save(in_files=False), directory, self._progress)


def why_not(prepared: Prepared, mode: SnapshotMode) -> str:
    """Why this guest has to be booted; empty if it can start from a snapshot."""
    if mode is SnapshotMode.OFF:
        return "snapshots are off"
    if mode is SnapshotMode.FIRMWARE and not can_hold(prepared):
        return "only firmware that starts a kernel under TCG, on tdx and snp, is saved"
    return prepared.target.why_no_snapshot(prepared.spec)


def can_hold(prepared: Prepared) -> bool:
    """Whether QEMU can stop the guest where its firmware asks for the kernel."""
    emulated = prepared.target.platform_emulated(prepared.spec)
    return emulated and prepared.spec.confidential.disk is None


def _held(machine: Machine, holds: bool) -> Machine:
    return snapshot_machine.holding(machine) if holds else machine


def snapshot_digest(prepared: Prepared, *, holds: bool = False) -> str:
    """Names everything that shaped the guest: kernel, image, firmware, command line, QEMU."""
    machine = _held(prepared.machine(Path(INITRD)), holds)
    kernel = str(prepared.kernel.bzimage)
    arguments = [
        ["KERNEL" if word == kernel else word for word in option] for option in machine.args
    ]
    return digest_of(
        "snapshot",
        VERSION,
        digest_file(prepared.kernel.bzimage),
        prepared.image.digest,
        *_machine_facts(prepared, machine, arguments),
    )


def firmware_digest(prepared: Prepared) -> str:
    """Names everything that shapes a guest up to its kernel."""
    machine = _held(prepared.machine(Path(INITRD)), holds=True)
    later = ("-kernel", "-initrd", "-append")
    arguments = [[*option] for option in machine.args if option[0] not in later]
    return digest_of("firmware", VERSION, *_machine_facts(prepared, machine, arguments))


def _machine_facts(
    prepared: Prepared, machine: Machine, arguments: list[list[str]]
) -> tuple[object, ...]:
    qemu = prepared.host.qemu
    binary = qemu.binary.stat()
    return (
        digest_file(prepared.host.firmware) if prepared.host.firmware else None,
        arguments,
        devices(machine.virtio_options, 0),
        [str(qemu.binary), qemu.version, binary.st_size, binary.st_mtime_ns],
    )


def _facts(snapshot: OpenSnapshot, discarded: str) -> dict[str, object]:
    manifest = snapshot.manifest
    return {
        "used": True,
        "digest": manifest.digest,
        "memory": "copy-on-write" if manifest.ram else "stream",
        "state_bytes": manifest.state_bytes,
        "save_ns": manifest.save_ns,
        "template_stages_ns": manifest.stages_ns,
        "replaces": discarded,
    }
