# SPDX-License-Identifier: MIT
"""The guest's programs, run on this host: any Linux will do for their formats and arithmetic."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.workload import operations
from harness.base.status import PreconditionError
from harness.image import hosttools, layers
from harness.record.counters import parse_counters
from harness.record.histogram import Histogram, merge, parse_histogram
from harness.record.samples import parse_samples

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
MIB = 1 << 20


@pytest.fixture(scope="module")
def cvm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("cvm") / "cvm"
    hosttools.compile_static(layers.sources(), program)
    return program


def run(cvm: Path, *argv: str, code: int = 0) -> list[str]:
    done = subprocess.run(
        [cvm, *argv], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == code, done.stderr
    return done.stdout.splitlines()


def touch(cvm: Path, *argv: str) -> dict[str, Any]:
    (line,) = run(cvm, "touch", *argv)
    report: dict[str, Any] = json.loads(line)
    return report


@pytest.mark.parametrize("pattern", ["sequential", "random", "strided"])
@pytest.mark.parametrize("bytes_", [8 * MIB, 5 * MIB + 4096])
def test_every_pattern_touches_each_page_once(cvm: Path, pattern: str, bytes_: int) -> None:
    argv = ["--bytes", str(bytes_), "--pattern", pattern, "--stride", "28K", "--verify"]
    report = touch(cvm, *argv)
    assert report["bytes"] == bytes_
    assert report["operations"] == bytes_ // 4096
    assert report["corrupt_pages"] == 0  # a page left out would not read back as stamped


def test_the_report_adds_up(cvm: Path) -> None:
    report = touch(cvm, "--bytes", "16M", "--processes", "2", "--threads", "2", "--pin")
    workers = report["workers"]
    assert len(workers) == 4
    assert len({worker["tid"] for worker in workers}) == 4
    assert len({worker["pid"] for worker in workers}) == 2
    assert sum(worker["bytes"] for worker in workers) == report["bytes"] == 16 * MIB
    assert sum(worker["total_ns"] for worker in workers) == report["total_ns"]
    assert report["stop_monotonic_ns"] - report["start_monotonic_ns"] == report["elapsed_ns"]
    assert 0 < report["cpu_ns"] <= 4 * report["elapsed_ns"]
    histogram = parse_histogram(report["histogram"])
    assert histogram.total == report["operations"] == 4096
    low, high = histogram.percentiles([0, 100])
    assert low == pytest.approx(report["min_ns"], rel=1 / 64)
    assert high == pytest.approx(report["max_ns"], rel=1 / 64)
    lowest, width = histogram.bounds()
    mean = np.average(lowest + (width - 1) / 2, weights=histogram.counts)
    assert mean == pytest.approx(report["total_ns"] / 4096, rel=1 / 64)


def test_huge_pages_are_one_operation_each(cvm: Path) -> None:
    report = touch(cvm, "--bytes", "8M", "--page", "thp")
    assert report["operations"] == 4
    assert report["page_bytes"] == 2 * MIB


def test_progress_lines_come_before_the_report(cvm: Path) -> None:
    lines = [
        json.loads(line)
        for line in run(cvm, "touch", "--bytes", "4M", "--step", "1M", "--progress")
    ]
    assert [line["progress"]["bytes"] // MIB for line in lines[:-1]] == [1, 2, 3, 4]
    assert lines[-1]["bytes"] == 4 * MIB


def test_failures_are_json_too(cvm: Path) -> None:
    (line,) = run(cvm, "touch", "--bytes", "4T", "--page", "hugetlb", code=1)
    assert "hugetlb" in json.loads(line)["error"]
    (line,) = run(cvm, "touch", "--bytes", "4096", "--threads", "2", code=1)
    assert "fewer bytes" in json.loads(line)["error"]


@pytest.mark.parametrize("argv", ["", "--bytes x", "--bytes 0", "--bytes 1M --page 1g", "--bytes"])
def test_bad_arguments_are_refused(cvm: Path, argv: str) -> None:
    assert run(cvm, "touch", *argv.split(), code=2) == []


@pytest.mark.parametrize(
    "argv",
    [
        "fill --bytes 2M --write --workers 2 --path {tmp}/file",
        "slab --files 2500 --workers 2 --path {tmp}",
        "fork-storm --forks 20 --workers 2 --alive 3 --bytes 64K",
        "mlock --bytes 1M --chunk 256K",
        "fragment --bytes 4M --thp-bytes 4M",
        "churn --threads 2 --chunk 64K --seconds 1",
        "churn --seconds 1 --map",
    ],
)
def test_every_program_reports_operations_that_add_up(cvm: Path, tmp_path: Path, argv: str) -> None:
    (line,) = run(cvm, *argv.format(tmp=tmp_path).split())
    report = json.loads(line)
    found = operations([report])
    assert found is not None
    assert found.count == sum(worker.operations for worker in found.workers) > 0
    assert report["bytes"] == sum(worker["bytes"] for worker in report["workers"])
    for worker in found.workers:
        assert len(worker.slowest) == min(worker.operations, 512)
    assert max(worker.slowest[:, 1].max() for worker in found.workers) == report["max_ns"]


def test_the_slowest_operations_are_kept_one_by_one(cvm: Path) -> None:
    report = touch(cvm, "--bytes", "16M")
    found = operations([report])
    assert found is not None
    (worker,) = found.workers
    assert worker.operations == 4096
    assert len(worker.slowest) == 512
    # Every operation above the fastest kept is kept: the histogram counts no more of them.
    fastest = worker.slowest[:, 1].min()
    assert found.histogram is not None
    lowest, _ = found.histogram.bounds()
    assert found.histogram.counts[lowest > fastest].sum() <= 512
    assert np.all(np.diff(worker.slowest[:, 0]) > 0)


def test_a_drain_with_nothing_unaccepted_is_an_error(cvm: Path, tmp_path: Path) -> None:
    (line,) = run(cvm, "drain", "--path", str(tmp_path), code=1)
    assert "unaccepted" in json.loads(line)["error"]


@pytest.mark.parametrize("argv", ["fill", "slab --files 0", "mlock --bytes x", "churn --what"])
def test_bad_arguments_of_workloads_are_refused(cvm: Path, argv: str) -> None:
    assert run(cvm, *argv.split(), code=2) == []


def test_hold_keeps_the_memory_until_stdin_closes(cvm: Path) -> None:
    with subprocess.Popen(
        [cvm, "touch", "--bytes", "4M", "--hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        report = json.loads(process.stdout.readline())
        (worker,) = report["workers"]
        status = Path(f"/proc/{worker['pid']}/status").read_text()
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        assert int(resident.split()[1]) >= 4096
        assert process.poll() is None
        process.communicate(timeout=30)
        assert process.returncode == 0


def index_of(value: int, bits: int) -> int:
    """The encoding as guest-images/minimal/src/histogram.h words it."""
    if value < 2 << bits:
        return value
    shift = value.bit_length() - 1 - bits
    return (shift << bits) + (value >> shift)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=300))
def test_percentiles_are_numpys_within_a_bucket(values: list[int]) -> None:
    indexes, counts = np.unique([index_of(value, 6) for value in values], return_counts=True)
    histogram = Histogram(6, indexes, counts)
    percents = [0, 25, 50, 90, 99, 99.9, 100]
    exact = np.percentile(values, percents, method="inverted_cdf")
    assert np.all(np.abs(histogram.percentiles(percents) - exact) <= exact / 64)


@given(st.integers(0, 2**53 - 1))
def test_a_bucket_holds_the_values_that_map_to_it(value: int) -> None:
    histogram = Histogram(6, np.array([index_of(value, 6)]), np.array([1]))
    lowest, width = histogram.bounds()
    assert lowest[0] <= value < lowest[0] + width[0]


def test_histograms_merge_by_adding() -> None:
    one = parse_histogram({"sub_bucket_bits": 6, "counts": [[1, 2], [5, 1]]})
    two = parse_histogram({"sub_bucket_bits": 6, "counts": [[0, 1], [5, 4]]})
    merged = merge([one, two])
    assert merged.indexes.tolist() == [0, 1, 5]
    assert merged.counts.tolist() == [1, 2, 5]


@pytest.mark.parametrize(
    "message",
    [
        None,
        {},
        {"sub_bucket_bits": 60, "counts": []},
        {"sub_bucket_bits": 6, "counts": [[1]]},
        {"sub_bucket_bits": 6, "counts": [[1, -1]]},
        {"sub_bucket_bits": 6, "counts": [[2, 1], [1, 1]]},
        {"sub_bucket_bits": 6, "counts": [[1 << 20, 1]]},
        {"sub_bucket_bits": 6, "counts": [["1", 1]]},
    ],
)
def test_histograms_that_make_no_sense_are_refused(message: object) -> None:
    with pytest.raises(PreconditionError):
        parse_histogram(message)


def test_an_empty_histogram_has_no_percentile() -> None:
    with pytest.raises(PreconditionError, match="empty"):
        parse_histogram({"sub_bucket_bits": 6, "counts": []}).percentiles([50])


def test_counters_are_what_the_analysis_reads(cvm: Path) -> None:
    (line,) = run(cvm, "counters")
    message = json.loads(line)
    counters = parse_counters(message)
    assert counters.mem_total_kib > 0
    assert counters.free_pages == message["vmstat"]["nr_free_pages"] > 0
    assert counters.buddy_pages == sum(
        blocks << order for zone in message["buddy"] for order, blocks in enumerate(zone["blocks"])
    )
    assert {"node", "zone", "managed", "pcp"} <= message["zones"][0].keys()


def test_samples_are_rows_of_the_header(cvm: Path) -> None:
    lines = run(cvm, "sample", "--hz", "50", "--max-samples", "15", "--seconds", "10")
    assert lines[-1].endswith(" reason=max-samples")
    samples = parse_samples(line + "\n" for line in lines)
    assert samples.complete
    assert samples.values.shape == (15, len(samples.names))
    assert samples.names[:4] == ("monotonic_ns", "read_ns", "missed", "full")
    assert {"vmstat.nr_free_pages", "vmstat.thp_fault_alloc"} <= set(samples.names)
    assert any(name.endswith(".Normal.nr_free_pages") for name in samples.names)
    assert np.all(np.diff(samples.column("monotonic_ns")) > 0)
    assert samples.column("full").tolist() == [1] + [int(i % 10 == 0) for i in range(1, 15)]
    assert samples.cpu_ns > 0
    zones = [n for n in samples.names if re.fullmatch(r"zone\d+\.\w+\.nr_free_pages", n)]
    free = sum(int(samples.column(name)[0]) for name in zones)
    assert free == pytest.approx(samples.column("vmstat.nr_free_pages")[0], rel=0.2)


def test_the_sampler_ends_with_stdin_or_in_time(cvm: Path) -> None:
    assert run(cvm, "sample")[-1].endswith("reason=stdin")
    *_, end = run(cvm, "sample", "--seconds", "1", "--hz", "20", "--no-zones")
    assert end.endswith("reason=seconds")


def test_init_refuses_to_be_anything_but_pid_1(cvm: Path) -> None:
    assert run(cvm, "init", code=2) == []
