# SPDX-License-Identifier: MIT
"""Options that several verbs share: each is written once, and reaches the verb as one object."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.base import guest_options as table
from harness.base.options import DEFAULT_KERNEL, FLAG, Door, Option, choice
from harness.base.spec import GuestSpec, SnapshotMode
from harness.collect.plan import Collect, TraceMode
from harness.targets.base import Target
from harness.targets.choose import spec_and_reason
from harness.targets.registry import target_for

if TYPE_CHECKING:
    from harness.kernel.kernel import Kernel
    from harness.run.session import Session

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]
PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class KernelChoice:
    source: str
    patches: tuple[Path, ...]
    settings: tuple[str, ...]
    fragments: tuple[str, ...]
    carried: bool = True

    def build(self, session: Session, spec: GuestSpec) -> Kernel:
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
        from harness.targets.facts import host_facts

        host_facts(spec, session.store, progress=session.progress)
        return self.build(session, spec)


def together(*options: Decorator) -> Decorator:
    """All of `options`, which the help lists in this order."""
    return lambda command: functools.reduce(lambda made, add: add(made), options[::-1], command)


def bundle(name: str, make: Callable[..., object], *options: Decorator) -> Decorator:
    """Adds `options`; the verb gets what `make` makes of their values as its argument `name`."""
    add = together(*options)
    own = [parameter.name for parameter in click.command()(add(lambda: None)).params]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(**given: Any) -> Any:
            made = make(**{option: given.pop(option) for option in own})
            return command(**{name: made}, **given)

        return add(wrapper)

    return decorate


def member(kind: type[enum.Enum], what: str) -> Callable[..., Any]:
    """A callback for an option whose value is a member of `kind`. Raises UsageError for none."""
    return lambda _context, _option, text: choice(kind, text, what)


_setting_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SYMBOL=VALUE",
    help="Set a config symbol on top of the fragments. May be repeated.",
)
_fragment_option = click.option(
    "--fragment",
    "fragments",
    multiple=True,
    help="Another config fragment: debug, or a file. May be repeated.",
)
kernel_options = bundle(
    "kernel",
    KernelChoice,
    click.option(
        "--kernel",
        "source",
        default=DEFAULT_KERNEL,
        metavar="SOURCE",
        help="debian:6.12 (a Debian source package of that series), debian-binary:6.12 (the "
        "distribution's kernel as it is), a kernel tree, git:REPOSITORY@REF, or a bzImage.",
    ),
    click.option(
        "--patch",
        "patches",
        multiple=True,
        type=PATH,
        help="Apply this patch or mbox as well. May be repeated.",
    ),
    _setting_option,
    _fragment_option,
    click.option(
        "--carried/--no-carried",
        default=True,
        show_default=False,
        help="Apply the project's own patches, or (tdx and snp) build the source as it is.",
    ),
)


def hardware_cost(target: Target) -> str:
    """The default cost of verbs that say what acceptance costs."""
    return target.modelled_cost


def guest_options(**defaults: Any) -> Decorator:
    """Adds the options that describe a guest; the verb gets `spec: GuestSpec`. `defaults` replaces
    the default of single options: by a value, or a function of the target."""

    def make(**given: object) -> GuestSpec:
        return spec_and_reason(given, defaults=defaults)[0]

    options = table.guest_options(Door.CLI)
    return bundle("spec", make, *(_guest_option(o, defaults.get(o.name)) for o in options))


class _Value(click.ParamType[Any]):
    """Has the option itself read its value, while the command line is parsed."""

    def __init__(self, option: Option) -> None:
        self.name = option.row.kind.name
        self._option = option

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises UsageError as every other door."""
        self._option.value(value)
        return value


def _guest_option(option: Option, default: Any) -> Decorator:
    kind = option.row.kind
    if callable(default):
        default = default(target_for(GuestSpec.target))
    text = option.help_with(None if default is None else option.value(default))
    if kind is FLAG:
        return click.option(
            f"{option.flag}/{option.negative}", option.name, default=None, help=text
        )
    return click.option(
        option.flag, option.name, metavar=kind.metavar, type=_Value(option), help=text
    )


collect_options = bundle(
    "collect",
    lambda hz, trace_from, trace_buffer: Collect(hz, trace_from, trace_buffer),
    click.option(
        "--hz",
        type=int,
        help="Counter samples per second; 0: none.  [default: 100; none with --clock=icount]",
    ),
    click.option(
        "--trace-from",
        default=TraceMode.AUTO.value,
        callback=member(TraceMode, "--trace-from"),
        help="Where accept events come from: event (the carried patch's), probes, both (and "
        "compare them), hist (only the distribution), off. auto: the event, else probes.",
    ),
    click.option(
        "--trace-buffer",
        type=int,
        metavar="KIB",
        help="Trace buffer of each CPU.  [default: enough for all that is unaccepted]",
    ),
)


def snapshot_option_of(default: SnapshotMode, help: str) -> Decorator:
    callback = member(SnapshotMode, "snapshot mode")
    return click.option("--snapshot", default=default.value, callback=callback, help=help)


snapshot_option = snapshot_option_of(
    SnapshotMode.AUTO,
    "auto: start from a saved guest where that is possible; off: boot each guest.",
)
runs_option = click.option(
    "--runs", default=Path("runs"), type=PATH, help="Where run directories go."
)
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show every check.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print QEMU's command line and start nothing."
)

measure_options = together(
    click.option(
        "--workload",
        default="touch",
        help="What the metric is of: the workload with its options, as one word: "
        "'touch --bytes=256M'.",
    ),
    click.option("--guests", default=3, help="For the metric: fresh guests per commit."),
)
pytest_option = click.option(
    "--option", "options", multiple=True, help="For tests: another option for pytest."
)


def series_options(place: str) -> Decorator:
    """What bisections and series have in common: how their kernels are built, what is run on each,
    and where everything goes."""
    return together(
        measure_options,
        pytest_option,
        _fragment_option,
        _setting_option,
        click.option(
            "--directory",
            type=PATH,
            help="Where everything goes; one that exists is taken up again.  "
            f"[default: {place}/<time>]",
        ),
    )


def start_options(**defaults: Any) -> Decorator:
    """What every verb has that starts guests; it gets `spec`, `kernel` and `runs`."""
    return together(guest_options(**defaults), kernel_options, runs_option)
