# SPDX-License-Identifier: MIT
"""One module per platform: from a guest's spec and the host's facts to QEMU's arguments."""
