"""Who this device is: a key of its own, and the name that follows from its first one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from agent import disk
from agent.codec import pre_authentication, pretty
from agent.errors import VerificationError
from agent.files import storage_errors, write_atomic

KEY, NAME = "device.key", "device.json"
NEXT = "device.key.next"
"""The key that is to replace the device's, until a server has taken it."""


class Device:
    """The device's identity; made at the first start, and kept."""

    def __init__(self, device_id: str, key: Any) -> None:
        self.device_id = device_id
        self._key = key

    @property
    def public_key(self) -> bytes:
        """32 bytes, Ed25519."""
        from cryptography.hazmat.primitives import serialization

        return bytes(
            self._key.public_key().public_bytes(
                serialization.Encoding.Raw, serialization.PublicFormat.Raw
            )
        )

    def sign(self, content: bytes) -> bytes:
        """64 bytes, Ed25519."""
        return bytes(self._key.sign(content))

    def envelope(self, payload: bytes, kind: str) -> bytes:
        """The payload in a DSSE envelope, signed by this device."""
        import base64

        signed = pre_authentication(kind, payload)
        record = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [
                {"keyid": self.device_id, "sig": base64.b64encode(self.sign(signed)).decode()}
            ],
        }
        return json.dumps(record, separators=(",", ":"), sort_keys=True).encode()


def device_of(folder: Path) -> Device:
    """The identity in a state folder; made if there is none.

    Raises:
        StorageError: the folder cannot be written.
        VerificationError: the key or the name cannot be read.
    """
    _make_key(folder / KEY)
    device = device_without_name(folder)
    name = folder / NAME
    if not name.exists():
        # The name stays when the key is replaced: it is of the first one.
        device_id = hashlib.sha256(device.public_key).hexdigest()[:32]
        write_atomic(name, pretty({"device_id": device_id}))
    found = named(folder)
    if found is None:
        raise VerificationError(
            f"The device's name in {name} cannot be read.",
            cause="The file was damaged, or belongs to another user.",
            remedy="Restore it from a backup. If the key was never replaced, removing the file is "
            "enough: the name follows from the key.",
        )
    device.device_id = found
    return device


def device_without_name(folder: Path) -> Device:
    """What has the key in a state folder; nothing is made.

    Raises:
        VerificationError: the key cannot be read.
    """
    return Device("", _key_in(folder / KEY))


def successor_of(folder: Path) -> Device:
    """The same device with the key that is to replace its own; made if there is none.

    Raises:
        StorageError: the folder cannot be written.
        VerificationError: a key or the name cannot be read.
    """
    _make_key(folder / NEXT)
    return Device(device_of(folder).device_id, _key_in(folder / NEXT))


def has_successor(folder: Path) -> bool:
    """Whether a new key waits for a server to take it."""
    return (folder / NEXT).exists()


def succeed(folder: Path) -> None:
    """Make the new key the device's own, durably.

    Raises:
        StorageError: the folder cannot be written.
    """
    with storage_errors(folder / KEY):
        disk.rename(folder / NEXT, folder / KEY)
        disk.sync_folder(folder)


def _make_key(path: Path) -> None:
    if path.exists():
        return
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made = Ed25519PrivateKey.generate()
    raw = made.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_atomic(path, raw, mode=0o600)


def _key_in(path: Path) -> Any:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError("it is no Ed25519 key")
    except (OSError, ValueError, TypeError) as error:
        raise VerificationError(
            f"The device's key {path} cannot be read: {error}.",
            cause="The file was damaged, or belongs to another user.",
            remedy="Restore it from a backup, or remove it: the device then enrols as a new one.",
        ) from error
    return key


def key_fingerprint(public_key: bytes) -> str:
    """What two people compare of a key: its sha256, in groups of four.

    >>> key_fingerprint(bytes(32))[:19]
    '6668:7aad:f862:bd77'
    """
    digest = hashlib.sha256(public_key).hexdigest()
    return ":".join(digest[at : at + 4] for at in range(0, 64, 4))


def named(folder: Path) -> str | None:
    """The name of the device whose state folder this is; None where there is none to be read."""
    try:
        told = json.loads((folder / NAME).read_bytes())["device_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told if isinstance(told, str) and told else None
