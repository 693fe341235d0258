"""Releases and packages that mean harm, though they may be signed: none is taken, none crashes.

Whatever comes out is a SlipwayError, and nothing is written but where it belongs. `make test-long`
runs more than ten thousand cases, `make check` some hundreds of the same.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agent
from agent.codec import MOST_INTEGER
from agent.errors import SlipwayError, VerificationError
from agent.formats import formats
from agent.manifest import Fingerprint, parse
from agent.sessions import load
from agent.updates.blobs import Blobs
from agent.updates.ladder import offer
from agent.updates.obtain import check_room, needed
from agent.updates.slots import OWN_FILES, Slots, variant_record
from agent.updates.sound import MOST_DELTAS, MOST_FILES, check_sound
from agent.variant import record_bytes

A, B = "a" * 64, "b" * 64

pytestmark = pytest.mark.usefixtures("without_fsync")

DEVICE = Fingerprint(
    identity={"arch": "x86_64", "isa": ["avx2"], "memory_bytes": 1 << 33},
    software={"runtimes": {"onnxruntime": "1.31.0"}},
    conditions={},
)
FILE = {"path": "model.bin", "sha256": A, "length": 4, "shapes": None, "deltas": []}
VARIANT: dict[str, Any] = {
    "id": "net/intel-any/best",
    "target": "intel",
    "profile": "intel-any",
    "role": "chosen",
    "rank": 0,
    "selection": "rank",
    "match": {"identity.arch": "x86_64", "identity.isa": {"has": ["avx2"]}},
    "runtime": {"format": "onnxruntime", "at_least": "1.2", "below": None},
    "options": {},
    "unpacked_bytes": 4,
    "files": [FILE],
    "floors": [{"output": "y", "metric": "cosine", "min_ppm": 999_000}],
    "drop_max_ppm": None,
    "gates": [{"quantity": "latency_us", "quantile_permille": 500, "max": 1000}],
    "provenance": {},
}
RIGHT: dict[str, Any] = {
    "version": 1,
    "model": "net",
    "release": "1.0.0",
    "release_counter": 1,
    "requires": [],
    "inputs": [{"name": "x", "dtype": "float32", "shape": [1, "n"]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": [1]}],
    "dims": {"n": [1, 2, 3]},
    "golden": {"sha256": B, "length": 5},
    "evaluation": None,
    "variants": [VARIANT],
}


def taken(content: bytes, folder: Path) -> None:
    """What the agent does with a signed manifest before anything of it runs."""
    manifest = parse(content)
    check_sound(manifest, OWN_FILES)
    found = offer(manifest, DEVICE, formats())
    blobs = Blobs(folder / "state/blobs")
    items = needed(manifest, found.tried)
    check_room(items.values(), blobs, folder / "state/staging", 1 << 40)
    for variant in found.tried:
        for file in variant.files:
            blobs.path(file.sha256).write_bytes(b"1234"[: file.length])
        Slots(folder / "state/models/net").fill("A", content, variant, blobs)


def _place(folder: Path) -> Path:
    (folder / "state/blobs").mkdir(parents=True, exist_ok=True)
    (folder / "state/models/net").mkdir(parents=True, exist_ok=True)
    return folder


def _outside(folder: Path) -> list[str]:
    """What lies in a folder, but for the agent's state."""
    return [path.name for path in folder.iterdir() if path.name != "state"]


def test_names_without_end_are_looked_through_in_little_time(tmp_path: Path) -> None:
    names = b",".join(b'"%d":0' % n for n in range(300_000))
    with pytest.raises(VerificationError, match="is there twice"):
        taken(b"{" + names + b',"299999":0}', _place(tmp_path))


def test_the_right_one_is_taken(tmp_path: Path) -> None:
    taken(json.dumps(RIGHT).encode(), _place(tmp_path))
    assert (tmp_path / "state/models/net/A/model.bin").read_bytes() == b"1234"


