# SPDX-License-Identifier: MIT
"""series.toml: which carried patches a kernel version has, and that the project's own are sound."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.base.status import UsageError
from harness.kernel.kernel import DEFAULT_FRAGMENTS
from harness.kernel.series import read_series
from harness.kernel.version import Version

V612, V73 = Version(6, 12, 117), Version(7, 3, 4)
versions = st.builds(Version, st.integers(2, 99), st.integers(0, 99), st.integers(0, 999))

SERIES = """
[[release]]
name = "6.12"
since = "6.12"
before = "6.13"
[[release]]
name = "seven"
since = "7.3"
before = "8.0"
[[patch]]
name = "emulation"
summary = "s"
[[patch]]
name = "bugs"
summary = "s"
fragment = "bugs"
"""


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    """A directory as kernel-configs: bugs has a patch for 6.12 only, emulation has sources."""
    for file in (
        *("patches/6.12/0001-emulation.patch", "patches/6.12/0002-bugs.patch"),
        *("patches/seven/0001-emulation.patch", "src/emulation/mm/new.c"),
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(file)
    (tmp_path / "series.toml").write_text(SERIES)
    return tmp_path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(version=versions)
def test_a_version_has_the_patches_of_the_release_that_it_is_in(
    carried: Path, version: Version
) -> None:
    release = read_series(carried).release_of(version)
    if (version.major, version.minor) == (6, 12):
        assert release
        assert release.name == "6.12"
    elif version.major == 7 and version.minor >= 3:
        assert release
        assert release.name == "seven"
    else:
        assert release is None


def test_a_patch_comes_with_the_files_that_it_adds_to_every_release(carried: Path) -> None:
    (first,) = read_series(carried).select(V612)
    (second,) = read_series(carried).select(V73)
    assert first.file == carried / "patches/6.12/0001-emulation.patch"
    assert second.file == carried / "patches/seven/0001-emulation.patch"
    assert list(first.source_files()) == [("mm/new.c", carried / "src/emulation/mm/new.c")]
    assert list(second.source_files()) == list(first.source_files())


def test_no_patches_for_a_version_says_which_ranges_exist(carried: Path) -> None:
    with pytest.raises(UsageError, match=r"no carried patches for kernel 6\.13\.0") as caught:
        read_series(carried).select(Version(6, 13))
    (detail,) = caught.value.details
    assert detail.endswith("since 6.12.0 before 6.13.0, since 7.3.0 before 8.0.0")


def test_a_patch_of_a_fragment_counts_only_where_the_fragment_is_asked_for(carried: Path) -> None:
    series = read_series(carried)
    names = [patch.file.name for patch in series.select(V612, ("base", "bugs"))]
    assert names == ["0001-emulation.patch", "0002-bugs.patch"]
    assert len(series.select(V612)) == 1
    # Not asked for, it need not exist for every kernel; asked for, it must.
    assert len(series.select(V73)) == 1
    with pytest.raises(UsageError, match="no carried patch of bugs for kernel 7"):
        series.select(V73, ("bugs",))


def test_every_patch_file_and_every_source_belongs_to_the_series() -> None:
    series = read_series()
    files = {series.patch_file(r, p) for r in series.releases for p in series.patches}
    assert set(series.directory.glob("patches/*/*")) <= files
    directories = {series.source_directory(patch) for patch in series.patches}
    assert set(series.directory.glob("src/*")) <= directories
    for patch in series.patches:
        for release in series.releases:
            text = series.patch_file(release, patch).read_text()
            assert "new file mode" not in text, f"{patch.name} adds a file in {release.name}"


def test_the_default_kernel_has_no_known_bug() -> None:
    for version in (V612, V73):
        asked = [p.file.name for p in read_series().select(version, ("base", "bugs"))]
        assert "0004-known-bugs.patch" in asked
        assert "0004-known-bugs.patch" not in [p.file.name for p in read_series().select(version)]
    assert "bugs" in read_series().fragments
    assert "bugs" not in DEFAULT_FRAGMENTS


def _changed(patch: Path, file: str, sign: str) -> list[str]:
    """The lines that `patch` adds ("+") to `file`, or removes ("-")."""
    (part,) = (p for p in patch.read_text().split("diff --git ")[1:] if p.startswith(f"a/{file} "))
    hunks = part[part.index("\n@@") :].splitlines()
    return [line[1:] for line in hunks if line.startswith(sign)]


def test_a_kernel_without_the_event_accepts_as_upstream_does() -> None:
    file = "drivers/firmware/efi/unaccepted_memory.c"
    for version in (V612, V73):
        asked = {p.file.name[5:]: p.file for p in read_series().select(version, ("no-event",))}
        adds, removes = asked["accept-trace.patch"], asked["no-accept-event.patch"]
        assert _changed(removes, file, "-") == _changed(adds, file, "+") != []
        assert _changed(removes, file, "+") == _changed(adds, file, "-") == []
    assert "no-event" not in DEFAULT_FRAGMENTS


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[[patch", "is not TOML"),
        ("patch = 1", "patch must be a list"),
        ("patch = ['a']", "must be a table"),
        ("[patch]\nname='a'", "patch must be a list"),
        ("[[patch]]\nname='a'", "patch 1 (a): summary is missing"),
        ("[[patch]]\nname='a'\nsummary='s'\nfile='f'", "patch 1 (a): unknown key file"),
        ("[[patch]]\nname='a'\nsummary='s'\n" * 2, "a name is there twice: a, a"),
        ("[[release]]\nsince='6.12'", "release 1: name is missing"),
        ("[[release]]\nname='a'\nsince=6.12\nbefore='7.0'", "since must be a string"),
        ("[[release]]\nname='a'\nsince='new'\nbefore='7.0'", "not a version: 'new'"),
        ("[[series]]", "unknown key series"),
    ],
)
def test_bad_series(tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "series.toml").write_text(text)
    with pytest.raises(UsageError, match=re.escape(cause)) as caught:
        read_series(tmp_path)
    assert str(tmp_path / "series.toml") in caught.value.cause
    assert caught.value.hint


def test_a_series_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*series\.toml"):
        read_series(tmp_path)
