"""Enrolment: whom to trust comes first, a token is not wasted, and what is kept can be relied on."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.cli import main
from agent.config import Config, read_config
from agent.device import device_of, key_fingerprint, successor_of
from agent.errors import (
    NetworkError,
    SlipwayError,
    StorageError,
    UsageError,
    VerificationError,
)
from agent.membership import FILE, Membership, keep_membership, membership_of
from agent.updates.enrol import enrol, server_address
from agent.updates.home import Home
from agent.updates.keeping import Keeper
from agent.updates.run import look
from agent.updates.server import StandingError
from agent.updates.trust import ROOT, begin_trust
from tests.updates.devices import fresh_fleet
from tests.updates.fleet import Fleet, passing
from tests.updates.fleet_double import NAME, REPOSITORY, Double, refused, says, served

pytestmark = pytest.mark.usefixtures("without_fsync")
ENROLLED: dict[str, Any] = {
    "status": "accepted",
    "fleet": NAME,
    "tenant": "default",
    "group": None,
    "repository": REPOSITORY,
}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return fresh_fleet(tmp_path)


@pytest.fixture
def double(fleet: Fleet) -> Iterator[Double]:
    with served(fleet) as made:
        yield made


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(state=tmp_path / "state")


def first_root(double: Double) -> bytes:
    return (double.fleet.repo / "metadata/1.root.json").read_bytes()


def kept(config: Config) -> set[str]:
    return {path.name for path in config.state.glob("*")}


def test_a_token_is_all_that_a_device_needs(double: Double, config: Config) -> None:
    found = enrol(config, double.url + "/", token=double.token())
    device = device_of(config.state)
    assert found["status"] == "accepted"
    assert found["device_id"] == device.device_id
    assert found["key_fingerprint"] == key_fingerprint(device.public_key)
    assert (config.state / ROOT).read_bytes() == first_root(double)
    assert found["root_sha256"] == hashlib.sha256(first_root(double)).hexdigest()
    assert membership_of(config.state) == Membership(
        server=double.url,
        fleet=NAME,
        tenant="default",
        group="line-3",
        repository=REPOSITORY,
        status="accepted",
    )
    assert double.tokens == set()
    assert read_config(None, config.state).repository == double.url + REPOSITORY
    with Home(read_config(None, config.state)) as home:
        assert home.device.device_id == found["device_id"]


def test_a_repository_that_the_operator_names_stays(double: Double, config: Config) -> None:
    enrol(config, double.url, token=double.token())
    (config.state / "agent.toml").write_text('repository = "http://mirror.example.org/"\n')
    assert read_config(None, config.state).repository == "http://mirror.example.org/"


def test_enrolling_again_is_harmless_and_says_how_it_stands_now(
    double: Double, config: Config
) -> None:
    double.standing = "pending"
    first = enrol(config, double.url, token=double.token())
    key = (config.state / "device.key").read_bytes()
    assert first["status"] == "pending"
    double.standing = "accepted"
    assert enrol(config, double.url)["status"] == "accepted", "the root is trusted by now"
    found = membership_of(config.state)
    assert found is not None
    assert found.status == "accepted"
    assert (config.state / "device.key").read_bytes() == key


def test_without_a_token_a_root_is_needed(double: Double, config: Config, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--token.*--root-sha256.*sdk-agent trust"):
        enrol(config, double.url)
    assert double.asked == []
    digest = hashlib.sha256(first_root(double)).hexdigest()
    assert enrol(config, double.url, root_sha256=digest.upper())["status"] == "accepted"
    other = Config(state=tmp_path / "other")
    begin_trust(other.state, double.fleet.repo / "metadata/1.root.json")
    assert enrol(other, double.url)["status"] == "accepted"


TOKENS = {
    "empty": "",
    "cut": "slipway-AAAAAAAAAAAAAAAAAAAAAA-AAAA",
    "of something else": "ghp_0123456789",
    "with a space": " slipway-" + "A" * 22 + "-" + "A" * 43,
}


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_what_is_no_token_is_not_sent(double: Double, config: Config, token: str) -> None:
    with pytest.raises(UsageError, match="no enrolment token"):
        enrol(config, double.url, token=token)
    assert double.asked == []
    assert kept(config) == set()


def foreign(token: str) -> str:
    """The same, for another root."""
    return token[:-43] + base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")


def test_a_token_for_another_root_is_not_spent_where_that_can_be_seen(
    double: Double, config: Config
) -> None:
    token = foreign(double.token())
    double.tokens.add(token)
    with pytest.raises(VerificationError, match="is not the root"):
        enrol(config, double.url, token=token, tenant="default")
    assert token in double.tokens
    assert double.paths("enroll") == []
    assert kept(config) <= {"device.key", "device.json"}


def test_a_repository_that_begins_with_another_root_is_not_trusted(
    double: Double, config: Config
) -> None:
    token = foreign(double.token())
    double.tokens.add(token)
    with pytest.raises(VerificationError, match="is not the root"):
        enrol(config, double.url, token=token)
    assert kept(config) == {"device.key", "device.json"}


def test_a_device_that_trusts_another_root_says_so_and_spends_nothing(
    double: Double, config: Config, tmp_path: Path
) -> None:
    other = Fleet(tmp_path / "another", small=True)
    begin_trust(config.state, other.repo / "metadata/1.root.json")
    with pytest.raises(UsageError, match="trusts another root already"):
        enrol(config, double.url, token=double.token())
    assert double.asked == []


def test_the_tenant_may_be_known_from_the_answer_alone(double: Double, config: Config) -> None:
    double.lies["/v1/repo/default/metadata/1.root.json"] = says(404, b"")
    double.lies["/v1/enroll"] = says(200, {**ENROLLED, "tenant": "b", "repository": "/v1/repo/b"})
    double.lies["/v1/repo/b/metadata/1.root.json"] = says(200, first_root(double))
    found = enrol(config, double.url, token=double.token())
    assert (found["tenant"], found["repository"]) == ("b", f"{double.url}/v1/repo/b")


def test_another_server_is_refused(double: Double, config: Config) -> None:
    enrol(config, double.url, token=double.token())
    with pytest.raises(UsageError, match=r"fleet\.json"):
        enrol(config, "http://127.0.0.1:1", token=double.token())


def test_a_used_token_is_told_in_the_servers_words(double: Double, config: Config) -> None:
    token = double.token()
    enrol(Config(state=config.state.with_name("first")), double.url, token=token)
    with pytest.raises(NetworkError, match="It is token"):
        enrol(config, double.url, token=token)
    assert FILE not in kept(config)
    assert ROOT not in kept(config)


@pytest.mark.parametrize("standing", ["rejected", "quarantined"])
def test_a_device_that_is_turned_away_ends_with_an_error(
    double: Double, config: Config, standing: str
) -> None:
    double.standing = standing
    with pytest.raises(StandingError, match=standing):
        enrol(config, double.url, token=double.token())
    found = membership_of(config.state)
    assert found is not None
    assert found.status == standing


def test_an_agent_at_work_is_to_be_stopped_first(double: Double, config: Config) -> None:
    enrol(config, double.url, token=double.token())
    with Home(config), pytest.raises(StorageError, match="Another agent"):
        enrol(config, double.url)


def test_a_new_key_counts_by_the_word_of_the_old_one(double: Double, config: Config) -> None:
    first = enrol(config, double.url, token=double.token())
    again = enrol(config, double.url, new_key=True)
    assert again["device_id"] == first["device_id"], "the name stays"
    assert again["key_fingerprint"] != first["key_fingerprint"]
    assert kept(config) >= {"device.key"}
    assert "device.key.next" not in kept(config)
    assert (config.state / "device.key").stat().st_mode & 0o777 == 0o600
    assert double.keys[first["device_id"]].public_bytes_raw() == device_of(config.state).public_key


def test_a_key_that_was_never_enrolled_is_not_replaced(double: Double, config: Config) -> None:
    with pytest.raises(UsageError, match="no key to replace"):
        enrol(config, double.url, token=double.token(), new_key=True)
    assert double.tokens


@pytest.mark.parametrize("taken", [False, True], ids=["before", "after"])
def test_a_change_of_keys_that_was_cut_off_is_finished_by_the_agent(
    double: Double, config: Config, taken: bool
) -> None:
    """Before the server took the new key, or after that and before the device heard of it."""
    first = enrol(config, double.url, token=double.token())
    old = (config.state / "device.key").read_bytes()
    double.lies["/v1/enroll"] = says(500, b"")
    with pytest.raises(NetworkError):
        enrol(config, double.url, new_key=True)
    new = (config.state / "device.key.next").read_bytes()
    assert (config.state / "device.key").read_bytes() == old
    with Home(read_config(None, config.state)) as home:
        lines: list[str] = []
        look(home, Keeper(passing), lines.append)
        assert any("not in use yet" in line for line in lines)
        assert len(double.polls) == 1, "the old one goes on"
        double.lies.clear()
        if taken:
            double.keys[first["device_id"]] = Ed25519PublicKey.from_public_bytes(
                successor_of(config.state).public_key
            )
        look(home, Keeper(passing), lines.append)
        assert len(double.polls) == 2
    assert (config.state / "device.key").read_bytes() == new
    assert "device.key.next" not in kept(config)


def test_a_server_under_a_path(double: Double, config: Config) -> None:
    double.prefix = "/slipway"
    found = enrol(config, f"{double.url}/slipway/", token=double.token())
    assert found["repository"] == f"{double.url}/slipway{REPOSITORY}"


ADDRESSES = [
    "", "fleet.example.org", "ftp://fleet.example.org", "file:///etc", "http://", "http://:80",
    "http://a:b@c", "http://user@c", "http://c?x=1", "http://c#x", "http://c/../d", "http://c//d",
    "http://c:0", "http://c:99999", "http://c:x", "http://c/ü", "http://c/a b", "http://c\n/",
    "http://c/%2e%2e", "http://[::1",
]  # fmt: skip


@pytest.mark.parametrize("url", ADDRESSES)
def test_what_is_no_address_is_refused(config: Config, url: str) -> None:
    with pytest.raises(UsageError, match="no address of a server"):
        enrol(config, url)
    assert kept(config) == set()


def test_addresses_have_one_form() -> None:
    assert server_address("http://10.0.0.7:8000") == "http://10.0.0.7:8000"
    assert server_address("https://F.example.org/a/b/") == "https://f.example.org/a/b"
    assert server_address("http://[::1]:8000/") == "http://[::1]:8000"


LIES: dict[str, Any] = {
    "a path upwards": {**ENROLLED, "repository": "../../"},
    "a path upwards from the root": {**ENROLLED, "repository": "/v1/repo/../../x"},
    "another server": {**ENROLLED, "repository": "http://evil/"},
    "another server by its name": {**ENROLLED, "repository": "//evil/v1"},
    "no path": {**ENROLLED, "repository": ""},
    "the root of the server": {**ENROLLED, "repository": "/"},
    "a question": {**ENROLLED, "repository": "/v1?x"},
    "another standing": {**ENROLLED, "status": "king"},
    "a tenant that is a path": {**ENROLLED, "tenant": "../x"},
    "a fleet that ends a header": {**ENROLLED, "fleet": 'x"\r\nA: b'},
    "a fleet without a name": {**ENROLLED, "fleet": ""},
    "a fleet without an end": {**ENROLLED, "fleet": "x" * 500_000},
    "another type": {**ENROLLED, "group": 3},
    "nothing": {},
    "a list": [],
    "no JSON": b"<html>",
    "no UTF-8": b"\xff",
    "a float": {**ENROLLED, "later": 1.5},
    "deep": b"[" * 100_000,
    "too long": b" " * (2 << 20),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_enrols_nobody(double: Double, config: Config, lie: Any) -> None:
    double.lies["/v1/enroll"] = says(200, lie)
    with pytest.raises(SlipwayError):
        enrol(config, double.url, token=double.token())
    assert kept(config) <= {"device.key", "device.json"}


@pytest.mark.parametrize("status", [201, 204, 302, 307, 400, 401, 403, 404, 409, 418, 500, 503])
def test_no_status_is_taken_for_a_yes(double: Double, config: Config, status: int) -> None:
    double.lies["/v1/enroll"] = says(status, ENROLLED, Location=f"{double.url}/v1/enroll")
    with pytest.raises(NetworkError):
        enrol(config, double.url, token=double.token())
    assert len(double.paths("enroll")) == 1
    assert FILE not in kept(config)


def test_what_is_kept_and_damaged_is_said(config: Config) -> None:
    keep_membership(config.state, Membership(**{**ENROLLED, "server": "http://c"}))
    for content in (b"", b"{}", b"[]", b'{"server": 3}', b"\xff", b"[" * 100_000):
        (config.state / FILE).write_bytes(content)
        with pytest.raises(UsageError, match="Remove it and enrol again"):
            read_config(None, config.state)


def test_the_command(double: Double, config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state", str(config.state)]
    double.standing = "pending"
    assert main(["enroll", double.url, "--token", double.token(), "--json", *state]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "pending"
    assert len(found["key_fingerprint"].split(":")) == 16
    assert main(["doctor", *state]) == 0
    out = capsys.readouterr().out
    assert found["key_fingerprint"] in out
    assert "this device is pending" in out
    double.standing = "rejected"
    assert main(["enroll", double.url, *state]) == 8
    assert main(["enroll", "nowhere", *state]) == 2
    double.lies["/v1/enroll"] = says(*refused(429, "busy"))
    assert main(["enroll", double.url, *state]) == 8
    assert "Traceback" not in capsys.readouterr().err
