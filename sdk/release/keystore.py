"""Private keys, encrypted at rest: one PEM file each, and what each is for.

    keys/keys.json            name -> {role, keyid, public, made, replaces}
    keys/<name>.pem           PKCS #8, encrypted with the passphrase
    keys/<name>.pem.retired   of a key that was replaced

A key whose file is kept elsewhere (a stick in a safe) stays in `keys.json`: its public half is all
that most commands need.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.codec import decode, pretty
from agent.errors import SlipwayError, UsageError, VerificationError
from agent.files import storage_errors, write_atomic
from agent.updates.freshness import TIME_FORM

PASSPHRASE = "SLIPWAY_PASSPHRASE"  # noqa: S105  the variable's name
INDEX = "keys.json"
Ask = Callable[[bool], str]
"""Asks a person for the passphrase; twice where it is told that it is a new one."""


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
    replaces: str | None = None
    """The key that it was made for: a rotation that was cut off is found by it."""


class KeyStore:
    """A folder of keys. New ones are held in memory until `save`."""

    def __init__(self, folder: Path, passphrase: str | None = None, ask: Ask | None = None) -> None:
        """The passphrase is `$SLIPWAY_PASSPHRASE` where none is given; none is needed to look."""
        self.folder = folder
        self._passphrase = passphrase or os.environ.get(PASSPHRASE)
        self._ask = ask
        self._records = _read(folder)
        self._unsaved: dict[str, Any] = {}

    @property
    def records(self) -> Mapping[str, KeyRecord]:
        """All keys by name."""
        return dict(self._records)

    def make(self, name: str, role: str, replaces: str | None = None) -> KeyRecord:
        """A new Ed25519 key, which `save` writes.

        Raises:
            UsageError: there is one of that name.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from securesystemslib.signer import CryptoSigner

        if name in self._records:
            raise UsageError(
                f"There is a key {name} already in {self.folder}.",
                cause="Keys are never overwritten.",
                remedy="Rotate it: sdk keys rotate, or name another folder: --keys DIR",
            )
        secret = Ed25519PrivateKey.generate()
        signer = CryptoSigner(secret)
        record = KeyRecord(
            role=role,
            keyid=signer.public_key.keyid,
            public=signer.public_key.to_dict(),
            made=dt.datetime.now(tz=dt.timezone.utc).strftime(TIME_FORM),
            replaces=replaces,
        )
        self._unsaved[name] = (secret, signer)
        self._records = {**self._records, name: record}
        return record

    def save(self) -> None:
        """Write the new keys, encrypted.

        Raises:
            UsageError: there is no passphrase.
            StorageError: the folder cannot be written.
        """
        from cryptography.hazmat.primitives import serialization

        if not self._unsaved:
            return
        # One that opens no key here would make a key that nobody knows to open.
        self._check_passphrase()
        encryption = serialization.BestAvailableEncryption(self._secret(new=True))
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, (secret, _) in self._unsaved.items():
            content = secret.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
            )
            write_atomic(self._place(name), content, mode=0o600)
        # The secrets first: a record without one would be a key that nobody can use.
        write_atomic(self.folder / INDEX, pretty(self._records))
        self._unsaved = {}

    def retire(self, name: str) -> None:
        """Forget a key; its file stays, under a name that nothing reads.

        Raises:
            StorageError: the folder cannot be written.
        """
        self._records = {other: r for other, r in self._records.items() if other != name}
        write_atomic(self.folder / INDEX, pretty(self._records))
        place = self._place(name)
        with storage_errors(place):
            if place.exists():
                place.replace(place.with_name(f"{place.name}.retired"))

    def keyid(self, name: str) -> str:
        """A key's name in metadata.

        Raises:
            UsageError: there is no such key.
        """
        return self._record(name).keyid

    def successor(self, name: str) -> str | None:
        """The key that was made to replace another one."""
        return next((own for own, r in self._records.items() if r.replaces == name), None)

    def public(self, name: str) -> Any:
        """The public half, as `securesystemslib.signer.Key`."""
        from securesystemslib.signer import SSlibKey

        record = self._record(name)
        return SSlibKey.from_dict(record.keyid, json.loads(json.dumps(record.public)))

    def signer(self, name: str) -> Any:
        """What signs with a key.

        Raises:
            UsageError: there is no such key here, or no passphrase.
            VerificationError: the passphrase is wrong.
        """
        from cryptography.hazmat.primitives import serialization
        from securesystemslib.signer import CryptoSigner

        if name in self._unsaved:
            return self._unsaved[name][1]
        self._record(name)
        path = self._place(name)
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
                f"The key {path} cannot be opened with this passphrase.",
                cause=f"${PASSPHRASE} is not the one that it was made with, or the file was "
                "changed.",
                remedy="Give the right one. There is no way around it: a lost key is rotated.",
            ) from error
        return CryptoSigner(secret, self.public(name))

    def has_secret(self, name: str) -> bool:
        """Whether the key's file is here."""
        return name in self._unsaved or self._place(name).is_file()

    def _place(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def _check_passphrase(self) -> None:
        here = [name for name in self._records if self._place(name).is_file()]
        if not here:
            return
        failed: SlipwayError | None = None
        for name in here:
            try:
                self.signer(name)
            except VerificationError as error:
                failed = failed or error
            else:
                return
        assert failed is not None
        raise failed

    def _record(self, name: str) -> KeyRecord:
        if name not in self._records:
            known = ", ".join(sorted(self._records)) or "none"
            raise UsageError(
                f"There is no key {name} in {self.folder}; known are {known}.",
                cause="Keys were not made yet, or lie in another folder.",
                remedy="sdk keys init makes them; --keys names the folder.",
            )
        return self._records[name]

    def _secret(self, *, new: bool = False) -> bytes:
        if not self._passphrase and self._ask is not None:
            self._passphrase = self._ask(new)
        if not self._passphrase:
            raise UsageError(
                "There is no passphrase for the keys.",
                cause="Private keys are kept encrypted.",
                remedy=f"Set ${PASSPHRASE}, for example from your password manager, or run this "
                "in a terminal, where it is asked for.",
            )
        return self._passphrase.encode()


def _read(folder: Path) -> dict[str, KeyRecord]:
    path = folder / INDEX
    try:
        told = json.loads(path.read_bytes())
        return decode(dict[str, KeyRecord], told, path.name)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, VerificationError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}.",
            cause="The file was cut short or edited by hand.",
            remedy="Restore it from a backup: private keys are useless without it.",
        ) from error
