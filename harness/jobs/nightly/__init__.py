# SPDX-License-Identifier: MIT
"""A night: the cells of a plan, journaled, resumable."""
