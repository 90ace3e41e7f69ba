# SPDX-License-Identifier: MIT
"""A recent QEMU to check against where the machine's own is older: unpacked, never installed.

Packages come from the mirror that this machine's apt is configured for, by apt, without root, and
are unpacked into the harness cache once (42 MB to download). QEMU runs with the libraries next to
it, by their own dynamic loader.
"""

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.base.status import HostError
from harness.base.store import Store, digest_of
from harness.kernel import apt

RELEASE = "trixie-backports"
SUITES = ("trixie", RELEASE, "forky")
PACKAGES = ("qemu-system-x86", "ovmf", "ovmf-amdsev", "ovmf-inteltdx")
"""The firmware for confidential guests is from the newest suite."""
_KEEP = (
    "./usr/bin/qemu-system-x86_64",
    "./usr/lib/x86_64-linux-gnu/*",
    "./usr/lib64/*",
    "./usr/lib/ipxe/*",
    "./usr/share/qemu/*",
    "./usr/share/seabios/*",
    "./usr/share/ovmf/*",
    "./usr/share/OVMF/*",
)
_WRAPPER = """#!/bin/sh
root=$(dirname "$(readlink -f "$0")")
libraries=$root/usr/lib/x86_64-linux-gnu
export QEMU_MODULE_DIR="$libraries/qemu"
exec "$root/usr/lib64/ld-linux-x86-64.so.2" --argv0 qemu-system-x86_64 \\
  --library-path "$libraries" "$root/usr/bin/qemu-system-x86_64" \\
  -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -L "$root/usr/lib/ipxe/qemu" "$@"
"""
RECIPE = 2


@dataclass(frozen=True)
class QemuRoot:
    """QEMU and firmware in a directory."""

    root: Path

    @property
    def binary(self) -> Path:
        """Starts QEMU like an installed one."""
        return self.root / "qemu-system-x86_64"

    @property
    def descriptors(self) -> Path:
        """Firmware descriptors; the paths they name are relative to `root`."""
        return self.root / "usr/share/qemu/firmware"


class _Closure(apt.Apt):
    """Downloads whole roots."""

    def download_closure(
        self, packages: Iterable[str], release: str, percent: Callable[[int], None]
    ) -> list[Path]:
        """Download packages and all they depend on, `release` before other suites.

        Nothing counts as installed, so that the files together are a root to run them in. Raises
        HostError.
        """
        archives = self.root / "cache/archives"
        for old in archives.glob("*.deb"):
            old.unlink()
        options = ["-y", "--no-install-recommends", "--download-only"]
        wanted = ["-o", f"APT::Default-Release={release}", *options, "install", *packages]
        complaints = self._run(*wanted, cwd=self.root, percent=percent)
        files = sorted(archives.glob("*.deb"))
        if complaints or not files:
            raise HostError(
                f"could not download {' '.join(packages)} of {release}",
                hint="look at the network and at `apt-get update`",
                details=complaints,
            )
        return files


def qemu_root(store: Store) -> QemuRoot:
    """The root, made if need be. Raises HostError where this machine cannot make it."""
    digest = digest_of("qemu-root", RECIPE, PACKAGES, SUITES, _WRAPPER, _KEEP)

    def build(directory: Path) -> None:
        with store.lock("apt"):
            for package in _download(store):
                _unpack(package, directory)
        wrapper = directory / "qemu-system-x86_64"
        wrapper.write_text(_WRAPPER)
        wrapper.chmod(0o755)

    return QemuRoot(store.fetch("qemu-root", digest, build))


def _download(store: Store) -> list[Path]:
    distribution, codename = apt.os_release()
    steps = {s.name: s for s in apt.search_order(apt.machine_stanzas(), distribution, codename)}
    if distribution == "debian" and "this system" in steps:
        steps[codename] = steps["this system"]
    known = {name: steps[name].stanzas for name in SUITES if name in steps}
    if not known:
        raise HostError("this machine's apt has no Debian archive to take QEMU from")
    stanzas = tuple(stanza for name in known for stanza in known[name])
    source = _Closure(store.work("apt"), apt.Suites("qemu root", stanzas))
    source.update(lambda done: None)
    release = RELEASE if RELEASE in known else next(iter(known))
    return source.download_closure(PACKAGES, release, lambda done: None)


def _unpack(package: Path, directory: Path) -> None:
    tar = ["tar", "-x", "--no-same-owner", "--wildcards", "-C", str(directory), *_KEEP]
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
    ) as unpacked:
        # tar complains about patterns that this package has nothing for.
        subprocess.run(tar, stdin=unpacked.stdout, stderr=subprocess.DEVNULL, check=False)
    if unpacked.returncode not in (0, -13):
        raise HostError(f"dpkg-deb could not unpack {package.name}")
