# SPDX-License-Identifier: MIT
"""The counter time series: `cvm sample` in the guest, its stream in the run directory."""

from collections.abc import Callable
from pathlib import Path

from harness.analysis.timeline import UNACCEPTED
from harness.guest.guest import Guest
from harness.record.samples import STREAM, parse_samples, write_samples

_MAX_SAMPLES = 2_000_000
_START_S = 30.0
_MAX_LINE = 1 << 20


class LatestSample:
    """Reads nr_unaccepted from the stream while it arrives."""

    def __init__(self, on_sample: Callable[[int], None]) -> None:
        """`on_sample` is called with nr_unaccepted in pages, once for each piece of the stream."""
        self._on_sample = on_sample
        self._columns: list[bytes] | None = None
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """What is not a sample is passed over: parse_samples judges the stream, not this."""
        *lines, self._rest = (self._rest + data)[-_MAX_LINE:].split(b"\n")
        if lines and self._columns is None and lines[0].startswith(b"#columns "):
            self._columns = lines.pop(0).split()[1:]
        if not lines or not self._columns or UNACCEPTED.encode() not in self._columns:
            return
        fields = lines[-1].split()
        at = self._columns.index(UNACCEPTED.encode())
        if at < len(fields) and len(fields[at]) < 19 and fields[at].isdigit():
            self._on_sample(int(fields[at]))


class Sampler:
    """Runs from its making until `stop`. The stream is on disk as it comes, whole or not."""

    def __init__(
        self,
        guest: Guest,
        run_dir: Path,
        hz: int,
        on_sample: Callable[[int], None] = lambda _pages: None,
    ) -> None:
        """Start sampling at `hz` (harness.collect.plan bounds it). `on_sample` is called with
        nr_unaccepted in pages, a few times a second."""
        self._latest = LatestSample(on_sample)
        self._path = run_dir / STREAM
        self._file = self._path.open("wb")
        self._taken = 0
        command = ["cvm", "sample", "--hz", str(hz), "--max-samples", str(_MAX_SAMPLES)]
        try:
            self._command = guest.start(command, max_output=0, on_stdout=self._take)
            # The first sample is there before the workload begins; so is the cost of starting.
            guest.wait("the first sample", lambda: self._taken > 1 or None, deadline_s=_START_S)
        except BaseException:
            self._file.close()
            raise

    def _take(self, data: bytes) -> None:
        self._file.write(data)
        self._taken += data.count(b"\n")
        self._latest.feed(data)

    def stop(self) -> None:
        """End the sampler, turn its stream into vmstat.parquet. Raises PreconditionError where the
        stream makes no sense; it is then kept as it came."""
        try:
            self._command.stop()
        finally:
            self._file.close()
        with self._path.open(encoding="ascii", errors="replace", newline="\n") as lines:
            samples = parse_samples(lines)
        write_samples(self._path.parent, samples)
        self._path.unlink()
