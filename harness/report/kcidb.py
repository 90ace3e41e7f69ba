# SPDX-License-Identifier: MIT
"""Runs as KCIDB I/O data, version 5.3 (kcidb-io), for kernelci.org: a checkout and a build a
kernel, a test for each run, each of its checks and each metric. The statuses are KCIDB's own."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.analysis.metrics import Metric, figures_of
from harness.base.status import Status, UsageError
from harness.base.text import inert
from harness.record.console_text import tail
from harness.record.view import RunView, dig

VERSION = {"major": 5, "minor": 3}
ROOT = "cvm_acceptance"
"""First word of every test's path."""
_ORIGIN = re.compile(r"[a-z0-9_]+")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_EXCERPT_BYTES = 16_000
"""kcidb-io allows log_excerpt 16,384 characters; an escaped byte takes four."""
_UNITS: dict[str, tuple[str, float, str | None]] = {
    "ns": ("s", 1e-9, "metric"),
    "bytes": ("B", 1, "binary"),
    "bytes/s": ("B/s", 1, "binary"),
    "GiB/s": ("B/s", float(1 << 30), "binary"),
}
"""Our unit: KCIDB's without prefix, the factor, the prefixes to show it with."""


def kcidb(runs: Sequence[RunView], origin: str) -> dict[str, Any]:
    """The report of `runs` by the CI system `origin`. Raises UsageError where KCIDB would not take
    the name."""
    if not _ORIGIN.fullmatch(origin):
        raise UsageError(
            f"KCIDB takes no origin like {origin!r}", hint="use lower-case letters, digits and _"
        )
    checkouts: dict[str, dict[str, Any]] = {}
    builds: dict[str, dict[str, Any]] = {}
    tests: list[dict[str, Any]] = []
    for run in runs:
        checkout, build = _checkout(run, origin), _build(run, origin)
        checkouts.setdefault(checkout["id"], checkout)
        builds.setdefault(build["id"], build)
        tests += _tests(run, origin, build["id"])
    return {
        "version": VERSION,
        "checkouts": list(checkouts.values()),
        "builds": list(builds.values()),
        "tests": tests,
    }


def _checkout(run: RunView, origin: str) -> dict[str, Any]:
    source = run.get("kernel", "provenance", "source")
    described = source if isinstance(source, Mapping) else {"source": source}
    checkout: dict[str, Any] = {
        "id": f"{origin}:{_digest(run.text('kernel', 'version'), described)}",
        "origin": origin,
        "valid": True,
        "misc": {"source": _inert_tree(described), "version": run.text("kernel", "version")},
    }
    commit = dig(described, "commit")
    if isinstance(commit, str) and _COMMIT.fullmatch(commit):
        checkout["git_commit_hash"] = commit
    return checkout


def _build(run: RunView, origin: str) -> dict[str, Any]:
    digest = run.text("kernel", "digest") or _digest(run.text("kernel", "release"))
    return {
        "id": f"{origin}:{digest}",
        "checkout_id": _checkout(run, origin)["id"],
        "origin": origin,
        "architecture": "x86_64",
        "compiler": run.text("kernel", "provenance", "compiler"),
        "status": Status.PASS.value,
        "misc": {"release": run.text("kernel", "release")},
    }


def _tests(run: RunView, origin: str, build_id: str) -> Iterator[dict[str, Any]]:
    path = f"{ROOT}.{_word(run.workload_name) or 'boot'}"

    def test(suffix: str, status: str, **more: Any) -> dict[str, Any]:
        return {
            "id": f"{origin}:{run.id}{suffix}",
            "build_id": build_id,
            "origin": origin,
            "path": path + suffix,
            "status": status,
            **more,
        }

    where = f"{run.text('spec', 'target')} guest under QEMU {run.text('qemu', 'version')}"
    machine = {
        "comment": f"{where} ({run.text('accel', 'name')}) on {run.text('host', 'cpu')}",
        "misc": {"host": _inert_tree(run.get("host") or {}), "cost_model": run.text("cost_model")},
    }
    whole = test("", run.status.value, environment=machine)
    if comment := run.text("cause"):
        whole["comment"] = comment
    if started := run.started:
        whole["start_time"] = started.isoformat()
    if run.duration_s is not None:
        whole["duration"] = run.duration_s
    lines = tail(run.path / "console.log", max_bytes=_EXCERPT_BYTES // 4)
    if lines:
        whole["log_excerpt"] = "\n".join(lines)[-_EXCERPT_BYTES:]
    whole["misc"] = {"rerun": run.text("rerun"), "spec": _inert_tree(run.get("spec") or {})}
    yield whole
    seen: set[str] = set()
    for name, status, detail in run.checks:
        word = _word(name)
        if word and word not in seen and status in {one.value for one in Status}:
            seen.add(word)
            yield test(f".checks.{word}", status, comment=f"{name}: {detail}")
    for metric, value in figures_of(run):
        number = _number(metric, value)
        yield test(f".metrics.{metric.name}", Status.DONE.value, number=number)


def _number(metric: Metric, value: float) -> dict[str, Any]:
    unit, factor, prefix = _UNITS.get(metric.unit, (metric.unit, 1, None))
    number: dict[str, Any] = {"value": value * factor, "unit": unit}
    return number | {"prefix": prefix} if prefix else number


def _inert_tree(value: object) -> Any:
    """`value` with every text in it inert: guests and paths may put anything there."""
    if isinstance(value, Mapping):
        return {inert(str(key)): _inert_tree(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_inert_tree(item) for item in value]
    return inert(value) if isinstance(value, str) else value


def _word(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", text).strip("_")


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode(errors="backslashreplace")).hexdigest()
