"""Private keys, encrypted at rest: one PEM file each, and what each is for.

    keys/keys.json            name -> {role, keyid, public, made}
    keys/<name>.pem           PKCS #8, encrypted with the passphrase

A key whose file is kept elsewhere (a stick in a safe) stays in `keys.json`: its public half is all
that most commands need.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.codec import decode, pretty
from agent.errors import UsageError, VerificationError
from agent.files import write_atomic

PASSPHRASE = "SLIPWAY_PASSPHRASE"  # noqa: S105  the variable's name
INDEX = "keys.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """What is known of a key without its secret."""

    role: str
    """`root`, `targets`, `snapshot`, `timestamp`, `assignment`, `assignment_offline`, or
    `model-<name>`."""
    keyid: str
    public: dict[str, Any]
    """As TUF metadata has it."""
    made: str


class KeyStore:
    """A folder of keys."""

    def __init__(self, folder: Path, passphrase: str | None = None) -> None:
        """The passphrase is `$SLIPWAY_PASSPHRASE` where none is given; none is needed to look."""
        self.folder = folder
        self._passphrase = passphrase or os.environ.get(PASSPHRASE)
        self._records = _read(folder)

    @property
    def records(self) -> Mapping[str, KeyRecord]:
        """All keys by name."""
        return dict(self._records)

    def of_role(self, role: str) -> dict[str, KeyRecord]:
        """A role's keys by name."""
        return {name: r for name, r in self._records.items() if r.role == role}

    def make(self, name: str, role: str) -> KeyRecord:
        """A new Ed25519 key.

        Raises:
            UsageError: there is one of that name, or no passphrase.
            StorageError: the folder cannot be written.
        """
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from securesystemslib.signer import CryptoSigner

        if name in self._records:
            raise UsageError(
                f"There is a key {name} already in {self.folder}.",
                cause="Keys are never overwritten.",
                remedy="Rotate it: sdk keys rotate, or name another folder: --keys DIR",
            )
        secret = Ed25519PrivateKey.generate()
        content = secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(self._secret()),
        )
        public = CryptoSigner(secret).public_key
        record = KeyRecord(
            role=role,
            keyid=public.keyid,
            public=public.to_dict(),
            made=dt.datetime.now(tz=dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        # The secret first: a record without one would be a key that nobody can use.
        write_atomic(self.folder / f"{name}.pem", content, mode=0o600)
        self._keep({**self._records, name: record})
        return record

    def retire(self, name: str) -> None:
        """Forget a key; its file stays, under a name that nothing reads."""
        path = self.folder / f"{name}.pem"
        left = {other: record for other, record in self._records.items() if other != name}
        self._keep(left)
        if path.exists():
            path.rename(path.with_suffix(f".{self.keyid(name)[:8] if name in left else 'retired'}"))

    def keyid(self, name: str) -> str:
        """A key's name in metadata.

        Raises:
            UsageError: there is no such key.
        """
        return self._record(name).keyid

    def public(self, name: str) -> Any:
        """The public half, as `securesystemslib.signer.Key`."""
        from securesystemslib.signer import SSlibKey

        record = self._record(name)
        return SSlibKey.from_dict(record.keyid, dict(record.public))

    def signer(self, name: str) -> Any:
        """What signs with a key.

        Raises:
            UsageError: there is no such key here, or no passphrase.
            VerificationError: the passphrase is wrong.
        """
        from cryptography.hazmat.primitives import serialization
        from securesystemslib.signer import CryptoSigner

        path = self.folder / f"{name}.pem"
        self._record(name)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"The key {name} is not at {path}: {error.strerror}.",
                cause="Its file is kept elsewhere, as an offline key should be.",
                remedy="Bring the file back for this command, and take it away afterwards.",
            ) from error
        try:
            secret = serialization.load_pem_private_key(content, self._secret())
        except (ValueError, TypeError) as error:
            raise VerificationError(
                f"The key {path} cannot be opened: {error}.",
                cause=f"${PASSPHRASE} is not the passphrase that it was made with.",
                remedy="Set the right one. There is no way around it: a lost key is rotated.",
            ) from error
        return CryptoSigner(secret, self.public(name))

    def has_secret(self, name: str) -> bool:
        """Whether the key's file is here."""
        return (self.folder / f"{name}.pem").is_file()

    def _record(self, name: str) -> KeyRecord:
        if name not in self._records:
            raise UsageError(
                f"There is no key {name} in {self.folder}.",
                cause="Keys were not made yet, or lie in another folder.",
                remedy="sdk keys status shows them; sdk keys init makes them; --keys names the "
                "folder.",
            )
        return self._records[name]

    def _secret(self) -> bytes:
        if not self._passphrase:
            raise UsageError(
                "There is no passphrase for the keys.",
                cause="Private keys are kept encrypted.",
                remedy=f"Set ${PASSPHRASE}, for example from your password manager.",
            )
        return self._passphrase.encode()

    def _keep(self, records: dict[str, KeyRecord]) -> None:
        write_atomic(self.folder / INDEX, pretty(records))
        self._records = records


def _read(folder: Path) -> dict[str, KeyRecord]:
    path = folder / INDEX
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}.",
            cause="The file was cut short or edited by hand.",
            remedy="Restore it from a backup: private keys are useless without it.",
        ) from error
    return {name: decode(KeyRecord, entry, f"{path.name}.{name}") for name, entry in told.items()}
