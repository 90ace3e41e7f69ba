# SPDX-License-Identifier: MIT
"""The stock ssh client's way into a guest, for people and for comparison."""

from __future__ import annotations

from pathlib import Path

from harness.image.keys import known_hosts_line

SSH = "ssh"
_HOST = "127.0.0.1"
_KNOWN_HOSTS = "known_hosts"


def ssh_command(port: int, client_key: Path, host_public_key: str) -> list[str]:
    """A command line that ends in the guest's name: add what to run there.

    The guest's host key is pinned, in a file that this writes beside `client_key`.
    """
    known = client_key.with_name(_KNOWN_HOSTS)
    known.write_text(known_hosts_line(_HOST, port, host_public_key))
    return [
        SSH,
        *("-F", "none", "-p", str(port), "-i", str(client_key), "-o", "IdentitiesOnly=yes"),
        *("-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"),
        *("-o", "LogLevel=ERROR", f"root@{_HOST}"),
    ]
