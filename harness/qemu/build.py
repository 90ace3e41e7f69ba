# SPDX-License-Identifier: MIT
"""Build our QEMU once: the same source, patches, files, options and compiler are the same entry."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ninja import BIN_DIR

from harness.base.guarded import ask
from harness.base.progress import Progress, silent
from harness.base.reader import read_json
from harness.base.status import HostError, UsageError
from harness.base.store import Store, digest_file, digest_of
from harness.kernel.build import build_record
from harness.kernel.make import (
    BuildFault,
    Toolchain,
    build_environment,
    first_fault,
    host_fault,
    missing_tools,
    require,
)
from harness.kernel.patches import apply_patches
from harness.kernel.tree import FILE, SourceTree, write_json
from harness.kernel.version import Version
from harness.kernel.worktree import BuildRunner, WorkTree, open_work
from harness.qemu.binary import PLATFORMS, Qemu, emulated_platforms, find_qemu, inspect, query
from harness.qemu.source import (
    CONFIGURE,
    DEVICES,
    DIRECTORY,
    Recipe,
    open_source,
    qemu_series,
    read_recipe,
)

FORMAT = "qemu-1"
"""Changes when an entry's content changes for equal inputs."""
KIND = "qemu"
_CONFIGURE_S = 1800.0
_NINJA_S = 2 * 3600.0
_QUICK_S = 30


@dataclass(frozen=True)
class BuiltQemu:
    """A QEMU built by the harness, in the store."""

    binary: Path
    version: str
    """Of the source: "10.0.13"."""
    digest: str
    provenance: Mapping[str, object]

    @property
    def origin(self) -> str:
        """What it was built from, in words: "qemu 1:10.0.13+ds-1 (trixie/main)", or a path."""
        source = self.provenance["source"]
        assert isinstance(source, dict)
        if source["kind"] == "debian":
            return f"{source['package']} {source['version']} ({source['suite']})"
        return str(source["path"])


def build_qemu(
    source: Path | None = None,
    store: Store | None = None,
    progress: Progress = silent,
    *,
    jobs: int | None = None,
    force: bool = False,
    directory: Path = DIRECTORY,
) -> BuiltQemu:
    """Our QEMU from `source` (None: the distribution's), built if the store has none like it, or by
    `force`. Raises UsageError for an unusable source, HostError if it cannot be fetched or
    built."""
    store = store or Store()
    check_tools()
    with store.disk_full_is_named():
        tree, toolchain = open_source(source, store, progress), Toolchain.detect()
        recipe = read_recipe(tree.version, directory)
        carried = recipe.digest
        digest = digest_of(FORMAT, tree.digest, carried, toolchain.digest)
        plan = _Plan(tree, recipe, carried, toolchain, digest)
        if force:
            store.remove(KIND, plan.digest)
        entry = store.fetch(
            KIND,
            plan.digest,
            lambda entry: _build(plan, store, entry, progress, jobs, force),
            waiting=lambda: progress("wait", 0, None, "another process builds this QEMU"),
        )
    return _built(entry)


def held_qemu(store: Store, directory: Path = DIRECTORY) -> BuiltQemu | None:
    """The QEMU that was built or used last of those made from what is carried now, from any source.
    Asks nobody and builds nothing. Raises UsageError for a bad series.toml."""

    def fits(entry: Path) -> bool:
        try:
            built = _built(entry)
        except UsageError:  # gc is taking it away
            return False
        version = Version.parse(built.version)
        return (
            qemu_series(directory).release_of(version) is not None
            and built.provenance["recipe_digest"] == read_recipe(version, directory).digest
        )

    entry = store.last_used(KIND, fits)
    return _built(entry) if entry else None


def ensure_qemu(store: Store, progress: Progress = silent) -> BuiltQemu:
    """`held_qemu()`, or else built from the distribution's source. Raises as `build_qemu()`."""
    held = held_qemu(store)
    if held is None:
        progress("source", 0, None, "no QEMU that emulates TDX and SNP is built yet: once, now")
        return build_qemu(None, store, progress)
    store.mark_used(held.binary.parent)
    return held


