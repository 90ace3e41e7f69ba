# SPDX-License-Identifier: MIT
"""What all else builds on: statuses, units, the spec and its options, the store, processes."""
