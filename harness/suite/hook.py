# SPDX-License-Identifier: MIT
"""The in-kernel test hooks, built in by the carried patch accept-test or loaded (docs/suite.md)."""

import re
import shlex
import weakref
from collections.abc import Mapping, Sequence
from typing import NoReturn

from harness.base.status import NotApplicable, PreconditionError
from harness.guest.guest import Guest
from harness.run.run import Run

HOOK = "/sys/kernel/debug/unaccepted_test"
EARLY = "what allocates before there are watermarks comes before modules"
_FILE = "/run/unaccepted_test.ko"
_NAME = "unaccepted_test:"
_MAX_LOG = 64 << 10
_LAST_LINES = 8
_REFUSALS = {
    "Key was rejected": "the kernel under test loads only modules that are signed (sig_enforce)",
    "Required key not available": "the kernel under test loads only modules that are signed",
    "Lockdown": "the kernel under test is locked down, and loads only modules that are signed",
}
"""What insmod or the kernel say where the module is not at fault."""
_LINE = re.compile(r"([a-z_]{1,40}) (\d{1,20}|0x[0-9a-f]{1,16})")
_MAX_RESULT = 64 << 10


_refused: weakref.WeakKeyDictionary[Run, str] = weakref.WeakKeyDictionary()
"""Guests that do not load the module, and why not."""


def why_no_hooks(run: Run, *, early: bool = False) -> str:
    """Why the guest of `run` has no test hooks; "" where it has, after they were loaded if need be.

    `early`: also those that come before modules. Raises PreconditionError, HostError or
    KernelBuildError where there should be a module and it cannot be built or loaded.
    """
    guest = run.guest
    if guest.run(f"[ -e {HOOK} ]", check=False).exit_status:
        if run not in _refused:
            try:
                _load(run)
            except NotApplicable as reason:
                _refused[run] = reason.cause
        if run in _refused:
            return _refused[run]
    if early and not run_hook(guest, "status", {})["has_early"]:
        return f"the test hooks are a module in this guest: {EARLY}"
    return ""


def _load(run: Run) -> None:
    if run.hook_module is None:
        raise NotApplicable("the kernel lacks the carried accept-test patch")
    guest = run.guest
    release = guest.run("uname -r").text.strip()
    guest.put(run.hook_module.path(release), _FILE)
    done = guest.run(f"insmod {_FILE}", check=False)
    if not done.exit_status:
        run.directory.update(hook_module=run.hook_module.path(release).parent.name)
        return
    said = done.stderr.decode(errors="replace").strip()[-200:]
    log = guest.run("dmesg", check=False, max_output=_MAX_LOG).text.splitlines()
    _explain(said, log[-_LAST_LINES:])


def _explain(said: str, log: Sequence[str]) -> NoReturn:
    """Raise what a refused module stands for: `said` is insmod's, `log` the kernel's last words."""
    text = "\n".join([said, *log])
    for sign, why in _REFUSALS.items():
        if sign in text:
            raise NotApplicable(why)
    own = [line.partition(_NAME)[2].strip() for line in log if _NAME in line]
    own = [line for line in own if "taint" not in line]
    cause = own[-1] if own else said
    raise PreconditionError(
        f"the guest's kernel does not load the module of test hooks: {cause}",
        hint="are the headers those of this very kernel? docs/suite.md",
        details=(said, *log),
    )


class HookRefused(PreconditionError):
    """The kernel answered a command with an error: it could not even begin."""


def run_hook(
    guest: Guest, verb: str, words: Mapping[str, int | str], deadline_s: float = 120.0
) -> Mapping[str, int]:
    """Run one command; its figures by name.

    Raises HookRefused with the kernel's error, PreconditionError for a result that is none.
    """
    command = " ".join([verb, *(f"{name}={value}" for name, value in words.items())])
    # Of a write that is refused cat says why; a shell's own printf need not.
    script = f"printf %s {shlex.quote(command)} | cat > {HOOK}/command && cat {HOOK}/result"
    done = guest.run(script, deadline_s=deadline_s, check=False, max_output=_MAX_RESULT)
    if done.exit_status != 0:
        said = done.stderr.decode(errors="replace").strip()[-200:]
        raise HookRefused(f"the kernel's test hook refused {command!r}: {said}")
    return parse_result(done.text)


def parse_result(text: str) -> Mapping[str, int]:
    """The hook's "name value" lines. Raises PreconditionError for anything else."""
    figures: dict[str, int] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if not match or match[1] in figures:
            raise PreconditionError(f"unreadable result of the kernel's test hook: {line[:100]!r}")
        figures[match[1]] = int(match[2], 0)
    return figures
