# SPDX-License-Identifier: MIT
"""The parsers of harness/kernel: whatever they are given, they answer or raise UsageError."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import UsageError
from harness.kernel import apt
from harness.kernel.config import (
    Setting,
    known_fragments,
    merge,
    mismatches,
    parse_config,
    parse_fragment,
    parse_setting,
    read_fragment,
    render,
)
from harness.kernel.kconfig import Kconfig, holds, parse_kconfig
from harness.kernel.source import (
    DebianSource,
    GitSource,
    KernelSource,
    PathSource,
    parse_source,
)
from harness.kernel.version import Version, VersionRange, makefile_version

V612, V73 = Version(6, 12, 117), Version(7, 3, 4)
versions = st.builds(Version, st.integers(2, 99), st.integers(0, 99), st.integers(0, 999))
symbols = st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True)
values = st.one_of(
    st.sampled_from("ymn"),
    st.integers(-9, 10**9).map(str),
    st.from_regex(r'"[a-z /=]{0,12}"', fullmatch=True),
)


@pytest.mark.parametrize(
    ("parse", "sound"),
    [
        (Version.parse, lambda found, text: str(found).startswith(text)),
        (parse_source, lambda found, _: isinstance(found, KernelSource)),
        (
            lambda text: parse_fragment(text, V612, "f"),
            lambda found, _: all(s.symbol for s in found),
        ),
        (apt.parse_deb822, lambda found, _: all(s.uris and s.suites for s in found)),
        (apt.parse_one_line, lambda found, _: all(s.uris and s.suites for s in found)),
        (
            lambda text: parse_kconfig(text, "K")[0],
            lambda found, _: all(definition.where.startswith("K:") for definition in found),
        ),
    ],
)
@given(st.text(max_size=100))
def test_any_text_is_answered_or_refused(
    parse: Callable[[str], Any], sound: Callable[[Any, str], bool], text: str
) -> None:
    try:
        found = parse(text)
    except UsageError:
        return
    assert sound(found, text)


# Versions


@given(versions)
def test_version_text_round_trip(version: Version) -> None:
    assert Version.parse(str(version)) == version


@given(versions, st.text(alphabet=st.characters(exclude_characters="\n"), max_size=30))
def test_makefile_version(version: Version, name: str) -> None:
    text = (
        "# SPDX-License-Identifier: GPL-2.0\n"
        f"VERSION = {version.major}\nPATCHLEVEL = {version.minor}\nSUBLEVEL = {version.patch}\n"
        f"EXTRAVERSION = -rc1\nNAME = {name}\nKERNELVERSION = $(VERSION)\n"
    )
    assert makefile_version(text) == version


def test_makefile_of_something_else() -> None:
    for text in ("", "all:\n\techo", "VERSION = 6\n", "VERSION := 6.12\n"):
        assert makefile_version(text) is None


def test_range_ends() -> None:
    limits = VersionRange(Version(6, 12), Version(7, 0))
    assert Version(6, 12) in limits
    assert Version(6, 99, 5) in limits
    assert Version(7, 0) not in limits
    assert Version(6, 11, 9) not in limits


# Sources


SOURCES = {
    "debian:6.12": DebianSource("6.12"),
    "git:/a/b@v6.12": GitSource(Path("/a/b"), "v6.12"),
    "git:/a@b/c@next/x": GitSource(Path("/a@b/c"), "next/x"),
    "git:/a@HEAD@{2 days ago}": GitSource(Path("/a"), "HEAD@{2 days ago}"),
    "git:.@HEAD~3": GitSource(Path(), "HEAD~3"),
    "/src/linux": PathSource(Path("/src/linux")),
    "./debian:6.12": PathSource(Path("debian:6.12")),
}


@pytest.mark.parametrize("text", SOURCES)
def test_source_forms(text: str) -> None:
    assert parse_source(text) == SOURCES[text]


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "debian:", "debian:6.12.3", "debian:sid", "git:", "git:/a/b", "git:@HEAD"),
        *("git:/a@", "git:/a@--upload-pack=x", "deb:6.12", "a\0b"),
    ],
)
def test_bad_sources(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert caught.value.hint


# apt's own files

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
# another
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
Enabled: no
URIs: http://off.example
Suites: bookworm
Components: main

Types: deb-src
URIs: http://source.example
Suites: bookworm
Components: main

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/k.gpg
"""

