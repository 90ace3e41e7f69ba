# SPDX-License-Identifier: MIT
"""The host as it was for a run: what can shape a figure or explain a failure. Reads only."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from harness.host.cpu import is_on, kernel_release, parameter
from harness.host.view import HostView, text

_PARAMETERS = "/sys/module/{module}/parameters/*"
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


def host_state(view: HostView) -> dict[str, object]:
    """Facts by name; what the host does not have is left out."""
    facts: dict[str, object] = {"kernel": kernel_release(view)}
    for name, path in _FILES.items():
        if (value := text(view, path)) is not None:
            facts[name] = value.strip()
    facts["module_parameters"] = {
        module: found for module in _MODULES if (found := _parameters(view, module))
    }
    if is_on(parameter(view, "kvm_amd", "sev_snp")):  # else asking could initialise the firmware
        with contextlib.suppress(OSError):
            facts["snp_firmware"] = view.snp_status().version
    return facts


def _parameters(view: HostView, module: str) -> dict[str, str]:
    found = {}
    for path in view.glob(_PARAMETERS.format(module=module)):
        if (value := text(view, path)) is not None:
            found[Path(path).name] = value
    return found


class KernelLog:
    """The host's kernel log from now on. Unreadable without root on most hosts."""

    def __init__(self, *, from_start: bool = False) -> None:
        """Open it; `readable` tells whether that went well."""
        self.why_not = ""
        self._descriptor = -1
        try:
            self._descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._descriptor, 0, os.SEEK_SET if from_start else os.SEEK_END)
        except OSError as error:
            self.close()
            self.why_not = f"/dev/kmsg: {errno.errorcode.get(error.errno or 0, error.errno)}"

    @property
    def readable(self) -> bool:
        """Whether `lines` can give an answer."""
        return self._descriptor >= 0

    def lines(self) -> list[str]:
        """The lines since the last call, without stamps; bounded."""
        found: list[str] = []
        while self.readable and len(found) < MAX_LINES:
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
        """Give back the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def message_of(record: bytes) -> str:
    r"""The text of a /dev/kmsg record, "6,339,5140900,-;message\n KEY=value\n"."""
    _, _, rest = record.partition(b";")
    return rest.split(b"\n")[0].decode("utf-8", "backslashreplace")


def kernel_log() -> list[str]:
    """All lines the log still holds; none where it cannot be read."""
    log = KernelLog(from_start=True)
    try:
        return log.lines()
    finally:
        log.close()
