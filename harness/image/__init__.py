# SPDX-License-Identifier: MIT
"""The guest image: minimal initramfs, keys, modules of distribution kernels."""
