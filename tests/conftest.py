# SPDX-License-Identifier: MIT
"""Shared by all tests."""

import hypothesis

pytest_plugins = ["pytester"]

# How long an example takes is the machine's affair: a busy one must not fail a test.
hypothesis.settings.register_profile(
    "harness", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("harness")
