# SPDX-License-Identifier: MIT
"""A cloud-init seed (NoCloud) for a distribution's disk image, which is not changed: keys, our
program and a service that speaks on the ready port as our own PID 1 does (docs/guest-image.md)."""

import base64
import gzip
import json
from pathlib import Path

from harness.base.resources import carried
from harness.base.status import HostError
from harness.image.keys import Keys

RECIPE = carried("guest-images") / "distribution"


def cloud_config(keys: Keys, program: bytes) -> dict[str, object]:
    """The user-data: `program` is our static binary (`cvm counters`, `cvm touch`, …)."""
    if keys.host_private_key is None:
        raise HostError("these keys have no host key that OpenSSH could read")
    packed = base64.b64encode(gzip.compress(program, mtime=0)).decode()
    return {
        "disable_root": False,
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "ssh_genkeytypes": [],
        "ssh_keys": {
            "ed25519_private": keys.host_private_key.read_text(),
            "ed25519_public": keys.host_public_key,
        },
        "users": [{"name": "root", "ssh_authorized_keys": [keys.authorized_key]}],
        "write_files": [
            _file("/usr/local/bin/cvm", packed, "0755", encoding="gz+b64"),
            _file("/usr/local/sbin/cvm-ready", _recipe("cvm-ready"), "0755"),
            _file("/etc/systemd/system/cvm-ready.service", _recipe("cvm-ready.service"), "0644"),
        ],
        "bootcmd": [["sh", "-c", _recipe("cvm-first-look")]],
        "runcmd": [["systemctl", "start", "--no-block", "cvm-ready.service"]],
    }


def _recipe(name: str) -> str:
    return (RECIPE / name).read_text()


def _file(path: str, content: str, mode: str, **more: str) -> dict[str, str]:
    return {"path": path, "content": content, "permissions": mode, "owner": "root:root", **more}


def write_seed(directory: Path, keys: Keys, program: bytes, instance: str) -> Path:
    """Fill `directory` (made, mode 0700: it holds a secret) for QEMU to make a disk of."""
    directory.mkdir(mode=0o700, parents=True)
    user_data = "#cloud-config\n" + json.dumps(cloud_config(keys, program), indent=1) + "\n"
    meta_data = json.dumps({"instance-id": instance, "local-hostname": "cvm"}) + "\n"
    (directory / "user-data").write_text(user_data)
    (directory / "meta-data").write_text(meta_data)
    return directory
