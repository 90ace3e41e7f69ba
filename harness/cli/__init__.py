# SPDX-License-Identifier: MIT
"""The command line: `cvm-harness VERB`, one module a verb. Holds no logic of its own."""
