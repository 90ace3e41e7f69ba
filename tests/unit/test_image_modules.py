# SPDX-License-Identifier: MIT
"""The modules layer: closure, order, compression, and what is missing is named."""

import gzip
import lzma
from pathlib import Path

import pytest
import zstandard

from harness.base.status import HostError, PreconditionError
from harness.image import cpio
from harness.image.modules import LIST, REQUIRED, ModuleTree, check_modules, nodes
from harness.kernel.kernel import Kernel
from tests.support.cpio import read


def make_tree(tmp_path: Path, dependencies: dict[str, str], builtin: str = "") -> Path:
    tree = tmp_path / "6.1.0-test"
    for name in dependencies:
        path = tree / "kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = name.split(".")[0].encode()
        match path.suffix:
            case ".xz":
                content = lzma.compress(content)
            case ".gz":
                content = gzip.compress(content)
            case ".zst":
                content = zstandard.ZstdCompressor().compress(content)
        path.write_bytes(content)
    lines = [
        f"kernel/{name}: " + " ".join(f"kernel/{d}" for d in needs.split())
        for name, needs in dependencies.items()
    ]
    (tree / "modules.dep").write_text("\n".join(lines) + "\n")
    (tree / "modules.builtin").write_text(builtin)
    return tree


TREE = {
    "virtio_net.ko.xz": "net_failover.ko.zst failover.ko",
    "net_failover.ko.zst": "failover.ko",
    "failover.ko": "",
    "virtio_console.ko.gz": "",
    "virtio-rng.ko": "",
    "unrelated.ko": "",
}
BUILTIN = "kernel/drivers/virtio/virtio_pci.ko\n"


def test_each_module_comes_after_what_it_needs(tmp_path: Path) -> None:
    order = ModuleTree(make_tree(tmp_path, TREE, BUILTIN)).chosen()
    assert order == ["failover", "net_failover", "virtio_net", "virtio_console", "virtio_rng"]


def test_the_layer_has_them_decompressed_and_listed(tmp_path: Path) -> None:
    tree = ModuleTree(make_tree(tmp_path, TREE, BUILTIN))
    files = {node.path: node.data for node in read(cpio.archive(nodes(tree))) if node.data}
    listed = files.pop(LIST).decode().splitlines()
    assert [f"/{path}" for path in files] == sorted(listed)
    assert files["lib/modules/6.1.0-test/virtio_net.ko"] == b"virtio_net"
    assert files["lib/modules/6.1.0-test/net_failover.ko"] == b"net_failover"
    assert files["lib/modules/6.1.0-test/virtio_console.ko"] == b"virtio_console"
    assert listed[0].endswith("/failover.ko")


def test_without_modules_dep_the_modules_say_what_they_need(tmp_path: Path) -> None:
    directory = make_tree(tmp_path, TREE, BUILTIN)
    (directory / "modules.dep").unlink()
    module = directory / "kernel" / "virtio-rng.ko"
    module.write_bytes(b"\x7fELF..\0license=GPL\0depends=failover,unrelated\0name=x\0")
    assert ModuleTree(directory).load_order(["virtio_rng"]) == [
        "failover",
        "unrelated",
        "virtio_rng",
    ]


def test_a_kernel_without_the_needed_drivers_is_refused(tmp_path: Path) -> None:
    tree = ModuleTree(make_tree(tmp_path, {"virtio_net.ko": ""}))
    with pytest.raises(HostError, match="virtio_pci, virtio_console"):
        tree.chosen()


def test_all_built_in_is_fine(tmp_path: Path) -> None:
    builtin = "".join(f"kernel/{name}.ko\n" for name in REQUIRED)
    assert ModuleTree(make_tree(tmp_path, {"x.ko": ""}, builtin)).chosen() == []


def test_a_missing_dependency_and_a_cycle_are_named(tmp_path: Path) -> None:
    tree = ModuleTree(make_tree(tmp_path, {"a.ko": "b.ko", "b.ko": "a.ko", "c.ko": "gone.ko"}))
    with pytest.raises(HostError, match="a -> b -> a"):
        tree.load_order(["a"])
    with pytest.raises(HostError, match="c needs gone"):
        tree.load_order(["c"])


def test_no_tree() -> None:
    with pytest.raises(HostError, match="no module tree"):
        ModuleTree(Path("/nonexistent"))


@pytest.mark.parametrize(
    ("config", "found", "complains"),
    [
        ("CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_NET=m\nCONFIG_VIRTIO_CONSOLE=m\n", False, True),
        ("CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_NET=m\nCONFIG_VIRTIO_CONSOLE=m\n", True, False),
        ("CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_NET=y\nCONFIG_VIRTIO_CONSOLE=y\n", False, False),
        (None, False, False),  # nobody knows: it may try
    ],
)
def test_modules_that_are_needed_and_not_found_are_named_before_anything_boots(
    tmp_path: Path, config: str | None, found: bool, complains: bool
) -> None:
    file = tmp_path / "config"
    file.write_text(config or "")
    kernel = Kernel(
        tmp_path / "vmlinuz",
        "6.12.1",
        "6.12.1-x",
        "0" * 64,
        file if config else None,
        tmp_path if found else None,
        {},
    )
    if not complains:
        check_modules(kernel)
        return
    with pytest.raises(PreconditionError, match="VIRTIO_NET, CONFIG_VIRTIO_CONSOLE as mod") as info:
        check_modules(kernel)
    assert "lib/modules/6.12.1-x" in info.value.cause
