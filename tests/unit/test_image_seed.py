# SPDX-License-Identifier: MIT
"""The seed gives a distribution the run's keys, and its service speaks as our own PID 1 does."""

import base64
import gzip
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from harness.base.status import HostError
from harness.image.keys import Keys
from harness.image.seed import RECIPE, cloud_config, write_seed
from harness.record.boot import parse_init, parse_ready
from harness.record.ready import GuestMessage, parse_message


def test_the_seed_holds_keys_program_and_service(tmp_path: Path) -> None:
    keys = Keys.generate(tmp_path / "keys")
    seed = write_seed(tmp_path / "seed", keys, b"\x7fELF program", "run-1")
    assert seed.stat().st_mode & 0o777 == 0o700
    head, _, body = (seed / "user-data").read_text().partition("\n")
    assert head == "#cloud-config"
    config = json.loads(body)
    assert config["users"][0]["ssh_authorized_keys"] == [keys.authorized_key]
    assert config["ssh_keys"]["ed25519_public"] == keys.host_public_key
    assert "OPENSSH PRIVATE KEY" in config["ssh_keys"]["ed25519_private"]
    program = config["write_files"][0]
    assert gzip.decompress(base64.b64decode(program["content"])) == b"\x7fELF program"
    assert json.loads((seed / "meta-data").read_text())["instance-id"] == "run-1"


def test_keys_without_a_host_key_for_openssh_are_refused(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "a", "b", "c", tmp_path / "d")
    with pytest.raises(HostError, match="no host key"):
        cloud_config(keys, b"")


def run_service(tmp_path: Path, first_look: str | None, *words: str) -> list[GuestMessage]:
    """What the service says on a port that is a FIFO here."""
    look = tmp_path / "first-look"
    if first_look is not None:
        look.write_text(first_look)
    port = tmp_path / "port"
    os.mkfifo(port)
    script = (RECIPE / "cvm-ready").read_text()
    script = script.replace("/dev/virtio-ports/org.cvm-harness.ready", str(port))
    script = script.replace("/run/cvm-first-look", str(look))
    # A FIFO gives back what is written to it: what is said goes to a file instead.
    script = script.replace("exec 3<>", "exec 4>said; exec 3<").replace('"$2" >&3', '"$2" >&4')
    (tmp_path / "script").write_text(script)
    process = subprocess.Popen(["sh", "script"], cwd=tmp_path)
    with port.open("w") as out:
        out.write("".join(f"{word}\n" for word in words))
    assert process.wait(timeout=30) == 0
    return [parse_message(line) for line in (tmp_path / "said").read_bytes().splitlines()]


def test_the_service_says_init_and_ready_and_answers(tmp_path: Path) -> None:
    init, ready, again = run_service(tmp_path, "3670016 4200000000\n", "status")
    first = parse_init(init)
    assert (first.nr_unaccepted_pages, first.monotonic_ns) == (3670016, 4200000000)
    assert first.fields["release"] == os.uname().release
    boot = parse_ready(ready)
    assert boot.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert boot.cmdline == Path("/proc/cmdline").read_text().strip()
    assert abs(boot.monotonic_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < 60e9
    assert again.event == "ready"


def test_a_guest_that_was_not_looked_at_early_does_not_look_empty(tmp_path: Path) -> None:
    init, _ = run_service(tmp_path, None)
    assert parse_init(init).nr_unaccepted_pages == -1


@pytest.mark.parametrize(
    ("vmstat", "pages"), [("nr_free 5\nnr_unaccepted 1024\n", "1024"), ("nr_free 5\n", "-1")]
)
def test_the_first_look_counts_and_tells_absence_from_zero(
    tmp_path: Path, vmstat: str, pages: str
) -> None:
    (tmp_path / "vmstat").write_text(vmstat)
    script = (RECIPE / "cvm-first-look").read_text()
    script = script.replace("/proc/vmstat", "vmstat").replace("/run/cvm-first-look", "look")
    subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True)
    found, time_ns = (tmp_path / "look").read_text().split()
    assert found == pages
    assert int(time_ns) > 0
