# SPDX-License-Identifier: MIT
"""The headers of a kernel that stays as it is: where they are found, fetched, and refused."""

import shutil
from pathlib import Path

import pytest

from harness.base.progress import silent
from harness.base.status import HostError, PreconditionError
from harness.base.store import Store
from harness.kernel.headers import Headers, check_headers, fetch_libraries, find_headers
from harness.kernel.packages import PackageNotFoundError
from tests.support.debian_archive import Archive, use_archive

needs_apt = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="apt is not installed"
)
RELEASE = "6.12.9+deb12-amd64"
NAME = f"linux-headers-{RELEASE}"
COMMON = "linux-headers-6.12.9+deb12-common"
KBUILD = "linux-kbuild-6.12.9+deb12"
FILES = {
    "Makefile": f"include /usr/src/{COMMON}/Makefile\n",
    "Module.symvers": "",
    "include/config/auto.conf": "CONFIG_MODULES=y\n",
    "include/config/kernel.release": f"{RELEASE}\n",
    "include/generated/autoconf.h": "#define CONFIG_MODULES 1\n",
}


def lay_out(directory: Path, release: str = RELEASE) -> Path:
    """A directory of headers of `release`."""
    for name, text in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(RELEASE, release))
    return directory


def find(tmp_path: Path, modules: Path | None = None) -> Headers:
    return find_headers(RELEASE, modules, Store(tmp_path / "store"), silent, tmp_path / "machine")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    archive = use_archive(tmp_path / "archive", monkeypatch)
    place = f"./usr/src/{NAME}"
    files = {f"{place}/{name}": text.encode() for name, text in FILES.items()}
    needs = f"linux-base, {COMMON} (= 1), linux-image-{RELEASE} (= 1), {KBUILD}, gcc-12"
    archive.publish("bookworm", NAME, "1", files, needs)
    archive.publish("bookworm", COMMON, "1", {f"./usr/src/{COMMON}/Makefile": b"all:\n"})
    archive.publish("bookworm", KBUILD, "1", {f"./usr/lib/{KBUILD}/scripts/x": b""})
    return archive


@needs_apt
def test_headers_are_their_package_and_what_it_needs_of_the_same_kernel(
    archive: Archive, tmp_path: Path
) -> None:
    found = find(tmp_path)
    assert found.root
    assert found.directory == found.root / "usr/src" / NAME
    assert (found.root / "usr/src" / COMMON / "Makefile").is_file()
    assert (found.root / "usr/lib" / KBUILD / "scripts/x").is_file()
    shutil.rmtree(archive.root)  # again, with the archive gone: from the cache
    assert find(tmp_path) == found


@needs_apt
def test_headers_that_no_suite_has_are_named_with_the_suites(
    archive: Archive, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(PackageNotFoundError, match=r"no package linux-headers-5\.4\.1.*this sys"):
        find_headers("5.4.1", None, store, silent, tmp_path / "machine")


@needs_apt
def test_a_part_of_the_headers_that_the_archive_lacks_is_named(
    archive: Archive, tmp_path: Path
) -> None:
    archive.publish("bookworm", NAME, "2", {}, "linux-kbuild-6.12.10")
    with pytest.raises(HostError, match=r"needs linux-kbuild-6\.12\.10, which its archive lacks"):
        find(tmp_path)


@pytest.mark.parametrize("place", ["usr/src/" + NAME, f"lib/modules/{RELEASE}/build"])
def test_installed_headers_are_taken(tmp_path: Path, place: str) -> None:
    directory = lay_out(tmp_path / "machine" / place)
    found = find(tmp_path)
    assert (found.directory, found.root) == (directory, None)
    (directory / "Module.symvers").write_text("0x1 symbol vmlinux EXPORT_SYMBOL\n")
    assert find(tmp_path).identity != found.identity


def test_headers_beside_the_kernels_modules_come_first(tmp_path: Path) -> None:
    lay_out(tmp_path / "machine" / "usr/src" / NAME)
    modules = tmp_path / "elsewhere"
    mine = lay_out(modules / "build")
    assert find(tmp_path, modules).directory == mine


def test_headers_of_another_kernel_are_refused_with_both_names(tmp_path: Path) -> None:
    lay_out(tmp_path / "machine/usr/src" / NAME, release="6.12.10")
    with pytest.raises(PreconditionError, match=r"are of 6\.12\.10.*is 6\.12\.9.*vermagic"):
        find(tmp_path)


@pytest.mark.parametrize("missing", ["Module.symvers", "include/generated/autoconf.h"])
def test_headers_that_are_not_complete_are_refused(tmp_path: Path, missing: str) -> None:
    directory = lay_out(tmp_path / "headers")
    (directory / missing).unlink()
    with pytest.raises(PreconditionError, match=f"not complete: no {missing}"):
        check_headers(directory, RELEASE)


def test_headers_tell_their_release_by_either_file(tmp_path: Path) -> None:
    directory = lay_out(tmp_path / "headers")
    (directory / "include/config/kernel.release").unlink()
    with pytest.raises(PreconditionError, match="of an unknown release"):
        check_headers(directory, RELEASE)
    text = f'#define UTS_RELEASE "{RELEASE}"\n'
    (directory / "include/generated/utsrelease.h").write_text(text)
    check_headers(directory, RELEASE)


@needs_apt
def test_libraries_come_from_the_first_suite_whose_glibc_is_new_enough(
    archive: Archive, tmp_path: Path
) -> None:
    place = "./usr/lib/x86_64-linux-gnu"
    for suite, version in (("bookworm", "2.36-9"), ("trixie", "2.41-12")):
        files = {f"{place}/ld-linux-x86-64.so.2": version.encode()}
        archive.publish(suite, "libc6", version, files)
        archive.publish(suite, "zlib1g", "1", {f"{place}/libz.so.1": b""})
    store = Store(tmp_path / "store")
    found = fetch_libraries("2.38", store, silent)
    assert (found / "ld-linux-x86-64.so.2").read_text() == "2.41-12"
    assert (found / "libz.so.1").is_file()
    with pytest.raises(PackageNotFoundError, match=r"need glibc 2\.99, this machine's is older"):
        fetch_libraries("2.99", store, silent)