def _with(path: str, value: Any) -> bytes:
    """The right manifest with one value replaced; `variants.0.files` is a list's first entry."""
    told = copy.deepcopy(RIGHT)
    node: Any = told
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in above:
        node = node[part]
    node[last] = value
    return json.dumps(told).encode()


def _file(path: str) -> bytes:
    return _with("variants.0.files.0.path", path)


def _files(*paths: str) -> bytes:
    return _with("variants.0.files", [{**FILE, "path": path} for path in paths])


def _raw(old: bytes, new: bytes) -> bytes:
    content = json.dumps(RIGHT).encode()
    assert old in content
    return content.replace(old, new, 1)


DELTA = {"base_sha256": A, "sha256": B, "length": 5, "algo": "planes-zstd"}
HOSTILE: dict[str, bytes] = {
    "upwards": _file("../../etc/passwd"),
    "upwards inside": _file("a/../../b"),
    "absolute": _file("/etc/passwd"),
    "hidden": _file(".bashrc"),
    "a folder": _file("a/"),
    "nothing": _file(""),
    "too deep": _file("a/b/c/d/e"),
    "null": _file("a\0b"),
    "backslashes": _file("..\\..\\a"),
    "half a character": _file("\ud800"),
    "the manifest's own name": _file("manifest.json"),
    "the slot's own name": _file("slot.json"),
    "the slot's own name in capitals": _file("SLOT.JSON"),
    "below the slot's own name": _file("slot.json/a"),
    "the record's own name": _file("variant.json"),
    "twice": _files("a", "a"),
    "twice in other cases": _files("a", "A"),
    "twice in a folder": _files("a/b", "A/b"),
    "a folder of a file": _files("a", "a/b"),
    "no files": _files(),
    "too many files": _files(*(f"f{n}" for n in range(MOST_FILES + 1))),
    "no variants": _with("variants", []),
    "a variant twice": _with("variants", [VARIANT, VARIANT]),
    "too many variants": _with("variants", [{**VARIANT, "id": f"net/p/{n}"} for n in range(1001)]),
    "a variant that leads upwards": _with("variants.0.id", "../../x"),
    "a model that leads upwards": _with("model", ".."),
    "a model that is a path": _with("model", "a/b"),
    "a release that leads upwards": _with("release", ".."),
    "never published": _with("release", None),
    "never counted": _with("release_counter", None),
    "a counter of nothing": _with("release_counter", 0),
    "a counter beyond": _with("release_counter", MOST_INTEGER + 1),
    "a counter without end": _raw(b'"release_counter": 1', b'"release_counter": ' + b"9" * 4000),
    "a counter that no reader takes": _raw(
        b'"release_counter": 1', b'"release_counter": ' + b"9" * 5000
    ),
    "a float": _raw(b'"length": 4', b'"length": 4.0'),
    "an exponent": _raw(b'"length": 4', b'"length": 4e0'),
    "no number": _raw(b'"length": 4', b'"length": NaN'),
    "endless": _raw(b'"length": 4', b'"length": Infinity'),
    "endless below": _raw(b'"length": 4', b'"length": -Infinity'),
    "a float in a field that nobody knows": _raw(b'"version": 1', b'"version": 1, "more": 0.5'),
    "a length below nothing": _with("variants.0.files.0.length", -1),
    "two lengths of one file": _with(
        "variants.0.files", [FILE, {**FILE, "path": "b", "length": 9}]
    ),
    "no sha256": _with("variants.0.files.0.sha256", "../../x"),
    "a sha256 in capitals": _with("golden.sha256", "B" * 64),
    "a golden file upwards": _with("golden.sha256", "../" * 21 + "a"),
    "a delta from nowhere": _with(
        "variants.0.files.0.deltas", [{**DELTA, "base_sha256": "/etc/passwd"}]
    ),
    "a delta to nowhere": _with("variants.0.files.0.deltas", [{**DELTA, "sha256": ".."}]),
    "too many deltas": _with("variants.0.files.0.deltas", [DELTA] * (MOST_DELTAS + 1)),
    "a runtime of no version": _with("variants.0.runtime.at_least", "newest"),
    "a runtime of a version without end": _with("variants.0.runtime.below", "9" * 5000),
    "a rank below": _with("variants.0.rank", -1),
    "room below nothing": _with("variants.0.unpacked_bytes", -1),
    "a requirement": _with("requires", ["time-travel"]),
    "another version": _with("version", 2),
    "true for a version": _with("version", True),
    "a version as a string": _with("version", "1"),
    "too deep a list": _raw(b'"provenance": {}', b'"provenance": ' + b"[" * 9000 + b"]" * 9000),
    **{
        f"nested {depth} deep": _raw(
            b'"provenance": {}', b'"provenance": {"a": ' + b"[" * depth + b"]" * depth + b"}"
        )
        for depth in (64, 200, *range(900, 1000, 7))
    },
    "too deep an object": _raw(
        b'"provenance": {}', b'"provenance": ' + b'{"a":' * 9000 + b"1" + b"}" * 9000
    ),
    "a name twice": _raw(b'"model": "net"', b'"model": "evil", "model": "net"'),
    "UTF-16": json.dumps(RIGHT).encode("utf-16"),
    "a mark in front": b"\xef\xbb\xbf" + json.dumps(RIGHT).encode(),
    "no JSON": b"\x80\x04N.",
    "empty": b"",
    "a list": b"[]",
    "cut short": json.dumps(RIGHT).encode()[:-1],
    "something behind": json.dumps(RIGHT).encode() + b"{}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    _place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(VerificationError):
        taken(HOSTILE[name], tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def _fields(value: Any, path: str = "") -> list[str]:
    """The paths of all values, `a.0.b`."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, below in pairs:
        here = f"{path}{key}"
        found.append(here)
        if isinstance(below, (dict, list)):
            found += _fields(below, f"{here}.")
    return found


FREE = ("match", "options", "provenance")
"""Objects of any form, whose values are not the agent's."""


@pytest.mark.parametrize("field", [f for f in _fields(RIGHT) if not {*FREE} & {*f.split(".")}])
def test_a_wrong_type_in_any_field_is_refused(tmp_path: Path, field: str) -> None:
    node: Any = RIGHT
    for part in field.split("."):
        node = node[int(part) if part.isdigit() else part]
    last = field.rpartition(".")[2]
    kinds = {type(node), *OPTIONAL.get(last, ())} | ({int, str} if ".shape." in field else set())
    for other in (None, True, 1.5, "x", -1, [], {}):
        if type(other) not in kinds:
            with pytest.raises(VerificationError):
                taken(_with(field, other), _place(tmp_path))


OPTIONAL: dict[str, tuple[type, ...]] = {
    "evaluation": (type(None), dict),
    "shapes": (type(None), dict),
    "at_least": (type(None), str),
    "below": (type(None), str),
    "drop_max_ppm": (type(None), int),
    "quantile_permille": (type(None), int),
    "max": (type(None), int),
}
"""What may be null, and what it is otherwise; all other fields have one type."""


# Anything at all.

TEXTS = (
    st.text(max_size=12)
    | st.from_regex(r"[./\\a~$-]{0,10}", fullmatch=True)
    | st.sampled_from(["../x", "/x", "a" * 300, "CON", "a.", "x\n", "\x1b[2J", "onnxruntime", A, B])
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 5)
    | st.sampled_from([2**31, 2**53, 2**63, 2**64, 10**400, -(2**63)])
    | st.floats()
    | TEXTS
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ALL_FIELDS = _fields(RIGHT)
CHANGES = st.lists(st.tuples(st.sampled_from(ALL_FIELDS), VALUES), min_size=1, max_size=3)


def _any_manifest(folder: Path, changes: list[tuple[str, Any]]) -> None:
    told = copy.deepcopy(RIGHT)
    for field, value in changes:
        node: Any = told
        *above, last = [int(part) if part.isdigit() else part for part in field.split(".")]
        try:
            for part in above:
                node = node[part]
            node[last] = value
        except (TypeError, LookupError):
            continue  # an earlier change has replaced what is above
    _place(folder)
    with contextlib.suppress(SlipwayError):
        taken(json.dumps(told).encode(), folder)
    assert not _outside(folder)
    for path in (folder / "state").rglob("*"):
        assert not path.is_symlink()


@settings(max_examples=60)
@given(changes=CHANGES)
def test_a_manifest_of_any_form_does_no_harm(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, Any]]
) -> None:
    _any_manifest(tmp_path_factory.mktemp("m"), changes)


