# SPDX-License-Identifier: MIT
"""Build a kernel once: the same inputs are the same entry of the store, however many ask."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import zstandard

from harness.base.guarded import run_guarded
from harness.base.progress import Progress, silent
from harness.base.reader import read_json
from harness.base.status import HostError
from harness.base.store import Store, digest_file, digest_of
from harness.kernel import debian
from harness.kernel.addresses import VMLINUX
from harness.kernel.config import (
    Setting,
    configure,
    merge,
    parse_config,
    parse_setting,
    read_fragment,
    render,
)
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
from harness.kernel.patches import Applied, apply_patches
from harness.kernel.prebuilt import prebuilt
from harness.kernel.series import Patch, patches_digest, read_series
from harness.kernel.source import BinarySource, PathSource, open_source, parse_source
from harness.kernel.tree import SourceTree, write_json
from harness.kernel.worktree import BuildRunner, WorkTree, open_work

FORMAT = "kernel-2"
"""Changes when an entry's content changes for equal inputs."""
_TYPICAL_OBJECTS = 1600
"""Objects of a build with the default fragments, for the progress estimate."""


def build_kernel(
    request: KernelRequest, store: Store | None = None, progress: Progress = silent
) -> Kernel:
    """The kernel that `request` describes, built only if the store has none like it."""
    store = store or Store()
    source = parse_source(request.source)
    if isinstance(source, BinarySource):
        return debian.binary_kernel(source.series, source.flavour, request, store, progress)
    if isinstance(source, PathSource) and source.path.is_file():
        return prebuilt(source.path.resolve(), request, store)
    check_tools()
    tree = open_source(source, store, progress)
    plan = _plan(request, tree)
    entry = store.fetch(
        "kernel",
        plan.digest,
        lambda entry: _build(plan, store, entry, progress),
        waiting=lambda: progress("wait", 0, None, "another process builds this kernel"),
    )
    record = read_json(entry / "build.json", dict[str, Any])
    return Kernel(
        bzimage=entry / "bzImage",
        version=record["version"],
        release=record["release"],
        digest=plan.digest,
        config=entry / ".config",
        modules=module_tree(entry / "modules", record["release"]),
        provenance=record,
    )


