# SPDX-License-Identifier: MIT
"""Memory plugged into a running guest: DIMMs (ACPI) and virtio-mem, over QMP. Every step waits for
the event that carries the guest's word: _OST, DEVICE_DELETED, MEMORY_DEVICE_SIZE_CHANGE."""

import contextlib
import functools
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.analysis.hotplug import HotplugStep
from harness.base.status import HostError, PreconditionError, UsageError
from harness.base.units import GIB, format_size
from harness.guest.guest import Guest
from harness.guest.hotplug_events import OstSource, UnplugRefused, ost_outcome, refusal
from harness.record.memory_blocks import (
    READ_BLOCKS,
    MemoryBlocks,
    MemoryDevice,
    parse_blocks,
    parse_devices,
)
from harness.record.platform_state import parse_pending, pending_units
from harness.record.rundir import plain

STEPS = "hotplug.jsonl"
"""File in the run directory: one HotplugStep a line, written as it happens."""

_PLUG_S = 60.0
_PER_GIB_S = 30.0
"""What a GiB may take under TCG on a busy host, with a dear cost model and an eager policy, or all
of it in use and to be migrated: sets deadlines, not figures."""
_MAX_BLOCKS_TEXT = 8 << 20
_PENDING = "/sys/kernel/debug/unaccepted_emulation/pending"
_ACPI_PROFILE = "/sys/firmware/acpi/hotplug/memory"
_VIRTIO_MEM = "/sys/bus/virtio/drivers/virtio_mem"


@dataclass(frozen=True)
class Dimm(MemoryDevice):
    """A plugged DIMM, as QEMU shows it, or did when it was plugged."""

    step: HotplugStep


