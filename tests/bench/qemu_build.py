# SPDX-License-Identifier: MIT
"""How long our QEMU takes to build, and what is left of a build that is killed.

    python -m tests.bench.qemu_build CACHE [--kills N] [--seed N]

CACHE is a directory for the source and the builds. Times: cold (no objects; ccache off), after an
edit to a carried file, and when nothing has changed. Then N builds are killed (SIGKILL) at random
moments of a build, each with everything it started; after each no entry may be half made, no
process of it may run on, and the last build must give what an undisturbed one gave.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness.base.store import Store, digest_file
from harness.qemu.source import DIRECTORY

_BUILD = (sys.executable, "-c", "from harness.cli.app import main; main()", "build-qemu")


def build(cache: Path, *options: str, **environment: str) -> tuple[float, Path]:
    """Seconds and the binary of a build to its end."""
    started = time.monotonic()
    done = subprocess.run(
        [*_BUILD, *options],
        env=os.environ | {"CVM_HARNESS_CACHE": str(cache)} | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return time.monotonic() - started, Path(done.stdout.strip())


def times(cache: Path) -> None:
    """Print the three times."""
    build(cache)  # the source is fetched and unpacked
    seconds, _ = build(cache, "--force", CCACHE_DISABLE="1")
    print(f"cold: {seconds:.0f} s")
    print(f"nothing changed: {build(cache)[0]:.1f} s")
    edited = next(iter(sorted(DIRECTORY.glob("src/*/**/*.c"))), DIRECTORY / "devices.mak")
    before = edited.read_text()
    comment = "/* edited */\n" if edited.suffix == ".c" else "# edited\n"
    try:
        edited.write_text(before + comment)
        print(f"{edited.name} edited: {build(cache)[0]:.0f} s")
    finally:
        edited.write_text(before)
    print(f"edited back (in the cache): {build(cache)[0]:.1f} s")


def kill_one(cache: Path, after_s: float) -> bool:
    """Start a build from an empty object tree and kill it; whether it was still running."""
    process = subprocess.Popen(
        [*_BUILD, "--force"],
        env=os.environ | {"CVM_HARNESS_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(after_s)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return running


def complaints(cache: Path) -> list[str]:
    """What a killed build must not leave."""
    found = [
        f"{entry.kind} {entry.digest[:12]} is half made"
        for entry in Store(cache).entries()
        if not any((entry.path / name).exists() for name in ("build.json", "manifest.json"))
    ]
    deadline = time.monotonic() + 5
    while alive := _processes(cache):
        if time.monotonic() > deadline:
            return [*found, *(f"still running: {command}" for command in alive)]
        time.sleep(0.1)
    return found


def _processes(cache: Path) -> Sequence[str]:
    found = []
    for status in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if status.readlink().is_relative_to(cache):
                command = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ")
                found.append(command.decode(errors="replace").strip())
        except OSError:  # gone, or another user's
            continue
    return [command for command in found if command]


def main() -> None:
    """Exit code 1 if a killed build left anything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cache", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    cache = options.cache.resolve()
    times(cache)
    # With ccache filled by the builds above. What it gives need not be what gcc alone gives.
    warm, binary = build(cache, "--force")
    expected = digest_file(binary)
    print(f"from an empty object tree, with ccache: {warm:.0f} s")
    draw = random.Random(options.seed)
    failed, running = 0, 0
    for number in range(options.kills):
        moment = draw.uniform(0, warm)
        running += kill_one(cache, moment)
        left = complaints(cache)
        failed += bool(left)
        print(f"{number + 1}: killed after {moment:.1f} s: {'; '.join(left) or 'nothing left'}")
    after, binary = build(cache)
    same = digest_file(binary) == expected
    print(f"{options.kills} killed, {running} of them before their end; {failed} left something")
    print(f"then built in {after:.0f} s: {'the same binary' if same else 'ANOTHER BINARY'}")
    sys.exit(bool(failed) or not same)


if __name__ == "__main__":
    main()
