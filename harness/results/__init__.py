# SPDX-License-Identifier: MIT
"""The run directory: the facts of one run on disk."""
