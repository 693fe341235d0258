"""A server whose every answer is a lie: what runs stays, nothing grows, and the agent looks again."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config import Idle
from agent.errors import NetworkError, SlipwayError
from agent.updates.http import ANSWER_BYTES, Caller
from agent.updates.install import confirm_now, install
from agent.updates.server import COUNTER, MOST_SEQ, STATE_S
from agent.updates.wire import LONGEST_POLL_S, SHORTEST_POLL_S
from sdk.release import ceremony
from tests.updates.devices import fresh_fleet
from tests.updates.fleet import MODEL, passing, silent
from tests.updates.fleet_double import Double, Lie, assigned, refused, replayed, says, served
from tests.updates.test_polling import Member, told, turns

pytestmark = pytest.mark.usefixtures("without_fsync")
MEMORY_BYTES = 32 << 20
"""More than one answer takes, decoded; less than a server could send."""


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Double]:
    with served(fresh_fleet(tmp_path)) as made:
        yield made


@pytest.fixture
def member(double: Double) -> Iterator[Member]:
    """A device on which 1.0.0 runs, confirmed, and of which all is told."""
    made = Member(double)
    made.on_trial("1.0.0")
    confirm_now(made.home, MODEL)
    made.look()
    yield made
    made.home.close()


def survives(member: Member) -> None:
    """A turn with the lie, then one without; both leave what runs as it is."""
    tracemalloc.start()
    try:
        member.look()
    except SlipwayError as error:
        member.lines.append(str(error))
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MEMORY_BYTES
    assert member.runs() == {MODEL: "1.0.0"}
    assert SHORTEST_POLL_S <= member.poller.wait_s <= LONGEST_POLL_S
    assert all(len(line) < 2000 for line in member.lines)
    double = member.double
    double.lies.clear()
    double.answer.clear()
    double.waiting.clear()
    before = len(double.polls)
    member.look()
    assert len(double.polls) > before
    assert member.runs() == {MODEL: "1.0.0"}
    assert member.home.journal.unfinished() is None


ASSIGNMENTS: dict[str, dict[str, Any]] = {
    "for another device": {"device_id": "0" * 32},
    "for a group": {"device_id": None, "group": "line-3"},
    "for nobody": {"device_id": None},
    "unsigned": {"key": ""},
    "signed by the offline key": {"key": "assignment_offline"},
    "signed by the timestamp's key": {"key": "timestamp"},
    "signed by the model's key": {"key": "model-net"},
    "expired": {"issued": "2026-01-01T00:00:00Z", "expires": "2026-01-02T00:00:00Z"},
    "issued after it expires": {
        "issued": "2099-01-01T00:00:00Z",
        "expires": "2098-01-02T00:00:00Z",
    },
    "of a number that was seen": {"assignment_seq": 1},
    "of no release": {"release_path": "models/net/9.9.9/manifest.json"},
    "of a manifest that nobody signed": {"manifest_sha256": "ab" * 32},
    "of a model that there is not": {
        "model": "none",
        "release_path": "models/none/1.0.0/manifest.json",
    },
    "of a path upwards": {"release_path": "models/net/../manifest.json"},
    "named like a path": {"action_id": "../../x"},
    "with a trial that never ends": {"deadline_s": 2**40},
}


@pytest.mark.parametrize("changes", ASSIGNMENTS.values(), ids=ASSIGNMENTS)
def test_an_assignment_that_is_not_right(
    double: Double, member: Member, changes: dict[str, Any]
) -> None:
    name = member.assign("2.0.0", **changes)
    survives(member)
    found = member.home.journal.action(name)
    assert found is None or found.state == "REJECTED"


def test_an_assignment_of_a_release_that_was_revoked(double: Double, member: Member) -> None:
    published = double.fleet.publish("2.0.0")
    ceremony.revoke(double.fleet.repository(), MODEL, published.release_counter)
    found = double.assign(published, member.home.device.device_id)
    survives(member)
    action = member.home.journal.action(found.action_id)
    assert action is not None
    assert (action.state, action.release) == ("REJECTED", "2.0.0")


def test_an_assignment_that_was_taken_before(double: Double, member: Member) -> None:
    published = double.fleet.publish("2.0.0")
    device_id = member.home.device.device_id
    _, old = assigned(double.fleet, published, device_id)
    member.on_trial("3.0.0")
    confirm_now(member.home, MODEL)
    double.answer = {"assignment": old}
    for _ in range(2):
        member.look()
    assert member.runs() == {MODEL: "3.0.0"}
    assert any("was seen already" in line for line in member.lines)


@pytest.mark.parametrize("cancel", ["its own", "none", "../x", "\x00", "x" * 500_000, ""])
def test_what_is_on_trial_is_not_called_off(double: Double, member: Member, cancel: str) -> None:
    action = member.on_trial("2.0.0")
    double.answer = {"cancel": action.id if cancel == "its own" else cancel}
    member.look()
    assert told(double) == [(action.id, "TRIAL")]
    assert member.runs() == {MODEL: "2.0.0"}


def test_what_a_person_installed_is_not_called_off(double: Double, member: Member) -> None:
    made = Member(double, name="waits", idle=Idle(hook="/nowhere"))
    published = double.fleet.publish("2.0.0")
    package = double.fleet.package(published, device_id=made.home.device.device_id)
    action = install(made.home, package, silent, passing)
    assert action.state == "STAGED"
    double.answer = {"cancel": action.id}
    after = made.look()
    assert after is not None
    assert after.state == "STAGED"
    made.home.close()


def endless(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    for _ in range(10_000):
        handler.wfile.write(b'{"next_poll_s": 1, "x": [[[ ' * 4096)


def elsewhere(handler: Any) -> None:
    url = handler.headers["Host"]
    says(307, {}, Location=f"http://{url}/elsewhere")(handler)


def silence(handler: Any) -> None:
    handler.close_connection = True


def unfinished(handler: Any) -> None:
    says(200, {"next_poll_s": 60}, Content_Length=10_000)(handler)
    handler.close_connection = True


def header_without_end(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nA: " + b"x" * (1 << 20))
    handler.close_connection = True


GOOD = json.dumps({"next_poll_s": 60}).encode()
BODIES: dict[str, Lie] = {
    "without an end": endless,
    "compressed": says(200, gzip.compress(GOOD), Content_Encoding="gzip"),
    "a bomb": says(200, gzip.compress(b" " * (64 << 20)), Content_Encoding="gzip"),
    "no JSON": says(200, b"<html>Log in</html>"),
    "no UTF-8": says(200, b"\xff\xfe"),
    "empty": says(200, b""),
    "cut off": unfinished,
    "no answer": silence,
    "a header without an end": header_without_end,
    "no HTTP": lambda handler: handler.wfile.write(b"SSH-2.0\r\n" * 10) and None,
    "deep": says(200, b"[" * 500_000 + b"]" * 500_000),
    "deep within": says(200, b'{"next_poll_s": 1, "assignment": {"a": ' + b"[" * 900_000),
    "long strings": says(
        200, {"next_poll_s": 60, "cancel": "x" * 500_000, "metadata_version": "y" * 500_000}
    ),
    "many names": says(200, {"next_poll_s": 60, **{f"n{n}": n for n in range(60_000)}}),
    "a name twice": says(200, b'{"next_poll_s": 60, "next_poll_s": 61}'),
    "a redirect": elsewhere,
    "a redirect to a file": says(301, {}, Location="file:///etc/passwd"),
    "an error without an end": says(500, b"x" * (2 << 20)),
    "an error of no form": says(403, {"error": []}),
    "an error of another form": says(403, {"error": {"code": {"a": 1}, "what": [1]}}),
    "an error that is long": says(400, {"error": {"code": "x" * 300_000, "what": "y" * 300_000}}),
    "an error that is not to be printed": says(*refused(401, "\x1b[2J", what="\x1b[2J\n\n")),
    "a wait without an end": says(*refused(429, "busy"), Retry_After="9" * 400),
    "a wait that is none": says(*refused(503, "busy"), Retry_After="-5"),
    "another status": says(299, GOOD),
    "nothing new": says(304, b""),
}
"""What stands in the place of an answer to a poll, and to everything else."""


@pytest.mark.parametrize("lie", BODIES.values(), ids=BODIES)
def test_an_answer_to_a_poll_that_is_none(double: Double, member: Member, lie: Lie) -> None:
    double.lies["/v1/poll"] = lie
    survives(member)
    assert double.paths("elsewhere") == []


def test_of_a_body_without_an_end_little_is_read(double: Double) -> None:
    double.lies["/v1/poll"] = endless
    caller = Caller(double.url)
    with pytest.raises(NetworkError, match=f"more than {ANSWER_BYTES}"):
        caller.ask("POST", "/v1/poll", b"{}")


def test_what_says_that_it_is_compressed_is_not_looked_into(double: Double) -> None:
    double.lies["/v1/poll"] = says(200, GOOD, Content_Encoding="br")
    with pytest.raises(NetworkError, match="'br', which was not asked for"):
        Caller(double.url).ask("POST", "/v1/poll", b"{}")


def test_an_answer_that_dribbles_has_its_time(double: Double) -> None:
    def dribble(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b" ")
            time.sleep(0.05)

    double.lies["/v1/poll"] = dribble
    began = time.monotonic()
    with pytest.raises(NetworkError):
        Caller(double.url).ask("POST", "/v1/poll", b"{}", limit_s=1.0)
    assert time.monotonic() - began < STATE_S


@pytest.mark.parametrize("lie", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("place", ["reports", "state", "nonce"])
@pytest.mark.long
def test_any_answer_that_is_none(double: Double, member: Member, place: str, lie: Lie) -> None:
    action_id = member.assign("2.0.0")
    if place == "nonce":
        double.clock_s = 4000.0
    path = f"/v1/actions/{action_id}/state" if place == "state" else f"/v1/{place}"
    double.lies[path] = lie
    with contextlib.suppress(NetworkError):
        member.look()
    double.lies.clear()
    member.look()
    assert member.runs() == {MODEL: "2.0.0"}
    assert member.home.journal.reports_waiting() == 0


SEQS: list[Any] = [
    2**60, 2**53, MOST_SEQ, -1, 0, "7", None, 1.5, True, [], {}, 10**30, "x" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("seq", SEQS, ids=lambda seq: repr(seq)[:20])
def test_a_number_that_no_server_has_seen(double: Double, member: Member, seq: Any) -> None:
    before = member.home.journal.number(COUNTER)
    asked = len(double.paths("/v1/poll"))
    double.lies["/v1/poll"] = says(*replayed(seq))
    with pytest.raises(NetworkError):
        member.look()
    assert len(double.paths("/v1/poll")) == asked + 1, "it is not asked again"
    assert member.home.journal.number(COUNTER) == before
    survives(member)


def test_the_highest_number_that_may_be_leaves_room(double: Double, member: Member) -> None:
    double.lies["/v1/poll"] = says(*replayed(MOST_SEQ - 1))
    survives(member)
    assert double.seqs[member.home.device.device_id] < 2**53


def test_a_clock_that_is_refused_for_ever(double: Double, member: Member) -> None:
    double.lies["/v1/poll"] = says(*refused(401, "clock"))
    survives(member)
    assert len(double.paths("/v1/nonce")) <= 2


NONCES: list[Any] = ["", "\r\nA: b", '"', "ü", "x" * 5000, None, 3, []]


@pytest.mark.parametrize("nonce", NONCES, ids=lambda nonce: repr(nonce)[:20])
def test_a_nonce_that_is_none(double: Double, member: Member, nonce: Any) -> None:
    double.clock_s = 4000.0
    double.lies["/v1/nonce"] = says(200, {"nonce": nonce, "now": 0})
    survives(member)


RESULTS: list[Callable[[list[Any]], Any]] = [
    lambda _: [],
    lambda reports: ["stored"] * (len(reports) + 1),
    lambda reports: [None] * len(reports),
    lambda _: "stored",
    lambda _: None,
    lambda reports: [{"a": 1}] * len(reports),
]


@pytest.mark.parametrize("results", RESULTS)
def test_results_that_are_none_leave_the_reports_to_be_sent(
    double: Double, member: Member, results: Callable[[list[Any]], Any]
) -> None:
    double.results = results
    member.assign("2.0.0")
    with pytest.raises(NetworkError):
        member.look()
    assert member.runs() == {MODEL: "2.0.0"}
    assert member.home.journal.reports_waiting() == 1
    double.results = lambda reports: ["known"] * len(reports)
    member.look()
    assert member.home.journal.reports_waiting() == 0


WAITS: list[Any] = [10**15, -5, 0, float("nan"), float("inf"), "60", None, True, 1.5, [60], 2**70]


@pytest.mark.parametrize("wait_s", WAITS)
def test_the_next_poll_is_within_bounds(
    double: Double, member: Member, monkeypatch: pytest.MonkeyPatch, wait_s: Any
) -> None:
    double.answer = {"next_poll_s": wait_s}
    member.home.close()
    for found in turns(member.config, monkeypatch, 2, silent):
        assert SHORTEST_POLL_S <= found <= LONGEST_POLL_S
    member.start()
    survives(member)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["net", "x" * 10_000, "\ud800", "../..", "\x00"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
ENVELOPE = st.fixed_dictionaries(
    {"payload": JSON, "payloadType": JSON, "signatures": JSON | st.lists(st.dictionaries(
        st.sampled_from(["keyid", "sig"]), JSON
    ))}
)  # fmt: skip
FIELDS = ["next_poll_s", "assignment", "cancel", "send_fingerprint", "metadata_version"]
many = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("field", FIELDS)
@given(value=JSON | ENVELOPE)
@many
def test_any_value_in_an_answer(double: Double, member: Member, field: str, value: Any) -> None:
    double.answer = {field: value}
    survives(member)


@pytest.mark.parametrize("status", [200, 401, 403, 409, 429])
@given(value=JSON)
@many
def test_any_value_in_place_of_an_answer(
    double: Double, member: Member, status: int, value: Any
) -> None:
    double.lies["/v1/poll"] = says(status, {"error": value} if status != 200 else value)
    survives(member)


@given(value=JSON | st.fixed_dictionaries({"nonce": JSON, "now": JSON}))
@many
def test_any_value_in_place_of_a_nonce(double: Double, member: Member, value: Any) -> None:
    double.clock_s = 4000.0
    double.lies["/v1/nonce"] = says(200, value)
    survives(member)
    member.restart()
