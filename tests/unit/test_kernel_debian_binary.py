# SPDX-License-Identifier: MIT
"""A distribution's kernel from its packages: which ones, and what becomes of them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.progress import silent
from harness.base.status import HostError, UsageError
from harness.base.store import Store
from harness.image.modules import ModuleTree
from harness.kernel.apt import dependency_names
from harness.kernel.build import build_kernel
from harness.kernel.debian import image_packages
from harness.kernel.kernel import KernelRequest
from harness.kernel.packages import PackageNotFoundError, unpack_files
from harness.kernel.source import BinarySource, parse_source
from tests.support.debian_archive import Archive, deb, use_archive
from tests.unit.test_kernel_prebuilt import bzimage

needs_apt = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="apt is not installed"
)
ONE = "6.12.9+deb12-amd64"
SPLIT = "7.3.4+deb13-cloud-amd64"
CONFIG = b"CONFIG_UNACCEPTED_MEMORY=y\n"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    archive = use_archive(tmp_path / "archive", monkeypatch)
    archive.publish("bookworm", "linux-image-6.12-amd64", "6.12.9-1", {})
    publish_one(archive, ONE, "6.12.9-1")
    publish_one(archive, "6.12.8+deb12-amd64", "6.12.8-1")
    publish_split(archive, SPLIT, "7.3.4-1")
    return archive


def image_of(release: str) -> bytes:
    return bzimage(release=f"{release} (a@b) #1 SMP".encode())


def publish_one(archive: Archive, release: str, version: str) -> None:
    """A kernel in one package, as Debian makes them before 7.1."""
    modules = f"./lib/modules/{release}"
    files = {
        f"./boot/vmlinuz-{release}": image_of(release),
        f"./boot/config-{release}": CONFIG,
        f"{modules}/modules.builtin": b"kernel/drivers/virtio/virtio_pci.ko\n",
        f"{modules}/kernel/drivers/net/virtio_net.ko": b"\0depends=\0",
        "./usr/share/doc/linux/changelog.gz": b"long",
    }
    name = f"linux-image-{release}"
    archive.publish("bookworm", name, version, files, "kmod, initramfs-tools (>= 0.120) | dracut")


def publish_split(archive: Archive, release: str, version: str) -> None:
    """A kernel in four packages, as Debian makes them from 7.1 on."""
    place = f"./usr/lib/modules/{release}"
    base, binary, modules = (f"linux-{kind}-{release}" for kind in ("base", "binary", "modules"))
    needs = f"linux-base (>= 4.17~), {binary} (= {version}), {modules} (= {version})"
    archive.publish("bookworm", f"linux-image-{release}", version, {}, needs)
    archive.publish("bookworm", base, version, {f"{place}/config": CONFIG})
    files = {f"{place}/vmlinuz": image_of(release)}
    archive.publish("bookworm", binary, version, files, f"{base} (= {version})")
    files = {f"{place}/kernel/drivers/net/virtio_net.ko": b"\0depends=\0"}
    archive.publish("bookworm", modules, version, files, f"kmod, {base} (= {version})")


@needs_apt
@pytest.mark.parametrize(
    ("source", "release", "count"),
    [("debian-binary:6.12", ONE, 1), ("debian-binary:7.3-cloud", SPLIT, 4)],
)
def test_a_kernel_with_its_configuration_and_modules(
    archive: Archive, tmp_path: Path, source: str, release: str, count: int
) -> None:
    store = Store(tmp_path / "store")
    kernel = build_kernel(KernelRequest(source), store)
    assert kernel.release == release
    assert kernel.bzimage.read_bytes() == image_of(release)
    assert kernel.has("UNACCEPTED_MEMORY") is True
    assert kernel.modules
    assert "virtio_net" in ModuleTree(kernel.modules).files
    recorded = kernel.provenance["source"]
    assert isinstance(recorded, dict)
    assert recorded["kind"] == "debian-binary"
    assert len(recorded["packages"]) == count
    (entry,) = store.entries()
    kept = {path.name for path in entry.path.iterdir()} - {".last-used"}
    assert kept <= {"boot", "lib", "usr"}  # neither packages nor documentation
    assert not (entry.path / "usr/share").exists()
    # again, with the archive gone: from the cache
    shutil.rmtree(archive.root)
    assert build_kernel(KernelRequest(source), store) == kernel


@needs_apt
def test_a_flavour_or_series_that_is_not_there_names_the_suites(
    archive: Archive, tmp_path: Path
) -> None:
    for source, name in (("debian-binary:5.4", "5.4"), ("debian-binary:7.3", "7.3")):
        with pytest.raises(PackageNotFoundError, match=f"for {name}; suites searched: this sys"):
            build_kernel(KernelRequest(source), Store(tmp_path / "store"))


@needs_apt
def test_a_part_that_the_archive_lacks_is_named(archive: Archive, tmp_path: Path) -> None:
    needs = "linux-binary-7.4.1-amd64 (= 7.4.1-1)"
    archive.publish("bookworm", "linux-image-7.4.1-amd64", "7.4.1-1", {}, needs)
    with pytest.raises(HostError, match=r"needs linux-binary-7\.4\.1-amd64"):
        build_kernel(KernelRequest("debian-binary:7.4"), Store(tmp_path / "store"))


@needs_apt
def test_packages_without_an_image_leave_no_kernel(archive: Archive, tmp_path: Path) -> None:
    archive.publish("bookworm", "linux-image-7.4.1-amd64", "7.4.1-1", {"./boot/x": b""})
    with pytest.raises(HostError, match=r"0 kernel images in linux-image-7\.4\.1-amd64"):
        build_kernel(KernelRequest("debian-binary:7.4"), Store(tmp_path / "store"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"patches": (Path("a.patch"),)}, "--patch a.patch"),
        ({"settings": ("A=y",)}, "--set A=y"),
        ({"extra": ("debug",)}, "--fragment debug"),
    ],
)
def test_what_only_a_build_could_do_is_refused_before_anything_is_fetched(
    tmp_path: Path, change: dict[str, tuple[object, ...]], named: str
) -> None:
    request = replace(KernelRequest("debian-binary:6.12"), **change)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"already built: {named} cannot") as caught:
        build_kernel(request, Store(tmp_path / "store"))
    assert "debian:6.12" in caught.value.hint
    assert not (tmp_path / "store").exists()


NAMES = [
    "linux-image-6.1.0-57-amd64",
    "linux-image-6.12-amd64",
    "linux-image-6.12.117+deb12-amd64",
    "linux-image-6.12.117+deb12-amd64-dbg",
    "linux-image-6.12.117+deb12-amd64-unsigned",
    "linux-image-6.12.117+deb12-cloud-amd64",
    "linux-image-6.12.117+deb12-rt-amd64",
    "linux-image-6.8.0-45-generic",
    "linux-image-6.8.0-45-lowlatency",
    "linux-image-6.120.1-amd64",
    "linux-image-amd64",
]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("6.12", "linux-image-6.12.117+deb12-amd64"),
        ("6.12-cloud", "linux-image-6.12.117+deb12-cloud-amd64"),
        ("6.12-rt", "linux-image-6.12.117+deb12-rt-amd64"),
        ("6.1", "linux-image-6.1.0-57-amd64"),
        ("6.8", "linux-image-6.8.0-45-generic"),
        ("6.8-lowlatency", "linux-image-6.8.0-45-lowlatency"),
    ],
)
def test_which_packages_hold_a_kernel(text: str, chosen: str) -> None:
    source = parse_source(f"debian-binary:{text}")
    assert isinstance(source, BinarySource)
    assert image_packages(NAMES, source.series, source.flavour) == [chosen]


@pytest.mark.parametrize("text", ["", "6", "6.12.117", "6.12-", "6.12-RT", "6.12-amd64/x"])
def test_a_series_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a kernel series"):
        parse_source(f"debian-binary:{text}")


package_name = st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,20}", fullmatch=True)
requirement = st.tuples(package_name, st.sampled_from(["", " (= 1:2.3-4~x)", " (>= 0)", ":any"]))


@given(st.lists(st.lists(requirement, min_size=1, max_size=3), max_size=5))
def test_every_name_in_a_depends_field_is_read(needs: list[list[tuple[str, str]]]) -> None:
    field = ", ".join(" | ".join(name + rest for name, rest in group) for group in needs)
    assert dependency_names(field) == [name for group in needs for name, _ in group]


@needs_apt
@pytest.mark.parametrize("path", ["../out", "./boot/../../out", "/boot/out"])
def test_a_package_that_leaves_its_directory_is_refused_whole(tmp_path: Path, path: str) -> None:
    package, directory = tmp_path / "bad.deb", tmp_path / "a/b"
    directory.mkdir(parents=True)
    package.write_bytes(deb("Package: bad\nVersion: 1\n", [("./boot/good", b"1"), (path, b"2")]))
    with pytest.raises(HostError, match=r"bad\.deb is not sound: it holds the path"):
        unpack_files(package, directory, lambda path: True)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [package]


@needs_apt
def test_a_damaged_package_is_named(tmp_path: Path) -> None:
    package = tmp_path / "bad.deb"
    package.write_bytes(deb("Package: bad\nVersion: 1\n", [("./boot/x", b"1")])[:100])
    with pytest.raises(HostError, match=r"unpack bad\.deb"):
        unpack_files(package, tmp_path, lambda path: True)


@needs_apt
@pytest.mark.tier("full")
def test_the_mirror_has_a_kernel_with_lazy_acceptance() -> None:
    """From the archives that this machine is configured for, not from one made here."""
    try:
        kernel = build_kernel(KernelRequest("debian-binary:6.12"), Store(), silent)
    except PackageNotFoundError as error:
        pytest.skip(str(error))
    assert kernel.has("UNACCEPTED_MEMORY") is True
    assert kernel.modules
    assert "virtio_net" in ModuleTree(kernel.modules).chosen()
