# SPDX-License-Identifier: MIT
"""The HTML report: one file that needs no network, verdicts first."""
