# SPDX-License-Identifier: MIT
"""What a host has little of: memory, and by leases confidential keys and its undivided attention. A
claim is a file that names its process; claims of dead processes do not count."""

import contextlib
import json
import os
import resource
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock

from harness.base.reader import FileType, read_json
from harness.base.spec import GuestSpec
from harness.base.status import HostError, UsageError
from harness.base.units import GIB, MIB, format_size
from harness.host.lease import ProcessId, lease_directory, own_process, process_id
from harness.record.rundir import plain

DEADLINE_S = 3600.0
"""How long to wait for others to end; a timing run may take as long."""
_INTERVAL_S = 0.5


class Claim(FileType, frozen=True):
    """What a run takes of its host."""

    memory: int = 0
    """Bytes the guest can use at most."""
    keys: int = 0
    """ASIDs (SNP) or key ids (TDX)."""
    exclusive: bool = False
    """No guest of another process may run meanwhile: the run measures time."""


@dataclass(frozen=True)
class Supply:
    """What the host has in all; None: nobody counts."""

    memory: int | None = None
    keys: int | None = None


class _Held(FileType, frozen=True):
    claim: Claim
    process: ProcessId


@contextlib.contextmanager
def reserve(
    claim: Claim,
    supply: Supply,
    *,
    deadline_s: float = DEADLINE_S,
    waiting: Callable[[str], None] = lambda why: None,
) -> Iterator[None]:
    """Hold `claim`. Waits while others hold too much, telling `waiting` what it waits for. Raises
    HostError at the deadline, and at once for a claim that no waiting can satisfy."""
    _check_possible(claim, supply)
    directory = lease_directory() / "claims"
    directory.mkdir(mode=0o700, exist_ok=True)
    said: set[str] = set()

    def attempt() -> Path | None:
        with FileLock(directory / "lock"):
            why = _conflict(claim, supply, _held(directory))
            if not why:
                path = directory / f"claim-{secrets.token_hex(8)}.json"
                path.write_text(json.dumps(plain(_Held(claim, own_process()))))
                return path
        if why not in said:
            said.add(why)
            waiting(why)
        return None

    deadline = time.monotonic() + deadline_s
    while not (path := attempt()):
        if time.monotonic() >= deadline:
            raise HostError(
                f"waited {deadline_s:.0f} s for the host: {'; '.join(said)}",
                hint="run it when the others have ended, or on another host",
            )
        time.sleep(_INTERVAL_S)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _check_possible(claim: Claim, supply: Supply) -> None:
    if supply.memory is not None and claim.memory > supply.memory:
        raise HostError(
            f"a guest of {format_size(claim.memory)} does not fit this host: it has "
            f"{format_size(supply.memory)} for guests",
            hint="choose a smaller --memory",
        )
    if supply.keys is not None and claim.keys > supply.keys:
        raise HostError(
            f"the guest needs {claim.keys} keys and the host has {supply.keys}",
            hint="cvm-harness doctor shows how many ASIDs or key ids there are",
        )


def _conflict(claim: Claim, supply: Supply, held: list[_Held]) -> str:
    """Why the claim has to wait; "" where it can be had."""
    # A claim covers the processes started under it: a night's measurement is such a process.
    family = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    others = [h for h in held if h.process.pid not in family]
    for other in others:
        if other.claim.exclusive:
            return f"process {other.process.pid} measures times and has the host for itself"
        if claim.exclusive:
            return f"process {other.process.pid} runs guests, and this run is to be alone"
    memory = claim.memory + sum(h.claim.memory for h in held)
    if supply.memory is not None and memory > supply.memory:
        return f"guests that run now may use all memory ({format_size(supply.memory)})"
    keys = claim.keys + sum(h.claim.keys for h in held)
    if supply.keys is not None and keys > supply.keys:
        return f"guests that run now hold all {supply.keys} keys"
    return ""


def _held(directory: Path) -> list[_Held]:
    """Claims whose process lives; those of the dead are removed."""
    found = []
    for path in directory.glob("claim-*.json"):
        with contextlib.suppress(UsageError):
            held = read_json(path, _Held)
            if process_id(held.process.pid) == held.process:
                found.append(held)
                continue
        path.unlink(missing_ok=True)
    return found


_MEMMAP_SHARE = 1 / 64
"""struct page: 64 bytes per 4 KiB page (include/linux/mm_types.h), touched early in boot."""
_FIXED = 512 * MIB
"""QEMU itself, TCG's translation cache, kernel, initramfs and early over-acceptance."""


def needed_memory(spec: GuestSpec) -> int:
    """Bytes of host memory a lazy guest needs to boot; what it never touches costs nothing."""
    return int(spec.memory * _MEMMAP_SHARE) + _FIXED


def check_room(spec: GuestSpec, available: int | None = None) -> None:
    """Raise HostError where the guest cannot be mapped, or could not boot in what is free."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and spec.memory + GIB > limit:
        raise HostError(
            f"a guest of {format_size(spec.memory)} cannot be mapped: this process may map only "
            f"{format_size(limit)} (RLIMIT_AS)",
            hint="raise it (ulimit -v unlimited) or choose a smaller --memory",
        )
    overcommit = Path("/proc/sys/vm/overcommit_memory").read_text().strip()
    free = psutil.virtual_memory().available if available is None else available
    if overcommit == "2" and spec.memory > free:
        raise HostError(
            f"a guest of {format_size(spec.memory)} cannot be mapped: vm.overcommit_memory is 2 "
            f"and {format_size(free)} are available",
            hint="choose a smaller --memory, or set vm.overcommit_memory=0",
        )
    if needed_memory(spec) > free:
        raise HostError(
            f"a guest of {format_size(spec.memory)} needs {format_size(needed_memory(spec))} of "
            f"host memory to boot, and {format_size(free)} are available",
            hint="choose a smaller --memory or free some memory",
        )
