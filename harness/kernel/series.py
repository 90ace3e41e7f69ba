# SPDX-License-Identifier: MIT
"""The changes that the project carries for releases of the kernel or of QEMU: `series.toml` lists
the releases, and in order the patches, whose files are beside it (docs/kernels.md)."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.base.reader import FileType, read_toml
from harness.base.status import UsageError
from harness.base.store import digest_file, digest_of
from harness.kernel.config import DIRECTORY
from harness.kernel.version import Ranged, Version


@dataclass(frozen=True)
class Patch:
    """A patch file or mailbox, and the files that are copied into the tree with it."""

    file: Path
    sources: Path | None = None
    """A directory; its files have the paths that they get in the tree."""

    def source_files(self) -> Iterator[tuple[str, Path]]:
        """(path in the tree, file) of each file to be copied, in order."""
        root = self.sources
        if root:
            for file in sorted(root.rglob("*")):
                if file.is_file():
                    yield file.relative_to(root).as_posix(), file

    def record(self) -> dict[str, object]:
        """Its files and their SHA-256, for a build's record. Raises UsageError."""
        try:
            sources = {path: digest_file(file) for path, file in self.source_files()}
            copied = {"sources": sources} if sources else {}
            return {"file": self.file.name, "sha256": digest_file(self.file), **copied}
        except OSError as error:
            raise UsageError(
                f"cannot read the patch {self.file}: {error.strerror}", hint="check the path"
            ) from error


def patches_digest(patches: Iterable[Patch]) -> str:
    """Identity of the patches, by content and order. Raises UsageError if one cannot be read."""
    return digest_of(
        *({**patch.record(), "file": None} for patch in patches)  # not by their names
    )


class Release(Ranged, frozen=True, kw_only=True):
    """Versions that one set of patch files is for."""

    name: str
    """Of the directory below `patches`."""


class Carried(FileType, frozen=True):
    name: str
    summary: str
    fragment: str = ""
    """Applied only if this configuration fragment is asked for; empty: always."""


class _File(FileType, frozen=True):
    release: tuple[Release, ...] = ()
    patch: tuple[Carried, ...] = ()

    def __post_init__(self) -> None:
        for rows in (self.release, self.patch):
            names = [row.name for row in rows]
            if len(set(names)) < len(names):
                raise ValueError(f"a name is there twice: {', '.join(names)}")


@dataclass(frozen=True)
class Series:
    directory: Path
    releases: tuple[Release, ...]
    patches: tuple[Carried, ...]
    product: str = "kernel"
    """What the patches are for, in messages."""

    def release_of(self, version: Version) -> Release | None:
        return next((x for x in self.releases if version in x.versions), None)

    @property
    def ranges(self) -> str:
        """The versions that there are patches for, in words."""
        return ", ".join(str(release.versions) for release in self.releases) or "none"

    @cached_property
    def fragments(self) -> frozenset[str]:
        """The configuration fragments that bring a patch of their own."""
        return frozenset(patch.fragment for patch in self.patches) - {""}

    def patch_file(self, release: Release, patch: Carried) -> Path:
        """What the patch changes in files of that release, or where that would be."""
        number = self.patches.index(patch) + 1
        return self.directory / "patches" / release.name / f"{number:04}-{patch.name}.patch"

    def source_directory(self, patch: Carried) -> Path:
        """The files that the patch adds to every release, copied into the tree; or where they would
        be. What differs between releases is left to the preprocessor."""
        return self.directory / "src" / patch.name

    def wanted(self, fragments: Collection[str] = ()) -> list[Carried]:
        """The patches that apply always or belong to one of `fragments`, in order."""
        return [patch for patch in self.patches if patch.fragment in {"", *fragments}]

    def select(self, version: Version, fragments: Collection[str] = ()) -> list[Patch]:
        """The patches for `version`, in order, with those of `fragments`. Raises UsageError where
        its release lacks one: that would leave out a part of what the harness needs."""
        release = self.release_of(version)
        if release is None:
            raise self._lacking("patches", version)
        chosen = []
        for patch in self.wanted(fragments):
            file, sources = self.patch_file(release, patch), self.source_directory(patch)
            if not file.is_file():
                raise self._lacking(f"patch of {patch.name}", version)
            chosen.append(Patch(file, sources if sources.is_dir() else None))
        return chosen

    def _lacking(self, what: str, version: Version) -> UsageError:
        return UsageError(
            f"no carried {what} for {self.product} {version}",
            hint=f"use a {self.product} in these ranges, or one that needs no carried patches",
            details=[f"{self.directory / 'series.toml'} has patches for: {self.ranges}"],
        )


def read_series(directory: Path = DIRECTORY, product: str = "kernel") -> Series:
    file = read_toml(directory / "series.toml", _File, hint="docs/kernels.md")
    return Series(directory, file.release, file.patch, product)
