"""A fleet server's side of the device protocol, as small as it can be: checks, counts, and lies.

It verifies signatures with another implementation of RFC 9421 than the agent's. What it answers is
what a test says: `lies` has, for a path, whoever answers in its place, byte by byte.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.exceptions import InvalidSignature as NotSigned
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    algorithms,
)
from securesystemslib.dsse import Envelope

from agent.codec import canonical, encode
from agent.config import Config
from agent.membership import membership_of
from agent.updates.assignment import ASSIGNMENT_TYPE, Assignment
from agent.updates.enrol import enrol
from agent.updates.request import COMPONENTS, enrolment_statement
from agent.updates.states import FINAL
from sdk.release.assign import assignment_for
from sdk.release.keystore import KeyStore
from sdk.release.publish import Published
from tests.updates.fleet import PASSPHRASE, Fleet

NAME = "fleet-0a1b2c3d"
REPOSITORY = "/v1/repo/default"
WINDOW_S = 300
Lie = Callable[[http.server.BaseHTTPRequestHandler], None]


class Double:
    """Answers as a server does, unless it is told to do otherwise."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.prefix = ""
        self.keys: dict[str, Ed25519PublicKey] = {}
        self.seqs: dict[str, int] = {}
        self.nonces: list[str] = []
        self.tokens: set[str] = set()
        self.standing = "accepted"
        self.clock_s = 0.0
        """How far its clock is ahead."""
        self.answer: dict[str, Any] = {}
        """What an answer to a poll says beside, or instead of, the usual."""
        self.waiting: list[dict[str, Any]] = []
        """Envelopes; the first is handed out until a device speaks of it."""
        self.results: Callable[[list[Any]], Any] = lambda reports: ["stored"] * len(reports)
        self.unreadable: set[str] = set()
        """Reports of these actions."""
        self.lies: dict[str, Lie] = {}
        self.asked: list[str] = []
        self.polls: list[dict[str, Any]] = []
        self.states: list[tuple[str, str]] = []
        self.reports: list[dict[str, Any]] = []

    url = ""

    def token(self) -> str:
        """One that is good once."""
        root = (self.fleet.repo / "metadata/1.root.json").read_bytes()
        parts = (bytes([len(self.tokens)]) * 16, hashlib.sha256(root).digest())
        token = "-".join(["slipway", *(_url64(part) for part in parts)])
        self.tokens.add(token)
        return token

    def assign(self, published: Published, device_id: str, /, **changes: Any) -> Assignment:
        """Hand a release out."""
        found, envelope = assigned(self.fleet, published, device_id, **changes)
        self.waiting.append(envelope)
        return found

    def paths(self, part: str) -> list[str]:
        """What was asked for, as far as it holds this."""
        return [path for path in self.asked if part in path]

    def reply(self, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        """The status and the answer to a request with a body."""
        if path == "/v1/enroll":
            return self._enrol(json.loads(body))
        refusal = self._claim(path, body, headers)
        if refusal is not None:
            return refusal
        told = json.loads(body)
        if path == "/v1/poll":
            return self._poll(told)
        if path == "/v1/reports":
            if any(_payload(one).get("action_id") in self.unreadable for one in told["reports"]):
                return refused(400, "malformed")
            results = self.results(told["reports"])
            self.reports += [_payload(one) for one in told["reports"]]
            return 200, {"results": results}
        found = re.fullmatch(r"/v1/actions/([^/]+)/state", path)
        if found is None:
            return refused(404, "missing")
        self.states.append((found[1], told["state"]))
        return 200, {}

    def _enrol(self, told: dict[str, Any]) -> tuple[int, Any]:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(told["public_key"]))
        try:
            key.verify(base64.b64decode(told["proof"]), enrolment_statement(told))
        except NotSigned:
            return refused(401, "unsigned")
        device_id, token = told["device_id"], told.get("token")
        before = self.keys.get(device_id)
        if before is not None and before != key:
            try:
                proof = base64.b64decode(told["previous_proof"] or "")
                before.verify(proof, enrolment_statement(told))
            except NotSigned:
                return refused(403, "taken")
        if token is not None and device_id not in self.keys:
            if token not in self.tokens:
                return refused(401, "token")
            self.tokens.remove(token)
        self.keys[device_id] = key
        return 200, {
            "status": self.standing,
            "fleet": NAME,
            "tenant": "default",
            "group": "line-3",
            "repository": REPOSITORY,
        }

    def _claim(self, path: str, body: bytes, headers: Any) -> tuple[int, Any] | None:
        """Why a signed request does not count; None where it does."""
        given = str(headers["Signature-Input"])
        device_id = _parameter(given, "keyid")
        if device_id not in self.keys:
            return refused(401, "unknown")
        verifier = _Verifier(signature_algorithm=algorithms.ED25519, key_resolver=_Keys(self.keys))
        told = _Message("POST", self.url + path, dict(headers.items()))
        try:
            verifier.verify(
                told, max_age=None, expect_tag=NAME, require_components=COMPONENTS, body=body
            )
        except InvalidSignature as error:
            return refused(401, "unsigned", what=str(error))
        created = re.search(r";created=([0-9]+);", given)
        if created is None and _parameter(given, "nonce") not in self.nonces:
            return refused(401, "unsigned")
        if created and abs(int(created[1]) - time.time() - self.clock_s) > WINDOW_S:
            return refused(401, "clock")
        if self.standing != "accepted":
            return refused(403, self.standing)
        seq = int(headers["Slipway-Request-Seq"])
        if seq <= self.seqs.get(device_id, 0):
            return replayed(self.seqs[device_id])
        self.seqs[device_id] = seq
        return None

    def _poll(self, told: dict[str, Any]) -> tuple[int, Any]:
        self.polls.append(told)
        spoken = {one["action_id"]: one["state"] for one in told["actions"]}
        spoken |= {one["action_id"]: "REJECTED" for one in told["refused"]}
        self.waiting = [e for e in self.waiting if _payload(e)["action_id"] not in spoken]
        busy = any(state not in FINAL for state in spoken.values())
        handed = self.waiting[0] if self.waiting and not busy else None
        return 200, {"next_poll_s": 60, "assignment": handed, **self.answer}


