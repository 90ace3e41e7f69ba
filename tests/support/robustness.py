# SPDX-License-Identifier: MIT
"""A guest to break, and a process of its own that drives one so that it can be killed."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from harness.base.status import HarnessError
from harness.guest.guest import Guest
from harness.guest.machine import Machine
from harness.image.build import build_image, compose_initrd
from harness.image.keys import Keys
from harness.kernel.kernel import Kernel
from harness.qemu.binary import find_qemu
from harness.run.session import Session

TIME_SCALE = 2.0


@dataclass(frozen=True)
class BootMachine:
    """A machine that boots, and the keys to it."""

    machine: Machine
    keys: Keys

    def with_append(self, words: str) -> Machine:
        """The same with more on the kernel's command line."""
        args = tuple(
            (option[0], f"{option[1]} {words}") if option[0] == "-append" else option
            for option in self.machine.args
        )
        return replace(self.machine, args=args)

    def with_args(self, *more: tuple[str, ...]) -> Machine:
        """The same with more QEMU options."""
        return replace(self.machine, args=(*self.machine.args, *more))


def power_off(guest: Guest, deadline_s: float = 30.0) -> None:
    """Have the guest's init power it off; wait for QEMU's end. Raises GuestFailure."""
    guest.init.tell("poweroff")
    guest.wait_shutdown(deadline_s=deadline_s)


@pytest.fixture(scope="session")
def boot_machine(
    tmp_path_factory: pytest.TempPathFactory, cvm_session: Session, cvm_kernel: Kernel
) -> BootMachine:
    """A small TCG guest: the kernel under test, the harness's own image."""
    directory = tmp_path_factory.mktemp("boot")
    keys = Keys.generate(directory / "keys")
    image = build_image(cvm_session.store, modules=cvm_kernel.modules)
    initrd = compose_initrd(image, keys, directory / "initrd.img")
    args = (
        ("-accel", "tcg,thread=multi"),
        ("-cpu", "max,la57=off"),
        ("-machine", "q35"),
        ("-smp", "1"),
        ("-m", "512M"),
        ("-kernel", str(cvm_kernel.bzimage)),
        ("-initrd", str(initrd)),
        ("-append", "console=ttyS0"),
    )
    return BootMachine(
        Machine(find_qemu().binary, args, time_scale=TIME_SCALE),
        keys,
    )


def processes_of(directory: Path) -> list[int]:
    """Pids of others whose environment names something in `directory`: its QEMU, wherever it is.

    $CVM_HARNESS_LEASES does in these tests, and every child inherits it.
    """
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (
                entry.name.isdecimal()
                and int(entry.name) != os.getpid()
                and f"{directory}/".encode() in (entry / "environ").read_bytes()
            ):
                found.append(int(entry.name))
    return found


def all_end(pids: list[int], seconds: float) -> bool:
    """Whether all `pids` have ended within `seconds` each."""
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([pidfd], [], [], seconds)[0]:
                return False
        finally:
            os.close(pidfd)
    return True


def sockets() -> int:
    """Sockets that this process has open."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count


def harness_threads() -> set[str]:
    """Names of our threads, but for the spawner that lives as long as the process."""
    names = {thread.name for thread in threading.enumerate()}
    return {n for n in names if n.startswith("cvm-") and not n.startswith("cvm-spawner")}


@contextlib.contextmanager
def driver(boot: BootMachine, run_dir: Path, scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that boots a guest and loads it until it is told to stop or killed.

    It prints "spawn" before the boot and "workload" when the load has begun. Its leases and
    temporary files go to `scratch`.
    """
    request = {
        "binary": str(boot.machine.binary),
        "args": boot.machine.args,
        "client_key": str(boot.keys.private_key),
        "host_public_key": boot.keys.host_public_key,
        "run_dir": str(run_dir),
    }
    temporary = scratch / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "CVM_HARNESS_LEASES": str(scratch / "leases"),
        "TMPDIR": str(temporary),
    }
    with subprocess.Popen(
        [sys.executable, "-m", __name__, json.dumps(request)],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def drive(request: dict[str, object]) -> int:
    """What the driver process does."""
    # Whoever runs the tests in a shell's background has SIGINT ignored, and so have its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    machine = Machine(
        Path(str(request["binary"])),
        tuple(tuple(option) for option in request["args"]),  # type: ignore[attr-defined]
        time_scale=TIME_SCALE,
    )
    keys = Keys(Path(str(request["client_key"])), "", str(request["host_public_key"]), Path())
    print("spawn", flush=True)
    try:
        with Guest(machine, Path(str(request["run_dir"])), keys=keys) as guest:
            load = "echo workload; while :; do dd if=/dev/zero of=/dev/null count=9999 2>&-; done"
            guest.run(load, deadline_s=600, on_stdout=lambda _: print("workload", flush=True))
    except HarnessError as error:
        print(error, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(drive(json.loads(sys.argv[1])))
