# SPDX-License-Identifier: MIT
"""QEMU's life: spawn, QMP, console, ready port, death, and leases so that nothing leaks."""
