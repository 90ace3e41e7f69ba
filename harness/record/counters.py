# SPDX-License-Identifier: MIT
"""One reading of every counter of unaccepted memory that a guest has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.base.status import PreconditionError


@dataclass(frozen=True)
class Zone:
    """One zone's row of /proc/zoneinfo, in pages."""

    node: int
    name: str
    unaccepted_pages: int
    free_pages: int
    pcp_pages: int


@dataclass(frozen=True)
class Counters:
    """One quiescent reading. Missing counters are -1, never 0: absence must not look like empty."""

    monotonic_ns: int
    unaccepted_pages: int
    """/proc/vmstat nr_unaccepted."""
    free_pages: int
    """/proc/vmstat nr_free_pages; includes unaccepted pages."""
    meminfo_unaccepted_kib: int
    mem_total_kib: int
    node_unaccepted_kib: Mapping[int, int]
    zones: tuple[Zone, ...]
    buddy_pages: int
    """Sum over /proc/buddyinfo; does not include unaccepted pages."""
    emulation: Mapping[str, int | str]
    """debugfs unaccepted_emulation/stats; empty where the kernel has none."""
    vmstat: Mapping[str, int] = field(default_factory=dict)
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


def parse_counters(message: Any) -> Counters:
    """Counters from the JSON of the guest's `cvm counters`. Raises PreconditionError.

    Guest output is untrusted: every field is checked for type and range before it is believed.
    """
    try:
        zones = tuple(
            Zone(
                _int(zone["node"]),
                _word(zone["zone"]),
                _int(zone["nr_unaccepted"]),
                _int(zone["nr_free_pages"]),
                _int(zone["pcp"]),
            )
            for zone in _list(message["zones"])
        )
        nodes = {_int(node["node"]): _int(node["unaccepted_kib"]) for node in message["nodes"]}
        return Counters(
            monotonic_ns=_int(message["monotonic_ns"]),
            unaccepted_pages=_int(message["nr_unaccepted"]),
            free_pages=_int(message["nr_free_pages"]),
            meminfo_unaccepted_kib=_int(message["meminfo_unaccepted_kib"]),
            mem_total_kib=_int(message["mem_total_kib"]),
            node_unaccepted_kib=nodes,
            zones=zones,
            buddy_pages=_int(message["buddy_pages"]),
            emulation={
                _word(name): value if isinstance(value, int) else _word(value)
                for name, value in dict(message["emulation"] or {}).items()
            },
            vmstat={
                _word(name): _int(value) for name, value in dict(message.get("vmstat", {})).items()
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PreconditionError(
            f"the guest's counters could not be read: {type(error).__name__}: {error}"
        ) from error


def counters_from_record(record: Any) -> Counters:
    """Counters as run.json has them. Raises PreconditionError."""
    try:
        return Counters(
            **{
                **record,
                "node_unaccepted_kib": {
                    int(node): _int(kib) for node, kib in record["node_unaccepted_kib"].items()
                },
                "zones": tuple(Zone(**zone) for zone in record["zones"]),
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PreconditionError(
            f"run.json's counters could not be read: {type(error).__name__}: {error}"
        ) from error


_MAX_ITEMS = 4096


def _int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 1 << 63:
        raise ValueError(f"not a counter: {value!r:.80}")
    return value


def _word(value: object) -> str:
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        raise ValueError(f"not a name: {value!r:.80}")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MAX_ITEMS:
        raise ValueError(f"not a list of at most {_MAX_ITEMS}: {type(value).__name__}")
    return value
