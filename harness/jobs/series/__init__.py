# SPDX-License-Identifier: MIT
"""A patch series, checked commit by commit."""
