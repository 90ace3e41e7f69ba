# SPDX-License-Identifier: MIT
"""From what the monitor heard to why a guest can no longer be waited for. Pure."""

import re
import signal
from collections.abc import Sequence

from harness.base.status import (
    EmulatorFlaw,
    GuestFailure,
    GuestTerminated,
    HostError,
    IllegalAccess,
)
from harness.guest.monitor import Exit
from harness.guest.wait import WaitEnd
from harness.host.refusals import KVM_GAVE_UP, explain
from harness.record.console import Kind, Splat
from harness.record.platform_state import Fatal, Violation

_SIGNED = (
    "Secure Boot keys are enrolled in it, and the kernel is not signed for them: name another "
    "image with --firmware, or boot a signed distribution with --disk"
)
_UNHASHED = (
    "an AmdSev build of OVMF starts a kernel only by its hash (--kernel-hashes=on), other builds "
    "only a disk with an EFI boot loader; name another image with --firmware"
)

_BY_ITSELF = {
    "guest-shutdown": "the guest powered itself off",
    "guest-reset": "the guest reset itself (a reboot or a triple fault)",
}
_HALT_WORDS = re.compile(rf"{KVM_GAVE_UP}|kvm run failed")
_NO_KVM = (
    "KVM on this host cannot run this guest; emulated guests run without it: --accel=tcg, and "
    "`cvm-harness doctor` says more"
)


def on_stale_code(splats: Sequence[Splat]) -> WaitEnd | None:
    """QEMU ran code that the guest had since patched: no fault of the kernel's.

    Before 8.1 (deba78709ae8, "accel/tcg: Always lock pages before translation") a vCPU of
    multi-threaded TCG may keep the translation of a breakpoint that the kernel had in its text for
    a moment (text_poke_bp(): jump labels, tracepoints), and dies of it later.
    """
    found = next((splat for splat in splats if splat.line.startswith("Oops: int3")), None)
    if found is None:
        return None
    return WaitEnd(
        EmulatorFlaw,
        f"this QEMU ran code that the guest had patched meanwhile ({found.line})",
        hint="QEMU 8.1 or newer does not; with this one repeat the run, or use --vcpus 1",
        details=found.context,
    )


def on_panic(fatal: Splat | None) -> WaitEnd:
    """The guest panicked; `fatal` is what the console said, if it said anything."""
    if fatal is None:
        return WaitEnd(GuestFailure, "the guest panicked without a word on the console")
    if fatal.kind is Kind.FIRMWARE:
        signed = "Secure boot" in fatal.line
        return WaitEnd(
            HostError,
            f"the firmware started no kernel: {fatal.line}",
            hint=_SIGNED if signed else _UNHASHED,
        )
    return WaitEnd(GuestFailure, f"the guest panicked: {fatal.line}")


def on_violation(violation: Violation) -> WaitEnd:
    """The emulated platform has stopped the guest before an access that hardware punishes."""
    registers = {"RSP": violation.rsp, "RBP": violation.rbp, "CR3": violation.cr3}
    details = [violation.detail] if violation.detail else []
    if violation.rip is not None:
        shown = " ".join(f"{name} {value:#x}" for name, value in registers.items() if value)
        details.append(f"RIP {violation.rip:#x} CPL {violation.cpl} {shown} code {violation.code}")
    return WaitEnd(IllegalAccess, f"illegal access: {violation.describe()}", details=tuple(details))


def on_termination(fatal: Fatal, splat: Splat | None) -> WaitEnd:
    """The guest asked its host to end it."""
    said = f"; its console says: {splat.line}" if splat else ""
    return WaitEnd(GuestTerminated, fatal.describe() + said)


def on_halt(state: str, said: Sequence[str]) -> WaitEnd:
    """QEMU stopped the guest by itself and waits; `said` is its own output. It may be the guest's
    fault: KVM_RUN fails (accel/kvm/kvm-all.c, "kvm run failed") if private memory is used as
    shared. An internal error is KVM's own."""
    words = next((line for line in said if _HALT_WORDS.search(line)), "") or next(iter(said), "")
    cause = f"QEMU stopped the guest ({state})" + (f": {words}" if words else "")
    if state == "internal-error" and KVM_GAVE_UP not in words:
        return WaitEnd(GuestFailure, cause, details=tuple(said))
    hint = "the host's disk may be full" if state == "io-error" else _NO_KVM
    return WaitEnd(HostError, cause, hint=hint, details=tuple(said))


def on_exit(end: Exit, said: Sequence[str], *, asked: bool) -> WaitEnd:
    """QEMU has ended. `said` is its own output, `asked` whether we had asked it to end."""
    if end.shutdown_reason == "guest-panic":
        return on_panic(None)
    if asked:
        return WaitEnd(HostError, "the guest has been stopped by the harness")
    if cause := _BY_ITSELF.get(end.shutdown_reason):
        return WaitEnd(GuestFailure, cause)
    if end.status < 0:
        return _killed(-end.status, said)
    if end.shutdown_reason == "host-signal":
        return WaitEnd(
            HostError, "QEMU was told to end by a signal from outside", details=tuple(said)
        )
    if explained := _explained(said):
        return explained
    words = next((line for line in said if ": " in line), "") or next(iter(said), "")
    cause = f"QEMU ended with exit status {end.status}" + (f": {words}" if words else "")
    return WaitEnd(HostError, cause, details=tuple(said))


def _explained(said: Sequence[str]) -> WaitEnd | None:
    known = explain(said)
    if known is None:
        return None
    refusal, words = known
    cause = f"QEMU gave up: {refusal.cause}. It said: {words}"
    return WaitEnd(HostError, cause, hint=refusal.hint, details=tuple(said))


def _killed(number: int, said: Sequence[str]) -> WaitEnd:
    if number == signal.SIGABRT and (explained := _explained(said)):
        return explained
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    hint = "if nobody killed it, look for the OOM killer in the host's kernel log"
    return WaitEnd(
        HostError,
        f"QEMU was killed by {name}",
        hint=hint if number == signal.SIGKILL else "",
        details=tuple(said),
    )