@pytest.mark.long
@settings(max_examples=6000)
@given(changes=CHANGES)
def test_many_manifests_of_any_form_do_no_harm(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, Any]]
) -> None:
    _any_manifest(tmp_path_factory.mktemp("m"), changes)


def _any_path(folder: Path, path: str) -> None:
    _place(folder)
    try:
        taken(_file(path), folder)
    except VerificationError:
        assert not (folder / "state/models/net/A").exists()
    else:
        assert (folder / "state/models/net/A" / path).read_bytes() == b"1234"
    assert not _outside(folder)


PATHS = st.from_regex(r"[./\\aA~:$ \x00-]{0,12}", fullmatch=True) | st.text(max_size=10)


@settings(max_examples=50)
@given(path=PATHS)
def test_a_file_of_any_path_stays_in_its_slot(
    tmp_path_factory: pytest.TempPathFactory, path: str
) -> None:
    _any_path(tmp_path_factory.mktemp("p"), path)


@pytest.mark.long
@settings(max_examples=2000)
@given(path=PATHS)
def test_files_of_many_paths_stay_in_their_slot(
    tmp_path_factory: pytest.TempPathFactory, path: str
) -> None:
    _any_path(tmp_path_factory.mktemp("p"), path)


# Pickles: what loads one runs whatever it says.


