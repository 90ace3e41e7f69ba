# SPDX-License-Identifier: MIT
"""apt with the machine's mirrors, keys and proxies, but lists, archives and suites of our own: a
package of a newer suite is fetched without root, and what the machine installs is not changed."""

import email
import functools
import getpass
import os
import platform
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.base.guarded import ask, run_guarded
from harness.base.status import HostError, UsageError

LISTS_MAX_AGE_S = 6 * 3600.0
"""How long downloaded package lists are believed."""

RETRIES = 3
"""How often apt tries a file again; it waits longer each time (apt.conf(5))."""

# Newer Debian suites to look in when the configured ones lack a series (release names are stable).
_DEBIAN_NEWER = ("trixie", "trixie-backports", "forky", "sid")
_ALIASES = frozenset({"stable", "testing", "unstable", "sid", "oldstable"})
_ABSENCES = (
    *("does not have a Release file", "404", "File not found"),
    "E: Some index files failed to download",
)
_OPTION_NAMES = {"arch": "Architectures", "lang": "Languages", "target": "Targets"}


@dataclass(frozen=True)
class Stanza:
    """One archive, as sources.list(5) describes it in either style."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    def render(self, kind: str = "deb") -> str:
        """The stanza in deb822 style, for binary ("deb") or source ("deb-src") packages."""
        fields = {
            "Types": kind,
            "URIs": " ".join(self.uris),
            "Suites": " ".join(self.suites),
            "Components": " ".join(self.components),
            **self.options,
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items()) + "\n"


def parse_deb822(text: str) -> list[Stanza]:
    stanzas = []
    for block in re.split(r"\n[ \t]*\n", re.sub(r"^#.*\n?", "", text, flags=re.M)):
        mail = email.message_from_string(block)  # the same syntax
        fields = {name.lower(): str(value).strip() for name, value in mail.items()}
        enabled = fields.pop("enabled", "yes").lower() not in ("no", "false", "0", "off")
        types, uris, suites, components = (
            tuple(fields.pop(key, "").split()) for key in ("types", "uris", "suites", "components")
        )
        if enabled and "deb" in types and uris and suites:
            stanzas.append(Stanza(uris, suites, components, fields))
    return stanzas


_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<rest>\S.*)")


def parse_one_line(text: str) -> list[Stanza]:
    stanzas = []
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if not match:
            continue
        pairs = (option.partition("=") for option in shlex.split(match["options"] or ""))
        options = {
            _OPTION_NAMES.get(key.rstrip("+-").lower(), key): value.replace(",", " ")
            for key, equals, value in pairs
            if equals
        }
        suite, *components = match["rest"].split()
        stanzas.append(Stanza((match["uri"],), (suite,), tuple(components), options))
    return stanzas


def machine_stanzas(directory: Path = Path("/etc/apt")) -> list[Stanza]:
    """Every binary archive that the machine's apt is configured to use."""
    found = []
    parsers = {".sources": parse_deb822, ".list": parse_one_line}
    for file in [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]:
        if file.suffix in parsers and file.is_file():
            found += parsers[file.suffix](file.read_text(errors="replace"))
    return found


@dataclass(frozen=True)
class Suites:
    """A step of the search: archives that are looked at together."""

    name: str
    stanzas: tuple[Stanza, ...]
    suite: str = ""
    """The suite's own name, by which users ask for it: "bookworm" where `name` says that it is as
    configured."""


def os_release() -> tuple[str, str]:
    """(ID, VERSION_CODENAME) from os-release(5); empty where not given."""
    try:
        values = platform.freedesktop_os_release()
    except OSError:
        return "", ""
    return values["ID"], values.get("VERSION_CODENAME", "")


def search_order(stanzas: Iterable[Stanza], distribution: str, codename: str) -> list[Suites]:
    """Where to look, in order: as configured, backports, then (Debian) newer suites where this one
    is, security archive included. Suites count that are named after this release, or by an
    alias."""
    own = []
    names = {codename, *_ALIASES} - {""}
    for stanza in stanzas:
        suites = tuple(s for s in stanza.suites if s.partition("-")[0] in names)
        uris = tuple(uri for uri in stanza.uris if not uri.startswith("cdrom:"))
        if suites and uris and "main" in stanza.components:
            own.append(replace(stanza, uris=uris, suites=suites, components=("main",)))
    if not own:
        return []
    newer: tuple[str, ...] = _DEBIAN_NEWER if distribution == "debian" else ()
    if codename in newer:
        newer = newer[newer.index(codename) + 1 :]
    further = dict.fromkeys([f"{codename}-backports", *newer])
    steps = [Suites("this system", tuple(own), codename)]
    return steps + [Suites(name, _renamed(own, name), name) for name in further]


