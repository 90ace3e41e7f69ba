# SPDX-License-Identifier: MIT
"""What test modules share: sample runs, fake labs, archives, pages taken apart, browsers."""
