# SPDX-License-Identifier: MIT
"""Which commit broke a test or made a metric worse."""
