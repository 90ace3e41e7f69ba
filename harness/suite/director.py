# SPDX-License-Identifier: MIT
"""Fresh guests, one after the other, for tests that need more than one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.base.status import PreconditionError
from harness.kernel.version import Version
from harness.suite.expectations import Expectation
from harness.suite.features import missing_feature
from harness.suite.need import Need
from harness.suite.pool import Pool
from harness.suite.subject import Subject

if TYPE_CHECKING:
    from harness.base.spec import GuestSpec


@dataclass(frozen=True)
class Director:
    """For tests that take one guest after the other."""

    pool: Pool
    base: GuestSpec
    version: Version
    """Of the kernel under test."""
    known: Iterable[Expectation]

    def fresh(self, need: Need) -> Subject:
        """A guest that nobody has used. Raises as Pool.take; PreconditionError for a feature."""
        shared = self.pool.take(need.spec(self.base), dataclasses.replace(need, fresh=True))
        if lacks := missing_feature(shared.run, need.features):
            raise PreconditionError(lacks)
        shared.used = True
        return Subject(shared.run, shared.observer, need, shared.boot_checks())

    def release(self) -> None:
        """End the guest."""
        self.pool.drop()