def platform_qemu(target: str, store: Store, progress: Progress = silent) -> Qemu:
    """$CVM_HARNESS_QEMU, the QEMU on PATH if it has the platform of `target`, or else our own,
    built if need be. Raises HostError if $CVM_HARNESS_QEMU lacks it, or as `build_qemu()` does."""
    if os.environ.get("CVM_HARNESS_QEMU"):
        asked = find_qemu()
        if target not in emulated_platforms(asked.binary):
            raise HostError(
                f"{asked.binary} cannot emulate {target}: it has no {PLATFORMS[target]}",
                hint="unset CVM_HARNESS_QEMU, or set it to what `cvm-harness build-qemu` prints",
            )
        return asked
    with contextlib.suppress(HostError):  # none, or one that does not run: ours needs neither
        on_path = find_qemu()
        if target in emulated_platforms(on_path.binary):
            return on_path
    return inspect(ensure_qemu(store, progress).binary)


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the result."""

    tree: SourceTree
    recipe: Recipe
    carried: str
    """The recipe's digest when the plan was made: its files may be edited while it is built."""
    toolchain: Toolchain
    digest: str

    def family(self, root: Path) -> str:
        """Names the object tree: builds of one family differ in files that ninja can tell apart.
        Meson does not notice when configure or itself changes, or when the tree is moved."""
        made_by = (self.tree.manifest["configure"], version("meson"), CONFIGURE, str(root))
        return digest_of(self.tree.family, self.toolchain.digest, *made_by)[:16]


def _build(
    plan: _Plan, store: Store, entry: Path, progress: Progress, jobs: int | None, fresh: bool
) -> None:
    started = time.monotonic()
    applied = apply_patches(plan.tree, plan.recipe.patches, entry)
    tree, digest, patches = plan.tree, plan.digest, plan.recipe.patches
    record = build_record(FORMAT, digest, tree, patches, applied, plan.toolchain)
    if plan.recipe.digest != plan.carried:
        raise HostError(
            "what is carried for QEMU was edited while it was read", hint="run the command again"
        )
    with open_work(f"qemu-{plan.family(store.root)}", store, progress) as work:
        overlay = {**applied.overlay, DEVICES: (FILE, plan.recipe.devices)}
        touched = work.sync(tree, overlay, progress)
        if fresh or not _is_configured(work.objects):
            work.unfinished.touch()  # by which they are thrown away, even if we are killed
        steps = _compile(plan, work, store, entry / "build.log", progress, jobs)
        shutil.copy(work.objects / TARGET, entry / TARGET)
    record |= {
        "says": query(entry / TARGET, "--version").partition("\n")[0],
        "platforms": sorted(emulated_platforms(entry / TARGET)),
        "recipe_digest": plan.carried,
        "configure": list(CONFIGURE),
        "binary_sha256": digest_file(entry / TARGET),
        "files_synced": touched,
        "steps": steps,
        "build_s": round(time.monotonic() - started, 2),
    }
    write_json(entry / "build.json", record)


def _compile(
    plan: _Plan, work: WorkTree, store: Store, log: Path, progress: Progress, jobs: int | None
) -> int:
    """Configure where needed, and build; the number of steps that ninja took."""
    what = f"QEMU {plan.tree.version}"
    steps = 0

    def line(text: str) -> None:
        nonlocal steps
        if step := finished_step(text):
            steps, total, doing = step
            progress("compile", steps, total, f"{what}: {doing}")

    with log.open("w") as file:
        run = BuildRunner(file, work.objects, environment(work.source), work.unfinished)
        work.prepare_objects()
        code = 0
        if not (work.objects / "build.ninja").exists():
            progress("config", 0, None, f"configuring {what}")
            code = run(configure_argv(work.source), deadline_s=_CONFIGURE_S)
        if not code:
            progress("compile", 0, None, what)
            code = run(ninja_argv(jobs), line, _NINJA_S)
    if code:
        kept = store.keep_log(log, f"qemu-{plan.digest[:16]}")
        fault = build_fault(run.tail)
        raise host_fault(run.tail, f"building {what}") or HostError(
            f"{what} does not build: {fault.cause}", hint=f"full log: {kept}", details=fault.details
        )
    return steps


