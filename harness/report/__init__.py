# SPDX-License-Identifier: MIT
"""What people see of a run. Nothing here computes."""
