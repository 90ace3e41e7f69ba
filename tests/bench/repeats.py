# SPDX-License-Identifier: MIT
"""How far apart the costs in instructions are of guests from one snapshot that do the same.

    python -m tests.bench.repeats [--target snp] [--kernel SOURCE] [--runs 10] [--touch 560M]
                                  [--memory 1536M] [--hz N] [--by-function] [--into DIR]

Prints each run and the spread, largest minus smallest over the median. The bound is 0.01 % for the
whole workload, and a few instructions for what is inside the platform's accept. --by-function
counts where each run's instructions went, and says which functions differ most.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from harness.analysis import cost
from harness.analysis.functions import FunctionCost, read_functions
from harness.base.options import DEFAULT_KERNEL
from harness.base.spec import SnapshotMode
from harness.base.status import Status
from harness.base.units import parse_size
from harness.collect.plan import Collect
from harness.record.view import RunView
from harness.run.session import Session
from harness.targets.choose import guest_spec
from harness.targets.registry import target_for
from harness.workloads.touch import Touch

MAX_SPREAD = 1e-4
SHOWN = 20


def spread(values: Sequence[float]) -> float:
    """Largest minus smallest, over the median."""
    return (max(values) - min(values)) / statistics.median(values)


def differences(runs: Sequence[tuple[FunctionCost, ...]]) -> list[tuple[int, str]]:
    """Instructions between a function's dearest and cheapest run, most first."""
    counts = [{function.name: function.instructions for function in run} for run in runs]
    names = {name for run in counts for name in run}
    seen = {name: [run.get(name, 0) for run in counts] for name in names}
    return sorted(((max(of) - min(of), name) for name, of in seen.items()), reverse=True)


def main() -> None:
    """Print each run and the spread; exit code 1 beyond the bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--target", choices=("emulated", "tdx", "snp"), default="tdx")
    parser.add_argument("--kernel")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--touch", type=parse_size, default="560M")
    parser.add_argument("--memory", default="1536M")
    parser.add_argument("--hz", type=int, help="of the sampler, which is off")
    parser.add_argument("--by-function", action="store_true")
    parser.add_argument("--into", type=Path, default=Path("runs"), help="run directories")
    options = parser.parse_args()
    spec = guest_spec(
        target=options.target,
        accel="tcg",
        clock="icount",
        vcpus=1,
        memory=options.memory,
        cost="snp" if options.target == "snp" else "tdx",
        by_function=options.by_function,
    )
    session = Session(runs=options.into, snapshot=SnapshotMode.AUTO)
    kernel = options.kernel or target_for(spec.target).binary_kernel or DEFAULT_KERNEL
    prepared = session.prepare(spec, session.kernel_for(spec, kernel))

    whole: list[float] = []
    functions: list[tuple[FunctionCost, ...]] = []
    for number in range(options.runs):
        with session.boot(prepared, collect=Collect(hz=options.hz)) as run:
            done = run.load(Touch(bytes=options.touch))
            outcome = run.conclude()
        view = RunView.load(run.directory.path)
        found = cost.workload(view)
        if outcome.status is not Status.PASS or found is None:
            raise SystemExit(f"{run.directory.path}: {outcome.status.value}: {outcome.cause}")
        whole.append(found)
        functions.append(read_functions(run.directory.path))
        print(
            f"{options.target} {number}: {found:,.0f} instructions of {done.elapsed_ns:,} ns; "
            f"{view.get('accepts', 'accept', 'total_ns'):,.0f} in "
            f"{view.get('accepts', 'calls')} accepts",
            flush=True,
        )
    print(f"{options.target}, {kernel}, {len(whole)} runs: all within {spread(whole):.4%}")
    if options.by_function:
        for instructions, name in differences(functions)[:SHOWN]:
            print(f"  {name}: {instructions:,} apart")
    if spread(whole) > MAX_SPREAD:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
