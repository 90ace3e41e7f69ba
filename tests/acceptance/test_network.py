# SPDX-License-Identifier: MIT
"""Network: a driver refills its receive buffers in interrupts, out of memory not yet accepted."""

import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator

import pytest

from harness.base.units import MIB, PAGE_SIZE
from harness.suite.subject import Subject
from tests.support.guest_marks import MAIN

pytestmark = [
    pytest.mark.guest,
    MAIN,
    pytest.mark.acceptance(unaccepted="128M"),
    pytest.mark.tier("full"),
]
HOST = "10.0.2.2"
"""What QEMU's user network has the host's 127.0.0.1 as."""
DEADLINE_S = 180


@contextlib.contextmanager
def served(data: bytes) -> Iterator[int]:
    """Send `data` to whoever connects first; the port. Plain TCP: SSH's ciphers take minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE_S)

        def send() -> None:
            with contextlib.suppress(OSError):  # what did not arrive shows in the checksum
                peer, _ = server.accept()
                with peer:
                    peer.settimeout(DEADLINE_S)
                    peer.sendall(data)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(DEADLINE_S)


def test_data_received_into_fresh_memory_is_whole(subject: Subject) -> None:
    before = subject.soak()
    size = (before.free_pages - before.unaccepted_pages) * PAGE_SIZE + 12 * MIB
    data = hashlib.shake_128(b"cvm-harness").digest(size)
    with served(data) as port:
        script = f"nc {HOST} {port} < /dev/null > /tmp/in; md5sum < /tmp/in"
        said = subject.sh(script, deadline_s=DEADLINE_S)
    subject.must_have_accepted(before, 8 * MIB)
    subject.sh("rm /tmp/in")
    wanted = hashlib.md5(data, usedforsecurity=False).hexdigest()
    same = said.split()[:1] == [wanted]
    subject.verify("corrupt", same, f"{size} bytes sent, their checksum: {said[:80]!r}")
