# SPDX-License-Identifier: MIT
"""Who runs which guest, on disk: a lease is made before QEMU is spawned and removed after it is
reaped; of one whose harness is gone the next run kills the QEMU, if the PDEATHSIG did not."""

import contextlib
import json
import os
import secrets
import signal
import stat
import tempfile
from pathlib import Path
from typing import Annotated

import psutil
from msgspec import Meta
from msgspec.structs import replace

from harness.base.reader import FileType, read_json
from harness.base.status import HostError, UsageError
from harness.record.rundir import plain


class ProcessId(FileType, frozen=True):
    """Identifies a process across reuse of its pid: pid and start time."""

    pid: Annotated[int, Meta(ge=2)]
    start_ticks: Annotated[int, Meta(ge=0)]
    """Field 22 of /proc/<pid>/stat: clock ticks since host boot (proc(5))."""


_Text = Annotated[str, Meta(min_length=1)]


class LeaseRecord(FileType, frozen=True):
    guest_id: _Text
    """Also QEMU's -name: finds a QEMU that was spawned but not yet recorded."""
    boot_id: _Text
    """The host boot in which the pids mean something."""
    harness: ProcessId
    qemu: ProcessId | None
    run_dir: _Text


def lease_directory() -> Path:
    """The per-user runtime directory for leases. Raises HostError if it is not safely ours."""
    override = os.environ.get("CVM_HARNESS_LEASES")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if override:
        path = Path(override)
    elif runtime and os.access(runtime, os.W_OK):
        path = Path(runtime) / "cvm-harness"
    else:
        path = Path(tempfile.gettempdir()) / f"cvm-harness-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise HostError(
            f"{path} is not a directory that only this user can write",
            hint="remove it, or set CVM_HARNESS_LEASES to a directory of your own",
        )
    return path


def process_id(pid: int) -> ProcessId | None:
    """The process `pid` as it is now; None if there is none (a zombie counts as none)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command name, in parentheses, may hold anything: fields count from the last ")".
    fields = text[text.rfind(b")") + 2 :].split()
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return ProcessId(pid, int(fields[19]))


def own_process() -> ProcessId:
    own = process_id(os.getpid())
    assert own is not None  # we run
    return own


class Lease:
    """One guest's lease, held by this process."""

    def __init__(self, run_dir: Path) -> None:
        self._path = lease_directory() / f"cvm-{secrets.token_hex(8)}.json"
        self.guest_id = self._path.stem
        own, run = own_process(), str(run_dir)
        self.record = LeaseRecord(self.guest_id, host_boot_id(), own, None, run)
        self._write()

    def spawned(self, pid: int) -> None:
        """QEMU is running as `pid`."""
        self.record = replace(self.record, qemu=process_id(pid))
        self._write()

    def release(self) -> None:
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(plain(self.record)))
        temporary.rename(self._path)


def sweep() -> list[str]:
    """Clear up after every harness of this user that is gone. Returns what was done, one a line."""
    done = []
    for path in sorted(lease_directory().glob("cvm-*.json")):
        try:
            record = read_json(path, LeaseRecord)
        except UsageError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            done.append(f"removed the unreadable lease {path.name}: {error}")
            continue
        if record.boot_id == host_boot_id():
            if process_id(record.harness.pid) == record.harness:
                continue
            found = {record.qemu} if record.qemu else set()
            for process in found | _named(record.guest_id):
                if _kill(process):
                    done.append(f"killed QEMU {process.pid}, left by a run in {record.run_dir}")
        path.unlink(missing_ok=True)
    return done


def _named(guest_id: str) -> set[ProcessId]:
    """Processes of this user with `guest_id` as an argument of their own."""
    pids = [
        process.pid
        for process in psutil.process_iter(["uids", "cmdline"])
        if guest_id in (process.info["cmdline"] or ()) and process.info["uids"].real == os.getuid()
    ]
    return {found for pid in pids if (found := process_id(pid))}


def _kill(process: ProcessId) -> bool:
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(process.pid)
        try:
            # The pidfd is open, so from here on the pid cannot become another process.
            if process_id(process.pid) == process:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return True
        finally:
            os.close(pidfd)
    return False


def host_boot_id() -> str:
    """What names the host's current boot: pids, and snapshots, mean something only within it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
