"""Private keys at rest."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agent.errors import UsageError, VerificationError
from sdk.release.keystore import KeyStore

PASSPHRASE = "correct horse"


@pytest.fixture(autouse=True)
def no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIPWAY_PASSPHRASE", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keys = KeyStore(tmp_path / "keys", PASSPHRASE)
    keys.make("root-1", "root")
    keys.make("timestamp", "timestamp")
    keys.save()
    return keys.folder


def test_a_key_is_encrypted_and_for_its_owner_alone(folder: Path) -> None:
    path = folder / "root-1.pem"
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    index = (folder / "keys.json").read_text()
    assert "PRIVATE" not in index
    assert PASSPHRASE not in index


def test_nothing_is_written_before_it_is_saved(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "keys", PASSPHRASE)
    keys.make("root-1", "root")
    assert keys.signer("root-1") is not None
    assert not (tmp_path / "keys").exists()


def test_a_key_signs_after_it_was_read_again(folder: Path) -> None:
    keys = KeyStore(folder, PASSPHRASE)
    signature = keys.signer("root-1").sign(b"data")
    keys.public("root-1").verify_signature(signature, b"data")
    assert signature.keyid == keys.keyid("root-1")


def test_a_wrong_passphrase_is_told(folder: Path) -> None:
    with pytest.raises(VerificationError, match="cannot be opened with this passphrase") as caught:
        KeyStore(folder, "battery staple").signer("root-1")
    assert "battery" not in str(caught.value)
    assert caught.value.exit_code == 7


def test_a_new_key_takes_the_passphrase_of_the_others(folder: Path) -> None:
    keys = KeyStore(folder, "wrong")
    keys.make("targets-1", "targets")
    with pytest.raises(VerificationError, match="this passphrase"):
        keys.save()
    assert "targets-1" not in KeyStore(folder).records


@pytest.mark.parametrize("passphrase", [None, ""])
def test_no_passphrase_is_told(folder: Path, passphrase: str | None) -> None:
    with pytest.raises(UsageError, match="no passphrase") as caught:
        KeyStore(folder, passphrase).signer("root-1")
    assert "$SLIPWAY_PASSPHRASE" in caught.value.remedy


def test_the_environment_or_a_person_tells_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def ask(new: bool) -> str:
        asked.append(new)
        return PASSPHRASE

    keys = KeyStore(folder, ask=ask)
    assert keys.signer("root-1") is not None
    assert keys.signer("timestamp") is not None
    assert asked == [False]  # once, and not as a new one
    monkeypatch.setenv("SLIPWAY_PASSPHRASE", PASSPHRASE)
    assert KeyStore(folder, ask=ask).signer("root-1") is not None
    assert asked == [False]


def test_a_new_passphrase_is_asked_for_as_such(tmp_path: Path) -> None:
    asked: list[bool] = []

    def ask(new: bool) -> str:
        asked.append(new)
        return PASSPHRASE

    keys = KeyStore(tmp_path / "keys", ask=ask)
    keys.make("root-1", "root")
    keys.save()
    assert asked == [True]


def test_a_key_that_lies_elsewhere_is_known_and_cannot_sign(folder: Path) -> None:
    (folder / "root-1.pem").unlink()
    keys = KeyStore(folder, PASSPHRASE)
    assert not keys.has_secret("root-1")
    assert keys.public("root-1").keyid == keys.keyid("root-1")
    with pytest.raises(UsageError, match="is not at") as caught:
        keys.signer("root-1")
    assert "Bring the file back" in caught.value.remedy


def test_a_key_file_that_was_changed_is_told(folder: Path) -> None:
    (folder / "root-1.pem").write_bytes(b"something else")
    with pytest.raises(VerificationError, match="or the file was changed"):
        KeyStore(folder, PASSPHRASE).signer("root-1")


def test_an_unknown_key_is_answered_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(UsageError, match="known are root-1, timestamp"):
        KeyStore(folder).keyid("rot-1")


def test_no_key_is_made_twice(folder: Path) -> None:
    with pytest.raises(UsageError, match="a key root-1 already"):
        KeyStore(folder, PASSPHRASE).make("root-1", "root")


def test_a_retired_key_is_put_away_and_not_lost(folder: Path) -> None:
    keys = KeyStore(folder, PASSPHRASE)
    keys.retire("timestamp")
    assert set(KeyStore(folder).records) == {"root-1"}
    assert (folder / "timestamp.pem.retired").is_file()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"root-1": {}}', b'{"root-1": 1}', b"\xff"])
def test_an_index_that_was_cut_short_is_told(folder: Path, content: bytes) -> None:
    (folder / "keys.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"keys\.json cannot be read"):
        KeyStore(folder)
