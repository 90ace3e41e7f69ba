# SPDX-License-Identifier: MIT
"""One run's SSH keys, new each time, so that the guest that answers is the one we made. The
client's is RSA: an emulated guest checks it in a few ms, Ed25519 in 40 (dropbear 2022.83, TCG)."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from harness.image import cpio

PRIVATE_KEY = "id_rsa"
_RSA_BITS = 2048
LAYER = "keys.cpio"
HOST_KEY = "host_ed25519"
SEED_BYTES = 64
"""What PID 1 credits to the guest's random number generator: the host's entropy."""


@dataclass(frozen=True)
class Keys:
    """What the host keeps, and what goes into the guest."""

    private_key: Path
    """The client's private key in OpenSSH format, mode 0600: for `ssh -i` and for paramiko."""
    authorized_key: str
    """The client's public key: a line of authorized_keys."""
    host_public_key: str
    """The guest's host key to pin: "ssh-ed25519 AAAA…", the part of a known_hosts line after the
    host's name."""
    layer: Path
    """The uncompressed cpio archive that gives the guest its keys, and entropy. Mode 0600."""
    host_private_key: Path | None = None
    """The guest's host key in OpenSSH format, mode 0600: for a guest that is a distribution."""

    @classmethod
    def generate(cls, directory: Path) -> Keys:
        """New keys in `directory`, which is made if need be: PRIVATE_KEY, LAYER and HOST_KEY."""
        directory.mkdir(parents=True, exist_ok=True)
        client = rsa.generate_private_key(65537, _RSA_BITS)
        host = Ed25519PrivateKey.generate()
        private, host_private = (
            key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
            for key in (client, host)
        )
        authorized, public = (
            key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
            for key in (client, host)
        )
        return cls(
            write_secret(directory / PRIVATE_KEY, private),
            authorized,
            public,
            write_secret(directory / LAYER, _layer(authorized, _dropbear(host))),
            write_secret(directory / HOST_KEY, host_private),
        )

    @classmethod
    def restore(
        cls, directory: Path, files: Mapping[str, bytes], authorized_key: str, host_public_key: str
    ) -> Keys:
        """Keys that were generated before, from the content of their `files`, in `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        return cls(
            write_secret(directory / PRIVATE_KEY, files[PRIVATE_KEY]),
            authorized_key,
            host_public_key,
            write_secret(directory / LAYER, files[LAYER]),
        )

    def copy(self, directory: Path) -> Keys:
        """The same keys in `directory`, which is made if need be."""
        files = {PRIVATE_KEY: self.private_key.read_bytes(), LAYER: self.layer.read_bytes()}
        return Keys.restore(directory, files, self.authorized_key, self.host_public_key)


def write_secret(path: Path, *parts: bytes) -> Path:
    """Write a file of mode 0600 anew."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(parts)
    return path


def _layer(authorized_key: str, host_key: bytes) -> bytes:
    return cpio.archive(
        [
            cpio.directory("root", 0o700),
            cpio.directory("root/.ssh", 0o700),
            cpio.file("root/.ssh/authorized_keys", f"{authorized_key}\n".encode(), 0o600),
            cpio.directory("etc/dropbear", 0o700),
            cpio.file("etc/dropbear/host_key", host_key, 0o600),
            cpio.file("etc/harness/seed", os.urandom(SEED_BYTES), 0o600),
        ]
    )


def _dropbear(key: Ed25519PrivateKey) -> bytes:
    """Two SSH strings, after dropbear's src/ed25519.c, buf_put_ed25519_priv_key."""
    seed = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    strings = (b"ssh-ed25519", seed + public)
    return b"".join(struct.pack(">I", len(string)) + string for string in strings)
