# SPDX-License-Identifier: MIT
"""What is known of kernels and tests: expected defects now, the catalogue of bugs beside them."""