class _Evil:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self._mark,)


def _pickled(mark: Path) -> bytes:
    content = pickle.dumps(_Evil(mark))
    pickle.loads(content)
    assert mark.exists()
    mark.unlink()
    return content


@pytest.mark.parametrize("name", ["torch", "pickle", "joblib", "pt", "../torch", "__init__", ""])
def test_a_format_that_has_no_session_is_offered_to_nobody(name: str) -> None:
    manifest = parse(_with("variants.0.runtime.format", name))
    assert not offer(manifest, DEVICE, formats()).tried


def test_the_agent_has_nothing_that_unpickles_or_runs_text() -> None:
    root = Path(agent.__file__).parent
    calls = {"eval", "exec", "__import__"}
    modules = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}
    found = []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [(path.name, a.name) for a in node.names if a.name in modules]
            elif isinstance(node, ast.ImportFrom) and node.module in modules:
                found.append((path.name, node.module))
            elif isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                attribute = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                pickled = any(word.arg == "allow_pickle" for word in node.keywords)
                if name in calls or attribute in ("loads_pickle", "load_module") or pickled:
                    found.append((path.name, name or attribute))
    assert not found


@pytest.mark.toolchain
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "executorch"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_for_a_model_does_not_run(tmp_path: Path, name: str, wrapped: bool) -> None:
    mark = tmp_path / "ran"
    content = _pickled(mark)
    if wrapped:  # as torch.save writes it
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as made:
            made.writestr("archive/data.pkl", content)
        content = out.getvalue()
    told = json.loads(
        _with("variants.0.runtime", {"format": name, "at_least": None, "below": None})
    )
    manifest = parse(json.dumps(told).encode())
    (tmp_path / "model.bin").write_bytes(content)
    record = variant_record(manifest, manifest.variants[0])
    (tmp_path / "variant.json").write_bytes(record_bytes(record))
    with pytest.raises(SlipwayError):
        load(tmp_path)
    assert not mark.exists()
