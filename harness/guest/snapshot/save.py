# SPDX-License-Identifier: MIT
"""Boot a template and save it: its memory stays in the files it ran on, its devices go to one more.

The template is booted in the run directory of the run that wants it, as any guest is: if it fails,
what it said is where one looks for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from harness.base.status import HostError
from harness.base.store import digest_file
from harness.guest.guest import ColdStart, Guest, Start
from harness.guest.machine import Machine
from harness.guest.snapshot import machine as snapshot_machine
from harness.guest.snapshot.migration import await_migration, set_capabilities, uri
from harness.guest.snapshot.restore import AfterFirmware, UntilKernel
from harness.guest.snapshot.snapshot import (
    CONSOLE,
    KEYS,
    STATE,
    Manifest,
    OpenSnapshot,
    RamFile,
    describe_ram,
    ram_name,
    stages_since_spawn,
    write_manifest,
)
from harness.host.lease import host_boot_id
from harness.image.keys import Keys
from harness.record.platform import STREAM

_SAVE_S = 60.0
_ENOUGH_BYTES_PER_S = 1 << 40
_SCRATCH = ("console.log", "qemu.log", "qmp.jsonl")


def save_template(
    machine: Machine,
    keys: Keys | None,
    directory: Path,
    digest: str,
    run_dir: Path,
    *,
    in_files: bool,
    firmware: OpenSnapshot | None = None,
) -> None:
    """Boot `machine`, which has `keys`, and make `directory` a snapshot of it at "ready".

    Without `keys` it is one of the firmware, at the moment before the kernel (for a machine that
    is `holding`); such a snapshot as `firmware` spares the next template that part of its boot.
    With `in_files` the memory is in one file per backend; without, it is in the device state, whose
    size and time then grow with it. Raises what a boot raises, and HostError if QEMU cannot save.
    """
    start: Start = ColdStart() if keys else UntilKernel()
    with contextlib.ExitStack() as stack:
        state = _create(stack, directory / STATE, 0)
        sizes = snapshot_machine.memory_sizes(machine) if in_files else {}
        ram = {
            backend: _create(stack, directory / ram_name(backend), size)
            for backend, size in sizes.items()
        }
        template = snapshot_machine.template(machine, ram, state)
        if firmware:
            for backend, descriptor in firmware.ram.items():
                copy_sparse(descriptor, ram[backend])
            template = snapshot_machine.waiting(template, firmware.state)
            start = AfterFirmware(firmware)
        with Guest(template, run_dir, keys=None, start=start) as guest:
            save_ns = _save(guest, state, in_files=in_files)
            boot = guest.boot
    shutil.copy(run_dir / CONSOLE, directory / CONSOLE)
    if keys:
        keys.copy(directory / KEYS)
    for name in (*_SCRATCH, *([STREAM] if machine.witness else ())):
        (run_dir / name).rename(directory / f"template-{name}")
    write_manifest(
        directory,
        Manifest(
            digest=digest,
            host_boot_id=host_boot_id(),
            ram=_described(directory, ram),
            state_bytes=(directory / STATE).stat().st_size,
            state_sha256=digest_file(directory / STATE),
            save_ns=save_ns,
            stages_ns=stages_since_spawn(boot),
            init=dict(boot.init.fields),
            ready=dict(boot.ready.fields),
            host_public_key=keys.host_public_key if keys else "",
            authorized_key=keys.authorized_key if keys else "",
        ),
    )


def _described(directory: Path, ram: Mapping[str, int]) -> dict[str, RamFile]:
    return {backend: describe_ram(directory, backend) for backend in ram}


def _create(stack: contextlib.ExitStack, path: Path, size: int) -> int:
    """A new sparse file of `size` bytes; guests' memory is nobody else's to read."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, descriptor)
    try:
        os.ftruncate(descriptor, size)
    except OSError as error:
        raise HostError(f"cannot make a file of {size} bytes: {error.strerror}") from error
    return descriptor


def copy_sparse(source: int, target: int) -> None:
    """Copy a file's data, not its holes, between descriptors of files of equal size."""
    end = os.fstat(source).st_size
    at = 0
    while at < end:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        at = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(source, start, os.SEEK_SET)
        os.lseek(target, start, os.SEEK_SET)
        left = at - start
        while left:
            left -= os.copy_file_range(source, target, left)


def _save(guest: Guest, state: int, *, in_files: bool) -> int:
    """Stop the guest and write its device state. Returns how long that took, in ns."""
    set_capabilities(guest, in_files=in_files)
    guest.qmp.execute("migrate-set-parameters", {"max-bandwidth": _ENOUGH_BYTES_PER_S})
    where = uri(guest, state)
    started_ns = time.monotonic_ns()
    guest.qmp.execute("stop")
    guest.qmp.execute("migrate", {"uri": where})
    await_migration(guest, _SAVE_S)
    return time.monotonic_ns() - started_ns
