# SPDX-License-Identifier: MIT
"""Memory blocks put online and offline through sysfs."""

from harness.guest.guest import Guest


def set_blocks(guest: Guest, numbers: list[int], state: str) -> dict[int, str]:
    """Write `state` (offline, online_movable, …) to blocks; what refused it: number -> error.

    A refusal is the kernel's, e.g. "Device or resource busy" for a page that cannot move.
    """
    words = " ".join(str(number) for number in numbers)
    script = (
        f"for n in {words}; do "
        f"echo {state} 2>&1 >/sys/devices/system/memory/memory$n/state | sed s/^/$n:/; done"
    )
    said = guest.run(script, deadline_s=60 + 2 * len(numbers), check=False).text
    refused = {}
    for line in said.splitlines():
        number, _, rest = line.partition(":")
        if number.isdecimal():
            refused[int(number)] = rest.rsplit(": ", 1)[-1][:200]
    return refused
