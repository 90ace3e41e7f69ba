# SPDX-License-Identifier: MIT
"""Options that several verbs share: each is written once, and reaches the verb as one object."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.base import guest_options as table
from harness.base.options import DEFAULT_KERNEL, FLAG, Door, Option, choice
from harness.base.spec import GuestSpec, SnapshotMode
from harness.collect.plan import Collect, TraceMode
from harness.targets.choose import spec_and_reason

if TYPE_CHECKING:
    from harness.kernel.kernel import Kernel
    from harness.run.session import Session

Command = Callable[..., Any]


@dataclass(frozen=True)
class KernelChoice:
    """Which kernel, from which source, with what on top."""

    source: str
    patches: tuple[Path, ...]
    settings: tuple[str, ...]
    fragments: tuple[str, ...]
    carried: bool = True

    def build(self, session: Session, spec: GuestSpec) -> Kernel:
        """The built kernel."""
        return session.kernel_for(
            spec,
            self.source,
            patches=self.patches,
            settings=self.settings,
            extra=self.fragments,
            carried=self.carried,
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
        carried: bool,
        **rest: Any,
    ) -> Any:
        return command(kernel=KernelChoice(kernel, patch, setting, fragment, carried), **rest)

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
        click.option(
            "--carried/--no-carried",
            default=True,
            help="Apply the project's own patches, or (tdx and snp) build the source as it is.",
        ),
    ]
    return _apply(options, wrapper)


def guest_options(**defaults: object) -> Callable[[Command], Command]:
    """Adds the options that describe a guest; the verb gets `spec: GuestSpec`.

    `defaults` replaces the default of single options.
    """
    options = [
        _guest_option(option, defaults.get(option.name)) for option in table.guest_options(Door.CLI)
    ]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(**rest: Any) -> Any:
            given = table.given_options(Door.CLI, lambda option: rest.pop(option.name))
            return command(spec=spec_and_reason(given, defaults=defaults)[0], **rest)

        return _apply(options, wrapper)

    return decorate


class _Value(click.ParamType[Any]):
    """Has the option itself read its value, while the command line is parsed."""

    def __init__(self, option: Option) -> None:
        self.name = option.row.kind.name
        self._option = option

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises UsageError as every other door."""
        self._option.value(value)
        return value


def _guest_option(option: Option, default: object) -> Callable[[Command], Command]:
    kind = option.row.kind
    text = option.help_with(None if default is None else option.value(default))
    if kind is FLAG:
        return click.option(
            f"{option.flag}/{option.negative}", option.name, default=None, help=text
        )
    return click.option(
        option.flag, option.name, metavar=kind.metavar, type=_Value(option), help=text
    )


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
