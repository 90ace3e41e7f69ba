# SPDX-License-Identifier: MIT
"""Contracts with programs that the harness drives."""
