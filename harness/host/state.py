# SPDX-License-Identifier: MIT
"""The host as it was for a run, what happened to it meanwhile, and the report that is sent back."""

import contextlib
import errno
import io
import json
import os
import re
import tarfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.base.status import HostError
from harness.host.cpu import is_on, kernel_release, parameter
from harness.host.view import HostView, text
from harness.record.console import ConsoleScanner, Splat
from harness.record.rundir import plain

_MODULES = ("kvm", "kvm_amd", "kvm_intel", "ccp")
_FILES = {
    "kernel_version": "/proc/version",
    "kernel_command_line": "/proc/cmdline",
    "smt_active": "/sys/devices/system/cpu/smt/active",
    "cpufreq_governor": "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    "microcode": "/sys/devices/system/cpu/cpu0/microcode/version",
    "numa_nodes": "/sys/devices/system/node/online",
    "thp": "/sys/kernel/mm/transparent_hugepage/enabled",
    "thp_shmem": "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
    "hugepages_2m": "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
    "hugepages_1g": "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages",
    "tdx_module": "/sys/devices/faux/tdx_host/version",
    "bios_version": "/sys/class/dmi/id/bios_version",
    "board": "/sys/class/dmi/id/board_name",
    "product": "/sys/class/dmi/id/product_name",
}
_RECORD = 8192
"""Bytes of one record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg): at most 1 KiB of text."""
MAX_LINES = 20_000
KVM_STATS = Path("/sys/kernel/debug/kvm")
"""Sums over all VMs (virt/kvm/kvm_main.c, kvm_init_debug()); root only."""


def host_state(view: HostView) -> dict[str, object]:
    """What can shape a figure or explain a failure, by name; what the host lacks is left out."""
    facts: dict[str, object] = {"kernel": kernel_release(view)}
    for name, path in _FILES.items():
        if (value := text(view, path)) is not None:
            facts[name] = value.strip()
    facts["module_parameters"] = {
        module: {
            Path(path).name: value for path in paths if (value := text(view, path)) is not None
        }
        for module in _MODULES
        if (paths := view.glob(f"/sys/module/{module}/parameters/*"))
    }
    if is_on(parameter(view, "kvm_amd", "sev_snp")):  # else asking could initialise the firmware
        with contextlib.suppress(OSError):
            facts["snp_firmware"] = view.snp_status().version
    return facts


class KernelLog:
    """The host's kernel log from now on. Unreadable without root on most hosts."""

    def __init__(self, *, from_start: bool = False) -> None:
        self.why_not = ""
        """Empty where it can be read."""
        self._descriptor = -1
        try:
            self._descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._descriptor, 0, os.SEEK_SET if from_start else os.SEEK_END)
        except OSError as error:
            self.close()
            self.why_not = f"/dev/kmsg: {errno.errorcode.get(error.errno or 0, error.errno)}"

    def lines(self) -> list[str]:
        """The lines since the last call, without stamps; bounded."""
        found: list[str] = []
        while not self.why_not and len(found) < MAX_LINES:
            try:
                record = os.read(self._descriptor, _RECORD)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EPIPE:  # overwritten before we read it
                    continue
                break
            if not record:
                break
            found.append(message_of(record))
        return found

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def message_of(record: bytes) -> str:
    r"""The text of a /dev/kmsg record, "6,339,5140900,-;message\n KEY=value\n"."""
    _, _, rest = record.partition(b";")
    return rest.split(b"\n")[0].decode("utf-8", "backslashreplace")


def kernel_log() -> list[str]:
    """All lines the log still holds; none where it cannot be read."""
    with contextlib.closing(KernelLog(from_start=True)) as log:
        return log.lines()


@dataclass(frozen=True)
class WatchRecord:
    """What was seen; judged in harness.analysis.invariants."""

    kernel_log: str
    """"read", or why it could not be."""
    splats: tuple[Splat, ...]
    kvm_stats: Mapping[str, int]
    """Name -> change over the run, other VMs included; empty where they cannot be read."""


class HostWatch:
    """Watches from `with` on. A context manager."""

    def __init__(self, log: KernelLog | None = None, stats: Path = KVM_STATS) -> None:
        self._stats = stats
        self._before = read_stats(stats)
        self._scanner = ConsoleScanner()
        self._log = log or KernelLog()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def record(self) -> WatchRecord:
        for line in self._log.lines():
            self._scanner.feed(line.encode() + b"\n", time.monotonic_ns())
        after = read_stats(self._stats)
        changes = {name: after[name] - self._before.get(name, 0) for name in after}
        return WatchRecord(
            self._log.why_not or "read",
            self._scanner.splats,
            {name: change for name, change in changes.items() if change},
        )


def read_stats(directory: Path) -> dict[str, int]:
    """Every statistic of KVM that is one number."""
    found = {}
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            with contextlib.suppress(OSError, ValueError):
                if path.is_file():
                    found[path.name] = int(path.read_text())
    return found


_RUN_FILES = ("run.json", "repro.sh", "qemu.log", "qmp.jsonl", "console.log", "hang.txt")
_MAX_FILE = 8 << 20
_ABOUT = re.compile(r"kvm|sev|snp|tdx|ccp|rmp|amd-vi|iommu|seam|tme|microcode|bios", re.IGNORECASE)


def write_bundle(
    target: Path, view: HostView, diagnosis: dict[str, object], runs: Iterable[Path]
) -> None:
    """Write the report. Raises HostError where the file cannot be written."""
    facts = host_state(view)
    log = "\n".join(line for line in kernel_log() if _ABOUT.search(line))
    content = {
        "diagnosis.json": _json(diagnosis),
        "facts.json": _json(facts),
        "dmesg.txt": log.encode() or b"not visible to this user\n",
        "host.json": _json(view.answers),
    }
    try:
        with tarfile.open(target, "w:gz") as archive:
            for name, data in content.items():
                _add(archive, f"cvm-report/{name}", data)
            for directory in runs:
                for name in _RUN_FILES:
                    path = directory / name
                    if path.is_file():
                        with path.open("rb") as file:
                            file.seek(max(0, path.stat().st_size - _MAX_FILE))
                            data = file.read()
                        _add(archive, f"cvm-report/runs/{directory.resolve().name}/{name}", data)
    except OSError as error:
        raise HostError(f"cannot write the report {target}: {error.strerror}") from error


def _json(content: object) -> bytes:
    return (json.dumps(plain(content), indent=1, sort_keys=True) + "\n").encode()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(data), int(time.time())
    archive.addfile(entry, io.BytesIO(data))
