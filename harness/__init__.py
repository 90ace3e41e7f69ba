# SPDX-License-Identifier: MIT
"""Boot confidential VMs under QEMU and test Linux' lazy memory acceptance.

The way of one measurement through the packages (docs/architecture.md):
spec -> kernel -> image -> host + targets -> vm -> workloads | collect -> results -> analysis
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.run.session import Session
    from harness.targets.choose import guest_spec

__version__ = "0.2.0"
__all__ = ["Session", "guest_spec"]

_HOMES = {"Session": "harness.run.session", "guest_spec": "harness.targets.choose"}


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: `import harness` alone must cost nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
