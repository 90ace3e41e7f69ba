# SPDX-License-Identifier: MIT
"""What the emulated platforms cost a guest's boot, in CPU time of QEMU: arms of one guest, in turn.

    python -m tests.bench.platform_cost [--target snp] [--kernel SOURCE] [--runs 5] [--arm ARM]

A guest boots through OVMF to a shell, touches memory and ends. Arms: as the harness starts it; page
states not checked; no confidential guest at all, on the same QEMU; and with intercepts, where the
kernel's #VE or #VC handlers run. Each is compared with the first, run by run.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness.base.units import MIB
from harness.guest.machine import Machine
from harness.image.build import compose_initrd
from harness.image.keys import Keys
from harness.run.session import Session
from harness.targets.choose import guest_spec

Options = tuple[tuple[str, ...], ...]

TOUCHED = 64 * MIB
SCRIPT = f"mount -t proc p /proc; cvm touch --bytes {TOUCHED} --threads 1 --page 4k; reboot -f"
DEADLINE_S = 900
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}
"""Student's t for the half width of a 95 % interval, by the number of pairs."""


def with_property(name: str, value: object) -> Callable[[Options], Options]:
    """The platform's object with a property more."""

    def change(option: tuple[str, ...]) -> tuple[str, ...]:
        if option[0] != "-object" or "-tcg-guest" not in option[1]:
            return option
        return "-object", json.dumps({**json.loads(option[1]), name: value})

    return lambda options: tuple(map(change, options))


def plain(options: Options) -> Options:
    """No confidential guest."""
    kept = (option for option in options if "-tcg-guest" not in "".join(option))
    machine = ",confidential-guest-support=cgs0"
    return tuple(tuple(word.replace(machine, "") for word in option) for option in kept)


ARMS: dict[str, Callable[[Options], Options]] = {
    "as it is": lambda options: options,
    "states not checked": with_property("check", False),
    "no confidential guest": plain,
    "intercepts": with_property("intercepts", True),
}


def machine_of(target: str, kernel: str, directory: Path) -> Machine:
    """The guest as the harness starts it; it runs the script, and ends."""
    session = Session(runs=directory / "runs")
    spec = guest_spec(target=target, accel="tcg", memory="1536M", vcpus=1)
    prepared = session.prepare(spec, session.kernel_for(spec, kernel))
    initrd = compose_initrd(prepared.image, Keys.generate(directory), directory / "initrd.img")
    machine = prepared.machine(initrd)

    def change(option: tuple[str, ...]) -> tuple[str, ...]:
        if option[0] != "-append":
            return option
        return "-append", f'{option[1]} rdinit=/bin/sh -- -c "{SCRIPT}"'

    return dataclasses.replace(machine, args=tuple(map(change, machine.args)))


def run(machine: Machine, change: Callable[[Options], Options], console: Path) -> tuple[float, str]:
    """CPU time of one guest, and the last line that its program printed."""
    words = [word for option in change(machine.args) for word in option]
    serial = ["-serial", f"file:{console}", "-nodefaults", "-display", "none", "-no-reboot"]
    process = subprocess.Popen([str(machine.binary), *words, *serial], stdin=subprocess.DEVNULL)
    end = time.monotonic() + DEADLINE_S
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > end:
            process.kill()
        time.sleep(0.2)
    said = console.read_text(errors="replace")
    touched = [line for line in said.splitlines() if '"operations"' in line]
    if status or not touched:
        raise SystemExit(f"the guest did not touch its memory: {said[-2000:]}")
    return used.ru_utime + used.ru_stime, touched[-1]


def main() -> None:
    """Print a line for each guest, and a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--target", choices=("tdx", "snp"), default="tdx")
    parser.add_argument("--kernel", default="debian-binary:6.12")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--arm", action="append", choices=ARMS, help="the first and these only")
    options = parser.parse_args()
    first, *others = ARMS
    found: dict[str, list[float]] = {arm: [] for arm in (first, *(options.arm or others))}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        machine = machine_of(options.target, options.kernel, directory)
        for number in range(options.runs):
            for arm in found:
                used, _ = run(machine, ARMS[arm], directory / "console")
                found[arm].append(used)
                print(f"{options.target} {number} {arm}: {used:.2f} s of CPU", flush=True)
    print(f"| {options.target}, {options.kernel} | s of CPU | against the first |\n|---|---|---|")
    for arm, seconds in found.items():
        print(f"| {arm} | {', '.join(f'{value:.1f}' for value in seconds)} | ", end="")
        print(f"{against(seconds, found[first])} |")


def against(seconds: list[float], first: list[float]) -> str:
    """The mean of the ratios, pair by pair, with the half width of its interval."""
    if seconds is first:
        return ""
    ratios = [there / here - 1 for there, here in zip(seconds, first, strict=True)]
    half = T95[len(ratios)] * statistics.stdev(ratios) / len(ratios) ** 0.5
    return f"{statistics.mean(ratios):+.1%} ±{half:.1%}"


if __name__ == "__main__":
    main()
