# SPDX-License-Identifier: MIT
"""What a guest can have, and how to see whether it has: a test that needs more is skipped."""

import shlex
import weakref

from harness.base.guest_options import guest_option
from harness.run.run import Run
from harness.suite.hook import why_no_hooks
from harness.targets.confidential import ConfidentialTarget
from harness.targets.registry import target_for

EMULATION = "/sys/kernel/debug/unaccepted_emulation"
_MAX_ANSWER = 8 << 10

_EMULATED = "emulated"
"""Of the target, not of the guest's kernel."""
_CONFIDENTIAL = "confidential"
"""Of the target: firmware and kernel do what they do on TDX or SEV-SNP hardware."""
_HOOK, _EARLY_HOOK = "hook", "hook-early"
"""The test hooks, loaded where the kernel has none built in."""
_EVENTS = "events"
"""A trace event for each accept."""
_PLATFORM = "platform"
"""Something beside the kernel that knows which memory is unaccepted."""
_FILES: dict[str, tuple[str, str]] = {
    "emulation-stats": (EMULATION, "no emulated platform in this guest"),
    "kexec": ("/sys/kernel/kexec_loaded", "the kernel has no kexec"),
    "kcore": ("/proc/kcore", "the kernel has no /proc/kcore"),
    "devmem": ("/dev/mem", "the kernel has no /dev/mem"),
    "pagemap": ("/proc/self/pagemap", "the kernel has no pagemap"),
    "hugetlb-2m": ("/sys/kernel/mm/hugepages/hugepages-2048kB", "no 2 MiB huge pages"),
    "hugetlb-1g": ("/sys/kernel/mm/hugepages/hugepages-1048576kB", "no 1 GiB huge pages"),
    "thp": ("/sys/kernel/mm/transparent_hugepage", "no transparent huge pages"),
    "compaction": ("/proc/sys/vm/compact_memory", "no compaction"),
    "memcg": ("/sys/fs/cgroup", "no control groups"),
    "hotremove": ("/sys/devices/system/memory/block_size_bytes", "no memory hotplug"),
    "suspend": ("/sys/power/state", "no suspend: --fragment suspend"),
    "hibernation": ("/sys/power/disk", "no hibernation: --fragment suspend"),
    "zram": ("/sys/block/zram0", "no zram"),
}
"""The file that a guest with the feature has, and what to say where it is missing."""
FEATURES = frozenset({_EMULATED, _CONFIDENTIAL, _EVENTS, _HOOK, _EARLY_HOOK, _PLATFORM, *_FILES})

_present: weakref.WeakKeyDictionary[Run, frozenset[str]] = weakref.WeakKeyDictionary()
"""Which of these files guests have: asked once, all at once. They come with the kernel."""


def missing_feature(run: Run, wanted: tuple[str, ...]) -> str:
    """Why the guest of `run` cannot do what is `wanted`; "" where it can."""
    return next((why for name in wanted if (why := _lacks(run, name))), "")


def _lacks(run: Run, name: str) -> str:
    if name == _EMULATED:
        told = guest_option("hotplug").applies_to(run.spec.target)
        return "" if told else f"{run.spec.target.value} cannot be told to do this"
    if name == _CONFIDENTIAL:
        found = isinstance(target_for(run.spec.target), ConfidentialTarget)
        return "" if found else f"guests of {run.spec.target.value} are not confidential"
    if name in (_HOOK, _EARLY_HOOK):
        return why_no_hooks(run, early=name == _EARLY_HOOK)
    if name == _EVENTS:
        return "" if run.traced else "the kernel lacks the carried accept event: no call is timed"
    if name == _PLATFORM:
        return "" if run.platform else _lacks(run, "emulation-stats")
    if run not in _present:
        words = " ".join(shlex.quote(path) for path, _ in _FILES.values())
        script = f'for path in {words}; do [ ! -e "$path" ] || echo "$path"; done'
        _present[run] = frozenset(run.guest.run(script, max_output=_MAX_ANSWER).text.split())
    path, missing = _FILES[name]
    return "" if path in _present[run] else f"{missing} ({path} is missing)"
