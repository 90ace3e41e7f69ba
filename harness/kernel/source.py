# SPDX-License-Identifier: MIT
"""Where a kernel comes from: one text form for every door, and opening what it names."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.base.progress import Progress
from harness.base.status import UsageError
from harness.base.store import Store
from harness.kernel import debian
from harness.kernel.gitcmd import complaint, git
from harness.kernel.tree import (
    DirectoryReader,
    GitReader,
    Manifest,
    Reader,
    SourceTree,
    is_git_tree,
    scan_cached,
    scan_commit,
    scan_git,
)
from harness.kernel.version import Version, makefile_version

FORMS = (
    "debian:6.12, debian-binary:6.12, /path/to/tree, git:/path/to/repository@ref or "
    "/path/to/bzImage"
)


@dataclass(frozen=True)
class DebianSource:
    """The newest linux-source package of a series, from the machine's own mirror."""

    series: str


@dataclass(frozen=True)
class BinarySource:
    """The newest kernel of a series as its distribution builds it, from the machine's mirror."""

    series: str
    flavour: str = ""
    """"cloud", "rt"; empty: the distribution's usual one."""


@dataclass(frozen=True)
class GitSource:
    """A commit of a local repository."""

    repository: Path
    ref: str


@dataclass(frozen=True)
class PathSource:
    """A directory with a kernel tree, or a built bzImage: known when it is looked at."""

    path: Path


KernelSource = DebianSource | BinarySource | GitSource | PathSource


def parse_source(text: str) -> KernelSource:
    """What `text` names. Raises UsageError; looks at nothing on disk.

    "@" in a git path is allowed; the ref begins at the last "@" that is not part of a reflog
    expression ("HEAD@{1}").
    """
    kind, colon, rest = text.partition(":")
    if colon and kind == "debian":
        if not re.fullmatch(r"\d{1,3}\.\d{1,3}", rest):
            raise UsageError(
                f"not a kernel series: {rest!r}", hint="write debian:6.12, without a patch level"
            )
        return DebianSource(rest)
    if colon and kind == "debian-binary":
        named = re.fullmatch(r"(\d{1,3}\.\d{1,3})(?:-([a-z]{1,20}))?", rest)
        if not named:
            raise UsageError(
                f"not a kernel series: {rest!r}",
                hint="write debian-binary:6.12, without a patch level, or with a flavour, "
                "debian-binary:6.12-cloud",
            )
        return BinarySource(named[1], named[2] or "")
    if colon and kind == "git":
        match = re.fullmatch(r"(.+)@(?!\{)([^@]+(?:@\{.*\})?)", rest)
        if not match or match[2].startswith("-"):
            raise UsageError(
                f"no git ref in {text!r}", hint="write git:/path/to/repository@HEAD, or a tag"
            )
        return GitSource(_expanded(match[1]), match[2])
    if not text.strip() or "\0" in text:
        raise UsageError("no kernel source given", hint=f"use one of {FORMS}")
    if colon and re.fullmatch(r"[a-z-]+", kind) and not Path(text).exists():
        raise UsageError(f"unknown kind of kernel source: {kind!r}", hint=f"use one of {FORMS}")
    return PathSource(_expanded(text))


def _expanded(text: str) -> Path:
    # A shell leaves the "~" after "git:" alone.
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user: then it is a name like any other
        return Path(text)


def open_source(source: KernelSource, store: Store, progress: Progress) -> SourceTree:
    """The tree that `source` names; a Debian package is fetched if it is not in the store.

    Raises UsageError where it names no tree, HostError where a package cannot be fetched.
    """
    match source:
        case BinarySource(series):
            raise UsageError(
                f"debian-binary:{series} is a built kernel, and its source is needed here",
                hint=f"give debian:{series}",
            )
        case DebianSource(series):
            return _open_debian(series, store, progress)
        case GitSource(repository, ref):
            return _open_commit(repository, ref)
        case PathSource(path):
            return _open_directory(path, store, progress)


def _open_debian(series: str, store: Store, progress: Progress) -> SourceTree:
    found = debian.fetch_source(series, store, progress)
    (record,) = found.records
    root = found.directory / "tree"
    reader = DirectoryReader(root)
    manifest = json.loads((found.directory / "manifest.json").read_text())
    version = _version(manifest, reader, str(root))
    provenance = {"kind": "debian", **asdict(record)}
    return SourceTree(manifest, reader, version, f"debian:{series}", provenance, linkable=root)


def _open_directory(path: Path, store: Store, progress: Progress) -> SourceTree:
    root = path.resolve()
    if not root.is_dir():
        raise UsageError(f"{path} does not exist", hint=f"use one of {FORMS}")
    if not (root / "Makefile").is_file():
        raise UsageError(
            f"{path} is not a kernel tree: it has no Makefile",
            hint="give the top directory of a kernel source",
        )
    reader = DirectoryReader(root)
    provenance: dict[str, object] = {"kind": "directory", "path": str(root)}
    if is_git_tree(root):
        progress("source", 0, None, f"looking at {path}")
        manifest = scan_git(root)
        head = git(root, "rev-parse", "HEAD").stdout.decode().strip()
        dirty = bool(git(root, "status", "--porcelain", "--", ".").stdout.strip())
        provenance |= {"commit": head, "dirty": dirty}
    else:
        manifest = scan_cached(root, store, progress)
    version = _version(manifest, reader, str(path))
    return SourceTree(manifest, reader, version, f"directory:{root}", provenance)


def _open_commit(repository: Path, ref: str) -> SourceTree:
    found = git(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    if found.returncode:
        raise UsageError(
            f"{repository} is not a git repository",
            hint="write git:/path/to/repository@ref",
            details=complaint(found),
        )
    common = Path(found.stdout.decode().strip())
    resolved = git(repository, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if resolved.returncode:
        shallow = git(repository, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true"
        raise UsageError(
            f"no commit {ref!r} in {repository}"
            + (", which is a shallow clone" if shallow else ""),
            hint=f"git -C {repository} fetch --unshallow" if shallow else "see git branch and tag",
        )
    commit = resolved.stdout.decode().strip()
    manifest = scan_commit(repository, commit)
    reader = GitReader(repository, manifest)
    version = _version(manifest, reader, f"{ref} in {repository}")
    described = git(repository, "describe", "--always", "--tags", commit).stdout.decode().strip()
    provenance = {
        "kind": "git",
        "repository": str(common),
        "ref": ref,
        "commit": commit,
        "describe": described,
    }
    return SourceTree(manifest, reader, version, f"git:{common}", provenance)


def _version(manifest: Manifest, reader: Reader, name: str) -> Version:
    version = None
    if {"Makefile", "Kconfig", "arch/x86/Kconfig"} <= manifest.keys():
        ((_, makefile),) = reader.read(["Makefile"])
        version = makefile_version(makefile.decode(errors="replace"))
    if version is None:
        raise UsageError(
            f"{name} is not a kernel tree: no Makefile with a VERSION beside arch/x86/Kconfig",
            hint="give the top directory (or a commit) of a Linux source",
        )
    return version
