# SPDX-License-Identifier: MIT
"""What this machine can do: QEMU, accelerators, firmware, confidential-VM support."""
