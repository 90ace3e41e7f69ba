# SPDX-License-Identifier: MIT
"""TDX and SEV-SNP guests on QEMU's emulated platforms: unmodified kernel and firmware.

They boot, prove what they are and account for every page; and each defect that the platform can
show gets the verdict that it deserves. Runs with the platform of --target, or with both.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from harness.analysis.pressure import Bounds
from harness.base.confidential import OnViolation
from harness.base.spec import GuestSpec, SnapshotMode
from harness.base.status import GuestFailure, Status
from harness.base.units import MIB, PAGE_SIZE, UNIT_SIZE
from harness.kernel.kernel import Kernel
from harness.record.platform import FILE, PlatformEvents
from harness.record.platform_state import parse_info
from harness.run.run import Run
from harness.run.session import Session
from harness.suite.plugin.fixtures import Boot
from harness.suite.subject import signal_of
from harness.suite.window import Observer
from harness.targets.choose import guest_spec
from harness.workloads.touch import Touch

pytestmark = pytest.mark.guest

Start = Callable[..., contextlib.AbstractContextManager[Run]]

PLATFORMS = ("tdx", "snp")
OBJECT = "/objects/cgs0"
TOUCHED = 64 * MIB
GUESTS = 10
REBIND = (
    "cd /sys/bus/virtio/drivers/virtio_rng && d=$(ls -d virtio* | head -1) && "
    'echo "$d" > unbind && echo "$d" > bind'
)
"""Its queue is memory that the guest shares with its host: given back, and shared again."""
WITNESSES = (
    "platform: pages conserved",
    "platform: every call is in the stream",
    "platform: what is pending is whole units",
    "platform: no illegal access",
    "platform: nothing accepted twice",
    "nr_unaccepted and the platform differ by the guard units",
)


@pytest.fixture(params=PLATFORMS)
def spec(request: pytest.FixtureRequest, cvm_spec: GuestSpec) -> GuestSpec:
    """A small guest of each platform; only of the command line's, if that is one."""
    if cvm_spec.target.value in PLATFORMS and cvm_spec.target.value != request.param:
        pytest.skip(f"the command line asks for {cvm_spec.target.value}")
    return guest_spec(target=request.param, accel="tcg", memory="1536M", append="init_on_alloc=0")


@pytest.fixture
def start(boot: Boot, spec: GuestSpec, kernel: Kernel) -> Start:
    """`boot` for these guests."""
    return lambda **changes: boot(spec=dataclasses.replace(spec, **changes), kernel=kernel)


def use_up_accepted(run: Run) -> None:
    """Take what boot has accepted: from here on allocating means accepting.

    Huge pages are set aside without being written to.
    """
    counters = run.counters()
    accepted = (counters.free_pages - counters.unaccepted_pages) * PAGE_SIZE
    run.guest.run(f"echo {accepted // UNIT_SIZE} > /proc/sys/vm/nr_hugepages")


def show(run: Run, kind: str, **where: int) -> None:
    """Have the platform of a running guest show a defect from now on."""
    fault = {"kind": kind, "nth": 1, "count": 1, **where}
    run.guest.qmp.execute("qom-set", {"path": OBJECT, "property": "faults", "value": [fault]})


def fired(run: Run) -> int:
    answer: Any = run.guest.qmp.execute("query-cgs-tcg")
    return sum(int(fault["fired"]) for fault in answer["faults"])


def test_a_guest_boots_proves_itself_and_accounts_for_every_page(start: Start) -> None:
    with start() as run:
        use_up_accepted(run)
        before = run.counters().unaccepted_pages
        run.load(Touch(bytes=TOUCHED))
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    assert outcome.after.unaccepted_pages < before
    record = run.directory.record
    assert len([proof for proof in record["proofs"] if proof["holds"]]) >= 3
    found = {check.name: check.status for check in outcome.checks}
    assert {found[name] for name in WITNESSES} == {Status.PASS}
    assert record["platform_words"].startswith(("TDX under TCG", "SEV-SNP under TCG"))
    events = PlatformEvents(run.directory.path / FILE)
    accepted = sum(
        int(batch["changed"][batch["kind"] == "accept"].sum())
        for batch in events.batches("kind", "changed")
    )
    assert accepted * PAGE_SIZE >= TOUCHED


def test_each_window_of_a_guest_is_judged_by_the_platform_too(
    start: Start, spec: GuestSpec
) -> None:
    reports = dataclasses.replace(spec.platform, on_violation=OnViolation.REPORT)
    with start(platform=reports, memory=2 << 30) as run:
        observer = Observer(run)
        use_up_accepted(run)
        observer.cut()
        Touch(bytes=TOUCHED).run(run.guest, lambda _: None)
        sound = {one.name: one for one in observer.cut().checks(Bounds(0))}
        show(run, "accept-lie")
        Touch(bytes=3 * TOUCHED).run(run.guest, lambda _: None)
        assert fired(run) == 1
        lied = {one.name: one for one in observer.cut().checks(Bounds(0))}
    judges = set(WITNESSES) - {"platform: every call is in the stream"}
    assert judges <= set(sound)
    assert {check.status for check in sound.values()} == {Status.PASS}
    failed = {check.signal for check in lied.values() if check.status is Status.FAIL}
    assert failed == {"illegal-access", "conservation"}


