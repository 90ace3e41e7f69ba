# SPDX-License-Identifier: MIT
"""Known bugs of lazy acceptance, brought back one at a time to see whether the suite finds them
(docs/catalogue.md)."""
