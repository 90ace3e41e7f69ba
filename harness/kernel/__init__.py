# SPDX-License-Identifier: MIT
"""Kernels: where they come from, how they are patched and configured, and the build."""

from harness.base.progress import Progress, silent
from harness.kernel.build import build_kernel
from harness.kernel.debian import SeriesNotFoundError
from harness.kernel.kernel import DEFAULT_FRAGMENTS, Kernel, KernelRequest
from harness.kernel.make import KernelBuildError
from harness.kernel.source import parse_source

__all__ = [
    "DEFAULT_FRAGMENTS",
    "Kernel",
    "KernelBuildError",
    "KernelRequest",
    "Progress",
    "SeriesNotFoundError",
    "build_kernel",
    "parse_source",
    "silent",
]
