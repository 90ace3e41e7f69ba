# SPDX-License-Identifier: MIT
"""Benchmarks of the harness itself. Each is one command, says what it measured, and ends with exit
code 1 where a bound does not hold: `python -m tests.bench.overhead`, `… tests.bench.analysis`."""
