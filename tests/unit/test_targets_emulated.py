# SPDX-License-Identifier: MIT
"""The emulated target's command line says what the spec says, and its proofs need real evidence."""

from pathlib import Path

import pytest

from harness.base.spec import Accel, AcceptMode, GuestSpec
from harness.qemu.binary import Qemu
from harness.targets.base import BootFiles, GuestEvidence, HostFacts, lazy_in_force
from harness.targets.choose import guest_spec
from harness.targets.emulated import EmulatedTarget, accept_at_boot_s

FILES = BootFiles(Path("/k/bzImage"), Path("/k/initrd"), Path("/k/OVMF.fd"))


def arguments(spec: GuestSpec, accel: Accel = Accel.TCG) -> list[tuple[str, ...]]:
    host = HostFacts(Qemu(Path("/q/qemu"), "7.2.0"), accel, "test")
    return list(EmulatedTarget().machine(spec, FILES, host).args)


def value(args: list[tuple[str, ...]], option: str) -> str:
    return next(rest[0] for name, *rest in args if name == option)


def test_memory_may_exceed_the_host() -> None:
    args = arguments(guest_spec(memory="64G"))
    assert "size=65536M,reserve=off" in value(args, "-object")
    assert value(args, "-m") == "65536M"


def test_numa_nodes_share_all_memory_and_all_vcpus_and_no_socket_spans_two() -> None:
    args = arguments(guest_spec(memory="4G", vcpus=5, numa_nodes=2))
    nodes = [rest[0] for name, *rest in args if name == "-numa"]
    cpus = [int(part[5:]) for node in nodes for part in node.split(",") if part.startswith("cpus=")]
    assert sorted(cpus) == list(range(5))
    sizes = [int(rest[0].split("size=")[1].split("M")[0]) for n, *rest in args if n == "-object"]
    assert sum(sizes) == 4096
    assert value(args, "-smp") == "5,sockets=5"
    assert value(arguments(guest_spec(vcpus=4, numa_nodes=2)), "-smp") == "4,sockets=2"


def test_icount_runs_one_thread_and_kvm_uses_the_host_cpu() -> None:
    args = arguments(guest_spec(clock="icount"))
    assert value(args, "-accel") == "tcg,thread=single"
    assert value(args, "-icount") == "shift=0,sleep=off"
    assert value(arguments(guest_spec(), Accel.KVM), "-cpu") == "host"


def test_firmware_only_on_the_efi_route() -> None:
    assert value(arguments(guest_spec(route="efi")), "-bios") == "/k/OVMF.fd"
    assert "-bios" not in [name for name, *_ in arguments(guest_spec())]


def test_kernel_command_line_holds_mode_platform_trace_and_the_users_words() -> None:
    line = value(
        arguments(guest_spec(accept="eager", cost="snp", append="quiet memtest=1")), "-append"
    )
    words = line.split()
    assert "accept_memory=eager" in words
    assert any(
        w.startswith("unaccepted_emulation=route=direct,") and "cost=3100000" in w for w in words
    )
    assert "trace_event=unaccepted_memory:accept_memory,oom:mark_victim" in words
    assert words[-2:] == ["quiet", "memtest=1"]
    assert "trace_event" not in value(arguments(guest_spec(trace=False)), "-append")


GOOD = GuestEvidence(
    console="[    0.0] unaccepted_emulation: active route=direct units=5\n",
    cmdline="accept_memory=lazy",
    emulation_stats={"active": 1, "units_marked": 5},
    nr_unaccepted_at_init=1024,
)


def test_both_proofs_hold_on_good_evidence() -> None:
    assert all(proof.holds for proof in EmulatedTarget().proofs(GOOD))
    assert lazy_in_force(GOOD, AcceptMode.LAZY).holds


@pytest.mark.parametrize(
    ("console", "stats", "broken"),
    [("", {"active": 1}, 0), (GOOD.console, {}, 1), (GOOD.console, {"active": 0}, 1)],
)
def test_each_proof_fails_on_its_own(
    console: str, stats: dict[str, int | str], broken: int
) -> None:
    proofs = EmulatedTarget().proofs(GuestEvidence(console, "", stats, 1))
    assert [proof.holds for proof in proofs] == [index != broken for index in range(2)]


@pytest.mark.parametrize(
    ("cmdline", "pages", "mode", "holds"),
    [
        ("accept_memory=lazy", 0, AcceptMode.LAZY, False),
        ("accept_memory=lazy", -1, AcceptMode.LAZY, False),
        ("a accept_memory=eager", 1024, AcceptMode.LAZY, False),
        ("accept_memory=eager", 0, AcceptMode.EAGER, True),
        ("accept_memory=eager", -1, AcceptMode.EAGER, False),
        ("accept_memory=eager", 1024, AcceptMode.EAGER, False),
    ],
)
def test_acceptance_mode_is_proven_by_the_counter(
    cmdline: str, pages: int, mode: AcceptMode, holds: bool
) -> None:
    assert lazy_in_force(GuestEvidence("", cmdline, {}, pages), mode).holds is holds


@pytest.mark.parametrize(
    ("cmdline", "pages", "advice"),
    [
        ("accept_memory=lazy", 0, "--memory"),
        ("accept_memory=lazy", -1, ""),  # the kernel does not count: memory is not what it lacks
        ("accept_memory=eager", 0, ""),
    ],
)
def test_a_guest_whose_boot_used_all_is_to_be_larger(cmdline: str, pages: int, advice: str) -> None:
    evidence = GuestEvidence("", cmdline, {}, pages)
    proof = lazy_in_force(evidence, AcceptMode.LAZY, 1, EmulatedTarget().more_unaccepted)
    assert bool(proof.hint) is bool(advice)
    assert advice in proof.hint


def test_an_eager_guest_may_take_as_long_to_boot_as_its_acceptance_costs() -> None:
    large = guest_spec(memory="64G", cost="tdx", accept="eager")
    assert accept_at_boot_s(large) == pytest.approx(32768 * 1.3e-3)
    assert accept_at_boot_s(guest_spec(memory="64G", cost="tdx")) == 0
    assert accept_at_boot_s(guest_spec(memory="64G", accept="eager")) == 0  # costs nothing
