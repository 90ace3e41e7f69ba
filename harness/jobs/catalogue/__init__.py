# SPDX-License-Identifier: MIT
"""Known bugs of lazy acceptance, brought back one at a time to see whether the suite finds them.

A bug is a switch in the carried patch `known-bugs` (kernel-configs/patches) and an entry here
(entries/*.toml). docs/catalogue.md says how to add one.
"""