class Hotplug:
    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._names = (f"dimm{number}" for number in itertools.count(1))

    # What there is.

    def devices(self) -> tuple[MemoryDevice, ...]:
        return parse_devices(self._guest.qmp.execute("query-memory-devices"))

    def device(self, name: str) -> MemoryDevice:
        """QEMU's view of one device. Raises UsageError where there is none of that name."""
        found = self.devices()
        for device in found:
            if device.id == name:
                return device
        known = ", ".join(device.id for device in found) or "none"
        raise UsageError(f"there is no memory device {name!r} in this guest (there are: {known})")

    def blocks(self) -> MemoryBlocks:
        """The guest's view. Raises PreconditionError where it has no memory hotplug."""
        result = self._guest.run(READ_BLOCKS, check=False, max_output=_MAX_BLOCKS_TEXT)
        return parse_blocks(result.text)

    def pending(self, device: MemoryDevice) -> int:
        """Units of a device's memory that the emulated platform has as unaccepted."""
        text = self._guest.run(f"cat {_PENDING}", max_output=_MAX_BLOCKS_TEXT).text
        return pending_units(parse_pending(text), device.address, device.max_size)

    @functools.cached_property
    def block_size(self) -> int:
        """Bytes of a memory block of this guest: the grain of DIMMs."""
        return self.blocks().block_size

    # DIMMs.

    def plug_dimm(self, size: int, *, node: int = 0, whole_blocks: bool = True) -> Dimm:
        """Plug a DIMM and wait until the guest has added it (and put it online, if it does so).

        Raises UsageError where the machine has no slot or no room for it, or it is no multiple of
        the guest's block size (not looked at without `whole_blocks`); PreconditionError where the
        guest has no driver for it or reports a failure. Then nothing of it is left.
        """
        self._need(_ACPI_PROFILE, "DIMMs", "CONFIG_ACPI_HOTPLUG_MEMORY=y, no acpi_no_memhotplug")
        if whole_blocks and size % self.block_size:
            raise UsageError(
                f"a DIMM of {format_size(size)} is not a multiple of the guest's memory blocks",
                hint=f"use a multiple of {format_size(self.block_size)}",
            )
        # Others may have plugged some into this guest before.
        taken = {device.id for device in self.devices()}
        name = next(name for name in self._names if name not in taken)
        with self._backend(name, size):
            with self._recorded("plug", MemoryDevice("dimm", name, 0, 0, 0, node)) as record:
                memory = f"{name}ram"
                self._ask("device_add", driver="pc-dimm", id=name, memdev=memory, node=node)
                device = self.device(name)
                record.update(address=device.address, size_bytes=device.size)
                self._await_plug(name, size)
                self._see_blocks(device)
            return Dimm(**vars(device), step=_step(record))

    def _await_plug(self, name: str, size: int) -> None:
        def answered() -> str | None:
            event = self._guest.qmp.take_event("ACPI_DEVICE_OST")
            return ost_outcome(event, name, OstSource.PLUG) if event else None

        what = f"the guest to add {name}"
        outcome = self._guest.wait(what, answered, deadline_s=_deadline_s(size))
        if outcome != "done":
            raise self._returned(name, size, f"the guest did not take {name}: {outcome}")

    def _see_blocks(self, device: MemoryDevice) -> None:
        """The guest's ACPI reports success as well where add_memory() refused (acpi_memhotplug.c,
        6.12 and 7.3), so its word alone does not do."""
        blocks = self.blocks().within(device.address, device.size)
        seen = len(blocks) * self.block_size
        if seen < device.size:
            raise self._returned(
                device.id,
                device.size,
                f"the guest says that it took {device.id} of {format_size(device.size)} at "
                f"{device.address:#x}, and shows memory blocks for {format_size(seen)} of it",
            )

    def _returned(self, name: str, size: int, why: str) -> PreconditionError:
        """`why`, with the DIMM taken back: the guest uses none of it, so it lets go at once."""
        try:
            self._eject(name, size)
        except (PreconditionError, HostError) as error:
            return PreconditionError(why, details=[f"{name} stays plugged: {error.cause}"])
        return PreconditionError(why, hint="see the guest's kernel log")

    def unplug_dimm(self, dimm: Dimm | MemoryDevice) -> HotplugStep:
        """Have the guest give a DIMM back, and remove it. Raises UnplugRefused where the guest says
        no (then it is as before), UsageError where the DIMM is not there, or is on its way out
        already."""
        device = self.device(dimm.id)
        with self._recorded("unplug", device) as record:
            self._eject(dimm.id, dimm.size)
            record.update(size_bytes=0)
        self._guest.qmp.execute("object-del", {"id": f"{dimm.id}ram"})
        return _step(record)

    def _eject(self, name: str, size: int) -> None:
        self._ask("device_del", id=name)
        qmp = self._guest.qmp

        def answered() -> str | None:
            if qmp.take_event("DEVICE_DELETED", lambda e: _data(e).get("device") == name):
                return "done"
            for kind in ("MEM_UNPLUG_ERROR", "DEVICE_UNPLUG_GUEST_ERROR"):
                if event := qmp.take_event(kind, lambda e: _data(e).get("device") == name):
                    return str(_data(event).get("msg", kind))
            event = qmp.take_event("ACPI_DEVICE_OST")
            return ost_outcome(event, name, OstSource.EJECT) if event else None

        what = f"the guest to give {name} back"
        outcome = self._guest.wait(what, answered, deadline_s=_deadline_s(size))
        if outcome != "done":
            raise UnplugRefused(f"the guest kept {name}: {outcome}")

    # virtio-mem.

    def resize(self, name: str, size: int, *, deadline_s: float | None = None) -> HotplugStep:
        """Ask for a virtio-mem device of `size` bytes, and wait until the guest has complied.
        Raises PreconditionError where it has not within the deadline, with how far it came: the
        driver goes on trying, so a caller that gives up asks for the size that was reached."""
        self._need(_VIRTIO_MEM, "virtio-mem", "CONFIG_VIRTIO_MEM=y")
        device = self.device(name)
        if device.kind != "virtio-mem":
            raise UsageError(f"{name} is a {device.kind}: only virtio-mem devices change size")
        path = f"/machine/peripheral/{name}"
        changed, qmp = "MEMORY_DEVICE_SIZE_CHANGE", self._guest.qmp
        # Sizes of an earlier request say nothing about this one.
        while qmp.take_event(changed, lambda e: _data(e).get("id") == name):
            pass
        with self._recorded("resize", device) as record:
            self._ask("qom-set", path=path, property="requested-size", value=size)
            deadline_s = deadline_s or _deadline_s(abs(size - device.size))
            try:
                # No event comes for a size that it has, e.g. when an earlier request is called off.
                if self.device(name).size != size:
                    wanted = {"id": name, "size": size}
                    qmp.wait_event(
                        changed,
                        lambda e: _data(e) | wanted == _data(e),
                        deadline_s=deadline_s,
                    )
                if size == 0 or size > device.size:
                    self._await_blocks(device, size, deadline_s)
            except PreconditionError as error:
                reached = self.device(name).size
                record.update(size_bytes=reached)
                raise PreconditionError(
                    f"{name} reached {format_size(reached)} and not {format_size(size)}: "
                    f"{error.cause}",
                    details=error.details,
                ) from error
            record.update(size_bytes=size)
        return _step(record)

    def _await_blocks(self, device: MemoryDevice, size: int, deadline_s: float) -> None:
        """The driver changes the device first, and adds or removes memory blocks afterwards; QEMU
        hears nothing of that. So the guest itself waits, in one command: for no block, or for
        enough of them, and online if it puts them online by itself."""
        first = device.address // self.block_size
        last = (device.address + device.max_size - 1) // self.block_size
        wanted = -(-size // self.block_size)
        counts = '[ "$state" = online ] || [ "$auto" = offline ]' if size else "true"
        script = (
            "cd /sys/devices/system/memory && auto=$(cat auto_online_blocks) || exit 1; "
            f"while :; do n=0; for b in $(seq {first} {last}); do "
            "[ -e memory$b/state ] && read state < memory$b/state || continue; "
            f"{{ {counts}; }} && n=$((n + 1)); done; "
            f"[ $n {'-ge' if size else '-eq'} {wanted} ] && break; sleep 0.05; done"
        )
        self._guest.run(script, deadline_s=deadline_s)

    # Parts.

    def _ask(self, command: str, **arguments: object) -> None:
        try:
            self._guest.qmp.execute(command, arguments)
        except HostError as error:
            raise refusal(error) from error

    def _need(self, path: str, what: str, how: str) -> None:
        if self._guest.run(f"test -e {path}", check=False).exit_status != 0:
            raise PreconditionError(
                f"the guest's kernel has no support for {what}: there is no {path}",
                hint=f"it needs {how} (kernel-configs/hotplug.config)",
            )

    @contextlib.contextmanager
    def _backend(self, name: str, size: int) -> Iterator[None]:
        backend = f"{name}ram"
        self._guest.qmp.execute(
            "object-add",
            {"qom-type": "memory-backend-memfd", "id": backend, "size": size, "reserve": False},
        )
        try:
            yield
        except BaseException:
            # In use by a DIMM that would not go, it has to stay.
            with contextlib.suppress(HostError):
                self._guest.qmp.execute("object-del", {"id": backend})
            raise

    @contextlib.contextmanager
    def _recorded(self, step: str, device: MemoryDevice) -> Iterator[dict[str, object]]:
        record: dict[str, object] = {
            "step": step,
            "device": device.id,
            "node": device.node,
            "address": device.address,
            "size_bytes": device.size,
            "host_start_ns": time.monotonic_ns(),
        }
        outcome = "interrupted"
        try:
            yield record
            outcome = "done"
        except Exception as error:
            outcome = str(error)
            raise
        finally:
            record.update(host_end_ns=time.monotonic_ns(), outcome=outcome)
            with (self._guest.run_dir / STEPS).open("a") as file:
                file.write(json.dumps(plain(_step(record))) + "\n")


def _step(record: Mapping[str, object]) -> HotplugStep:
    return HotplugStep(**record)  # type: ignore[arg-type]  # the keys are all written above


def _data(event: Mapping[str, object]) -> dict[str, object]:
    data = event.get("data")
    return dict(data) if isinstance(data, dict) else {}


def _deadline_s(size: int) -> float:
    return _PLUG_S + _PER_GIB_S * size / GIB
