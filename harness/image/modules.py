# SPDX-License-Identifier: MIT
"""The modules a guest needs from a distribution kernel's tree. PID 1 loads them in the order of
/etc/modules.list, with finit_module(2): no modprobe, no udev, no decompression in the guest."""

import gzip
import lzma
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import zstandard

from harness.base.status import HostError, PreconditionError
from harness.image import cpio
from harness.image.cpio import Node
from harness.kernel.kernel import Kernel

REQUIRED = ("virtio_pci", "virtio_net", "virtio_console")
"""Without these, as modules or built in, the guest cannot be reached."""
WANTED = (*REQUIRED, "virtio_rng", "virtio_mem", "virtio_balloon", "pvpanic", "pvpanic_pci")
"""Loaded if the kernel has them."""
LIST = "etc/modules.list"
_SYMBOLS = ("VIRTIO_PCI", "VIRTIO_NET", "VIRTIO_CONSOLE")
"""Of REQUIRED."""

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
    ".zst": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}
_SUFFIX = re.compile(r"\.ko(\.(xz|zst|gz))?$")


def check_modules(kernel: Kernel) -> None:
    """Raise PreconditionError where a guest could not be reached, as modules were not found."""
    needed = [f"CONFIG_{symbol}" for symbol in _SYMBOLS if kernel.setting(symbol) == "m"]
    if needed and kernel.modules is None:
        raise PreconditionError(
            f"the kernel {kernel.release} has {', '.join(needed)} as modules, and there is no "
            f"lib/modules/{kernel.release} where its image {kernel.bzimage} lies",
            hint="lay it out as packages do, ROOT/boot/vmlinuz-RELEASE beside "
            "ROOT/lib/modules/RELEASE, or have it fetched with --kernel debian-binary:6.12",
        )


class ModuleTree:
    """A /lib/modules/VERSION directory. Module names are written with underscores."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise HostError(f"no module tree at {directory}")
        self.directory = directory
        self.version = directory.name
        self.files = {
            module_name(path): path
            for path in sorted(directory.rglob("*.ko*"))
            if _SUFFIX.search(path.name)
        }
        self.builtin = {module_name(Path(line)) for line in self._lines("modules.builtin")}
        split = (line.partition(":") for line in self._lines("modules.dep"))
        self._depends = {
            module_name(Path(path)): [module_name(Path(needed)) for needed in needs.split()]
            for path, _, needs in split
        }

    def _lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def depends(self, name: str) -> list[str]:
        """The modules `name` needs, by modules.dep, or by its .modinfo where depmod has not run:
        packages carry no modules.dep."""
        if name in self._depends:
            return self._depends[name]
        match = _DEPENDS.search(self.content(name))
        names = match[1].decode().split(",") if match else []
        return [_underscored(dependency) for dependency in names if dependency]

    def content(self, name: str) -> bytes:
        path = self.files[name]
        return _UNPACK.get(path.suffix, bytes)(path.read_bytes())

    def load_order(self, wanted: Iterable[str]) -> list[str]:
        """`wanted` and all they need, each after what it needs; what is built in is left out."""
        order: list[str] = []
        for name in wanted:
            if name in self.files:
                self._visit(name, order, ())
        return order

    def _visit(self, name: str, order: list[str], above: tuple[str, ...]) -> None:
        if name in order or name in self.builtin:
            return
        if name in above:
            raise HostError(f"modules depend on each other: {' -> '.join((*above, name))}")
        if name not in self.files:
            raise HostError(f"module {above[-1]} needs {name}, which {self.directory} lacks")
        for dependency in self.depends(name):
            self._visit(dependency, order, (*above, name))
        order.append(name)

    def chosen(self) -> list[str]:
        """The guest's modules in load order. Raises if one it cannot do without is missing."""
        missing = [name for name in REQUIRED if name not in self.files.keys() | self.builtin]
        if missing:
            raise HostError(
                f"the kernel {self.version} has no {', '.join(missing)}",
                hint=f"is {self.directory} the module tree of that kernel, with modules.builtin?",
            )
        return self.load_order(WANTED)


def module_name(path: Path) -> str:
    """kernel/drivers/misc/pvpanic/pvpanic-pci.ko.xz -> pvpanic_pci."""
    return _underscored(_SUFFIX.sub("", path.name))


def _underscored(name: str) -> str:
    return name.strip().replace("-", "_")


def nodes(tree: ModuleTree) -> list[Node]:
    order = tree.chosen()
    paths = {name: f"lib/modules/{tree.version}/{name}.ko" for name in order}
    listing = "".join(f"/{paths[name]}\n" for name in order)
    return [
        cpio.file(LIST, listing.encode()),
        *(cpio.file(paths[name], tree.content(name)) for name in order),
    ]
