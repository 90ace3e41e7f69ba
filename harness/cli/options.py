# SPDX-License-Identifier: MIT
"""Options that several verbs share: each is written once, and reaches the verb as one object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.base.options import CONFIDENTIAL_OPTIONS, DEFAULT_KERNEL, choice
from harness.base.spec import GuestSpec, SnapshotMode
from harness.collect.plan import Collect, TraceMode
from harness.targets.choose import guest_spec

if TYPE_CHECKING:
    from harness.kernel.kernel import Kernel
    from harness.run.session import Session

Command = Callable[..., Any]
_SPEC_OPTIONS = inspect.signature(guest_spec).parameters.keys()


@dataclass(frozen=True)
class KernelChoice:
    """Which kernel, from which source, with what on top."""

    source: str
    patches: tuple[Path, ...]
    settings: tuple[str, ...]
    fragments: tuple[str, ...]

    def build(self, session: Session, spec: GuestSpec) -> Kernel:
        """The built kernel."""
        return session.kernel_for(
            spec,
            self.source,
            patches=self.patches,
            settings=self.settings,
            extra=self.fragments,
        )

    def for_guest(self, session: Session, spec: GuestSpec) -> Kernel:
        """The same, once it is clear that this host can run `spec`: a build takes minutes."""
        session.check_host(spec)
        return self.build(session, spec)


def _apply(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def kernel_options(command: Command) -> Command:
    """Adds --kernel and what goes with it; the verb gets `kernel: KernelChoice`."""

    @functools.wraps(command)
    def wrapper(
        kernel: str,
        patch: tuple[Path, ...],
        setting: tuple[str, ...],
        fragment: tuple[str, ...],
        **rest: Any,
    ) -> Any:
        return command(kernel=KernelChoice(kernel, patch, setting, fragment), **rest)

    options = [
        click.option(
            "--kernel",
            default=DEFAULT_KERNEL,
            show_default=True,
            metavar="SOURCE",
            help="debian:6.12 (a Debian source package of that series), debian-binary:6.12 (the "
            "distribution's kernel as it is), a kernel tree, git:REPOSITORY@REF, or a bzImage.",
        ),
        click.option(
            "--patch",
            multiple=True,
            type=click.Path(path_type=Path),
            help="Apply this patch or mbox as well. May be repeated.",
        ),
        click.option(
            "--set",
            "setting",
            multiple=True,
            metavar="SYMBOL=VALUE",
            help="Set a config symbol on top of the fragments. May be repeated.",
        ),
        click.option(
            "--fragment",
            multiple=True,
            help="Another config fragment: debug, or a file. May be repeated.",
        ),
    ]
    return _apply(options, wrapper)


def guest_options(**defaults: object) -> Callable[[Command], Command]:
    """Adds the options that describe a guest; the verb gets `spec: GuestSpec`.

    `defaults` replaces the default of single options.
    """

    def option(name: str, default: object, **rest: Any) -> Callable[[Command], Command]:
        key = name.removeprefix("--").split("/")[0].replace("-", "_")
        return click.option(name, default=defaults.get(key, default), show_default=True, **rest)

    options = [
        option(
            "--target", "auto", help="auto, emulated, snp or tdx. auto: the best there is here."
        ),
        option(
            "--memory",
            None,
            metavar="SIZE",
            help="Guest memory: 4G, 2700M; an emulated guest's may exceed the host's.  "
            "[default: 4G, on snp and tdx 16G]",
        ),
        option("--vcpus", 2, help="Virtual CPUs."),
        option("--accept", "lazy", help="lazy or eager: the kernel's accept_memory=."),
        option("--accel", "auto", help="auto, kvm or tcg. auto boots a probe guest once."),
        option("--clock", "wall", help="wall, or icount: guest time is instructions (TCG)."),
        option("--route", "direct", help="direct: no firmware; efi: OVMF and the EFI stub."),
        option("--cost", "free", help="Model of accepting 2 MiB: free, tdx, snp, or ns."),
        option("--strict/--no-strict", True, help="Unmap unaccepted memory: touching is caught."),
        option("--zero/--no-zero", False, help="Zero memory when it is accepted."),
        option("--numa-nodes", 1, help="NUMA nodes to spread memory and vCPUs over."),
        option("--trace/--no-trace", True, help="Record every acceptance from early boot on."),
        option(
            "--by-function/--no-by-function",
            False,
            help="Count the workload's instructions by function (icount; QEMU TCG plugin).",
        ),
        option("--append", "", help="More words for the guest kernel's command line."),
        option("--maxmem", None, metavar="SIZE", help="Memory the guest can grow to by hotplug."),
        option("--slots", None, type=int, help="DIMM slots, with --maxmem (8)."),
        option("--virtio-mem", None, metavar="SIZE", help="Size of each node's virtio-mem device."),
        option("--hotplug", "lazy", help="Plugged memory is accepted: off, lazy, eager, online."),
        option("--memmap-on-memory/--no-memmap-on-memory", False, help="Kernel parameter."),
        option(
            "--auto-online",
            "online_movable",
            help="New memory blocks: offline, online, online_kernel, online_movable.",
        ),
        *(
            option(name, default, help=words, **rest)
            for name, default, words, rest in CONFIDENTIAL_OPTIONS
        ),
    ]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(**given: Any) -> Any:
            names = _SPEC_OPTIONS & given.keys()
            spec = guest_spec(**{name: given.pop(name) for name in names})
            return command(spec=spec, **given)

        return _apply(options, wrapper)

    return decorate


def collect_options(command: Command) -> Command:
    """Adds what is to be collected; the verb gets `collect: Collect`."""

    @functools.wraps(command)
    def wrapper(hz: int, trace_from: str, trace_buffer: int | None, **rest: Any) -> Any:
        mode = choice(TraceMode, trace_from, "--trace-from")
        return command(collect=Collect(hz, mode, trace_buffer), **rest)

    options = [
        click.option(
            "--hz", default=100, show_default=True, help="Counter samples per second; 0: none."
        ),
        click.option(
            "--trace-from",
            default=TraceMode.AUTO.value,
            show_default=True,
            help="Where accept events come from: event (the carried patch's), probes, both (and "
            "compare them), hist (only the distribution), off. auto: the event, else probes.",
        ),
        click.option(
            "--trace-buffer",
            type=int,
            metavar="KIB",
            help="Trace buffer of each CPU.  [default: enough for all that is unaccepted]",
        ),
    ]
    return _apply(options, wrapper)


snapshot_option = click.option(
    "--snapshot",
    default=SnapshotMode.AUTO.value,
    show_default=True,
    callback=lambda _context, _option, text: choice(SnapshotMode, text, "snapshot mode"),
    help="auto: start from a saved guest where that is possible; off: boot each guest.",
)
runs_option = click.option(
    "--runs",
    default=Path("runs"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where run directories go.",
)
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show every check.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print QEMU's command line and start nothing."
)
