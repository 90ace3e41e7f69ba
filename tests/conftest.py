# SPDX-License-Identifier: MIT
"""Shared by all tests."""

import hypothesis
import pytest

from harness.base.store import default_root

pytest_plugins = ["pytester"]
_CACHE = default_root()  # before anything changes HOME

# How long an example takes is the machine's affair: a busy one must not fail a test.
hypothesis.settings.register_profile(
    "harness", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("harness")


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """pytest's own, whose children look for the cache where we do, and not in their new HOME.

    Each would boot KVM's probe guest again, which takes 10 s where KVM is there and does not work.
    """
    monkeypatch.setenv("CVM_HARNESS_CACHE", str(_CACHE))
    return pytester
