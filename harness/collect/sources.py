# SPDX-License-Identifier: MIT
"""Choose where a guest's accept events come from."""

from __future__ import annotations

from collections.abc import Callable

from harness.base.spec import GuestSpec
from harness.base.status import PreconditionError
from harness.collect import tracefs
from harness.collect.accepts import AcceptTrace, EventTrace
from harness.collect.hist import HistTrace
from harness.collect.plan import Collect, TraceMode
from harness.collect.probes import BothTraces, ProbeTrace
from harness.guest.guest import Guest


def accept_trace(
    guest: Guest,
    spec: GuestSpec,
    collect: Collect,
    refused: Callable[[str], None] = lambda why: None,
) -> AcceptTrace | None:
    """The source that `collect` asks for; None where nothing is to be traced.

    A kernel that cannot be traced by any source is not, where none is asked for by name; `refused`
    is told why.
    Raises PreconditionError where the kernel has not got what was asked for by name.
    """
    mode = collect.trace
    if mode is TraceMode.OFF or (mode is TraceMode.AUTO and not spec.trace_boot):
        return None
    if mode is TraceMode.PROBES:
        return ProbeTrace(guest, spec.target)
    if tracefs.has_event(guest):
        if mode is TraceMode.HIST:
            return HistTrace(guest)
        return BothTraces(guest, spec.target) if mode is TraceMode.BOTH else EventTrace(guest)
    if mode in (TraceMode.EVENT, TraceMode.BOTH, TraceMode.HIST):
        raise PreconditionError(
            f"the guest's kernel has no trace event {tracefs.ACCEPT_EVENT}",
            hint="use --trace-from=probes, or a kernel with the carried patch",
        )
    probes = ProbeTrace(guest, spec.target)
    try:
        probes.define()
    except PreconditionError as error:
        refused(str(error))
        return None
    return probes
