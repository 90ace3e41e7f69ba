# SPDX-License-Identifier: MIT
"""A small Debian archive in a directory, which the real apt fetches packages from."""

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.kernel import apt


class Archive:
    """A Debian archive on disk; its Release files are not signed, its source says trusted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._packages: dict[str, dict[str, str]] = {}
        self._sources: dict[str, dict[str, str]] = {}

    def publish(
        self, suite: str, name: str, version: str, files: Mapping[str, bytes], depends: str = ""
    ) -> None:
        """Add a package to `suite`, in place of others of its name, with regular `files`."""
        file = self.root / f"{name}_{version}_all.deb"
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: a <a@b.c>\n"
            + f"Depends: {depends}\n" * bool(depends)
            + "Description: a package\n"
        )
        file.write_bytes(deb(control, list(files.items())))
        data = file.read_bytes()
        entry = f"Filename: {file.name}\nSize: {len(data)}\nSHA256: {sha256(data)}\n"
        self._packages.setdefault(suite, {})[name] = control + entry + "\n"
        self._index(suite)

    def publish_source(self, suite: str, name: str, version: str, tarball: bytes) -> Path:
        """Add a source package, in place of others of its name; where its tarball lies."""
        upstream = version.partition(":")[2].rpartition("-")[0]
        files = {
            f"{name}_{version.partition(':')[2]}.dsc": b"Format: 3.0 (quilt)\n",
            f"{name}_{upstream}.orig.tar.xz": tarball,
        }
        for file, data in files.items():
            (self.root / file).write_bytes(data)
        sums = "".join(f"\n {sha256(data)} {len(data)} {x}" for x, data in files.items())
        self._sources.setdefault(suite, {})[name] = (
            f"Package: {name}\nBinary: {name}-system\nVersion: {version}\nArchitecture: any\n"
            f"Format: 3.0 (quilt)\nDirectory: .\nChecksums-Sha256:{sums}\n\n"
        )
        self.publish_nothing(suite)
        return self.root / f"{name}_{upstream}.orig.tar.xz"

    def publish_nothing(self, suite: str) -> None:
        """Make `suite` exist, with what it has."""
        self._packages.setdefault(suite, {})
        self._index(suite)

    def _index(self, suite: str) -> None:
        packages = "".join(self._packages.get(suite, {}).values())
        sources = "".join(self._sources.get(suite, {}).values())
        architecture = subprocess.run(
            ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
        ).stdout.strip()
        release = f"Suite: {suite}\nCodename: {suite}\nArchitectures: {architecture}\n"
        release += "Components: main\nSHA256:\n"
        indices = {f"binary-{architecture}/Packages": packages, "source/Sources": sources}
        for path, text in indices.items():
            file = self.root / "dists" / suite / "main" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            release += f" {sha256(text.encode())} {len(text)} main/{path}\n"
        (self.root / "dists" / suite / "Release").write_text(release)


def sha256(data: bytes) -> str:
    """In hex digits."""
    return hashlib.sha256(data).hexdigest()


def deb(control: str, members: list[tuple[str, bytes]]) -> bytes:
    """A package by deb(5), with `members` at exactly these paths, whether they are sound or not."""
    parts = [
        ("debian-binary", b"2.0\n"),
        ("control.tar", _tar([("./control", control.encode())])),
        ("data.tar", _tar(members)),
    ]
    out = b"!<arch>\n"
    for name, data in parts:
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        out += header.encode() + data + b"\n" * (len(data) % 2)
    return out


def _tar(members: list[tuple[str, bytes]]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, content in members:
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def use_archive(root: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An empty archive that the machine, a Debian bookworm, seems to be configured for."""
    root.mkdir()
    stanza = apt.Stanza((f"file:{root}",), ("bookworm",), ("main",), {"Trusted": "yes"})
    monkeypatch.setattr(apt, "machine_stanzas", lambda: [stanza])
    monkeypatch.setattr(apt, "os_release", lambda: ("debian", "bookworm"))
    return Archive(root)