ONE_LINE = """\
deb [arch=amd64,arm64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib # x
deb-src http://mirror.example/debian bookworm main
# deb http://off.example bookworm main
deb http://mirror.example/debian bookworm-backports main
deb cdrom:[Debian]/ bookworm main
"""


def test_deb822_takes_enabled_binary_archives() -> None:
    first, second = apt.parse_deb822(DEB822)
    assert first.uris == ("http://mirror.example/debian",)
    assert first.suites == ("bookworm", "bookworm-updates")
    assert first.components == ("main", "contrib")
    assert "mQINBF" in first.options["signed-by"]
    assert second.options == {"signed-by": "/usr/share/keyrings/k.gpg"}


def test_one_line_style() -> None:
    first, second = apt.parse_one_line(ONE_LINE)[:2]
    assert first.options == {"Architectures": "amd64 arm64", "signed-by": "/k.gpg"}
    assert first.components == ("main", "contrib")
    assert second.suites == ("bookworm-backports",)


def test_rendered_stanzas_parse_to_themselves() -> None:
    stanzas = apt.parse_deb822(DEB822)
    assert apt.parse_deb822("".join(stanza.render() for stanza in stanzas)) == stanzas


def test_search_order_on_debian() -> None:
    steps = apt.search_order(apt.parse_deb822(DEB822), "debian", "bookworm")
    assert [step.name for step in steps] == [
        *("this system", "bookworm-backports", "trixie", "trixie-backports", "forky", "sid")
    ]
    suites = {step.name: [s for x in step.stanzas for s in x.suites] for step in steps}
    assert suites["trixie"] == ["trixie", "trixie-updates", "trixie-security"]
    assert suites["bookworm-backports"] == ["bookworm-backports"]
    assert suites["sid"] == ["sid"]
    uris = {uri for step in steps for stanza in step.stanzas for uri in stanza.uris}
    assert uris == {"http://mirror.example/debian", "http://security.example/debian-security"}


def test_search_order_never_goes_to_an_older_suite() -> None:
    stanza = apt.Stanza(("http://m.example",), ("forky",), ("main",))
    names = [step.name for step in apt.search_order([stanza], "debian", "forky")]
    assert names == ["this system", "forky-backports", "sid"]


def test_search_order_elsewhere_stays_with_the_machines_own_suites() -> None:
    stanzas = [
        apt.Stanza(("http://u.example",), ("noble", "noble-updates"), ("main", "universe")),
        apt.Stanza(("http://other.example",), ("stuff",), ("main",)),
    ]
    steps = apt.search_order(stanzas, "ubuntu", "noble")
    assert [step.name for step in steps] == ["this system", "noble-backports"]
    assert len(steps[0].stanzas) == 1


# Fragments and .config


@given(st.dictionaries(symbols, values, max_size=12))
def test_rendered_settings_parse_to_themselves(wanted: dict[str, str]) -> None:
    settings = {name: Setting(name, value, "x") for name, value in wanted.items()}
    again = merge(parse_fragment(render(settings), V612, "x"))
    assert {name: setting.value for name, setting in again.items()} == wanted
    # and a .config that says just this satisfies all of it
    assert mismatches(again, parse_config(render(settings))) == []


@given(st.dictionaries(symbols, values, min_size=1, max_size=12), st.data())
def test_a_lost_setting_is_found(wanted: dict[str, str], data: st.DataObject) -> None:
    settings = {name: Setting(name, value, "x") for name, value in wanted.items()}
    lost = data.draw(st.sampled_from(sorted(wanted)))
    config = parse_config(render({n: s for n, s in settings.items() if n != lost}))
    found = [mismatch.setting.symbol for mismatch in mismatches(settings, config)]
    assert found == ([] if wanted[lost] == "n" else [lost])


def test_a_symbol_that_should_be_off_is_found() -> None:
    (wrong,) = mismatches(merge([parse_setting("MODULES=n")]), {"MODULES": "y"})
    assert str(wrong) == "MODULES: asked n (--set), got y"


def test_numbers_compare_by_value() -> None:
    asked = merge([parse_setting("PHYSICAL_START=0x1000000")])
    assert mismatches(asked, {"PHYSICAL_START": "0x01000000"}) == []
    assert mismatches(asked, {"PHYSICAL_START": "0x2000000"})


