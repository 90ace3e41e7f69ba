# SPDX-License-Identifier: MIT
"""Named allocation patterns, run in the guest; each reports what it believes it did."""
