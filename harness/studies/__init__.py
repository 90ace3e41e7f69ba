# SPDX-License-Identifier: MIT
"""Arms and repeats to a table: boot study, hotplug study, A/B, quickstart, start times."""
