# SPDX-License-Identifier: MIT
"""Build a kernel once: the same inputs are the same entry of the store, however many ask.

An entry holds bzImage, .config, System.map, vmlinux.zst (symbols for decoding), build.log and
build.json (everything that went in).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import zstandard

from harness.base.guarded import run_guarded
from harness.base.progress import Progress, silent
from harness.base.status import HostError
from harness.base.store import Store, digest_file, digest_of
from harness.kernel import binary
from harness.kernel.addresses import VMLINUX
from harness.kernel.config import configure, parse_config
from harness.kernel.fragment import Setting, merge, parse_setting, read_fragment, render
from harness.kernel.kernel import Kernel, KernelRequest, module_tree
from harness.kernel.make import (
    KernelBuildError,
    Toolchain,
    build_environment,
    check_tools,
    compiled_object,
    first_fault,
    host_fault,
    make_argv,
)
from harness.kernel.patches import apply_patches
from harness.kernel.prebuilt import prebuilt
from harness.kernel.series import Patch, carried_patches, patches_digest, read_series
from harness.kernel.source import BinarySource, PathSource, open_source, parse_source
from harness.kernel.tree import SourceTree, write_json
from harness.kernel.worktree import WorkTree

FORMAT = "kernel-2"
"""Changes when an entry's content changes for equal inputs."""
_TYPICAL_OBJECTS = 1600
"""Objects of a build with the default fragments, until a real build has been counted."""


def build_kernel(
    request: KernelRequest, store: Store | None = None, progress: Progress = silent
) -> Kernel:
    """The kernel that `request` describes, built only if the store has none like it."""
    store = store or Store()
    source = parse_source(request.source)
    if isinstance(source, BinarySource):
        return binary.kernel(source, request, store, progress)
    if isinstance(source, PathSource) and source.path.is_file():
        return prebuilt(source.path.resolve(), request, store)
    check_tools()
    tree = open_source(source, store, progress)
    plan = _plan(request, tree)

    def build(entry: Path) -> None:
        _build(plan, store, entry, progress)

    entry = store.fetch(
        "kernel",
        plan.digest,
        build,
        waiting=lambda: progress("wait", 0, None, "another process builds this kernel"),
    )
    return _kernel(entry, plan.digest)


def compile_files(
    request: KernelRequest,
    files: Sequence[str],
    store: Store | None = None,
    progress: Progress = silent,
) -> dict[str, list[str]]:
    """What make and the compiler print for each of `files` (C sources, paths in the tree), compiled
    anew. A file that this configuration does not compile is left out.

    Needs the objects of a build of the same family: without one, nothing has been compiled.
    """
    store = store or Store()
    check_tools()
    plan = _plan(request, open_source(parse_source(request.source), store, progress))
    applied = apply_patches(plan.tree, plan.patches, store.root / "tmp")
    name = f"kernel-{plan.family}"
    printed: dict[str, list[str]] = {}
    with store.lock(f"work-{name}"):
        work = WorkTree(store.work(name))
        work.sync(plan.tree, applied.overlay, lambda done, total: None)
        work.prepare_objects()
        configure(work.source, work.objects, plan.asked, lambda text: None)
        for file in files:
            target = file.removesuffix(".c") + ".o"
            if not (work.objects / target).is_file():
                continue
            (work.objects / target).unlink()
            printed[file] = []
            run_guarded(
                make_argv(work.objects, target, release=f"-cvm-{plan.digest[:8]}"),
                cwd=work.source,
                env=build_environment(work.source),
                line=printed[file].append,
                unfinished=work.unfinished,
            )
    return printed


@dataclass(frozen=True)
class _Plan:
    """A request with everything looked up: what decides the result."""

    tree: SourceTree
    patches: tuple[Patch, ...]
    asked: Mapping[str, Setting]
    toolchain: Toolchain
    digest: str
    family: str
    request: KernelRequest


def _plan(request: KernelRequest, tree: SourceTree) -> _Plan:
    carried = carried_patches(tree.version, request.all_fragments) if request.carried else []
    patches = (*carried, *(Patch(file) for file in request.patches))
    settings = [
        setting for name in request.all_fragments for setting in read_fragment(name, tree.version)
    ]
    asked = merge([*settings, *(parse_setting(text) for text in request.settings)])
    toolchain = Toolchain.detect()
    digest = digest_of(
        FORMAT, tree.digest, patches_digest(patches), render(asked), toolchain.digest
    )
    # Not the settings, nor a fragment that only switches a patch of its own on: kbuild rebuilds
    # just what a changed symbol or file affects.
    shaping = sorted({*request.all_fragments} - read_series().fragments)
    family = digest_of(tree.family, shaping, toolchain.digest)[:16]
    return _Plan(tree, patches, asked, toolchain, digest, family, request)