def machine_steps(suite: str = "") -> list[Suites]:
    """Where this machine can look, in order; only in `suite` where that is named. Raises UsageError
    for a suite that is none of them."""
    steps = search_order(machine_stanzas(), *os_release())
    chosen = [step for step in steps if suite in ("", step.suite)]
    if suite and not chosen:
        known = ", ".join(step.suite for step in steps) or "none (no archive of this release)"
        raise UsageError(f"{suite!r} is no suite to look in here", hint=f"those are: {known}")
    return chosen


def _renamed(own: list[Stanza], name: str) -> tuple[Stanza, ...]:
    """`own` with the suites of the release `name`; of one pocket ("trixie-backports") just that."""
    renamed = []
    for stanza in own:
        pockets = [suite.partition("-")[1:] for suite in stanza.suites]
        if "-" in name or name == "sid":  # these have no updates and no security archive
            suites = [name] if ("", "") in pockets else []
        else:
            wanted = [rest for _, rest in pockets if rest != "backports"]
            suites = [f"{name}-{rest}" if rest else name for rest in wanted]
        if suites:
            renamed.append(replace(stanza, suites=tuple(dict.fromkeys(suites))))
    return tuple(renamed)


@dataclass(frozen=True)
class Candidate:
    package: str
    version: str
    suite: str

    def __str__(self) -> str:
        return f"{self.package}={self.version}"


class Apt:
    """apt's tools over one step's archives, with lists and archives under `root`."""

    kind = "deb"

    def __init__(self, root: Path, suites: Suites) -> None:
        self.suites = suites
        self.root = root / re.sub(r"\W+", "-", suites.name + self.kind.removeprefix("deb"))
        for directory in ("state/lists/partial", "cache/archives/partial"):
            (self.root / directory).mkdir(parents=True, exist_ok=True)
        (self.root / "status").touch()
        # Written anew each time: the machine may have got another mirror.
        (self.root / "own.sources").write_text("".join(s.render(self.kind) for s in suites.stanzas))

    @property
    def _options(self) -> list[str]:
        settings: dict[str, object] = {
            "Dir::State": self.root / "state",
            "Dir::State::status": self.root / "status",
            "Dir::Cache": self.root / "cache",
            "Dir::Etc::sourcelist": self.root / "own.sources",
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferences": "-",
            "Dir::Etc::preferencesparts": "-",
            # Only root's apt changes user for downloads, and that user cannot enter our cache.
            "APT::Sandbox::User": getpass.getuser() if os.getuid() else "root",
            "APT::Status-Fd": "1",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
            "Acquire::Retries": RETRIES,
        }
        return [item for key, value in settings.items() for item in ("-o", f"{key}={value}")]

    def _run(self, *argv: str, cwd: Path, percent: Callable[[int], None]) -> list[str]:
        """Run apt-get with its progress; the lines it complained with ("" prefix E: or W:)."""
        complaints: list[str] = []

        def line(text: str) -> None:
            if status := re.match(r"dlstatus:\d+:(\d+)", text):
                percent(int(status[1]))
            elif re.match(r"[EW]: |Err:", text):
                complaints.append(text)

        command = ["apt-get", "-q", *self._options, *argv]
        code = run_guarded(command, cwd=cwd, env=os.environ | {"LC_ALL": "C"}, line=line)
        if code == 127:
            raise HostError(
                "this machine has no apt to fetch packages with",
                hint="give a file or directory of your own instead: a kernel tree, "
                "git:repository@ref, a bzImage, a firmware image",
            )
        return (complaints or [f"apt-get {argv[0]} failed ({code})"]) if code else []

    def update(self, percent: Callable[[int], None], max_age_s: float = LISTS_MAX_AGE_S) -> None:
        """Fetch the package lists unless they are younger than `max_age_s`."""
        stamp = self.root / "updated"
        sources = (self.root / "own.sources").read_text()
        if (
            stamp.exists()
            and stamp.read_text() == sources
            and time.time() - stamp.stat().st_mtime < max_age_s
        ):
            return
        complaints = self._run("update", cwd=self.root, percent=percent)
        errors = [text for text in complaints if text.startswith("E: ")]
        # A suite that the mirror does not carry is an answer. Anything else is a failure.
        if not all(any(known in text for known in _ABSENCES) for text in errors):
            raise HostError(
                f"could not fetch the package lists of {self.suites.name}",
                hint="look at the network and at `apt-get update`",
                details=complaints,
            )
        stamp.write_text(sources)

    def newest(
        self, packages: Iterable[str], fits: Callable[[Candidate], bool] = lambda candidate: True
    ) -> Candidate | None:
        """The highest version that the archives offer of any of `packages`, of those that fit."""
        result = self._query("madison", *packages)
        rows = [[cell.strip() for cell in row.split("|")] for row in result.splitlines()]
        offered = [Candidate(row[0], row[1], row[2].split()[1]) for row in rows if len(row) == 3]
        key = functools.cmp_to_key(_by_version)
        return max(filter(fits, offered), key=key, default=None)

    def names(self, prefix: str) -> list[str]:
        return self._query("pkgnames", prefix).split()

    def sha256(self, candidate: Candidate) -> str:
        """The SHA-256 that the signed lists give for the package file."""
        match = re.search(r"^SHA256: ([0-9a-f]{64})$", self._query("show", str(candidate)), re.M)
        if not match:
            raise HostError(f"the package lists have no SHA256 for {candidate.package}")
        return match[1]

    def depends(self, candidate: Candidate) -> list[str]:
        """The names in the package's Depends field, alternatives included."""
        match = re.search(r"^Depends: (.*)$", self._query("show", str(candidate)), re.M)
        return dependency_names(match[1]) if match else []

    def _query(self, *argv: str) -> str:
        command = ["apt-cache", *self._options, *argv]
        return ask(command, env=os.environ | {"LC_ALL": "C"}).stdout

    def download(self, candidate: Candidate, into: Path, percent: Callable[[int], None]) -> Path:
        """Download the package; apt checks it against the signed lists."""
        complaints = self._run("download", str(candidate), cwd=into, percent=percent)
        return only_file(candidate, into.glob(f"{candidate.package}_*.deb"), complaints)


