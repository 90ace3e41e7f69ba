# SPDX-License-Identifier: MIT
"""Files become typed values and come back as they were; what is wrong with one is named."""

import enum
import json
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.reader import (
    FileType,
    Words,
    convert,
    parse_json,
    parse_toml,
    read_json,
    read_toml,
)
from harness.base.status import Status, UsageError
from harness.compare.baselines import Baseline, Configuration, Place
from harness.guest.snapshot.snapshot import Manifest, RamFile
from harness.host.lease import LeaseRecord, ProcessId
from harness.jobs.catalogue.entry import BugEntry, ByHand, Catch
from harness.record.attempts import Answer, Built, CaseLine, CaseVerdict, Sample, SuiteResult, Word
from harness.record.comparison import (
    Comparison,
    Criteria,
    Errors,
    Interval,
    Resampling,
    Statistic,
    Verdict,
)
from harness.record.night import CellKind, CellResult, Ending, Flake, NightResults
from harness.record.series import CommitResult, SeriesResults
from harness.suite.judge import Expectation


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Arm(FileType, frozen=True):
    name: str
    size: int = 0
    colour: Colour = Colour.RED
    words: Words = Words()
    path: Path | None = None
    options: Mapping[str, int | str] = {}
    rates: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size must not be negative")
        if self.name == "refused":
            raise UsageError("not this one", hint="take another")


class Whole(FileType, frozen=True, rename={"arms": "arm"}):
    arms: tuple[Arm, ...]
    one: Arm | None = None
    by_name: Mapping[str, Arm] = msgspec.field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('arm = [{nmae = "x"}]', "f.toml: arm 1: unknown key nmae: did you mean name?"),
        ('arm = [{name = "x", zzz = 1}]', "f.toml: arm 1 (x): unknown key zzz"),
        ('arms = [{name = "x"}]', "f.toml: unknown key arms: did you mean arm?"),
        ("arm = [{}]", "f.toml: arm 1: name is missing"),
        ("", "f.toml: arm is missing"),
        ("arm = 3", "f.toml: arm must be a list, not 3"),
        ("arm = ['x']", "f.toml: arm 1 must be a table, not 'x'"),
        ("arm = [{name = 3}]", "f.toml: arm 1 (3): name must be a string, not 3"),
        ('arm = [{name = "x", size = "9"}]', "arm 1 (x): size must be a whole number, not '9'"),
        ('arm = [{name = "x", size = true}]', "size must be a whole number, not True"),
        ('arm = [{name = "x", size = -1}]', "f.toml: arm 1 (x): size must not be negative"),
        ('arm = [{name = "x", colour = "green"}]', "colour must be red or blue, not 'green'"),
        ('arm = [{name = "x", words = [1]}]', "words must be a list of strings, not [1]"),
        ('arm = [{name = "x", rates = ["a"]}]', "rates must be a number, not ['a']"),
        ('arm = [{name = "x", options = {a = 1.5}}]', "options: a must be a whole number or a"),
        ("arm = []\n[one]\nname = 1", "f.toml: one: name must be a string, not 1"),
        ("arm = []\n[by_name.k]\nsize = 1", "f.toml: by_name: k: name is missing"),
        ('arm = [{name = "a"}, {name = "refused"}]', "f.toml: arm 2 (refused): not this one"),
        ("arm = [", "f.toml is not TOML: "),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_toml(text, Whole, "f.toml", hint="see the page")
    assert told in caught.value.cause
    assert caught.value.hint == ("take another" if "refused" in text else "see the page")


def test_one_word_may_stand_for_a_list_of_one() -> None:
    made = parse_toml('arm = [{name = "x", words = "one"}]', Whole, "here")
    assert made.arms[0].words == ("one",)


def test_a_file_that_is_not_there_or_too_large_is_named(tmp_path: Path) -> None:
    for read in (read_toml, read_json):
        with pytest.raises(UsageError, match=r"cannot read .*absent: No such file"):
            read(tmp_path / "absent", Whole)
        with pytest.raises(UsageError, match="cannot read"):
            read(tmp_path, Whole)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(UsageError, match="too large to believe"):
        read_json(tmp_path / "large", Whole)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"cannot read .*binary"):
        read_toml(tmp_path / "binary", Whole)


def test_nesting_without_end_is_refused() -> None:
    for text in ("[" * 100_000, '{"arm": ' * 100_000):
        with pytest.raises(UsageError, match="here is not JSON"):
            parse_json(text, Whole, "here")


