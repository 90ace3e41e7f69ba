# SPDX-License-Identifier: MIT
"""One reading of every counter of unaccepted memory, out of a guest."""

from __future__ import annotations

import json

from harness.base.status import PreconditionError
from harness.guest.guest import Guest
from harness.record.counters import Counters, parse_counters

_MAX_OUTPUT = 4 << 20


def read_counters(guest: Guest) -> Counters:
    """What the guest's `cvm counters` prints (docs/guest-image.md). Raises PreconditionError."""
    output = guest.run("cvm counters", max_output=_MAX_OUTPUT).stdout
    try:
        message = json.loads(output)
    except ValueError as error:
        raise PreconditionError(f"`cvm counters` did not print JSON: {error}") from error
    return parse_counters(message)