def compile_files(
    request: KernelRequest,
    files: Sequence[str],
    store: Store | None = None,
    progress: Progress = silent,
) -> dict[str, list[str]]:
    """What make and the compiler print for each of `files` (C sources, paths in the tree) that a
    build of the same family has compiled, compiled anew."""
    store = store or Store()
    check_tools()
    plan = _plan(request, open_source(parse_source(request.source), store, progress))
    applied = apply_patches(plan.tree, plan.patches, store.root / "tmp")
    printed: dict[str, list[str]] = {}
    with open_work(plan.work, store) as work:
        work.sync(plan.tree, applied.overlay)
        work.prepare_objects()
        configure(work.source, work.objects, plan.asked, lambda text: None)
        for file in files:
            target = file.removesuffix(".c") + ".o"
            if not (work.objects / target).is_file():
                continue
            (work.objects / target).unlink()
            printed[file] = []
            run_guarded(
                make_argv(work.objects, target, release=plan.release),
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
    fragments: tuple[str, ...]
    """In the order in which they are applied."""
    asked: Mapping[str, Setting]
    toolchain: Toolchain
    digest: str
    work: str
    """Name of the work tree, which builds of one family share."""
    request: KernelRequest

    @property
    def release(self) -> str:
        return f"-cvm-{self.digest[:8]}"


def _plan(request: KernelRequest, tree: SourceTree) -> _Plan:
    series = read_series()
    needed = not request.carried_fragments
    use = request.carried and (needed or series.release_of(tree.version) is not None)
    fragments = (*request.fragments, *(request.carried_fragments if use else ()), *request.extra)
    carried = series.select(tree.version, fragments) if use else []
    patches = (*carried, *(Patch(file) for file in request.patches))
    settings = [setting for name in fragments for setting in read_fragment(name, tree.version)]
    asked = merge([*settings, *(parse_setting(text) for text in request.settings)])
    toolchain = Toolchain.detect()
    digest = digest_of(
        FORMAT, tree.digest, patches_digest(patches), render(asked), toolchain.digest
    )
    # Not the settings, nor a fragment that only switches a patch of its own on: kbuild rebuilds
    # just what a changed symbol or file affects.
    shaping = sorted({*fragments} - series.fragments - {*request.carried_fragments})
    work = f"kernel-{digest_of(tree.family, shaping, toolchain.digest)[:16]}"
    return _Plan(tree, patches, fragments, asked, toolchain, digest, work, request)


def _build(plan: _Plan, store: Store, entry: Path, progress: Progress) -> None:
    applied = apply_patches(plan.tree, plan.patches, entry)
    with open_work(plan.work, store, progress) as work:
        if set(str(work.source)) & set(" \t:"):  # the kernel's Makefile refuses these
            raise HostError(
                f"a kernel cannot be built under {store.root}: blank or colon in the path",
                hint="set CVM_HARNESS_CACHE to a directory without",
            )
        started = time.monotonic()
        touched = work.sync(plan.tree, applied.overlay, progress)
        synced = time.monotonic()
        log = entry / "build.log"
        try:
            objects = _compile(plan, work, log, progress)
        except KernelBuildError as error:
            # The log's place is outside the entry, which is about to go.
            kept = f"full log: {store.keep_log(log, plan.digest[:16])}"
            hint = f"{error.hint}; {kept}" if error.hint else kept
            raise KernelBuildError(error.cause, hint=hint, details=error.details) from error
        _collect(work, entry)
        record = build_record(FORMAT, plan.digest, plan.tree, plan.patches, applied, plan.toolchain)
        record |= {
            "release": (work.objects / "include/config/kernel.release").read_text().strip(),
            "fragments": list(plan.fragments),
            "settings": list(plan.request.settings),
            "bzimage_sha256": digest_file(entry / "bzImage"),
            "files_synced": touched,
            "objects_compiled": objects,
            "sync_s": round(synced - started, 2),
            "make_s": round(time.monotonic() - synced, 2),
        }
        write_json(entry / "build.json", record)


def build_record(
    form: str,
    digest: str,
    tree: SourceTree,
    patches: Sequence[Patch],
    applied: Applied,
    toolchain: Toolchain,
) -> dict[str, object]:
    """What went into a build, of a kernel and of QEMU alike."""
    return {
        "format": form,
        "digest": digest,
        "version": str(tree.version),
        "source": dict(tree.provenance),
        "source_digest": tree.digest,
        "patches": [patch.record() for patch in patches],
        "patches_already_present": list(applied.present),
        "compiler": toolchain.compiler,
        "linker": toolchain.linker,
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _compile(plan: _Plan, work: WorkTree, log: Path, progress: Progress) -> int:
    """Configure and make; the number of objects compiled."""
    total = _TYPICAL_OBJECTS if work.prepare_objects() else None
    done = 0

    def line(text: str) -> None:
        nonlocal done
        if compiled := compiled_object(text):
            done += 1
            progress("compile", done, total, compiled)
        elif text.startswith("  "):
            progress("compile", done, total, text.strip())

    with log.open("w") as file:
        run = BuildRunner(file, work.source, build_environment(work.source), work.unfinished)
        progress("config", 0, None, "configuring")
        configure(work.source, work.objects, plan.asked, run.say)
        progress("compile", 0, total, f"kernel {plan.tree.version}")
        modules = parse_config((work.objects / ".config").read_text()).get("MODULES") == "y"
        targets = ("bzImage", "modules") if modules else ("bzImage",)
        if run(make_argv(work.objects, *targets, release=plan.release), line):
            if fault_of_host := host_fault(run.tail, "building the kernel"):
                raise fault_of_host
            fault = first_fault(run.tail)
            cause = f"the kernel does not build: {fault.cause}"
            raise KernelBuildError(cause, details=fault.details)
        if modules:
            root = work.root / "modules"
            shutil.rmtree(root, ignore_errors=True)
            where = (f"INSTALL_MOD_PATH={root}", "INSTALL_MOD_STRIP=1")
            if run(make_argv(work.objects, "modules_install", *where)):
                raise KernelBuildError("installing the modules failed")
    return done


def _collect(work: WorkTree, entry: Path) -> None:
    for path in ("arch/x86/boot/bzImage", ".config", "System.map"):
        shutil.copy(work.objects / path, entry)
    packer = zstandard.ZstdCompressor(level=3, threads=-1)
    with (work.objects / "vmlinux").open("rb") as file, (entry / VMLINUX).open("wb") as out:
        packer.copy_stream(file, out)
    if (work.root / "modules").is_dir():
        shutil.move(work.root / "modules", entry / "modules")
