# SPDX-License-Identifier: MIT
"""What the emulated platform of a TDX or SNP guest has seen: read over QMP, and stored."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from harness.base.status import HostError, PreconditionError
from harness.collect.readings import read_counters
from harness.guest.guest import Guest
from harness.record.counters import Counters
from harness.record.platform import FILE, STREAM, read_stream, store_stream
from harness.record.platform_state import (
    FLUSH,
    QUERY,
    QUERY_PAGES,
    VIOLATION_EVENT,
    PendingRun,
    PlatformInfo,
    Violation,
    parse_info,
    parse_pages,
    parse_pending_pages,
    parse_violation,
    pending_text,
)

_ATTEMPTS = 5
_PAGES_S = 60.0
_MAX_RUNS = 1 << 16
_TRANSCRIPT = "qmp.jsonl"
_OBJECT = "/objects/cgs0"
_MAX_VIOLATIONS = 16

T = TypeVar("T")


class PlatformWitness:
    """The platform of one guest, asked at several moments of a run."""

    def __init__(self, guest: Guest, run_dir: Path) -> None:
        self._guest = guest
        self._run_dir = run_dir
        self.statistics: dict[str, Any] = {}
        """QEMU's answers, by moment: "proven", "before", "after"."""
        self.at_rest = True
        """Whether nothing changed state while the counters were read the last time."""

    def read(self, moment: str, pending_file: Path | None = None) -> Counters:
        """The guest's counters and the platform's statistics of one moment. With `pending_file`
        the guest is stopped, what is pending goes to that file, and the stream is stored."""

        def store() -> None:
            assert pending_file
            pending_file.write_text(pending_text(self._pending()))
            self._guest.qmp.execute(FLUSH)
            store_platform(self._run_dir)

        take = store if pending_file else None
        counters, self.statistics[moment] = self._moment(lambda: read_counters(self._guest), take)
        return counters

    def beside(self, read: Callable[[], T]) -> tuple[T, PlatformInfo, tuple[PendingRun, ...]]:
        """What `read` reads in the guest, and what the platform says at the same moment. Raises
        PreconditionError where memory changes state during each of several readings."""
        pending: list[PendingRun] = []
        value, answer = self._moment(read, lambda: pending.extend(self._pending()))
        if not self.at_rest:
            raise PreconditionError(
                f"pages changed state during each of {_ATTEMPTS} readings of the guest"
            )
        return value, parse_info(answer), tuple(pending)

    def _moment(
        self, read: Callable[[], T], take: Callable[[], None] | None
    ) -> tuple[T, Mapping[str, Any]]:
        """Reading itself may accept memory: it is repeated until it did not. Then `take` is called
        while the guest is stopped."""
        for _ in range(_ATTEMPTS):
            first = self._ask()
            value = read()
            with self._stopped() if take else contextlib.nullcontext():
                answer = self._ask()
                self.at_rest = first["flow"] == answer["flow"]
                if self.at_rest and take:
                    take()
            if self.at_rest:
                break
        return value, answer

    def pending(self) -> tuple[PendingRun, ...]:
        """The pages that are pending now; the guest is stopped for it."""
        with self._stopped():
            return self._pending()

    def shared(self) -> tuple[range, ...]:
        """The memory that the guest shares with its host now; the guest is stopped for it."""
        with self._stopped():
            return parse_pages(self._ask_pages("shared"), "shared")

    def info(self) -> PlatformInfo:
        """The platform's statistics now."""
        return parse_info(self._guest.qmp.execute(QUERY))

    def set_cost(self, ns_per_page: int, ns_per_unit: int) -> None:
        """Let each accept of a page of 4 KiB, and of 2 MiB, take so long from now on."""
        for name, value in (("accept-ns-4k", ns_per_page), ("accept-ns-2m", ns_per_unit)):
            asked = {"path": _OBJECT, "property": name, "value": value}
            self._guest.qmp.execute("qom-set", asked)

    def _pending(self) -> tuple[PendingRun, ...]:
        return parse_pending_pages(self._ask_pages("pending"))

    def _ask_pages(self, state: str) -> object:
        asked = {"state": state, "max": _MAX_RUNS}
        answer = self._guest.qmp.execute(QUERY_PAGES, asked, deadline_s=_PAGES_S)
        if isinstance(answer, list) and len(answer) >= _MAX_RUNS:
            raise PreconditionError(f"more than {_MAX_RUNS} runs of pages are {state}")
        return answer

    @contextlib.contextmanager
    def _stopped(self) -> Any:
        self._guest.qmp.execute("stop")
        try:
            yield
        finally:
            self._guest.qmp.execute("cont")

    def _ask(self) -> Mapping[str, Any]:
        answer = self._guest.qmp.execute(QUERY)
        parse_info(answer)
        assert isinstance(answer, Mapping)
        return answer


def store_platform(run_dir: Path) -> bool:
    """Put the raw stream, if there is one, into platform.parquet and remove it; whether there was.
    Raises PreconditionError where it cannot be believed; it stays then."""
    stream = run_dir / STREAM
    if not stream.exists():
        return False
    try:
        store_stream(read_stream(stream), run_dir / FILE)
    except OSError as error:
        raise HostError(f"{stream} cannot be stored: {error.strerror}") from error
    stream.unlink()
    return True


def violations_in(run_dir: Path) -> tuple[Violation, ...]:
    """The violations that QEMU reported, by the run's transcript; the first few."""
    found: list[Violation] = []
    with contextlib.suppress(OSError), (run_dir / _TRANSCRIPT).open(errors="replace") as file:
        for line in file:
            if VIOLATION_EVENT not in line or len(found) == _MAX_VIOLATIONS:
                continue
            with contextlib.suppress(ValueError, KeyError, TypeError, PreconditionError):
                event = json.loads(line)["received"]
                if event["event"] == VIOLATION_EVENT:
                    found.append(parse_violation(event["data"]))
    return tuple(found)
