# SPDX-License-Identifier: MIT
"""The pytest plugin: options, fixtures, guests shared by tests, verdicts."""