def test_ten_guests_in_a_row_from_one_snapshot_start_alike(
    cvm_session: Session, spec: GuestSpec, kernel: Kernel
) -> None:
    session = Session(store=cvm_session.store, runs=cvm_session.runs, snapshot=SnapshotMode.AUTO)
    prepared = session.prepare(spec, kernel)
    starts, drawn = set(), set()
    for _ in range(GUESTS):
        with session.boot(prepared) as run:
            assert run.guest.boot.restored, run.directory.record["snapshot"]
            assert run.platform
            assert run.before
            now = parse_info(run.platform.statistics["proven"])
            digest = run.directory.record["snapshot"]["digest"]
            starts.add((digest, run.before.unaccepted_pages, now.pages.pending))
            drawn.add(run.guest.run("od -An -tx1 -N16 /dev/urandom").text)
            use_up_accepted(run)
            run.load(Touch(bytes=TOUCHED))
            outcome = run.conclude()
        assert outcome.status is Status.PASS, outcome.cause
        assert outcome.after.unaccepted_pages < run.before.unaccepted_pages
    assert len(starts) == 1, starts
    assert len(drawn) == GUESTS


HARMLESS: frozenset[str] = frozenset()
"""No signal: the run passes."""
FOUND = frozenset({"illegal-access"})
RECPU = (
    "echo 0 > /sys/devices/system/cpu/cpu1/online && echo 1 > /sys/devices/system/cpu/cpu1/online"
)
"""SNP: a vCPU that comes online gets a new VMSA page."""


@dataclasses.dataclass(frozen=True)
class Defect:
    """What the platform does, and the signals of the verdict that it gets."""

    kind: str
    tdx: frozenset[str] | None
    snp: frozenset[str] | None
    """None: the platform has nothing like it."""
    nth: int = 1
    count: int = 1
    provoke: str = ""
    """A command in the guest, before memory is touched."""
    vcpus: int = 1
    busy: str = ""
    """Where the statistics have a call that found the page busy: accepts or conversions."""
    state: str = ""
    """Of the page, in the violation."""


DEFECTS = {
    # Found when the page is touched, or else when the run is judged.
    "accept-lie": Defect("accept-lie", FOUND | {"conservation"}, FOUND | {"conservation"}),
    "accept-refuse": Defect(
        "accept-refuse", frozenset({"panic"}), frozenset({"terminated"}), count=0
    ),
    "accept-twice": Defect("accept-twice", frozenset({"panic"}), frozenset({"terminated"})),
    "size-mismatch": Defect("size-mismatch", HARMLESS, HARMLESS),
    # The kernel goes on by 4 KiB; an SNP guest's RMP entry is tried again by its host.
    "busy, acceptance of 2 MiB": Defect("busy", HARMLESS, None, busy="accepts"),
    # Behind the page state changes of the two units that are accepted at once.
    "busy, PVALIDATE": Defect("busy", None, HARMLESS, nth=3, count=5, busy="accepts"),
    "busy, always": Defect("busy", frozenset({"panic"}), None, count=0, busy="accepts"),
    "busy, page state change": Defect("busy", None, HARMLESS, busy="conversions"),
    "busy, conversion": Defect("busy", HARMLESS, HARMLESS, provoke=REBIND, busy="conversions"),
    "dma-private": Defect("dma-private", FOUND, FOUND, state="private"),
    "convert-forget": Defect("convert-forget", FOUND, FOUND, provoke=REBIND, state="shared"),
    "convert-partial": Defect("convert-partial", HARMLESS, HARMLESS, provoke=REBIND),
    "protected-write": Defect(
        "protected-write", None, FOUND, provoke=RECPU, vcpus=2, state="private"
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_of_the_platform_gets_its_verdict(
    start: Start, spec: GuestSpec, name: str
) -> None:
    defect = DEFECTS[name]
    signals = getattr(defect, spec.target.value)
    if signals is None:
        pytest.skip(f"{spec.target.value} has nothing like it")
    died: GuestFailure | None = None
    try:
        with start(vcpus=defect.vcpus) as run:
            use_up_accepted(run)
            show(run, defect.kind, nth=defect.nth, count=defect.count)
            if defect.provoke:
                run.guest.run(defect.provoke)
            run.load(Touch(bytes=TOUCHED))
            times, busy = fired(run), met_busy(run)
            outcome = run.conclude()
    except GuestFailure as failure:
        died = failure
    if defect.state:
        assert {found["state"] for found in run.directory.record["violations"]} == {defect.state}
    if died:
        assert signal_of(died) in signals, died.cause
        return
    assert times
    assert not defect.busy or busy[defect.busy], busy
    failed = {check.signal for check in outcome.checks if check.status is Status.FAIL}
    assert failed <= signals
    assert bool(failed) is bool(signals), f"no failure: {outcome.status} {outcome.cause}"
    assert outcome.status is (Status.FAIL if signals else Status.PASS), outcome.cause


def met_busy(run: Run) -> dict[str, int]:
    """Calls that found a page busy, by what they were to do."""
    answer: Any = run.guest.qmp.execute("query-cgs-tcg")
    accepts = [result for level in answer["accepts"] for result in level["results"]]
    return {
        name: sum(int(found["calls"]) for found in results if found["result"] == "busy")
        for name, results in (("accepts", accepts), ("conversions", answer["conversions"]))
    }
