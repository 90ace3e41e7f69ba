# SPDX-License-Identifier: MIT
"""The formats of what runs, nights and series leave on disk. Nothing here judges."""
