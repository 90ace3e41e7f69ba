# SPDX-License-Identifier: MIT
"""What the collectors cost the guest, in instructions: pairs of guests that differ in one thing.

    python -m tests.bench.overhead [--kernel SOURCE]

With the icount clock guest time is executed instructions, so that one pair says it to a few parts
in 100,000, however busy the host is. The sampler: the time of a fixed piece of work on one vCPU,
with and without it at 100 Hz, all it costs included (interrupts, encryption, network). Bound 0.5 %.
The trace: the time to drain a guest, with and without, at the cost of TDX (bound 1 %; the cost is
added to what was measured without) and, for information, at no cost.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from harness.base.emulation import COST_MODELS
from harness.base.options import DEFAULT_KERNEL
from harness.base.spec import GuestSpec
from harness.base.units import MIB, UNIT_SIZE
from harness.collect.plan import Collect, TraceMode
from harness.kernel.kernel import Kernel
from harness.run.session import Session
from harness.targets.choose import guest_spec
from harness.workloads.base import Workload
from harness.workloads.programs import Drain
from harness.workloads.touch import Touch

MAX_SAMPLER = 0.005
MAX_TRACE = 0.01
WORK = Touch(bytes=512 * MIB)


def elapsed_ns(
    session: Session, spec: GuestSpec, kernel: Kernel, load: Workload, collect: Collect
) -> int:
    """The workload's own time in one fresh guest."""
    with session.boot(session.prepare(spec, kernel), collect=collect) as run:
        result = run.load(load)
        outcome = run.conclude()
    if outcome.cause:
        print(f"  ({outcome.status.value}: {outcome.cause})")
    return result.elapsed_ns


def main() -> None:
    """Print each pair; exit code 1 beyond a bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kernel", default=DEFAULT_KERNEL)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    session = Session(runs=options.runs)
    work = guest_spec(memory="1G", vcpus=1, clock="icount", accept="eager")
    kernel = session.kernel_for(work, options.kernel)

    failed = False
    off = Collect(hz=0, trace=TraceMode.OFF)
    plain = elapsed_ns(session, replace(work, trace_boot=False), kernel, WORK, off)
    sampled = elapsed_ns(
        session, replace(work, trace_boot=False), kernel, WORK, replace(off, hz=100)
    )
    failed |= report("sampler at 100 Hz, one vCPU", plain, sampled, MAX_SAMPLER)
    drain = guest_spec(memory="2G", vcpus=1, clock="icount")
    untraced = elapsed_ns(session, replace(drain, trace_boot=False), kernel, Drain(), off)
    traced = elapsed_ns(session, drain, kernel, Drain(), Collect(hz=0))
    report("trace of a drain of 2 GiB that costs nothing", untraced, traced, None)
    # To spin for a cost is slow under icount, and costs the same with and without: it is added.
    paid = drain.memory // UNIT_SIZE * COST_MODELS["tdx"].ns_per_unit
    failed |= report("the same at TDX's cost", untraced + paid, traced + paid, MAX_TRACE)
    if failed:
        raise SystemExit(1)


def report(name: str, without: int, with_: int, bound: float | None) -> bool:
    """Whether the overhead is beyond its bound."""
    overhead = with_ / without - 1
    limit = f"bound {bound:.1%}" if bound is not None else "no bound"
    print(f"{name}: {without:,} → {with_:,} instructions, {overhead:+.3%} ({limit})", flush=True)
    return bound is not None and overhead > bound


if __name__ == "__main__":
    main()
