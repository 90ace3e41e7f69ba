# SPDX-License-Identifier: MIT
"""What QEMU and the guest's ACPI say about a memory device, in the harness's words and statuses."""

import enum
import re
from collections.abc import Mapping

from harness.base.status import HarnessError, HostError, PreconditionError, UsageError


class UnplugRefused(PreconditionError):
    """The guest did not let go of memory; it has it as before."""


class NoRoom(UsageError):
    """The machine has no slot or no address space left for a device."""


class OstSource(enum.Enum):
    """What a guest's _OST call answers (ACPI 6.5, 6.3.5)."""

    PLUG = frozenset({0x00, 0x01, 0x200})
    """Bus check and device check notifications, and device insertion."""
    EJECT = frozenset({0x03, 0x103})
    """Ejection request, and ejection by the OS."""


_PLUG_FAILURES = {
    0x81: "its driver could not be loaded",
    0x82: "its kernel does not support plugging it",
}
_EJECT_FAILURES = {
    0x80: "its kernel does not support ejecting it",
    0x81: "an application uses it",
    0x82: "memory on it is in use and cannot be moved (device busy)",
    0x83: "something depends on it (ejection dependency busy)",
}
_IN_PROGRESS = {OstSource.PLUG: 0x80, OstSource.EJECT: 0x84}


def ost_outcome(event: Mapping[str, object], device: str, source: OstSource) -> str | None:
    """What QEMU's ACPI_DEVICE_OST event (qapi/acpi.json) says: "done", why not, or None.

    None: it is about something else, or the guest is still at it. QEMU names the device only while
    it is there, and the harness has one step under way at a time, so an event that names none is
    about the device in question.
    """
    data = event.get("data")
    info = data.get("info") if isinstance(data, dict) else None
    if not isinstance(info, dict) or info.get("slot-type") != "DIMM":
        return None
    status = info.get("status")
    if info.get("device", device) != device or info.get("source") not in source.value:
        return None
    if not isinstance(status, int) or status == _IN_PROGRESS[source]:
        return None
    if status == 0:
        # An ejection is over at DEVICE_DELETED, not at the guest's word.
        return "done" if source is OstSource.PLUG else None
    known = _PLUG_FAILURES if source is OstSource.PLUG else _EJECT_FAILURES
    return known.get(status, "it reports a failure") + f" (_OST status {status:#x})"


_REFUSALS: tuple[tuple[str, type[HarnessError], str, str], ...] = (
    (
        r"no slots where allocated|no free slots|maximum number of slots",
        NoRoom,
        "all DIMM slots of the guest are in use",
        "unplug a DIMM, or boot the guest with more --slots",
    ),
    (
        r"not enough space|exceeds? .*maxmem|can't find (?:a )?free|no free address|"
        r"exceeding of maximum|beyond .*address space|can't add memory device",
        NoRoom,
        "there is no room for it below the guest's --maxmem",
        "choose less, or boot the guest with a larger --maxmem",
    ),
    (
        r"multiples? of|aligned|alignment",
        UsageError,
        "its size does not fit the alignment QEMU wants",
        "choose a multiple of the guest's memory block size",
    ),
    (
        r"exceeds the (?:memory )?size|exceeds .*max-size|maximum size|cannot exceed",
        UsageError,
        "a virtio-mem device cannot grow beyond its size",
        "choose less, or boot the guest with a larger --virtio-mem",
    ),
    (
        r"already in the process of unplug",
        UsageError,
        "it is being unplugged already",
        "wait for the unplug that was asked for first",
    ),
    (r"not found", UsageError, "it is not there (any more)", "plug it first"),
    (
        r"node.*(?:exceeds|invalid|not exist)|'node' property",
        UsageError,
        "the guest has no such NUMA node",
        "choose a node below --numa-nodes",
    ),
)


def refusal(error: HostError) -> HarnessError:
    """QEMU's refusal of a memory device as what it means; `error` itself where that is unknown."""
    for pattern, kind, cause, hint in _REFUSALS:
        if re.search(pattern, error.cause, re.IGNORECASE):
            return kind(f"{cause}: {error.cause}", hint=hint, details=error.details)
    return error
