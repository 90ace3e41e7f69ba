# SPDX-License-Identifier: MIT
"""Two sets of runs to a verdict; baselines, history, the index of runs and their retention."""