def _is_configured(objects: Path) -> bool:
    """Whether ninja can go on here: configured to the end, with a Python that still has meson."""
    if not (objects / "build.ninja").exists():
        return False
    probe = [str(objects / "pyvenv/bin/python3"), "-c", "import mesonbuild"]
    try:
        return ask(probe, _QUICK_S).returncode == 0
    except OSError:  # the environment it was made from is gone
        return False


def _built(entry: Path) -> BuiltQemu:
    record = read_json(entry / "build.json", dict[str, Any])
    return BuiltQemu(entry / TARGET, record["version"], entry.name, record)


TOOLS = {
    "gcc": "gcc",
    "ld": "binutils",
    "pkg-config": "pkg-config",
    "git": "git",
    "setpriv": "util-linux",
}
"""Program -> the Debian package that has it. meson and ninja are Python packages."""
LIBRARIES = {
    # The least versions are those that 10.0's meson.build asks for.
    "glib-2.0 >= 2.66.0": "libglib2.0-dev",
    "slirp >= 4.1.0": "libslirp-dev",
    "zlib": "zlib1g-dev",
}
"""pkg-config's name and condition -> the Debian package that has the headers."""
_NINJA = Path(BIN_DIR) / "ninja"
TARGET = "qemu-system-x86_64"


def check_tools() -> None:
    """Raise HostError naming what is missing for a build, and the packages to install."""
    missing = missing_tools(TOOLS)
    if "pkg-config" not in missing:
        for name, package in LIBRARIES.items():
            command = ["pkg-config", "--exists", name]
            if subprocess.run(command, timeout=_QUICK_S, check=False).returncode:
                missing[name] = package
    require("build QEMU", missing)


def environment(base_directory: Path) -> dict[str, str]:
    """Our environment without what would make builds differ; ccache keyed by relative paths."""
    unwanted = re.compile(r"(?:C|CXX|CPP|OBJC|LD)FLAGS$|NINJA|PYTHON(?:HOME|PATH)?$|DESTDIR$")
    kept = build_environment(base_directory)
    return {key: value for key, value in kept.items() if not unwanted.match(key)}


def configure_argv(source: Path) -> list[str]:
    """The command line, to be run in the object directory."""
    compiler = "ccache gcc" if shutil.which("ccache") else "gcc"
    return [
        *("nice", "-n", "10", str(source / "configure"), *CONFIGURE),
        f"--cc={compiler}",
        # configure makes a virtual environment of its own, which takes meson from this one.
        f"--python={sys.executable}",
        f"--ninja={_NINJA}",
    ]


def ninja_argv(jobs: int | None) -> list[str]:
    """The command line, to be run in the object directory; by default one job a usable CPU."""
    count = jobs or len(os.sched_getaffinity(0))
    return ["nice", "-n", "10", str(_NINJA), f"-j{count}", TARGET]


_STEP = re.compile(r"\[(\d{1,7})/(\d{1,7})\] (.*)", re.ASCII)
_OBJECT = re.compile(r"(Compiling C object ).*/([^/]+)\.o")


def finished_step(line: str) -> tuple[int, int, str] | None:
    """Steps done, steps in all, and the step ("Compiling C object cpu.c") that this line of ninja's
    output reports."""
    if match := _STEP.fullmatch(line):
        # lib….a.p/meson-generated_.._trace_trace-hw_core.c.o: the last component says enough.
        return int(match[1]), int(match[2]), _OBJECT.sub(r"\1\2", match[3])
    return None


_MESON_ERROR = re.compile(r"(?:\S+:\d+:\d+: )?ERROR: .*")


def build_fault(output: Iterable[str]) -> BuildFault:
    """The cause in the output of configure or ninja: meson's error, else the compiler's."""
    lines = list(output)
    for number, text in enumerate(lines):
        if _MESON_ERROR.fullmatch(text.strip()):
            following = (line.strip() for line in lines[number + 1 : number + 8])
            return BuildFault(text.strip().removeprefix("../"), tuple(filter(None, following)))
    return first_fault(lines, "ninja")
