# SPDX-License-Identifier: MIT
"""Which QEMU there is, and what it can do."""
