# SPDX-License-Identifier: MIT
"""The host's processor and kernel, as /proc tells."""

import re
from dataclasses import dataclass

from harness.host.view import HostView, text
from harness.qemu.binary import parse_version


@dataclass(frozen=True)
class Cpu:
    """From the first processor in /proc/cpuinfo."""

    vendor: str
    """GenuineIntel, AuthenticAMD; "" where unknown."""
    family: int
    model: int
    name: str
    flags: frozenset[str]

    @property
    def virtual(self) -> bool:
        """Whether this "host" is a guest itself."""
        return "hypervisor" in self.flags


def read_cpu(view: HostView) -> Cpu:
    """The processor; empty fields where /proc/cpuinfo cannot be read."""
    fields: dict[str, str] = {}
    for line in (text(view, "/proc/cpuinfo") or "").split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    return Cpu(
        vendor=fields.get("vendor_id", ""),
        family=_number(fields.get("cpu family", "")),
        model=_number(fields.get("model", "")),
        name=fields.get("model name", "unknown"),
        flags=frozenset(fields.get("flags", "").split()),
    )


def _number(words: str) -> int:
    return int(words) if words.isdecimal() else -1


def kernel_release(view: HostView) -> str:
    """uname -r; "" where unknown."""
    return text(view, "/proc/sys/kernel/osrelease") or ""


def kernel_is_older(view: HostView, *version: int) -> bool:
    """Whether the host's kernel is known to be older than `version`."""
    number = parse_version(kernel_release(view))
    return bool(number) and number < version


def available_memory(view: HostView) -> int:
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", text(view, "/proc/meminfo") or "", re.M)
    return int(match[1]) * 1024 if match else 0


def parameter(view: HostView, module: str, name: str) -> str | None:
    """A module parameter as the kernel shows it; None where there is none."""
    return text(view, f"/sys/module/{module}/parameters/{name}")


def is_on(value: str | None) -> bool:
    """Whether a boolean parameter is set: kernels have shown Y, y and 1."""
    return value in ("Y", "y", "1")


def misc_cgroup(view: HostView, resource: str) -> tuple[int, int] | None:
    """(capacity, in use or -1) of a miscellaneous cgroup resource of the whole machine
    (cgroup-v2.rst, "Misc"). None in a container, on cgroup v1, or without the feature."""
    capacity, used = (
        re.search(rf"^{resource} (\d+)$", text(view, f"/sys/fs/cgroup/misc.{file}") or "", re.M)
        for file in ("capacity", "current")
    )
    return (int(capacity[1]), int(used[1]) if used else -1) if capacity else None


def in_container(view: HostView) -> bool:
    """Whether this looks like a container (systemd's marker, Docker's, Podman's)."""
    marks = ("/run/systemd/container", "/.dockerenv", "/run/.containerenv")
    return any(text(view, mark) is not None for mark in marks)
