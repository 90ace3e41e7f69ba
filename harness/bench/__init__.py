# SPDX-License-Identifier: MIT
"""Measurements of the harness itself: how fast guests start, how often comparisons cry wolf."""
