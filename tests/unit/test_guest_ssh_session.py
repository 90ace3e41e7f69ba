# SPDX-License-Identifier: MIT
"""What of an SSH session can be tried without a guest; the rest is in test_robustness.py."""

import threading

import pytest

from harness.guest.ssh import commands as ssh_commands


def test_closing_does_not_wait_for_a_lock_that_nobody_gives_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ssh_commands, "_CLOSE_S", 0.05)
    lost, ended = threading.Lock(), threading.Event()

    def close() -> None:
        with lost:
            ended.set()

    with lost:
        ssh_commands.bounded(close)
        assert not ended.is_set()
    assert ended.wait(10)
