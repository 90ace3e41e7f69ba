# SPDX-License-Identifier: MIT
"""The guest's memory blocks and QEMU's devices are read exactly, and differences are FAIL."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import PreconditionError, Status
from harness.base.units import GIB, MIB
from harness.record.memory_blocks import (
    MemoryDevice,
    parse_blocks,
    parse_devices,
)
from tests.support.hotplug_checks import views_agree

SYSFS = """block_size_bytes:8000000
auto_online_blocks:online_movable
memory0/state:online
memory32/state:online
memory33/state:offline
memory0/valid_zones:none
memory32/valid_zones:Movable
memory33/valid_zones:Normal Movable
memory0/node0
memory32/node1
"""


def dimm(**changes: object) -> MemoryDevice:
    values = {
        "kind": "dimm",
        "id": "dimm1",
        "address": 4 * GIB,
        "size": 128 * MIB,
        "max_size": 128 * MIB,
        "node": 1,
    }
    return MemoryDevice(**(values | changes))  # type: ignore[arg-type]


def test_blocks_are_read_with_state_zones_and_node() -> None:
    memory = parse_blocks(SYSFS)
    assert memory.block_size == 128 * MIB
    assert memory.auto_online == "online_movable"
    assert memory.blocks[32].zones == ("Movable",)
    assert memory.blocks[32].node == 1
    assert memory.blocks[33].zones == ("Normal", "Movable")
    assert memory.blocks[0].zones == ()
    assert [b.number for b in memory.within(4 * GIB, 129 * MIB)] == [32, 33]


def test_a_guest_without_memory_blocks_is_named() -> None:
    with pytest.raises(PreconditionError, match="cannot hotplug"):
        parse_blocks("")


@pytest.mark.parametrize(
    "text",
    [
        SYSFS + "memory9/state:melted\n",
        SYSFS.replace("8000000", "12345"),
        SYSFS.replace("8000000", "zzz"),
        SYSFS + "something else\n",
    ],
)
def test_nonsense_about_blocks_is_refused(text: str) -> None:
    with pytest.raises(PreconditionError):
        parse_blocks(text)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_blocks(text)
    except PreconditionError:
        return


ANSWER = [
    {
        "type": "virtio-mem",
        "data": {
            "id": "vmem0",
            "memaddr": 8 * GIB,
            "size": 256 * MIB,
            "max-size": GIB,
            "requested-size": GIB,
            "block-size": 2 * MIB,
            "node": 0,
            "memdev": "/objects/vmem0ram",
        },
    },
    {
        "type": "dimm",
        "data": {"id": "dimm1", "addr": 4 * GIB, "size": 128 * MIB, "slot": 0, "node": 1},
    },
]


def test_devices_come_by_address() -> None:
    first, second = parse_devices(ANSWER)
    assert first == dimm()
    assert (second.kind, second.size, second.max_size) == ("virtio-mem", 256 * MIB, GIB)
    assert parse_devices([]) == ()


@pytest.mark.parametrize("answer", [[{"type": "dimm"}], [7], [{"type": "dimm", "data": {"id": 1}}]])
def test_an_answer_of_another_shape_is_refused(answer: object) -> None:
    with pytest.raises(PreconditionError):
        parse_devices(answer)


@pytest.mark.parametrize(
    ("device", "status"),
    [
        (dimm(), Status.PASS),
        (dimm(node=0), Status.FAIL),
        (dimm(size=GIB, max_size=GIB), Status.FAIL),
        (dimm(address=8 * GIB), Status.FAIL),
        (dimm(address=4 * GIB + 128 * MIB), Status.FAIL),  # that block is offline
    ],
)
def test_a_device_the_guest_does_not_show_is_a_fail(device: MemoryDevice, status: Status) -> None:
    assert views_agree([device], parse_blocks(SYSFS), "online").status is status


def test_a_virtio_mem_device_may_leave_a_part_of_a_block_unplugged() -> None:
    device = dimm(kind="virtio-mem", size=100 * MIB)
    assert views_agree([device], parse_blocks(SYSFS), "online").status is Status.PASS
    device = dimm(kind="virtio-mem", size=130 * MIB)
    assert views_agree([device], parse_blocks(SYSFS), "online").status is Status.FAIL


def test_no_devices_is_an_error_not_a_pass() -> None:
    assert views_agree([], parse_blocks(SYSFS), "online").status is Status.ERROR
