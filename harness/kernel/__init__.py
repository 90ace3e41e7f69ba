# SPDX-License-Identifier: MIT
"""Kernels: where they come from, how they are patched and configured, and the build."""
