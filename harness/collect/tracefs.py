# SPDX-License-Identifier: MIT
"""The guest's tracefs: room, switches, losses, binary pages. It knows no event."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.base.status import PreconditionError
from harness.guest.guest import Guest
from harness.record.trace import lost_events

TRACEFS = "/sys/kernel/tracing"
ACCEPT_EVENT = "unaccepted_memory/accept_memory"
_EVENT_BYTES = 160
"""One event in the ring buffer, generously: 88 bytes of fields, header and page slack."""
_MIN_KIB = 256
_MAX_KIB = 64 << 10
_COMMS = 4096
"""Tasks whose names the kernel is to remember; its default of 128 forgets a fork storm's."""
_DEADLINE_S = 120.0
_MAX_TRACE_BYTES = 4 << 30
_MAX_SYMBOLS = 200
_SYMBOL = re.compile(r"^([0-9a-f]{1,16}) (\S{1,200})$", re.MULTILINE)
_CPU = re.compile(r"^#cpu(\d{1,4})$")
_LOSSES = 'for cpu in per_cpu/cpu*; do echo "#${cpu#per_cpu/}"; cat $cpu/stats; done'
"""What `parse_losses` reads."""


def has_event(guest: Guest, event: str = ACCEPT_EVENT) -> bool:
    """Whether the guest's kernel has this trace event; by default the carried patch's."""
    return guest.run(f"test -e {TRACEFS}/events/{event}/enable", check=False).exit_status == 0


def make_room(
    guest: Guest,
    blocks: int,
    events_per_block: int = 1,
    kib: int | None = None,
    enable: str | None = None,
) -> Mapping[int, int]:
    """Have each CPU's buffer hold the events of every block left, or `kib`, and record `enable`
    from then on. Done after boot: a large buffer at boot would itself accept memory. What comes
    back are the events that each CPU has lost until then. Raises as `stop_tracing`."""
    wanted = blocks * events_per_block * _EVENT_BYTES // 1024
    kib = kib or min(max(_MIN_KIB, wanted), _MAX_KIB)
    script = f"cd {TRACEFS} && echo {kib} > buffer_size_kb && echo {_COMMS} > saved_cmdlines_size"
    if enable:
        script += f" && echo 1 > events/{enable}/enable"
    return parse_losses(guest.run(f"{script} && {_LOSSES}", deadline_s=_DEADLINE_S).text)


def use_monotonic_clock(guest: Guest) -> None:
    """Have stamps on CLOCK_MONOTONIC, as the samplers' are. To change it empties the buffer."""
    guest.run(f"cd {TRACEFS} && {{ grep -q '\\[mono\\]' trace_clock || echo mono > trace_clock; }}")


def switch_event(guest: Guest, on: bool, event: str = ACCEPT_EVENT) -> None:
    """The accept event goes off before the last reading of the counters: from there on the back end
    counts accepts as untraced, so that events and untraced units add up to all."""
    guest.run(f"echo {int(on)} > {TRACEFS}/events/{event}/enable")


def event_format(guest: Guest, event: str = ACCEPT_EVENT) -> str:
    return guest.run(["cat", f"{TRACEFS}/events/{event}/format"]).text


def stop_tracing(guest: Guest) -> Mapping[int, int]:
    """Stop the ring buffer; the events that each CPU lost since boot. Raises PreconditionError
    where a CPU does not say."""
    script = f"cd {TRACEFS} && echo 0 > tracing_on && {_LOSSES}"
    return parse_losses(guest.run(script, deadline_s=_DEADLINE_S).text)


def parse_losses(text: str) -> dict[int, int]:
    """CPU -> lost events, from the per-CPU statistics, each after a line "#cpuN"."""
    blocks: dict[int, list[str]] = {}
    for line in text.splitlines():
        if header := _CPU.match(line):
            blocks[int(header[1])] = block = []
        elif blocks:
            block.append(line)
    if not blocks:
        raise PreconditionError("the trace buffer has no statistics of any CPU")
    return {cpu: lost_events("\n".join(lines)) for cpu, lines in blocks.items()}


def fetch_pages(guest: Guest, out: Path) -> None:
    """Take the trace's binary pages out of the guest into `out` (harness.record.frames)."""
    with out.open("wb") as file:

        def collect(data: bytes) -> None:
            file.write(data)

        guest.run(["cvm", "trace"], deadline_s=5 * _DEADLINE_S, max_output=0, on_stdout=collect)
    if out.stat().st_size > _MAX_TRACE_BYTES:
        raise PreconditionError(f"the trace has {out.stat().st_size} bytes: too many to believe")


def symbols(guest: Guest, addresses: Sequence[int]) -> dict[int, str]:
    """The names of kernel addresses, "symbol+0xoffset"; unknown ones are left out."""
    found: dict[int, str] = {}
    for start in range(0, len(addresses), _MAX_SYMBOLS):
        some = [f"{address:x}" for address in addresses[start : start + _MAX_SYMBOLS]]
        text = guest.run(["cvm", "symbols", *some], deadline_s=_DEADLINE_S).text
        found |= {int(m[1], 16): m[2] for m in _SYMBOL.finditer(text)}
    return found
