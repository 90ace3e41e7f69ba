# SPDX-License-Identifier: MIT
"""What a guest needs, built and chosen before anything is spawned, and what a run records of it."""

import dataclasses
import platform
import re
import resource
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.base.spec import GuestSpec
from harness.base.store import digest_file
from harness.guest.machine import Machine
from harness.host.state import host_state
from harness.host.view import LiveHost
from harness.image.build import Image, compose_initrd
from harness.image.keys import Keys
from harness.image.seed import write_seed
from harness.kernel.kernel import Kernel, overhead
from harness.record.rundir import RunDir
from harness.targets.base import BootFiles, HostFacts, Target

INITRD = "initrd.img"
"""The guest's root in a run directory, removed when the run is over."""
SEED = "seed"
"""The directory that configures a distribution."""


@dataclass(frozen=True)
class Prepared:
    """Everything a guest needs, built and chosen, before anything is spawned."""

    spec: GuestSpec
    target: Target
    kernel: Kernel
    image: Image
    host: HostFacts
    program: Path | None = None
    """Our static program, where the guest's own userspace is booted from disk."""
    plugin: Path | None = None
    """The QEMU plugin that counts instructions by function, where that was asked for."""

    def machine(self, initrd: Path, seed: Path | None = None) -> Machine:
        """QEMU's arguments with `initrd` as the guest's root, or `seed` for its own."""
        files = BootFiles(self.kernel.bzimage, initrd, self.host.firmware, seed, self.plugin)
        machine = self.target.machine(self.spec, files, self.host)
        factor = overhead(self.kernel).time_factor
        return dataclasses.replace(machine, time_scale=machine.time_scale * factor)


@dataclass(frozen=True)
class GuestRequest:
    """One guest to be started, and the run that it is for."""

    prepared: Prepared
    directory: RunDir
    rerun: str
    """How to repeat the run."""

    def new_keys(self) -> Keys:
        return Keys.generate(self.directory.path / "keys")

    def machine(self, keys: Keys) -> Machine:
        """Its machine, the initrd with `keys` in it composed in the run's directory. What it is
        made from is put on record, and repro.sh written. A guest booted from disk gets the keys by
        a seed instead."""
        prepared, place = self.prepared, self.directory.path
        if prepared.program is not None:
            seed = write_seed(place / SEED, keys, prepared.program.read_bytes(), place.name)
            machine = prepared.machine(place / INITRD, seed)
        else:
            machine = prepared.machine(compose_initrd(prepared.image, keys, place / INITRD))
        self._record(machine)
        script = place / "repro.sh"
        pieces = (*(layer.path for layer in prepared.image.layers), keys.layer)
        script.write_text(repro_script(machine, pieces, self.rerun))
        script.chmod(0o755)
        return machine

    def _record(self, machine: Machine) -> None:
        spec, target, host = self.prepared.spec, self.prepared.target, self.prepared.host
        images = [Path(rest[0]) for option, *rest in machine.args if option == "-bios"]
        self.directory.update(
            spec=spec,
            kernel=self.prepared.kernel,
            image=self.prepared.image,
            qemu=host.qemu,
            accel={"name": spec.accel, "reason": host.accel_reason},
            cost_model=target.cost_words(spec),
            platform_words=target.platform_words(spec),
            host=host_facts(),
            firmware={str(image): digest_file(image) for image in images},
            command_line=machine.command_line(),
            rerun=self.rerun,
        )
        if target.on_hardware(spec):
            self.directory.update(
                kernel_hashes=host.kernel_hashes,
                snp_host=host.snp,
                memory_backing={"huge_pages": spec.confidential.huge_pages},
            )


def host_facts() -> dict[str, object]:
    """The host as far as it can shape a figure or explain a failure."""
    cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
    model = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    return {
        **host_state(LiveHost()),
        "page_bytes": resource.getpagesize(),
        "kernel": platform.release(),
        "cpu": model[1].strip() if model else "unknown",
        "cpus": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def join_initrd(pieces: Sequence[Path]) -> str:
    """The shell command that joins the pieces of an initramfs in the current directory."""
    return f"cat {shlex.join(map(str, pieces))} > initrd.img"


def repro_script(machine: Machine, pieces: Sequence[Path], rerun: str) -> str:
    """A script that starts the same guest by hand, and the command that does the run again.
    `pieces` are the parts of the initramfs, joined in their order."""
    return f"""#!/bin/sh
# Starts this run's guest by hand, on the terminal (leave QEMU with Ctrl-A x).
# The whole run again, with its workload and checks:
#   {rerun}
set -eu
cd "$(dirname "$0")"
trap 'rm -f initrd.img' EXIT
{join_initrd(pieces)}
{machine.command_line()}
"""
