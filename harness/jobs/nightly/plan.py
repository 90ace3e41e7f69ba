# SPDX-License-Identifier: MIT
"""What a night does, as cells: the unit that is run, judged, resumed and reported. The same plan
gives the same keys in the same order. Pure."""

import itertools
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from harness.base.guest_options import changed_options
from harness.base.options import Door
from harness.base.spec import GuestSpec
from harness.base.status import UsageError
from harness.jobs.nightly.plan_file import Config, Exclude, GuestValue, Measured, Plan, Suite
from harness.record.night import CellKind
from harness.targets.choose import guest_spec


@dataclass(frozen=True)
class GuestPoint:
    """One point of the matrix: the values as given, and the guest they make."""

    values: Mapping[str, GuestValue]
    spec: GuestSpec

    @property
    def label(self) -> str:
        """The values in one word each: "memory=2G,accept=lazy"."""
        return ",".join(f"{key}={_word(value)}" for key, value in self.values.items())


@dataclass(frozen=True)
class Cell:
    kind: CellKind
    kernel: str
    config: str
    guest: GuestPoint | None = None
    suite: Suite | None = None
    workload: Measured | None = None
    base: str | None = None
    """The kernel to compare with."""
    skip: str = ""
    """Why it is not run; empty: it is."""

    @property
    def work(self) -> str:
        """The name of the suite or workload; empty for a build."""
        return self.suite.name if self.suite else self.workload.name if self.workload else ""

    @property
    def key(self) -> str:
        """Unique in its plan, and readable."""
        words = [self.kind.value, self.work, f"kernel={self.kernel}"]
        words += [f"base={self.base}"] if self.base else []
        words += [f"config={self.config}"] if self.config != "default" else []
        words += [self.guest.label] if self.guest else []
        return " ".join(word for word in words if word)

    @property
    def like(self) -> str:
        """What cells of other nights have in common with this one, for estimates of time."""
        return " ".join([self.kind.value, self.work, self.guest.label if self.guest else ""])


def _word(value: GuestValue) -> str:
    return shlex.quote(str(value).lower() if isinstance(value, bool) else str(value))


def guest_points(matrices: Iterable[Mapping[str, tuple[GuestValue, ...]]]) -> list[GuestPoint]:
    """The cross product of each matrix. Raises UsageError as the command line would."""
    return [
        _point(dict(zip(matrix, values, strict=True)))
        for matrix in matrices
        for values in itertools.product(*matrix.values())
    ]


def _point(values: Mapping[str, GuestValue]) -> GuestPoint:
    return GuestPoint(values, guest_spec(**values))


def cells(plan: Plan) -> list[Cell]:
    """Every cell of `plan`, builds first, what is excluded with its reason.

    A suite cannot run on a guest that pytest's options cannot describe, and that cell says so.
    Raises UsageError for an exclusion that fits no cell: whoever wrote it meant one.
    """
    found = [
        Cell(CellKind.BUILD, arm.name, config.name)
        for config in plan.configs
        for arm in plan.kernels
    ]
    points = guest_points(plan.matrix)
    for config, point in itertools.product(plan.configs, points):
        for suite, arm in itertools.product(plan.suites, plan.kernels):
            skip = _not_for_pytest(point.spec)
            found.append(Cell(CellKind.SUITE, arm.name, config.name, point, suite, skip=skip))
        for workload in plan.workloads:
            found += _measure_cells(plan, config, point, workload)
    # A workload's own guest options can make two points of the matrix the same.
    every = {cell.key: cell for cell in found}.values()
    for exclude in plan.excludes:
        if not any(matches(cell, exclude) for cell in every):
            words = ", ".join(f"{key} = {value!r}" for key, value in exclude.items())
            raise UsageError(
                f"exclude: no cell has {words}", hint="cvm-harness plan FILE lists the cells"
            )
    return [_excluded(cell, plan.excludes) for cell in every]


def _measure_cells(
    plan: Plan, config: Config, point: GuestPoint, workload: Measured
) -> Iterator[Cell]:
    own = _point({**point.values, **workload.guest})
    bases = {arm.base for arm in plan.kernels}
    for arm in plan.kernels:
        # A base is measured together with what is compared with it, never twice.
        if arm.base or arm.name not in bases:
            kind = CellKind.MEASURE
            yield Cell(kind, arm.name, config.name, own, workload=workload, base=arm.base)


def _not_for_pytest(spec: GuestSpec) -> str:
    unknown = [o.flag for o in changed_options(spec) if Door.PYTEST not in o.row.doors]
    return f"pytest has no {', '.join(unknown)}" if unknown else ""


def _excluded(cell: Cell, excludes: tuple[Exclude, ...]) -> Cell:
    for exclude in excludes:
        if matches(cell, exclude):
            return replace(cell, skip=f"excluded: {exclude.reason}")
    return cell


def matches(cell: Cell, wanted: Mapping[str, GuestValue | list[GuestValue]]) -> bool:
    """Whether every value of `wanted`, or one of a list, is the cell's (keys: kind, kernel, config,
    suite, workload, or an option of the matrix). A key that a cell does not have does not match."""
    facts: dict[str, GuestValue] = {
        "kind": cell.kind.value,
        "kernel": cell.kernel,
        "config": cell.config,
        **({"suite": cell.suite.name} if cell.suite else {}),
        **({"workload": cell.workload.name} if cell.workload else {}),
        **(cell.guest.values if cell.guest else {}),
    }

    def fits(key: str, value: GuestValue | list[GuestValue]) -> bool:
        values = value if isinstance(value, list) else [value]
        return key in facts and str(facts[key]) in map(str, values)

    return all(fits(key, value) for key, value in wanted.items())


def parse_filter(text: str) -> dict[str, GuestValue]:
    """ "KEY=VALUE,KEY=VALUE" as a filter. Raises UsageError."""
    wanted: dict[str, GuestValue] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"not a filter: {text!r}", hint="write --only memory=2G,suite=quick")
        wanted[key.strip()] = value.strip()
    return wanted


def select(found: list[Cell], only: list[dict[str, GuestValue]]) -> list[Cell]:
    """The cells that match one of `only` (all if there are none), with the builds they need. Raises
    UsageError where nothing is left."""
    if not only:
        return found
    chosen = [cell for cell in found if any(matches(cell, wanted) for wanted in only)]
    if not chosen:
        raise UsageError("no cell of the plan matches --only", hint="see the plan with --dry-run")
    kernels = {(name, cell.config) for cell in chosen for name in (cell.kernel, cell.base)}
    builds = [cell for cell in found if cell.kind is CellKind.BUILD]
    needed = [cell for cell in builds if (cell.kernel, cell.config) in kernels]
    return needed + [cell for cell in chosen if cell.kind is not CellKind.BUILD]