def test_sections_choose_by_version() -> None:
    text = (
        "CONFIG_A=y\n# [before 7.0]\nCONFIG_B=y\n# [since 7.0]\n# CONFIG_B is not set\n"
        "# [since 6.13 before 7.3]\nCONFIG_C=y\n# [all]\n# prose [with] brackets\nCONFIG_D=1\n"
    )
    old = {s.symbol: s.value for s in parse_fragment(text, V612, "f")}
    new = {s.symbol: s.value for s in parse_fragment(text, V73, "f")}
    assert old == {"A": "y", "B": "y", "D": "1"}
    assert new == {"A": "y", "B": "n", "D": "1"}


@pytest.mark.parametrize(
    "line", ["CONFIG_A=yes", "CONFIG_A", "A = y", "# [since]", "# [until 7.0]", "# []", 'A="x']
)
def test_bad_fragment_lines_name_file_and_line(line: str) -> None:
    with pytest.raises(UsageError, match=r"^f\.config:2: "):
        parse_fragment(f"\n{line}\n", V612, "f.config")


def test_unknown_fragment_lists_the_known() -> None:
    with pytest.raises(UsageError, match="nosuch") as caught:
        read_fragment("nosuch", V612)
    assert "acceptance" in caught.value.hint


@pytest.mark.parametrize("name", known_fragments())
@pytest.mark.parametrize("version", [V612, V73])
def test_own_fragments_parse_and_ask_for_something(name: str, version: Version) -> None:
    settings = read_fragment(name, version)
    assert settings
    assert len(merge(settings)) == len(settings), "a fragment contradicts or repeats itself"


# Kconfig

KCONFIG = """\
config A
\tbool "the a"
\tdepends on X86_64 && \\
\t\tEFI_STUB
\thelp
\t  config NOT_ONE
\t  depends on NONSENSE

\t  if SOMETHING
config HIDDEN
\tbool
if NET
menu "m"
\tdepends on INET
source "sub/Kconfig"
config B
\ttristate
\tprompt "b"
\tselect HIDDEN if C
endmenu
endif
config C
\tdef_bool y
"""


def test_kconfig_reads_conditions_and_skips_help() -> None:
    definitions, sourced = parse_kconfig(KCONFIG, "Kconfig")
    by_name = {definition.symbol: definition for definition in definitions}
    assert list(by_name) == ["A", "HIDDEN", "B", "C"]
    assert by_name["A"].depends == ["X86_64 && EFI_STUB"]
    assert by_name["B"].depends == ["NET", "INET"]
    assert by_name["B"].selects == ["HIDDEN"]
    assert sourced == [("sub/Kconfig", ["NET", "INET"])]
    assert [d.prompt for d in definitions] == [True, False, True, False]


def test_kconfig_explains(tmp_path: Path) -> None:
    (tmp_path / "Kconfig").write_text(KCONFIG)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/Kconfig").write_text('config INNER\n\tbool "inner"\n')
    kconfig = Kconfig.read(tmp_path)
    assert list(kconfig.explain("A", "y", {"X86_64": "y"})) == [
        "depends on X86_64 && EFI_STUB (Kconfig:1); not set: EFI_STUB"
    ]
    assert list(kconfig.explain("INNER", "y", {"INET": "y"})) == [
        "depends on NET (sub/Kconfig:1); not set: NET"
    ]
    assert list(kconfig.explain("HIDDEN", "y", {})) == ["cannot be set directly; selected by: B"]
    assert list(kconfig.explain("HIDDEN", "n", {"B": "y"})) == ["selected by B"]
    assert list(kconfig.explain("NOT_ONE", "y", {})) == ["this kernel has no such symbol"]


def test_expressions() -> None:
    config = {"A": "y", "ARCH": '"x86"'}
    true = ("A", "A || B", "!B && (A || B)", "A = y", 'ARCH = "x86"', "$(cc-option,-mfoo)")
    assert [text for text in true if not holds(text, config)] == []
    false = ("A && B", "!(A || B)", "A=n || B!=n")
    assert [text for text in false if holds(text, config)] == []


@given(st.text(alphabet='AB()!&|= "$<>', max_size=30))
def test_expressions_never_crash(expression: str) -> None:
    assert holds(expression, {"A": "y"}) in (True, False)