def assigned(
    fleet: Fleet,
    published: Published,
    device_id: str,
    /,
    *,
    key: str = "assignment",
    **changes: Any,
) -> tuple[Assignment, dict[str, Any]]:
    """A release for a device, signed by the online key or another one."""
    found = fleet._later(assignment_for(published, device_id=device_id))
    told = {**encode(found), **changes}
    plain = {name: value for name, value in told.items() if value is not None}
    envelope = Envelope(canonical(plain), ASSIGNMENT_TYPE, {})
    if key:
        envelope.sign(KeyStore(fleet.folder / "keys", PASSPHRASE).signer(key))
    return found, envelope.to_dict()


def joined(double: Double, name: str = "device", **config: Any) -> Config:
    """The configuration of a device that is enrolled."""
    found = double.fleet.device(name, **{"group": None, **config})
    enrol(found, double.url)
    membership = membership_of(found.state)
    assert membership is not None
    return dataclasses.replace(found, repository=membership.repository_url)


def refused(status: int, code: str, **more: Any) -> tuple[int, Any]:
    """An answer that is none."""
    told = {"code": code, "what": f"It is {code}.", "cause": "A test.", "remedy": "", **more}
    return status, {"error": told}


def replayed(seq: Any) -> tuple[int, Any]:
    """As to a number that was seen."""
    status, told = refused(409, "replayed")
    return status, {**told, "request_seq": seq}


def says(status: int, body: Any, **headers: object) -> Lie:
    """An answer, as JSON or in bytes."""

    def lie(handler: http.server.BaseHTTPRequestHandler) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        told = {"Content_Length": len(content), **headers}
        for name, value in told.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(content)

    return lie


@contextlib.contextmanager
def served(fleet: Fleet) -> Iterator[Double]:
    """A double at work."""
    double = Double(fleet)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        timeout = 5.0
        body = b""

        def do_POST(self) -> None:
            self.body = self.rfile.read(int(self.headers["Content-Length"]))
            self._answered(lambda path: double.reply(path, self.body, self.headers))

        def do_GET(self) -> None:
            self._answered(self._got)

        def _answered(self, answer: Callable[[str], tuple[int, Any]]) -> None:
            path = self.path.removeprefix(double.prefix)
            double.asked.append(path)
            lie = double.lies.get(path)
            with contextlib.suppress(OSError):
                if lie is not None:
                    lie(self)
                    return
                status, told = answer(path)
                says(status, told)(self)

        def _got(self, path: str) -> tuple[int, Any]:
            if path == "/v1/nonce":
                double.nonces.append(f"nonce-{len(double.nonces)}")
                return 200, {"nonce": double.nonces[-1], "now": int(time.time())}
            file = fleet.repo / path.removeprefix(f"{REPOSITORY}/")
            return (200, file.read_bytes()) if file.is_file() else refused(404, "missing")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    double.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclasses.dataclass
class _Message:
    method: str
    url: str
    headers: dict[str, str]


class _Keys(HTTPSignatureKeyResolver):
    def __init__(self, keys: dict[str, Ed25519PublicKey]) -> None:
        self._keys = keys

    def resolve_public_key(self, key_id: str) -> Any:
        return self._keys.get(key_id)


class _Verifier(HTTPMessageVerifier):
    require_created = False


def _parameter(given: str, name: str) -> str:
    found = re.search(rf';{name}="([^"]*)"', given)
    return found[1] if found else ""


def _payload(envelope: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return found


def _url64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
