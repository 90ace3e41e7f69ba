# SPDX-License-Identifier: MIT
"""QEMU's command line: the part a target makes, and the plumbing that every guest gets."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

READY_PORT = "org.cvm-harness.ready"
"""Name of the virtio-serial port on which the guest says how far it is."""
HAND_SSH_PORT = 2222
"""Host port of the guest's sshd when the command line is run by hand."""

Pairs = tuple[tuple[str, ...], ...]

_BASE: Pairs = (
    ("-nodefaults",),
    ("-no-user-config",),
    ("-display", "none"),
    ("-no-reboot",),
)


@dataclass(frozen=True)
class Machine:
    """What a target produced. Pure data."""

    binary: Path
    """qemu-system-x86_64."""
    args: Pairs
    """The platform's part, an option and its value each: (("-cpu", "max"), ("-m", "4G"), …)."""
    virtio_options: str = ""
    """Appended to every virtio device, e.g. "disable-legacy=on,iommu_platform=on"."""
    time_scale: float = 1.0
    """Deadlines are multiplied by this: TCG is slower than KVM, icount slower still."""
    accept_at_boot_s: float = 0.0
    """What accepting all memory may take before userspace starts, on top of any other boot."""
    inherited: tuple[int, ...] = ()
    """Descriptors that `args` name as /proc/self/fd/N or fd:N."""
    witness: str = ""
    """Id of the -object that emulates a confidential platform and writes down what the guest asks
    of it; "" where there is none. The object is given as JSON."""
    stale_code: bool = False
    """This QEMU may run code that the guest has since patched (verdict.on_stale_code)."""

    def value_of(self, option: str) -> str | None:
        """What `args` give for an option, e.g. "-kernel"; None where they do not."""
        return next((rest[0] for name, *rest in self.args if name == option and rest), None)

    def command_line(self, ssh_port: int = HAND_SSH_PORT) -> str:
        """The same guest run by hand: console and monitor on the terminal, sshd on `ssh_port`."""
        plumbing: Pairs = (
            ("-serial", "mon:stdio"),
            ("-chardev", "null,id=ready"),
        )
        options = (*_BASE, *self.args, *plumbing, *devices(self.virtio_options, ssh_port))
        lines = [shlex.quote(str(self.binary)), *(shlex.join(option) for option in options)]
        return " \\\n  ".join(lines)

    def argv(self, guest_id: str, fds: ChannelFds, events: Path | None = None) -> list[str]:
        """The command for the harness: QMP, console and ready port on inherited sockets. `events`
        is the file that the witness writes to."""
        plumbing: Pairs = (
            ("-name", guest_id),
            # Not "pause": pvpanic is told before the other CPU's console lock is broken and the
            # panic's own text flushed (kernel/panic.c, 6.12), so a paused guest may stay mute.
            ("-action", "panic=none"),
            ("-chardev", f"socket,id=qmp,fd={fds.qmp}"),
            ("-mon", "chardev=qmp,mode=control"),
            ("-chardev", f"socket,id=console,fd={fds.console}"),
            ("-serial", "chardev:console"),
            ("-chardev", f"socket,id=ready,fd={fds.ready}"),
        )
        args = tuple(self._told(option, events) for option in self.args)
        options = (*_BASE, *args, *plumbing, *devices(self.virtio_options, 0))
        return [str(self.binary), *(word for option in options for word in option)]

    def _told(self, option: tuple[str, ...], events: Path | None) -> tuple[str, ...]:
        if not (self.witness and events and option[0] == "-object" and option[1][0] == "{"):
            return option
        properties = json.loads(option[1])
        if properties.get("id") != self.witness:
            return option
        return option[0], json.dumps({**properties, "events": str(events)}, separators=(",", ":"))


@dataclass(frozen=True)
class ChannelFds:
    """QEMU's ends of the socket pairs."""

    qmp: int
    console: int
    ready: int


def devices(virtio_options: str, ssh_port: int) -> Pairs:
    """Ready port, network, entropy, panic notifier. `ssh_port` 0 lets QEMU pick a free one."""
    virtio = f",{virtio_options}" if virtio_options else ""
    return (
        ("-device", f"virtio-serial-pci,id=serial0{virtio}"),
        ("-device", f"virtserialport,chardev=ready,name={READY_PORT}"),
        ("-netdev", f"user,id=net0,ipv6=off,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"),
        ("-device", f"virtio-net-pci,netdev=net0,romfile={virtio}"),
        ("-object", "rng-builtin,id=rng0"),
        ("-device", f"virtio-rng-pci,rng=rng0{virtio}"),
        ("-device", "pvpanic"),
    )
