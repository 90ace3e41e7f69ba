# SPDX-License-Identifier: MIT
"""What is carried for our QEMU: the series, and whether it fits the real source."""

from pathlib import Path

import pytest

from harness.base.store import Store, default_root
from harness.kernel import packages
from harness.kernel.patches import apply_patches
from harness.kernel.version import Version
from harness.qemu.source import DIRECTORY, qemu_series, read_recipe, tree_of, wanted
from tests.support.qemu_in_small import write_carried

CACHE = default_root()
TENS = Version(10, 0, 13)


def test_whatever_is_carried_counts(tmp_path: Path) -> None:
    carried = write_carried(tmp_path / "carried")
    digests = {read_recipe(TENS, carried).digest}
    for path in ("devices.mak", "src/build/target/i386/cgs/cgs.c", "patches/10.0/0001-build.patch"):
        (carried / path).write_text("changed\n")
        digests.add(read_recipe(TENS, carried).digest)
    assert len(digests) == 4


def test_the_projects_own_series() -> None:
    recipe = read_recipe(TENS)
    assert recipe.patches
    assert {patch.file for patch in recipe.patches} == set(DIRECTORY.glob("patches/*/*.patch"))
    for path, file in (pair for patch in recipe.patches for pair in patch.source_files()):
        assert b"SPDX-License-Identifier: GPL-2.0-or-later" in file.read_bytes()[:200], path
    series = qemu_series()
    assert {path.name for path in DIRECTORY.glob("src/*")} <= {x.name for x in series.patches}
    assert series.release_of(Version(10, 0, 2)) is None, "the patches are not made for it"


def test_the_patches_fit_the_distributions_source(tmp_path: Path) -> None:
    found = packages.held(wanted(), Store(CACHE))
    if found is None:
        pytest.skip("QEMU's source is not in the cache: cvm-harness build-qemu fetches it")
    tree = tree_of(found)
    recipe = read_recipe(tree.version)
    applied = apply_patches(tree, recipe.patches, tmp_path)
    assert applied.overlay
    assert applied.present == ()
