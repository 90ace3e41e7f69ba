# SPDX-License-Identifier: MIT
"""One reading of every counter of unaccepted memory that a guest has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from harness.base.reader import believing, parse_json
from harness.base.status import PreconditionError

_Count = Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)]
_Word = Annotated[str, msgspec.Meta(max_length=200, pattern=r"\A[ -~]*\Z")]


@dataclass(frozen=True)
class Zone:
    """One zone's row of /proc/zoneinfo, in pages."""

    node: _Count
    name: _Word
    unaccepted_pages: _Count
    free_pages: _Count
    pcp_pages: _Count


@dataclass(frozen=True)
class Counters:
    """One quiescent reading. Missing counters are -1, never 0: absence must not look like empty."""

    monotonic_ns: _Count
    unaccepted_pages: _Count
    """/proc/vmstat nr_unaccepted."""
    free_pages: _Count
    """/proc/vmstat nr_free_pages; includes unaccepted pages."""
    meminfo_unaccepted_kib: _Count
    mem_total_kib: _Count
    node_unaccepted_kib: Mapping[_Count, _Count]
    zones: Annotated[tuple[Zone, ...], msgspec.Meta(max_length=4096)]
    buddy_pages: _Count
    """Sum over /proc/buddyinfo; does not include unaccepted pages."""
    emulation: Mapping[_Word, _Count | _Word]
    """debugfs unaccepted_emulation/stats; empty where the kernel has none."""
    vmstat: Mapping[_Word, _Count] = field(default_factory=dict)
    """All of /proc/vmstat."""

    def stat(self, name: str) -> int:
        """One figure of the emulation back end. Raises PreconditionError where it is missing."""
        value = self.emulation.get(name)
        if not isinstance(value, int):
            raise PreconditionError(
                f"the guest's unaccepted_emulation/stats has no number {name!r}",
                hint="is the kernel built with the carried emulation patch?",
            )
        return value


_NAMES = {
    "zone": "name",
    "nr_unaccepted": "unaccepted_pages",
    "nr_free_pages": "free_pages",
    "pcp": "pcp_pages",
}
"""What the guest's program calls our fields that have other names."""


def read_reading(output: str | bytes) -> Counters:
    """From what the guest's `cvm counters` printed. Raises PreconditionError."""
    with believing():
        return parse_counters(parse_json(output, dict[str, Any], "what `cvm counters` printed"))


def parse_counters(message: Any) -> Counters:
    """From the JSON of the guest's `cvm counters`, which is untrusted: each field's type and range
    is checked. Raises PreconditionError."""
    try:
        fields = {
            **_renamed(message),
            "node_unaccepted_kib": {
                node["node"]: node["unaccepted_kib"] for node in message["nodes"]
            },
            "zones": [_renamed(zone) for zone in message["zones"]],
            "emulation": message["emulation"] or {},
        }
        return msgspec.convert(fields, Counters)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PreconditionError(
            f"the guest's counters could not be read: {type(error).__name__}: {error}"
        ) from error


def _renamed(fields: Mapping[str, object]) -> dict[str, object]:
    return {_NAMES.get(name, name): value for name, value in fields.items()}
