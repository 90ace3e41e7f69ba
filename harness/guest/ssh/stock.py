# SPDX-License-Identifier: MIT
"""The stock ssh client's way into a guest, for people and for comparison."""

from __future__ import annotations

from harness.image.keys import Keys, known_hosts_line

SSH = "ssh"
_HOST = "127.0.0.1"
_KNOWN_HOSTS = "known_hosts"


def ssh_command(port: int, keys: Keys) -> list[str]:
    """A command line that ends in the guest's name: add what to run there.

    The guest's host key is pinned, in a file that this writes beside the client's key.
    """
    known = keys.private_key.with_name(_KNOWN_HOSTS)
    known.write_text(known_hosts_line(_HOST, port, keys.host_public_key))
    return [
        SSH,
        *("-F", "none", "-p", str(port), "-i", str(keys.private_key), "-o", "IdentitiesOnly=yes"),
        *("-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"),
        *("-o", "LogLevel=ERROR", f"root@{_HOST}"),
    ]
