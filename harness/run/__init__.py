# SPDX-License-Identifier: MIT
"""From a spec to a judged run: prepare, boot or restore, prove, load, conclude."""
