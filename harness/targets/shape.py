# SPDX-License-Identifier: MIT
"""The parts of a command line that say how large a guest is, the same on every target."""

from collections.abc import Callable

from harness.base.spec import GuestSpec
from harness.base.units import MIB


def sockets(spec: GuestSpec) -> int:
    """No socket may span nodes: the kernel warns (topology_sane(), arch/x86/kernel/smpboot.c)."""
    if spec.numa_nodes == 1:
        return 1
    return spec.numa_nodes if spec.vcpus % spec.numa_nodes == 0 else spec.vcpus


def memory_option(spec: GuestSpec) -> str:
    option = f"{spec.memory // MIB}M"
    if spec.maxmem is not None:
        option += f",slots={spec.slots},maxmem={spec.maxmem // MIB}M"
    return option


def memory_backends(spec: GuestSpec, backend: Callable[[int, int], str]) -> list[tuple[str, ...]]:
    """A memory backend for each NUMA node, ram0, ram1, …, and the nodes if there are several.

    `backend(node, mebibytes)` is the value of its -object.
    """
    unit = 2 * MIB
    share = spec.memory // spec.numa_nodes // unit * unit
    sizes = [share] * (spec.numa_nodes - 1)
    sizes.append(spec.memory - sum(sizes))
    args: list[tuple[str, ...]] = [
        ("-object", backend(node, size // MIB)) for node, size in enumerate(sizes)
    ]
    if spec.numa_nodes > 1:
        for node in range(spec.numa_nodes):
            first, last = (spec.vcpus * n // spec.numa_nodes for n in (node, node + 1))
            cpus = ",".join(f"cpus={cpu}" for cpu in range(first, last))
            args.append(("-numa", f"node,nodeid={node},memdev=ram{node},{cpus}"))
    return args
