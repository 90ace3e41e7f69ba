# SPDX-License-Identifier: MIT
"""Pure functions from recorded facts to figures and checks. Nothing here touches a guest."""