class SourceApt(Apt):
    """The source packages of the same archives; of each, the upstream tarball."""

    kind = "deb-src"

    def sha256(self, candidate: Candidate) -> str:
        text = self._query("showsrc", "--only-source", candidate.package)
        wanted = re.compile(rf"^Version: {re.escape(candidate.version)}$", re.M)
        for block in filter(wanted.search, text.split("\n\n")):
            if match := re.search(r"^ ([0-9a-f]{64}) \d+ \S+\.orig\.tar\.\w+$", block, re.M):
                return match[1]
        raise HostError(f"the package lists have no SHA256 for the source of {candidate.package}")

    def download(self, candidate: Candidate, into: Path, percent: Callable[[int], None]) -> Path:
        options = ("--download-only", "--tar-only", "--only-source")
        complaints = self._run("source", *options, str(candidate), cwd=into, percent=percent)
        return only_file(candidate, into.glob("*.orig.tar.*"), complaints)


def dependency_names(field: str) -> list[str]:
    """The package names in a Depends field (Debian Policy 7.1), alternatives included."""
    return re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)", field)


def only_file(candidate: Candidate, files: Iterable[Path], complaints: Sequence[str]) -> Path:
    """The one of `files` that a download left. Raises HostError with apt's `complaints`."""
    found = list(files)
    if complaints or len(found) != 1:
        raise HostError(
            f"could not download {candidate.package} {candidate.version} ({candidate.suite})",
            hint="look at the network; a superseded version is gone from the mirror",
            details=complaints,
        )
    return found[0]


def _by_version(left: Candidate, right: Candidate) -> int:
    if left.version == right.version:
        return 0
    return 1 if at_least(left.version, right.version) else -1


def at_least(version: str, least: str) -> bool:
    """Whether a package's `version` is `least` or later."""
    return not subprocess.run(
        ["dpkg", "--compare-versions", version, "ge", least], check=False
    ).returncode
