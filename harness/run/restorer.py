# SPDX-License-Identifier: MIT
"""Guests from snapshots, where that is possible; the caller boots where it is not.

The first run of a guest boots a template and saves it; from then on each starts from it in a
fraction of a second, all from the same state of acceptance.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from harness.base.spec import SnapshotMode
from harness.base.status import EmulatorFlaw, HarnessError, HostError
from harness.base.store import Store, digest_file, digest_of
from harness.guest.guest import Guest
from harness.guest.machine import devices
from harness.guest.snapshot import machine as snapshot_machine
from harness.guest.snapshot.restore import Restored
from harness.guest.snapshot.save import save_template
from harness.guest.snapshot.snapshot import BadSnapshot, OpenSnapshot
from harness.guest.snapshot.store import VERSION, SnapshotStore
from harness.image.keys import Keys
from harness.record.rundir import RunDir
from harness.run.boots import boot_again, set_aside
from harness.run.prepared import INITRD, Prepared, make_machine
from harness.workloads.base import Notify

_RESTORES = 2
"""A snapshot that cannot be restored is made anew once; then the guest is booted."""
_ASIDE = "failed-snapshot"


class _Unusable(Exception):
    """There is no restored guest; the text says why."""


class Restorer:
    """Hands out restored guests of one session."""

    def __init__(self, store: Store, mode: SnapshotMode, progress: Notify) -> None:
        self._snapshots = SnapshotStore(store)
        self._mode = mode
        self._progress = progress
        self._broken = ""
        """Why snapshots do not work here, once that is known."""

    def restored(
        self, prepared: Prepared, directory: RunDir, rerun: str, stack: contextlib.ExitStack
    ) -> Guest | None:
        """A restored guest that `stack` ends; None if it has to be booted, with why on record.

        Raises what booting the template raises, which is what booting the guest would have.
        """
        reason = self._broken or why_not(prepared, self._mode)
        if not reason:
            digest = snapshot_digest(prepared)
            for _ in range(_RESTORES):
                try:
                    return self._attempt(prepared, digest, directory, rerun, stack)
                except _Unusable as error:
                    reason = str(error)
                    self._progress(f"no guest from a snapshot: {reason}")
                    self._snapshots.discard(digest)
            self._broken = reason
        directory.update(snapshot={"used": False, "reason": reason})
        return None

    def _attempt(
        self,
        prepared: Prepared,
        digest: str,
        directory: RunDir,
        rerun: str,
        stack: contextlib.ExitStack,
    ) -> Guest:
        try:
            snapshot, discarded = self._snapshots.open(
                digest,
                lambda entry: self._save(prepared, digest, entry, directory, rerun),
                waiting=lambda: self._progress("waiting for a snapshot that another run makes"),
            )
        except BadSnapshot as error:
            raise _Unusable(f"the snapshot just made is no good: {error}") from error
        with snapshot:
            keys = snapshot.lend_keys(directory.path / "keys")
            machine = make_machine(prepared, directory, keys, rerun)
            directory.update(snapshot=_facts(snapshot, discarded))
            guest = Guest(
                snapshot_machine.restored(machine, snapshot.ram, snapshot.state),
                directory.path,
                keys=keys,
                start=Restored(snapshot),
            )
            try:
                return stack.enter_context(guest)
            except HarnessError as error:
                if "ready" in guest.boot.stages:  # the guest ran: what befell it is its own
                    raise
                set_aside(directory.path, _ASIDE)
                raise _Unusable(f"restoring failed: {error.cause}") from error

    def _save(
        self, prepared: Prepared, digest: str, entry: Path, directory: RunDir, rerun: str
    ) -> None:
        self._progress("booting the template of a snapshot")
        # All as for a guest that is booted: if this one fails, the run says so like any other.
        keys = Keys.generate(directory.path / "keys")
        machine = make_machine(prepared, directory, keys, rerun)

        def save(*, in_files: bool) -> None:
            for leftover in entry.iterdir():
                if leftover.is_file():
                    leftover.unlink()
            save_template(machine, keys, entry, digest, directory.path, in_files=in_files)

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
    return prepared.target.why_no_snapshot(prepared.spec)


def snapshot_digest(prepared: Prepared) -> str:
    """Names everything that shaped the guest: kernel, image, firmware, command line, QEMU."""
    machine = prepared.machine(Path(INITRD))
    kernel = str(prepared.kernel.bzimage)
    arguments = [
        ["KERNEL" if word == kernel else word for word in option] for option in machine.args
    ]
    qemu = prepared.host.qemu
    binary = qemu.binary.stat()
    return digest_of(
        "snapshot",
        VERSION,
        digest_file(prepared.kernel.bzimage),
        prepared.image.digest,
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
