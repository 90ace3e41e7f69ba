# SPDX-License-Identifier: MIT
"""Where a kernel comes from: one text form for every door, and opening what it names."""

import functools
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.base.progress import Progress
from harness.base.reader import read_json
from harness.base.status import HostError, UsageError
from harness.base.store import Store
from harness.kernel import debian
from harness.kernel.gitcmd import complaint, environment, git, git_output
from harness.kernel.tree import (
    FILE,
    LINK,
    PROGRAM,
    Manifest,
    Reader,
    SourceTree,
    blob_id,
    read_directory,
    read_file,
    scan_cached,
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
    """What `text` names; looks at nothing on disk. A git ref begins at the last "@" that is not
    part of a reflog expression ("HEAD@{1}"). Raises UsageError."""
    kind, colon, rest = text.partition(":")
    if colon and kind in ("debian", "debian-binary"):
        binary = kind == "debian-binary"
        named = re.fullmatch(r"(\d{1,3}\.\d{1,3})(?:-([a-z]{1,20}))?", rest)
        if not named or (named[2] and not binary):
            also = f", or with a flavour, {kind}:6.12-cloud" if binary else ""
            raise UsageError(
                f"not a kernel series: {rest!r}",
                hint=f"write {kind}:6.12, without a patch level{also}",
            )
        return BinarySource(named[1], named[2] or "") if binary else DebianSource(named[1])
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
    """The tree that `source` names; a Debian package is fetched if need be. Raises UsageError where
    it names no tree, HostError where a package cannot be fetched."""
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
    read = functools.partial(read_directory, root)
    manifest = read_json(found.directory / "manifest.json", dict[str, str])
    version = _version(manifest, read, str(root))
    provenance = {"kind": "debian", **asdict(record)}
    return SourceTree(manifest, read, version, f"debian:{series}", provenance, linkable=root)


def _open_directory(path: Path, store: Store, progress: Progress) -> SourceTree:
    root = path.resolve()
    if not root.is_dir():
        raise UsageError(f"{path} does not exist", hint=f"use one of {FORMS}")
    if not (root / "Makefile").is_file():
        raise UsageError(
            f"{path} is not a kernel tree: it has no Makefile",
            hint="give the top directory of a kernel source",
        )
    read = functools.partial(read_directory, root)
    provenance: dict[str, object] = {"kind": "directory", "path": str(root)}
    if is_git_tree(root):
        progress("source", 0, None, f"looking at {path}")
        manifest = scan_git(root)
        head = git(root, "rev-parse", "HEAD").stdout.decode().strip()
        dirty = bool(git(root, "status", "--porcelain", "--", ".").stdout.strip())
        provenance |= {"commit": head, "dirty": dirty}
    else:
        manifest = scan_cached(root, store, progress)
    version = _version(manifest, read, str(path))
    return SourceTree(manifest, read, version, f"directory:{root}", provenance)


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
    read = functools.partial(read_objects, repository, manifest)
    version = _version(manifest, read, f"{ref} in {repository}")
    described = git(repository, "describe", "--always", "--tags", commit).stdout.decode().strip()
    provenance = {
        "kind": "git",
        "repository": str(common),
        "ref": ref,
        "commit": commit,
        "describe": described,
    }
    return SourceTree(manifest, read, version, f"git:{common}", provenance)


def read_objects(
    repository: Path, manifest: Manifest, paths: Iterable[str]
) -> Iterator[tuple[str, bytes]]:
    """The blobs of a repository's object store; no work tree is involved."""
    argv = ["git", "-C", str(repository), "cat-file", "--batch"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, env=environment(), stdin=pipe, stdout=pipe) as batch:
        assert batch.stdin
        assert batch.stdout
        for path in paths:
            name = manifest[path].split()[1]
            batch.stdin.write(name.encode() + b"\n")
            batch.stdin.flush()
            header = batch.stdout.readline().split()
            if len(header) != 3:
                raise HostError(
                    f"{repository}: object {name} of {path} is missing",
                    hint="run git fsck there; a partial clone must fetch its objects first",
                )
            data = batch.stdout.read(int(header[2]) + 1)[:-1]
            yield path, data


def is_git_tree(root: Path) -> bool:
    """Whether git tracks the Makefile in `root` (an ignored copy inside a repository is not)."""
    result = git(root, "ls-files", "--error-unmatch", "--", "Makefile")
    if b"dubious ownership" in result.stderr:
        raise UsageError(
            f"git does not trust {root}, which belongs to another user",
            hint=f"git config --global --add safe.directory {root}",
        )
    return result.returncode == 0


def scan_git(root: Path) -> dict[str, str]:
    """The manifest of a git work tree as it lies on disk: tracked, changed and untracked files."""
    manifest = {}
    for line in _listed(root, "ls-files", "--stage", "-z"):
        head, _, path = line.partition("\t")
        mode, name, _ = head.split(" ")
        if mode in (FILE, PROGRAM, LINK):
            manifest[path] = f"{mode} {name}"
    for path in _listed(root, "ls-files", "--deleted", "-z"):
        manifest.pop(path, None)
    changed = _listed(root, "ls-files", "--modified", "-z")
    new = _listed(root, "ls-files", "--others", "--exclude-standard", "-z")
    for path in [*changed, *new]:
        if (root / path).is_symlink() or (root / path).is_file():
            mode, data = read_file(root / path)
            manifest[path] = f"{mode} {blob_id(data)}"
    return manifest


def scan_commit(repository: Path, commit: str) -> dict[str, str]:
    """The manifest of a commit."""
    manifest = {}
    for line in _listed(repository, "ls-tree", "-r", "-z", "--full-tree", commit):
        head, _, path = line.partition("\t")
        mode, kind, name = head.split(" ")
        if kind == "blob":
            manifest[path] = f"{mode} {name}"
    return manifest


def _listed(root: Path, *argv: str) -> list[str]:
    return [os.fsdecode(item) for item in git_output(root, *argv).split(b"\0") if item]


def _version(manifest: Manifest, read: Reader, name: str) -> Version:
    version = None
    if {"Makefile", "Kconfig", "arch/x86/Kconfig"} <= manifest.keys():
        ((_, makefile),) = read(["Makefile"])
        version = makefile_version(makefile.decode(errors="replace"))
    if version is None:
        raise UsageError(
            f"{name} is not a kernel tree: no Makefile with a VERSION beside arch/x86/Kconfig",
            hint="give the top directory (or a commit) of a Linux source",
        )
    return version
