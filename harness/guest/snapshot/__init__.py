# SPDX-License-Identifier: MIT
"""Guests saved to disk and brought back, memory copy-on-write."""
