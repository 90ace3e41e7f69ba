# SPDX-License-Identifier: MIT
"""One guest's life under QEMU: spawn, QMP, console, ready port, SSH, snapshots, death."""
