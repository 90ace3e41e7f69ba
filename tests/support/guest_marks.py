# SPDX-License-Identifier: MIT
"""Guests that several test modules ask for: who asks for the same shares one."""

import pytest

MAIN = pytest.mark.acceptance(memory="2560M", vcpus=2, append=("cma=32M",))
"""One zone beside ZONE_DMA, two vCPUs, a CMA area: what most tests share."""
MANY = pytest.mark.acceptance(memory="2G", vcpus=8, cost="tdx")
"""Eight vCPUs on which accepting takes its time: what runs in parallel shows."""
