"""Enrol this device with a fleet server: whom to trust, who it is, what it was told.

A token carries the hash of the repository's first root, so a device that was given nothing else
knows whom to trust. What can be checked is checked before the token is used: it is good once.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import time
import urllib.parse
from pathlib import Path
from typing import Any

from agent.codec import canonical, encode
from agent.config import Config
from agent.device import (
    Device,
    device_of,
    has_successor,
    key_fingerprint,
    succeed,
    successor_of,
)
from agent.errors import NetworkError, SlipwayError, UsageError, VerificationError
from agent.files import make_folders, storage_errors
from agent.identity import fingerprint
from agent.membership import FILE, Membership, keep_membership, membership_of
from agent.names import check_part, check_path
from agent.updates.home import only_agent
from agent.updates.http import Caller
from agent.updates.request import enrolment_statement, is_plain
from agent.updates.server import StandingError, error_of, nonsense, read_answer
from agent.updates.trust import ROOT, keep_root
from agent.updates.wire import TOKEN, Enrolled, Enrolment

_FIRST_ROOT = "/metadata/1.root.json"
_TOKEN = re.compile(TOKEN + r"-[A-Za-z0-9_-]{22}-([A-Za-z0-9_-]{43})")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_PREFIX = re.compile(r"(/[A-Za-z0-9_~][A-Za-z0-9._~-]*)*")


def enrol(
    config: Config,
    url: str,
    *,
    token: str | None = None,
    tenant: str | None = None,
    root_sha256: str | None = None,
    new_key: bool = False,
) -> dict[str, Any]:
    """Introduce this device to a server, and keep what it answers; done again, it asks anew.

    Args:
        config: of the agent, which must not be at work.
        url: of the server.
        token: that lets this device in.
        tenant: of the server, where it has several.
        root_sha256: of the repository's `1.root.json`, where neither a token nor a file tells whom
            to trust.
        new_key: replace the device's key by another one, which the old one vouches for.

    Returns:
        How the device stands, and its key's fingerprint for an operator to compare.

    Raises:
        UsageError: the address or the token is none, or it is not known whom to trust.
        VerificationError: the server's repository does not begin with the root that was told.
        StandingError: the server turns this device away.
        NetworkError: the server cannot be reached, or refuses.
        StorageError: an agent is at work, or the state folder cannot be written.
    """
    server, wanted = server_address(url), _wanted(token, root_sha256)
    with storage_errors(config.state):
        make_folders(config.state)
    with only_agent(config.state):
        before = membership_of(config.state)
        _check_same(before, server, config.state)
        if tenant is None and before is not None:
            tenant = before.tenant
        trusted = _trusted(config, wanted)
        caller = Caller(server)
        root = trusted
        if root is None:
            root = _early(caller, server, tenant, wanted)
        if new_key:
            _check_enrolled(before)
            successor_of(config.state)
        answer = _introduce(caller, server, config, tenant, token)
        device = device_of(config.state)
        found = Membership(
            server=server,
            fleet=answer.fleet,
            tenant=answer.tenant,
            group=answer.group,
            repository=answer.repository,
            status=answer.status,
        )
        told: dict[str, Any] = {}
        if trusted is None:
            place = found.repository_url + _FIRST_ROOT
            told = keep_root(config.state, root or _fetched(caller, place, wanted), place)
        keep_membership(config.state, found)
    if answer.status in ("rejected", "quarantined"):
        raise StandingError(server, answer.status)
    return {
        "status": answer.status,
        "server": server,
        "fleet": answer.fleet,
        "tenant": answer.tenant,
        "group": answer.group,
        "repository": found.repository_url,
        "device_id": device.device_id,
        "key_fingerprint": key_fingerprint(device.public_key),
        **told,
    }


def server_address(url: str) -> str:
    """A server's address in one form, with the path that it lies under.

    >>> server_address("HTTPS://Fleet.example.org/slipway/")
    'https://fleet.example.org/slipway'

    Raises:
        UsageError: it is none.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        fine = (
            url.isascii()
            and url.isprintable()
            and parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and "@" not in parts.netloc
            and not parts.query
            and not parts.fragment
            and _PREFIX.fullmatch(parts.path.rstrip("/")) is not None
        )
    except ValueError:
        fine = False
    if not fine:
        raise UsageError(
            f"{url[:200]!r} is no address of a server.",
            cause="It takes http or https, a host, perhaps a port and a path, and nothing else.",
            remedy="Write it like https://fleet.example.org or http://10.0.0.7:8000/slipway",
        )
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _wanted(token: str | None, root_sha256: str | None) -> str | None:
    """The hash of the root to trust, as the operator told it.

    Raises:
        UsageError: the token or the hash has another form, or they differ.
    """
    found = None
    if token is not None:
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise UsageError(
                "That is no enrolment token.",
                cause=f"One begins with {TOKEN}- and has {len(TOKEN) + 67} characters, this one "
                f"{len(token)}: perhaps it was cut.",
                remedy="Copy it whole; sdk fleet tokens makes another.",
            )
        found = base64.urlsafe_b64decode(match[1] + "=").hex()
    if root_sha256 is not None:
        if not _SHA256.fullmatch(root_sha256) or found not in (None, root_sha256.lower()):
            raise UsageError(
                f"{root_sha256[:80]!r} is not the sha256 of the root to trust.",
                cause="It has 64 hex digits; where a token is given, that names the same one.",
                remedy="On the publisher's machine: sha256sum metadata/1.root.json",
            )
        found = root_sha256.lower()
    return found


