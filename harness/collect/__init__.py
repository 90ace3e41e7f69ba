# SPDX-License-Identifier: MIT
"""Gathers facts from a guest while it runs. Nothing here judges them."""