def _build(plan: _Plan, store: Store, entry: Path, progress: Progress) -> None:
    applied = apply_patches(plan.tree, plan.patches, entry)
    name = f"kernel-{plan.family}"

    def waiting() -> None:
        progress("wait", 0, None, "another process builds from the same tree")

    with store.lock(f"work-{name}", waiting=waiting):
        work = WorkTree(store.work(name))
        if set(str(work.source)) & set(" \t:"):  # the kernel's Makefile refuses these
            raise HostError(
                f"a kernel cannot be built under {store.root}: blank or colon in the path",
                hint="set CVM_HARNESS_CACHE to a directory without",
            )
        started = time.monotonic()
        touched = work.sync(
            plan.tree,
            applied.overlay,
            lambda done, total: progress("source", done, total, "copying the source"),
        )
        synced = time.monotonic()
        log = entry / "build.log"
        try:
            with log.open("w") as file:
                objects = _compile(plan, work, file, progress)
        except KernelBuildError as error:
            raise _kept_log(error, log, store, plan) from error
        _collect(work, entry)
        record = {
            "format": FORMAT,
            "digest": plan.digest,
            "version": str(plan.tree.version),
            "release": (work.objects / "include/config/kernel.release").read_text().strip(),
            "source": dict(plan.tree.provenance),
            "source_digest": plan.tree.digest,
            "patches": [patch.record() for patch in plan.patches],
            "patches_already_present": list(applied.present),
            "fragments": list(plan.request.all_fragments),
            "settings": list(plan.request.settings),
            "compiler": plan.toolchain.compiler,
            "linker": plan.toolchain.linker,
            "bzimage_sha256": digest_file(entry / "bzImage"),
            "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "files_synced": touched,
            "objects_compiled": objects,
            "sync_s": round(synced - started, 2),
            "make_s": round(time.monotonic() - synced, 2),
        }
        write_json(entry / "build.json", record)


def _compile(plan: _Plan, work: WorkTree, log: TextIO, progress: Progress) -> int:
    """Configure and make; the number of objects compiled."""
    fresh = work.prepare_objects()
    progress("config", 0, None, "configuring")

    def logged(text: str) -> None:
        log.write(text + "\n")

    configure(work.source, work.objects, plan.asked, logged)
    count_file = work.root / "objects.json"
    total = _expected(count_file) if fresh else None
    done = 0
    tail: list[str] = []

    def line(text: str) -> None:
        nonlocal done
        logged(text)
        tail.append(text)
        compiled = compiled_object(text)
        if compiled:
            done += 1
            progress("compile", done, total, compiled)
        elif text.startswith("  "):
            progress("compile", done, total, text.strip())

    progress("compile", 0, total, f"kernel {plan.tree.version}")
    modules = parse_config((work.objects / ".config").read_text()).get("MODULES") == "y"
    targets = ("bzImage", "modules") if modules else ("bzImage",)
    code = run_guarded(
        make_argv(work.objects, *targets, release=f"-cvm-{plan.digest[:8]}"),
        cwd=work.source,
        env=build_environment(work.source),
        line=line,
        unfinished=work.unfinished,
    )
    if code:
        raise _fault(tail)
    if modules:
        _install_modules(work, logged)
    if fresh:
        write_json(count_file, {"objects": done})
    return done


def _expected(count_file: Path) -> int:
    try:
        return int(json.loads(count_file.read_text())["objects"])
    except (OSError, ValueError, KeyError):
        return _TYPICAL_OBJECTS


def _fault(lines: list[str]) -> Exception:
    if fault_of_host := host_fault(lines, "building the kernel"):
        return fault_of_host
    fault = first_fault(lines)
    return KernelBuildError(f"the kernel does not build: {fault.cause}", details=fault.details)


def _kept_log(error: KernelBuildError, log: Path, store: Store, plan: _Plan) -> KernelBuildError:
    """`error` with the log's place: outside the entry, which is about to go."""
    kept = store.keep_log(log, plan.digest[:16])
    hint = f"{error.hint}; full log: {kept}" if error.hint else f"full log: {kept}"
    return KernelBuildError(error.cause, hint=hint, details=error.details, log=kept)


def _install_modules(work: WorkTree, logged: Callable[[str], None]) -> None:
    root = work.root / "modules"
    shutil.rmtree(root, ignore_errors=True)
    argv = make_argv(work.objects, "modules_install", f"INSTALL_MOD_PATH={root}")
    code = run_guarded(
        [*argv, "INSTALL_MOD_STRIP=1"],
        cwd=work.source,
        env=build_environment(work.source),
        line=logged,
    )
    if code:
        raise KernelBuildError("installing the modules failed")


def _collect(work: WorkTree, entry: Path) -> None:
    shutil.copyfile(work.objects / "arch/x86/boot/bzImage", entry / "bzImage")
    shutil.copyfile(work.objects / ".config", entry / ".config")
    shutil.copyfile(work.objects / "System.map", entry / "System.map")
    packer = zstandard.ZstdCompressor(level=3, threads=-1)
    with (work.objects / "vmlinux").open("rb") as file, (entry / VMLINUX).open("wb") as out:
        packer.copy_stream(file, out)
    if (work.root / "modules").is_dir():
        shutil.move(work.root / "modules", entry / "modules")


def _kernel(entry: Path, digest: str) -> Kernel:
    record = json.loads((entry / "build.json").read_text())
    return Kernel(
        bzimage=entry / "bzImage",
        version=record["version"],
        release=record["release"],
        digest=digest,
        config=entry / ".config",
        modules=module_tree(entry / "modules", record["release"]),
        provenance=record,
    )
