# SPDX-License-Identifier: MIT
"""A kernel that somebody else built: used as it is, with what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.base.status import UsageError
from harness.base.store import Store, digest_file
from harness.kernel.bzimage import read_bzimage
from harness.kernel.kernel import Kernel, KernelRequest, module_tree


def check_unchanged(request: KernelRequest) -> None:
    """Raise UsageError where `request` asks for something that only a build could do."""
    asked = [
        *(f"--patch {patch}" for patch in request.patches),
        *(f"--set {setting}" for setting in request.settings),
        *(f"--fragment {fragment}" for fragment in request.extra),
    ]
    if asked:
        raise UsageError(
            f"{request.source} is already built: {', '.join(asked)} cannot be applied to it",
            hint="give its source instead (debian:6.12, a kernel tree), or leave them out",
        )


def beside(path: Path, release: str) -> tuple[Path | None, Path | None]:
    """Configuration and module tree of the image at `path`, by where it lies; None: not there.

    ROOT/boot/vmlinuz-RELEASE has ROOT/lib/modules/RELEASE, and its configuration beside it, in
    ROOT/boot/config-RELEASE, or in that tree (Debian from 7.1 on, Fedora), where the image may be,
    too. The bzImage of a kernel built here has .config and modules/lib/modules/RELEASE.
    """
    if path.parent.name == release:
        trees: list[Path | None] = [path.parent]
    else:
        trees = [
            module_tree(root, release) for root in (path.parent.parent, path.parent / "modules")
        ]
    tree = next((tree for tree in trees if tree), None)
    configs = [path.with_name(name) for name in (f"config-{release}", ".config")]
    if tree:
        configs.append(tree / "config")
    return next((config for config in configs if config.is_file()), None), tree


def prebuilt(
    path: Path,
    request: KernelRequest,
    store: Store,
    source: Mapping[str, object] | None = None,
) -> Kernel:
    """The kernel in the bzImage at `path`; `source` says where it is from.

    What is not in the image is looked for beside it. Raises UsageError for what is no bzImage, and
    for a `request` that asks for changes.
    """
    check_unchanged(request)
    image = read_bzimage(path)
    digest = digest_file(path)
    config, modules = beside(path, image.release)
    if image.config is not None:
        text = image.config

        def keep(entry: Path) -> None:
            (entry / ".config").write_text(text)

        config = store.fetch("kernel-config", digest, keep) / ".config"
    facts = {
        "source": dict(source or {"kind": "bzImage", "path": str(path)}),
        "bzimage_sha256": digest,
        "configuration_known": config is not None,
    }
    return Kernel(path, str(image.version), image.release, digest, config, modules, facts)
