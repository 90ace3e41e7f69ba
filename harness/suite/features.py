# SPDX-License-Identifier: MIT
"""What a guest can have, and how to see whether it has: a test that needs more is skipped."""

from __future__ import annotations

import shlex
import weakref
from collections.abc import Callable

from harness.run import Run
from harness.spec import TargetName

HOOK = "/sys/kernel/debug/unaccepted_test"
EMULATION = "/sys/kernel/debug/unaccepted_emulation"
_MAX_ANSWER = 8 << 10

Probe = Callable[[Run], str]
"""Why a guest lacks the feature; "" where it has it."""

_paths: list[str] = []
"""The files that say whether a guest has a feature."""
_there: weakref.WeakKeyDictionary[Run, frozenset[str]] = weakref.WeakKeyDictionary()
"""Which of these files guests have: asked once, all at once. They come with the kernel."""


def _path(path: str, missing: str) -> Probe:
    _paths.append(path)

    def probe(run: Run) -> str:
        if run not in _there:
            words = " ".join(map(shlex.quote, _paths))
            script = f'for path in {words}; do [ ! -e "$path" ] || echo "$path"; done'
            _there[run] = frozenset(run.guest.run(script, max_output=_MAX_ANSWER).text.split())
        return "" if path in _there[run] else f"{missing} ({path} is missing)"

    return probe


def _emulated(run: Run) -> str:
    target = run.spec.target
    return "" if target is TargetName.EMULATED else f"{target.value} cannot be told to do this"


FEATURES: dict[str, Probe] = {
    "emulated": _emulated,
    "emulation-stats": _path(EMULATION, "no emulated platform in this guest"),
    "hook": _path(HOOK, "the kernel lacks the carried accept-test patch"),
    "kexec": _path("/sys/kernel/kexec_loaded", "the kernel has no kexec"),
    "kcore": _path("/proc/kcore", "the kernel has no /proc/kcore"),
    "devmem": _path("/dev/mem", "the kernel has no /dev/mem"),
    "pagemap": _path("/proc/self/pagemap", "the kernel has no pagemap"),
    "hugetlb-2m": _path("/sys/kernel/mm/hugepages/hugepages-2048kB", "no 2 MiB huge pages"),
    "hugetlb-1g": _path("/sys/kernel/mm/hugepages/hugepages-1048576kB", "no 1 GiB huge pages"),
    "thp": _path("/sys/kernel/mm/transparent_hugepage", "no transparent huge pages"),
    "compaction": _path("/proc/sys/vm/compact_memory", "no compaction"),
    "memcg": _path("/sys/fs/cgroup", "no control groups"),
    "hotremove": _path("/sys/devices/system/memory/block_size_bytes", "no memory hotplug"),
    "suspend": _path("/sys/power/state", "no suspend: --fragment suspend"),
    "hibernation": _path("/sys/power/disk", "no hibernation: --fragment suspend"),
    "zram": _path("/sys/block/zram0", "no zram"),
}


def missing_feature(run: Run, wanted: tuple[str, ...]) -> str:
    """Why the guest of `run` cannot do what is `wanted`; "" where it can."""
    return next((why for name in wanted if (why := FEATURES[name](run))), "")
