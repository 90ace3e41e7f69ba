# SPDX-License-Identifier: MIT
"""What runs for long and can be resumed: nights, series, bisections, the catalogue of bugs."""
