"""Metadata that was changed anywhere, or has any form: refused, and no crash."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Metadata

from agent.errors import SlipwayError, VerificationError
from agent.updates.trust import Trust, View
from tests.updates.fleet import MODEL, utc
from tests.updates.worlds import World, make_world, trust_of

pytestmark = pytest.mark.usefixtures("without_fsync")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9]+|true|false|null')


def _flips(content: bytes) -> list[bytes]:
    """A copy for each name and value, with one bit of it changed."""
    made = []
    for token in TOKEN.finditer(content):
        at = (token.start() + token.end()) // 2
        changed = bytearray(content)
        changed[at] ^= 1
        made.append(bytes(changed))
    return made


def _what(view: View, world: World) -> tuple[Any, ...]:
    """All that the agent takes from a repository."""
    return (
        view.manifest(world.path, world.sha256),
        view.revoked(MODEL),
        [key.keyid for key in view.assignment_keys(offline=True).keys],
    )


def _try(world: World, folder: Path, role: str, content: bytes) -> bool:
    """Whether a changed file was refused; if not, nothing else came out of it."""
    repo = world.second.copy()
    repo.files[repo.path(role)] = content
    try:
        found = _what(trust_of(world, folder).refresh(repo, utc()), world)
    except VerificationError:
        return True
    assert found == _what(trust_of(world, folder / "right").refresh(world.second, utc()), world)
    # What is not signed may say anything: that a key of several has not signed, for one.
    right = Metadata[Any].from_bytes(world.second.files[world.second.path(role)])
    assert Metadata[Any].from_bytes(content).signed == right.signed
    return False


def _all_flips(world: World, folder: Path, every: int) -> int:
    refused = 0
    for role in ("timestamp", "snapshot", "targets", "model-net", "root"):
        for number, content in enumerate(_flips(world.second.files[world.second.path(role)])):
            if number % every == 0:
                refused += _try(world, folder / f"{role}-{number}", role, content)
    return refused


def test_a_changed_byte_in_some_fields_of_all_metadata_is_refused(
    world: World, tmp_path: Path
) -> None:
    assert _all_flips(world, tmp_path, every=15) > 12


@pytest.mark.long
def test_a_changed_byte_in_any_field_of_any_metadata_is_refused(
    world: World, tmp_path: Path
) -> None:
    assert _all_flips(world, tmp_path, every=1) > 200


# Metadata of any other form.

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(2**31)
    | st.just(10**4000)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["2026-11-21T12:00:00Z", "1.0.31", "ed25519"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@settings(max_examples=12)
@given(data=st.data())
def test_metadata_of_any_form_is_refused_and_no_crash(
    world: World, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    _any_form(world, tmp_path_factory.mktemp("any"), data)


@pytest.mark.long
@settings(max_examples=1500)
@given(data=st.data())
def test_metadata_of_many_forms_is_refused_and_no_crash(
    world: World, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    _any_form(world, tmp_path_factory.mktemp("any"), data)


def _any_form(world: World, folder: Path, data: st.DataObject) -> None:
    role = data.draw(st.sampled_from(["timestamp", "snapshot", "targets", "model-net", "root"]))
    told = json.loads(world.second.files[world.second.path(role)])
    node: Any = told
    while True:
        key = data.draw(
            st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))
        )
        below = node[key]
        if not isinstance(below, (dict, list)) or not below or data.draw(st.booleans()):
            break
        node = below
    node[key] = data.draw(VALUES)
    if told == json.loads(world.second.files[world.second.path(role)]):
        return
    try:
        content = json.dumps(told).encode()
    except ValueError:  # an integer that no reader takes
        return
    repo = world.second.copy()
    repo.files[repo.path(role)] = content
    try:
        found = _what(Trust(folder / "trust", world.root).refresh(repo, utc()), world)
    except SlipwayError:
        return
    assert found[0] == world.content


@settings(max_examples=6)
@given(content=st.binary(max_size=60) | st.just(b"[" * 5000) | st.just(b'{"signed":' * 3000))
def test_bytes_of_any_form_are_refused_and_no_crash(
    world: World, tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    for role in ("timestamp", "root"):
        repo = world.second.copy()
        repo.files[repo.path(role)] = content
        with pytest.raises(SlipwayError):
            trust_of(world, tmp_path_factory.mktemp("any")).refresh(repo, utc())
