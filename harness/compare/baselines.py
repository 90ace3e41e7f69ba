# SPDX-License-Identifier: MIT
"""Baselines: figures to compare with later, in files that diff well in git, one a configuration.
Those of another host or QEMU are refused, and the difference is named."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from msgspec.structs import asdict

from harness.analysis.metrics import metric_named, metrics_of
from harness.base.reader import FileType, read_json
from harness.base.status import HostError, PreconditionError, UsageError
from harness.base.store import digest_of
from harness.base.units import GIB
from harness.compare.runs import COST_METRICS, DEFAULT_METRICS, check_arm, criteria_for
from harness.compare.statistics import Arms
from harness.compare.verdict import compare, control_false_discoveries
from harness.record.comparison import Comparison, Criteria
from harness.record.rundir import write_json
from harness.record.view import RunView

SCHEMA: Final = 1
_UNSAFE = re.compile(r"[^a-z0-9.-]+")
_VERSIONED = re.compile(
    r"CONFIG_(?:CC|GCC|CLANG|AS|LD|LLD|RUSTC?|PAHOLE)_.*VERSION|CONFIG_LOCALVERSION"
)


class Configuration(FileType, frozen=True):
    """What two runs have in common when the figures of one can be a baseline of the other."""

    target: str
    workload: str
    parameters: str
    memory_bytes: int
    vcpus: int
    numa_nodes: int
    accept: str
    clock: str
    cost_ns_per_unit: int
    kernel_config: str
    """Digest of the kernel's configuration without what names its version or its compiler."""


class Place(FileType, frozen=True):
    """Where figures were taken: others' are of no use here."""

    cpu: str
    cpus: int
    memory_gib: int
    accelerator: str
    qemu: str


class Baseline(FileType, frozen=True):
    """The figures of some runs of one configuration in one place."""

    schema: Literal[1]
    configuration: Configuration
    place: Place
    kernel: str
    """`uname -r` of the guest."""
    runs: tuple[str, ...]
    """Names of the run directories, which `gc` keeps."""
    metrics: Mapping[str, tuple[float, ...]]
    """Metric -> one value a run, in the order of `runs`."""

    def __post_init__(self) -> None:
        if any(len(values) != len(self.runs) for values in self.metrics.values()):
            raise ValueError("a metric has not one value a run")

    @property
    def name(self) -> str:
        """The file's name: readable, then a digest of configuration and place."""
        digest = digest_of(asdict(self.configuration), asdict(self.place))
        words = f"{self.configuration.target}-{self.configuration.workload or 'none'}"
        return f"{_UNSAFE.sub('-', words.lower())}-{digest[:12]}.json"


def config_digest(text: str) -> str:
    """Digest of a kernel .config: what is set, without versions of kernel and compiler."""
    lines = (line for line in text.splitlines() if line.startswith("CONFIG_"))
    return digest_of(sorted(line for line in lines if not _VERSIONED.match(line)))[:16]


def baseline_of(runs: Sequence[RunView]) -> Baseline:
    """What `runs` are as a baseline. Raises UsageError where they are not repetitions that passed,
    PreconditionError where they have no figure in common."""
    check_arm("of the baseline", runs)
    found = [metrics_of(run) for run in runs]
    names = sorted(set.intersection(*(set(metrics) for metrics in found)))
    if not names:
        raise PreconditionError("the runs have no figure in common")
    first = runs[0]
    return Baseline(
        SCHEMA,
        _configuration(first),
        _place(first),
        first.text("kernel", "release"),
        tuple(run.id for run in runs),
        {name: tuple(metrics[name] for metrics in found) for name in names},
    )


def _configuration(run: RunView) -> Configuration:
    parameters = (run.workload or {}).get("parameters")
    return Configuration(
        target=run.text("spec", "target"),
        workload=run.workload_name,
        parameters=json.dumps(parameters, sort_keys=True),
        memory_bytes=run.integer("spec", "memory") or 0,
        vcpus=run.integer("spec", "vcpus") or 0,
        numa_nodes=run.integer("spec", "numa_nodes") or 0,
        accept=run.text("spec", "accept"),
        clock=run.text("spec", "clock"),
        cost_ns_per_unit=run.integer("spec", "emulation", "cost", "ns_per_unit") or 0,
        kernel_config=_kernel_config(run),
    )


def _kernel_config(run: RunView) -> str:
    """The digest of the kernel's configuration; "unknown" where nobody has kept it."""
    path = run.get("kernel", "config")
    try:
        return config_digest(Path(path).read_text()) if isinstance(path, str) else "unknown"
    except OSError:
        return "unknown"


def _place(run: RunView) -> Place:
    return Place(
        cpu=run.text("host", "cpu"),
        cpus=run.integer("host", "cpus") or 0,
        memory_gib=round((run.integer("host", "memory_bytes") or 0) / GIB),
        accelerator=run.text("spec", "accel"),
        qemu=run.text("qemu", "version"),
    )


def save(baseline: Baseline, directory: Path) -> Path:
    """Write the file, in place of an older one of the same configuration and place."""
    path = directory / baseline.name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(path, baseline)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error
    return path


def load_all(directory: Path) -> list[tuple[Path, Baseline]]:
    """Every baseline in `directory`. Raises UsageError for a file that is none."""
    hint = "a baseline is a file that `baseline save` has written"
    return [(path, read_json(path, Baseline, hint)) for path in sorted(directory.glob("*.json"))]


def baseline_for(now: Baseline, directory: Path, *, anyway: bool) -> Baseline:
    """The one in `directory` that `now` may be compared with. Raises UsageError if there is none;
    of another host or QEMU, naming the difference, unless `anyway`."""
    known = [baseline for _, baseline in load_all(directory)]
    same = [b for b in known if b.configuration == now.configuration]
    if not same:
        raise UsageError(
            "there is no baseline of this configuration" + _nearest(now, known),
            hint="save one: cvm-harness baseline save RUN…",
        )
    here = [b for b in same if b.place == now.place]
    if here:
        return here[0]
    if anyway:
        return same[0]
    raise UsageError(
        "the baseline was taken elsewhere: " + "; ".join(_differences(same[0].place, now.place)),
        hint="save a baseline here, or insist with --anyway",
    )


def compare_with(
    baseline: Baseline, now: Baseline, names: Sequence[str], criteria: Criteria
) -> list[Comparison]:
    """Each metric's comparison, the baseline as A. Raises PreconditionError where a named one is
    missing or none is left."""
    default = COST_METRICS if now.configuration.clock == "icount" else DEFAULT_METRICS
    found = []
    for name in names or default:
        a, b = baseline.metrics.get(name, ()), now.metrics.get(name, ())
        if not a or not b or min(*a, *b) <= 0:
            if names:
                raise PreconditionError(f"baseline or runs have no {name} above zero")
            continue
        own = criteria_for(metric_named(name), criteria)
        found.append(compare(name, Arms.of(a, b), own))
    if not found:
        raise PreconditionError("baseline and runs have no figure in common that can be compared")
    return control_false_discoveries(found)


def _nearest(now: Baseline, known: Sequence[Baseline]) -> str:
    if not known:
        return ""
    every = [_differences(b.configuration, now.configuration) for b in known]
    nearest = min(every, key=len)
    return "; the nearest differs in " + "; ".join(nearest)


def _differences(a: FileType, b: FileType) -> list[str]:
    return [
        f"{name} {getattr(a, name)} → {getattr(b, name)}"
        for name in a.__struct_fields__
        if getattr(a, name) != getattr(b, name)
    ]
