# SPDX-License-Identifier: MIT
"""What a guest needs, built and chosen before anything is spawned, and what a run records of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from harness.base.spec import GuestSpec
from harness.guest.machine import Machine
from harness.image.build import Image, compose_initrd
from harness.image.keys import Keys
from harness.image.seed import write_seed
from harness.kernel.kernel import Kernel
from harness.kernel.overhead import overhead
from harness.record.rundir import RunDir
from harness.run.inputs import record_inputs
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
    firmware: Path | None
    program: Path | None = None
    """Our static program, where the guest's own userspace is booted from disk."""
    plugin: Path | None = None
    """The QEMU plugin that counts instructions by function, where that was asked for."""

    def machine(self, initrd: Path, seed: Path | None = None) -> Machine:
        """QEMU's arguments with `initrd` as the guest's root, or `seed` for its own."""
        files = BootFiles(self.kernel.bzimage, initrd, self.firmware, seed, self.plugin)
        machine = self.target.machine(self.spec, files, self.host)
        factor = overhead(self.kernel).time_factor
        return dataclasses.replace(machine, time_scale=machine.time_scale * factor)

    @property
    def platform_emulated(self) -> bool:
        """Whether QEMU emulates the guest's confidential platform."""
        return self.spec.platform_emulated

    def target_facts(self) -> dict[str, object]:
        """What run.json is to hold for this target alone."""
        words: dict[str, object] = {
            "cost_model": self.target.cost_words(self.spec),
            "platform_words": self.target.platform_words(self.spec),
        }
        if not self.target.on_hardware(self.spec):
            return words
        return {
            **words,
            "kernel_hashes": self.host.kernel_hashes,
            "snp_host": self.host.snp,
            "memory_backing": {"huge_pages": self.spec.confidential.huge_pages},
        }


def make_machine(prepared: Prepared, directory: RunDir, keys: Keys) -> Machine:
    """The machine of one run, its initrd with `keys` in it composed in the run's `directory`.

    A guest booted from disk gets the keys by a seed instead.
    """
    if prepared.program is not None:
        program = prepared.program.read_bytes()
        seed = write_seed(directory.path / SEED, keys, program, directory.path.name)
        return prepared.machine(directory.path / INITRD, seed)
    return prepared.machine(compose_initrd(prepared.image, keys, directory.path / INITRD))


def record(prepared: Prepared, directory: RunDir, machine: Machine, keys: Keys, rerun: str) -> None:
    """Put on record what the run is made from."""
    record_inputs(
        directory,
        machine,
        (*(layer.path for layer in prepared.image.layers), keys.layer),
        rerun,
        spec=prepared.spec,
        kernel=prepared.kernel,
        image=prepared.image,
        qemu=prepared.host.qemu,
        accel={"name": prepared.spec.accel, "reason": prepared.host.accel_reason},
        **prepared.target_facts(),
    )
