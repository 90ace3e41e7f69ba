# SPDX-License-Identifier: MIT
"""The verbs of the command line, one module each. They hold no logic of their own."""
