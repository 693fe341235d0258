"""Whatever a project file or a manifest holds: it is read, or refused with the place named."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.errors import UsageError, VerificationError
from agent.manifest import parse, serialise
from profiles.toml_text import toml_key, toml_value
from sdk.project import Project
from sdk.project_reader import load_project

PROJECT: dict[str, Any] = {
    "model": {"name": "net", "source": "model.py:make", "checkpoint": "net.safetensors"},
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
    "dims": {"batch": {"min": 1, "opt": 1, "max": 8}},
    "data": {"samples": "data.py:samples", "metric": "top1", "labels_may_leave": True},
    "limits": {"latency_p90_ms": 10, "intel": {"size_mib": 5.5}},
    "build": {"targets": ["intel"], "profiles": {"intel": ["host"]}},
    "toolchain": {"openvino": {"time_limit_s": 60, "memory_limit_mib": 4000}},
}
HEX = "0" * 64
MANIFEST: dict[str, Any] = {
    "version": 1, "model": "net", "release": None, "release_counter": None, "requires": [],
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
    "dims": {"batch": [1, 1, 8]},
    "golden": {"sha256": HEX, "length": 10},
    "evaluation": {"sha256": HEX, "length": 10, "metric": "top1", "higher_is_better": True},
    "variants": [{
        "id": "net/intel-host/openvino-f32-01234567", "target": "intel", "profile": "intel-host",
        "role": "chosen", "rank": 0, "selection": "rank", "match": {"identity.arch": "x86_64"},
        "runtime": {"format": "openvino", "at_least": "2026.4", "below": None},
        "options": {"device": "CPU"}, "unpacked_bytes": 10,
        "files": [{"path": "model.xml", "sha256": HEX, "length": 10, "shapes": None, "deltas": []}],
        "floors": [{"output": "y", "metric": "cosine", "min_ppm": 999000}],
        "drop_max_ppm": 20000,
        "gates": [{"quantity": "latency_us", "quantile_permille": 900, "max": 10000, "min": None,
                   "ratio_max_permille": None, "ratio_to": None}],
        "provenance": {},
    }],
}  # fmt: skip

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../x", "", "\0", "host", "1.0", "float32", "batch"])
)
_anything = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path into a document."""
    yield path
    if isinstance(value, (dict, list)):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in entries:
            yield from places(inner, (*path, key))


@st.composite
def spoilt(draw: st.DrawFn, document: dict[str, Any]) -> Any:
    """The document with one or two values replaced, removed or added."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(places(found))[1:] or [()]))
        if not path:
            continue
        place = found
        for key in path[:-1]:
            place = place[key]
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "remove":
            del place[path[-1]]
        elif change == "add" and isinstance(place, dict):
            place[draw(st.text(max_size=8))] = draw(_anything)
        else:
            place[path[-1]] = draw(_anything)
    return found


def writable(value: Any) -> bool:
    """Whether TOML has a form for it."""
    if isinstance(value, dict):
        return all(map(writable, value.values()))
    if isinstance(value, list):
        return all(map(writable, value))
    return value is not None and not (isinstance(value, int) and abs(value) >= 2**63)


def as_toml(document: dict[str, Any]) -> str:
    """The document with inline tables: any value can stand anywhere."""
    return "\n".join(f"{toml_key(key)} = {toml_value(value)}" for key, value in document.items())


@given(spoilt(PROJECT).filter(writable))
@example(PROJECT)
def test_a_project_file_is_read_or_refused_with_its_place(document: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sdk.toml"
        for name in ("model.py", "data.py", "net.safetensors"):
            (Path(folder) / name).write_text("")
        file.write_text(as_toml(document), encoding="utf-8")
        refused = None
        try:
            project = load_project(file)
        except UsageError as error:
            refused = error
    if refused is None:
        assert isinstance(project, Project)
    else:
        assert repr(document) != repr(PROJECT)  # True equals 1
        assert folder in refused.what
        assert refused.remedy


@given(spoilt(MANIFEST))
@example(MANIFEST)
def test_a_manifest_is_read_or_refused(document: dict[str, Any]) -> None:
    refused = None
    try:
        manifest = parse(json.dumps(document).encode())
    except VerificationError as error:
        refused = error
    if refused is None:
        assert parse(serialise(manifest)) == manifest
    else:
        assert repr(document) != repr(MANIFEST)
        assert refused.remedy


@given(st.binary(max_size=200))
def test_bytes_that_are_no_manifest_are_refused(content: bytes) -> None:
    with pytest.raises(VerificationError):
        parse(content)
