# SPDX-License-Identifier: MIT
"""SSH into a guest: sessions, commands with deadlines, the stock client."""
