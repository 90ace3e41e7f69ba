# SPDX-License-Identifier: MIT
"""The acceptance suite's machinery: guests that tests share, invariants around each, verdicts."""