def _check_same(before: Membership | None, server: str, state: Path) -> None:
    if before is not None and before.server != server:
        raise UsageError(
            f"This device is enrolled with {before.server}, not with {server}.",
            cause="It belongs to another fleet, or its server has moved.",
            remedy=f"If that is meant, remove {state / FILE} first.",
        )


def _check_enrolled(before: Membership | None) -> None:
    if before is None:
        raise UsageError(
            "This device has no key to replace: it was never enrolled.",
            cause="A new key counts by the word of the one that a server knows.",
            remedy="Enrol it first, without --new-key.",
        )


def _trusted(config: Config, wanted: str | None) -> bytes | None:
    """The root that this device trusts already; None where there is none, and a hash to find it by.

    Raises:
        UsageError: there is neither, or the two differ.
    """
    place = config.root or config.state / ROOT
    if not place.is_file():
        if wanted is None:
            raise UsageError(
                "This device does not know whom to trust yet.",
                cause="No token and no root was given, and the server's own word is no proof.",
                remedy="Give a token (--token), or the sha256 of the repository's 1.root.json "
                "(--root-sha256), or bring that file here: sdk-agent trust 1.root.json",
            )
        return None
    content = place.read_bytes()
    if wanted is not None and hashlib.sha256(content).hexdigest() != wanted:
        raise UsageError(
            f"This device trusts another root already, in {place}.",
            cause="It belongs to another fleet, or the token does.",
            remedy="Nothing was used up. For another fleet begin with another state folder.",
        )
    return content


def _early(caller: Caller, server: str, tenant: str | None, wanted: str | None) -> bytes | None:
    """The first root before anything is used up; None where only the answer says where it is."""
    place = f"{server}/v1/repo/{check_part(tenant or 'default')}{_FIRST_ROOT}"
    try:
        return _fetched(caller, place, wanted)
    except (NetworkError, VerificationError):
        if tenant is not None:
            raise
        return None


def _fetched(caller: Caller, place: str, wanted: str | None) -> bytes:
    reply = caller.ask("GET", urllib.parse.urlsplit(place).path)
    if reply.status != 200:
        raise error_of(place, reply)
    if hashlib.sha256(reply.content).hexdigest() != wanted:
        raise VerificationError(
            f"{place} is not the root that this device was told to trust ({str(wanted)[:16]}…).",
            cause="The token is of another fleet or tenant, or something stands in between.",
            remedy="Nothing was trusted. Check the address and --tenant, then the network.",
        )
    return reply.content


def finish_new_key(config: Config, membership: Membership) -> Device:
    """Have the server take the key that is to replace the device's, and use it from then on.

    It may have been taken before, by an answer that was lost: the server says so again.

    Raises:
        NetworkError: the server cannot be reached, or does not take it: the old one is kept.
    """
    caller = Caller(membership.server)
    _introduce(caller, membership.server, config, membership.tenant, None)
    return device_of(config.state)


def _introduce(
    caller: Caller, server: str, config: Config, tenant: str | None, token: str | None
) -> Enrolled:
    """What the server says of this device; a new key that it takes is the device's from then on."""
    state = config.state
    device = device_of(state)
    new = successor_of(state) if has_successor(state) else None
    who = new or device
    told = Enrolment(
        device_id=device.device_id,
        public_key=base64.b64encode(who.public_key).decode(),
        created=int(time.time()),
        proof="",
        tenant=tenant or "default",
        token=token,
        fingerprint=fingerprint(config.root_folder),
    )
    statement = enrolment_statement(encode(told))
    told = dataclasses.replace(
        told,
        proof=base64.b64encode(who.sign(statement)).decode(),
        previous_proof=base64.b64encode(device.sign(statement)).decode() if new else None,
    )
    answer = _answer(caller, server, canonical(told))
    if new is not None:
        succeed(state)
    return answer


def _answer(caller: Caller, server: str, body: bytes) -> Enrolled:
    reply = caller.ask("POST", urllib.parse.urlsplit(server).path + "/v1/enroll", body)
    if reply.status != 200:
        raise error_of(server, reply)
    answer = read_answer(Enrolled, reply)
    try:
        check_part(answer.tenant)
        check_path(answer.repository.removeprefix("/"))
    except SlipwayError as error:
        raise nonsense(error.what) from error
    if not answer.repository.startswith("/") or not is_plain(answer.fleet):
        raise nonsense(f"the repository {answer.repository[:80]!r} of {answer.fleet[:80]!r}")
    return answer
