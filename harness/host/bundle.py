# SPDX-License-Identifier: MIT
"""The file that someone with a host sends back when something fails there.

It holds host.json (every answer of the host; `cvm-harness doctor --host` replays it anywhere),
diagnosis.json, facts.json, the host's log as far as it is about KVM, SEV and TDX, and run
directories, without keys.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

from harness.base.status import HostError
from harness.host.state import host_state, kernel_log
from harness.host.view import RecordingHost
from harness.record.rundir import plain

_RUN_FILES = ("run.json", "repro.sh", "qemu.log", "qmp.jsonl", "console.log", "hang.txt")
_MAX_FILE = 8 << 20
_ABOUT = re.compile(r"kvm|sev|snp|tdx|ccp|rmp|amd-vi|iommu|seam|tme|microcode|bios", re.IGNORECASE)


def write_bundle(
    target: Path, view: RecordingHost, diagnosis: dict[str, object], runs: Iterable[Path]
) -> None:
    """Write the report. Raises HostError where the file cannot be written."""
    facts = host_state(view)
    log = "\n".join(line for line in kernel_log() if _ABOUT.search(line))
    content = {
        "diagnosis.json": _json(diagnosis),
        "facts.json": _json(facts),
        "dmesg.txt": log.encode() or b"not visible to this user\n",
        "host.json": _json(view.answers),
    }
    try:
        with tarfile.open(target, "w:gz") as archive:
            for name, data in content.items():
                _add(archive, f"cvm-report/{name}", data)
            for directory in runs:
                for name in _RUN_FILES:
                    path = directory / name
                    if path.is_file():
                        data = _tail(path)
                        _add(archive, f"cvm-report/runs/{directory.resolve().name}/{name}", data)
    except OSError as error:
        raise HostError(f"cannot write the report {target}: {error.strerror}") from error


def _json(content: object) -> bytes:
    return (json.dumps(plain(content), indent=1, sort_keys=True) + "\n").encode()


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _MAX_FILE))
        return file.read()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(data), int(time.time())
    archive.addfile(entry, io.BytesIO(data))