text = st.text(max_size=12)
words = st.lists(text, max_size=3).map(Words)
arms = st.builds(
    Arm,
    name=text.filter(lambda name: name != "refused"),
    size=st.integers(0, 1 << 62),
    colour=st.sampled_from(Colour),
    words=words,
    path=st.none() | text.map(Path),
    options=st.dictionaries(text, text | st.integers(-(1 << 62), 1 << 62), max_size=3),
    rates=st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
)
wholes = st.builds(
    Whole,
    arms=st.lists(arms, max_size=3).map(tuple),
    one=st.none() | arms,
    by_name=st.dictionaries(text, arms, max_size=2),
)


def as_file(value: object) -> object:
    """What a file of `value` would give, through JSON."""
    return json.loads(json.dumps(msgspec.to_builtins(value, str_keys=True, enc_hook=str)))


@given(wholes)
def test_a_value_comes_back_as_it_was(value: Whole) -> None:
    assert convert(as_file(value), Whole, "here") == value


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["arm", "one", "by_name", "name", "size", "words", "path", "options", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def told(data: object, kind: type[FileType]) -> FileType | str:
    """The value that `data` is read as, or what the user is told."""
    try:
        return convert(data, kind, "here")
    except UsageError as error:
        return error.cause


@given(junk)
def test_junk_is_a_value_or_a_usage_error_with_its_origin(data: object) -> None:
    made = told(data, Whole)
    assert not isinstance(made, str) or made.startswith("here")


names = st.text(min_size=1, max_size=8)
some_names = st.lists(names, min_size=1, max_size=3).map(tuple)
versions = st.sampled_from(["", "6.12", "7.3.4"])
counts = st.integers(0, 1 << 62)
numbers = st.floats(allow_nan=False, allow_infinity=False)
processes = st.builds(ProcessId, pid=st.integers(2, 1 << 22), start_ticks=counts)
places = st.builds(Place, cpu=text, cpus=counts, memory_gib=counts, accelerator=text, qemu=text)
configurations = st.builds(
    Configuration,
    **dict.fromkeys(("target", "workload", "parameters", "accept", "clock", "kernel_config"), text),
    **dict.fromkeys(("memory_bytes", "vcpus", "numa_nodes", "cost_ns_per_unit"), counts),
)


@st.composite
def baselines(draw: st.DrawFn) -> Baseline:
    runs = draw(some_names)
    row = st.lists(numbers, min_size=len(runs), max_size=len(runs)).map(tuple)
    metrics = draw(st.dictionaries(text, row, max_size=3))
    return Baseline(1, draw(configurations), draw(places), draw(text), runs, metrics)


ram_files = st.builds(
    RamFile, name=st.just("ram0.bin"), size=counts, inode=counts, mtime_ns=counts, ctime_ns=counts
)
rates = st.floats(0.001, 0.999)
intervals = st.builds(Interval, low=numbers, high=numbers, level=rates, method=text)
comparisons = st.builds(
    Comparison,
    metric=text,
    verdict=st.sampled_from(Verdict),
    **dict.fromkeys(("runs_a", "runs_b"), counts),
    **dict.fromkeys(("ratio", "median_ratio", "p_value"), numbers),
    **dict.fromkeys(("interval", "median_interval"), st.none() | intervals),
    **dict.fromkeys(("q_value", "relative_sd", "minimum_detectable_effect"), st.none() | numbers),
    plan=st.dictionaries(rates, counts, max_size=3),
    criteria=st.builds(
        Criteria,
        margin=rates,
        errors=st.builds(Errors, alpha=rates, power=rates),
        statistic=st.sampled_from(Statistic),
        known_rsd=st.none() | rates,
        drawing=st.builds(Resampling, counts, counts),
    ),
)
statuses = st.sampled_from(Status)
flakes = st.builds(Flake, test=text, statuses=st.lists(statuses).map(tuple), cause=text)
cells = st.builds(
    CellResult,
    **dict.fromkeys(("key", "kernel", "config", "work", "cause", "command", "release"), text),
    kind=st.sampled_from(CellKind),
    base=st.none() | text,
    guest=st.dictionaries(text, text | counts | st.booleans(), max_size=3),
    status=statuses,
    done=st.booleans(),
    seconds=numbers,
    **dict.fromkeys(("places", "failed", "known"), some_names),
    flakes=st.lists(flakes, max_size=2).map(tuple),
    counts=st.dictionaries(text, counts, max_size=2),
    comparisons=st.lists(comparisons, max_size=2).map(tuple),
    values=st.dictionaries(
        text,
        st.dictionaries(text, st.lists(numbers, max_size=3).map(tuple), max_size=2),
        max_size=2,
    ),
)
commits = st.builds(
    CommitResult,
    **dict.fromkeys(("name", "title", "cause", "tests"), text),
    **dict.fromkeys(("warnings", "not_compiled", "flakes"), some_names),
    status=statuses,
    cost=st.none() | numbers,
    **dict.fromkeys(("change", "total"), st.none() | comparisons),
)
VALUES: dict[type[FileType], st.SearchStrategy[FileType]] = {
    Expectation: st.builds(
        Expectation,
        id=text,
        tests=some_names,
        signals=some_names.map(frozenset),
        reason=text,
        strict=st.booleans(),
        since=versions,
    ),
    BugEntry: st.builds(
        BugEntry,
        id=st.just("a-bug"),
        title=text,
        symptom=text,
        how=text,
        before=versions,
        catches=some_names.map(lambda tests: (Catch(tests, frozenset({"warn"})),)),
        by_hand=st.builds(ByHand, guest=some_names, commands=text, see=text),
    ),
    Baseline: baselines(),
    LeaseRecord: st.builds(
        LeaseRecord,
        guest_id=names,
        boot_id=names,
        harness=processes,
        qemu=st.none() | processes,
        run_dir=names,
    ),
    Manifest: st.builds(
        Manifest,
        **dict.fromkeys(("digest", "host_boot_id", "state_sha256"), names),
        **dict.fromkeys(("host_public_key", "authorized_key"), names),
        **dict.fromkeys(("state_bytes", "save_ns"), counts),
        ram=st.dictionaries(st.just("ram0"), ram_files),
        stages_ns=st.dictionaries(text, counts, max_size=3),
        init=st.dictionaries(text, text | counts, max_size=3),
        ready=st.dictionaries(text, text | counts, max_size=3),
        schema=st.just(1),
    ),
    NightResults: st.builds(
        NightResults,
        schema=st.just(1),
        **dict.fromkeys(("plan", "started_utc", "ended_utc", "cause"), text),
        finished=st.booleans(),
        status=statuses,
        counts=st.dictionaries(text, counts, max_size=2),
        cells=st.lists(cells, max_size=2).map(tuple),
        interruptions=counts,
    ),
    Built: st.builds(
        Built, status=statuses, **dict.fromkeys(("cause", "bzimage", "release"), text)
    ),
    CaseLine: st.builds(
        CaseLine,
        **dict.fromkeys(("test", "cause", "when", "outcome"), text),
        status=statuses,
        **dict.fromkeys(("signals", "expected"), some_names),
        **dict.fromkeys(("setup_s", "call_s"), numbers),
    ),
    SuiteResult: st.builds(
        SuiteResult,
        status=statuses,
        **dict.fromkeys(("cause", "command"), text),
        tests=st.lists(
            st.builds(
                CaseVerdict,
                **dict.fromkeys(("test", "cause"), text),
                status=statuses,
                signals=some_names.map(frozenset),
                seconds=numbers,
                expected=some_names.map(frozenset),
            ),
            max_size=2,
        ).map(tuple),
        seconds=numbers,
        complete=st.booleans(),
    ),
    Sample: st.builds(
        Sample,
        status=statuses,
        **dict.fromkeys(("cause", "command"), text),
        metrics=st.dictionaries(text, numbers, max_size=3),
        run_dir=st.none() | text.map(Path),
        seconds=numbers,
    ),
    Answer: st.builds(Answer, word=st.sampled_from(Word), reason=text, evidence=some_names),
    Ending: st.builds(
        Ending,
        status=statuses,
        **dict.fromkeys(("cause", "hint", "command", "place", "bzimage", "release"), text),
        **dict.fromkeys(("details", "patches", "failed", "known"), some_names),
        flakes=st.lists(flakes, max_size=2).map(tuple),
        counts=st.dictionaries(text, counts, max_size=2),
        pairs=counts,
        run_dir=st.none() | text.map(Path),
    ),
    SeriesResults: st.builds(
        SeriesResults,
        series=text,
        check=st.dictionaries(text, text, max_size=2),
        rows=st.lists(commits, max_size=2).map(tuple),
    ),
}
"""A strategy for every kind of file that is read with it."""
every_kind = pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)


@every_kind
@given(data=st.data())
def test_a_file_of_every_kind_comes_back_as_it_was(
    kind: type[FileType], data: st.DataObject
) -> None:
    made = data.draw(VALUES[kind])
    assert convert(as_file(made), kind, "here") == made


@every_kind
@given(data=st.data())
def test_any_content_is_one_of_a_kind_or_a_usage_error(
    kind: type[FileType], data: st.DataObject
) -> None:
    """Keys that the kind has, with values of any sort."""
    keys = st.sampled_from([field.encode_name for field in msgspec.structs.fields(kind)])
    content = data.draw(st.dictionaries(keys, junk))
    made = told(content, kind)
    if isinstance(made, str):
        assert made.startswith("here")
    else:
        assert convert(as_file(made), kind, "here") == made
