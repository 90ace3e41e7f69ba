# SPDX-License-Identifier: MIT
"""A disk image of a distribution, installed here: Debian with cloud-init, from apt's own mirror.

Public cloud images are not on the package mirrors. This has what they have and the harness relies
on: a GPT disk that UEFI starts, systemd, cloud-init, OpenSSH. Made once and cached; needs root, for
the owners of its files.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.base.store import Store, digest_of
from harness.kernel.apt import machine_stanzas, os_release

TOOLS = ("mmdebstrap", "mcopy", "mkfs.vfat", "mke2fs", "sfdisk", "objcopy")
PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "netplan.io", "cloud-init", "openssh-server"),
    *("linux-image-cloud-amd64", "systemd-boot-efi"),
)
RECIPE = 1
_DEADLINE_S = 1200
_MIB = 1 << 20
_ESP_MIB, _ROOT_MIB = 128, 1500
# Sections of a unified kernel image: systemd-stub(7). The addresses leave each enough room.
_SECTIONS = {
    "osrel": ("0x20000", "usr/lib/os-release"),
    "cmdline": ("0x30000", "../cmdline"),
    "linux": ("0x2000000", "boot/vmlinuz-*"),
    "initrd": ("0x3000000", "boot/initrd.img-*"),
}
_STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"


def disk_image(store: Store) -> Path:
    """The raw image. Skips the test where it cannot be made."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=path)]
    distribution, codename = os_release()
    if missing or distribution != "debian" or os.geteuid() != 0:
        need = ", ".join(missing) or "root on Debian"
        pytest.skip(f"a distribution's disk cannot be made here: needs {need}")
    digest = digest_of(RECIPE, codename, *PACKAGES)

    def build(directory: Path) -> None:
        _build(directory, codename, {**os.environ, "PATH": path})

    return store.fetch("distribution-disk", digest, build) / "disk.img"


def _build(directory: Path, codename: str, environment: dict[str, str]) -> None:
    def run(*argv: str | Path, stdin: str = "") -> None:
        done = subprocess.run(
            [str(word) for word in argv],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, f"{argv[0]}: {done.stderr[-1000:]}"

    root, esp, ext4 = directory / "root", directory / "esp", directory / "ext4"
    sources = directory / "apt.sources"
    sources.write_text("\n\n".join(stanza.render() for stanza in machine_stanzas()) + "\n")
    include = f"--include={','.join(PACKAGES)}"
    run("mmdebstrap", "--variant=minbase", "--mode=root", include, codename, root, sources)

    (directory / "cmdline").write_text("root=/dev/vda2 rw console=ttyS0")
    loader = directory / "BOOTX64.EFI"
    sections: list[str | Path] = []
    for name, (address, pattern) in _SECTIONS.items():
        (source,) = root.glob(pattern) if "*" in pattern else [root / pattern]
        sections += ["--add-section", f".{name}={source}"]
        sections += ["--change-section-vma", f".{name}={address}"]
    run("objcopy", *sections, root / _STUB, loader)

    esp.touch()
    os.truncate(esp, _ESP_MIB * _MIB)
    run("mkfs.vfat", "-F", "32", esp)
    run("mmd", "-i", esp, "::/EFI", "::/EFI/BOOT")
    run("mcopy", "-i", esp, loader, "::/EFI/BOOT/")
    run("mke2fs", "-q", "-t", "ext4", "-d", root, ext4, f"{_ROOT_MIB}M")
    shutil.rmtree(root)

    disk = directory / "disk.img"
    disk.touch()
    os.truncate(disk, (_ESP_MIB + _ROOT_MIB + 2) * _MIB)
    table = [
        "label: gpt",
        f"start=1MiB, size={_ESP_MIB}MiB, type=uefi",
        f"start={_ESP_MIB + 1}MiB, size={_ROOT_MIB}MiB, type=linux",
    ]
    run("sfdisk", "-q", disk, stdin="\n".join(table))
    for part, at in ((esp, 1), (ext4, _ESP_MIB + 1)):
        run("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={at}", "conv=notrunc,sparse")
        part.unlink()
