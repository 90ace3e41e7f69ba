# SPDX-License-Identifier: MIT
"""QEMU's and ACPI's words about a memory device become the right status and cause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import HarnessError, HostError, UsageError
from harness.guest.hotplug_events import NoRoom, OstSource, ost_outcome, refusal


def ost(source: int, status: object, **info: object) -> dict[str, object]:
    fields = {"slot": "0", "slot-type": "DIMM", "source": source, "status": status, **info}
    return {"event": "ACPI_DEVICE_OST", "data": {"info": fields}}


def test_a_plugged_dimm_is_done_at_the_guests_word() -> None:
    assert ost_outcome(ost(1, 0, device="dimm1"), "dimm1", OstSource.PLUG) == "done"
    assert ost_outcome(ost(0, 0), "dimm1", OstSource.PLUG) == "done"


def test_other_devices_other_sources_and_progress_say_nothing() -> None:
    assert ost_outcome(ost(1, 0, device="dimm2"), "dimm1", OstSource.PLUG) is None
    assert ost_outcome(ost(3, 0, device="dimm1"), "dimm1", OstSource.PLUG) is None
    assert ost_outcome(ost(3, 0x84, device="dimm1"), "dimm1", OstSource.EJECT) is None
    assert ost_outcome(ost(1, 0, **{"slot-type": "CPU"}), "dimm1", OstSource.PLUG) is None


def test_an_ejection_is_not_over_before_the_device_is_deleted() -> None:
    assert ost_outcome(ost(3, 0, device="dimm1"), "dimm1", OstSource.EJECT) is None


def test_a_refused_ejection_says_why() -> None:
    outcome = ost_outcome(ost(3, 0x82, device="dimm1"), "dimm1", OstSource.EJECT)
    assert outcome is not None
    assert "cannot be moved" in outcome
    assert "0x82" in outcome
    assert "0x1" in str(ost_outcome(ost(1, 1), "dimm1", OstSource.PLUG))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=10,
    )
)
def test_any_event_is_survived(data: object) -> None:
    ost_outcome({"event": "ACPI_DEVICE_OST", "data": data}, "dimm1", OstSource.EJECT)


@pytest.mark.parametrize(
    ("text", "kind", "cause"),
    [
        ("no slots where allocated, please specify the 'slots' option", NoRoom, "slots"),
        ("no free slots available", NoRoom, "slots"),
        ("'requested-size' has to be multiples of 'block-size' (0x200000)", UsageError, "align"),
        ("'requested-size' cannot exceed the memory backend size(0x2)", UsageError, "grow"),
        ("not enough space, currently 0x0 in use of total 0x4000000", NoRoom, "no room"),
        ("backend memory size must be multiple of 0x200000", UsageError, "alignment"),
        ("Device dimm1 is already in the process of unplug", UsageError, "already"),
        ("Device 'dimm1' not found", UsageError, "not there"),
        ("something new", HostError, "something new"),
    ],
)
def test_qemus_refusals_have_a_cause_and_a_status(
    text: str, kind: type[HarnessError], cause: str
) -> None:
    found = refusal(HostError(f"QEMU refused device_add: {text}"))
    assert type(found) is kind
    assert cause in found.cause
    assert text in found.cause
