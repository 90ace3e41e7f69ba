# SPDX-License-Identifier: MIT
"""Reading back the host port that QEMU picked for the guest's sshd."""

from __future__ import annotations

import re

# net/slirp.c and libslirp's slirp_connection_info():
#   TCP[HOST_FORWARD]  12       127.0.0.1 37905       10.0.2.15    22     0     0
_FORWARD = re.compile(
    r"^\s*TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d{1,5})\s+\S+\s+(\d{1,5})\s"
)


def forwarded_port(info: str, guest_port: int = 22) -> int:
    """The host port of the forward to `guest_port` in HMP's `info usernet`. Raises ValueError."""
    for line in info.splitlines():
        match = _FORWARD.match(line)
        if match and int(match[2]) == guest_port and 0 < int(match[1]) < 65536:
            return int(match[1])
    raise ValueError(f"no forward to guest port {guest_port} in QEMU's answer: {info[:500]!r}")
