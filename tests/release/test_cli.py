"""`sdk keys`, `publish`, `assign`, `revoke` and `repo` as they are typed."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.folders import data_folder
from agent.manifest import parse
from agent.updates.assignment import ASSIGNMENT_TYPE
from sdk.catalog import Catalog
from sdk.cli.app import run
from tests.release.reading import Reader
from tests.updates.fleet import MODEL, PASSPHRASE, write_build

Run = Callable[..., str]


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Run:
    """Run a command in an empty folder; what it printed, or its error where one is expected."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLIPWAY_PASSPHRASE", PASSPHRASE)

    def sdk(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        found = run(list(arguments))
        said = capsys.readouterr()
        assert found == code, said.err
        assert "Traceback" not in said.err
        assert PASSPHRASE not in said.out + said.err
        return str(said.err if code else said.out)

    return sdk


@pytest.fixture
def made(sdk: Run) -> Run:
    """The same after the first ceremony, with the build of a release."""
    sdk("keys", "init")
    sdk("keys", "add-model", MODEL)
    write_build(Path("build/net"), {"best": b"weights"})
    write_build(Path("build/next"), {"best": b"weights2"})
    return sdk


def test_a_release_from_the_first_key_to_its_revocation(made: Run, tmp_path: Path) -> None:
    said = made("publish", "build/net", "--release", "1.0.0", "--group", "line-3")
    assert said.startswith("net 1.0.0 is release 1 at repo: ")
    assert "assigned to line-3" in said
    (line,) = Path("repo/assignments/group-line-3.jsonl").read_bytes().splitlines()
    envelope = json.loads(line)
    assert envelope["payloadType"] == ASSIGNMENT_TYPE
    said = made(
        "publish", "build/next", "--release", "1.1.0", "--device", "0" * 32,
        "--slower-at-most", "1.1", "--export", "out/net.slipway", "--json",
    )  # fmt: skip
    told = json.loads(said)
    assert (told["release_counter"], told["device_id"]) == (2, "0" * 32)
    kept = Catalog(data_folder()).release(told["manifest_sha256"])
    assert kept is not None, "a fleet's reports name it by its hash"
    assert parse(kept).release == "1.1.0"
    assert told["package"] == "out/net.slipway"
    assert Path("out/net.slipway").is_file()
    assert "line-4" in made("assign", MODEL, "1.0.0", "--group", "line-4")
    made("keys", "rotate", "timestamp", "targets-1")
    made("repo", "refresh")
    assert "is revoked" in made("revoke", MODEL, "1.0.0")
    assert "is revoked already" in made("revoke", MODEL, "1.0.0")
    said = made("assign", MODEL, "1.0.0", "--group", "line-4", code=2)
    assert "is revoked" in said
    assert Reader(tmp_path / "client", Path("repo")).manifest(MODEL, "1.1.0") is not None


def test_status_says_who_signs_what_until_when(made: Run) -> None:
    Path("keys/root-1.pem").rename("root-1.pem")
    told = json.loads(made("keys", "status", "--json"))
    assert {key["name"]: key["here"] for key in told["keys"]}["root-1"] is False
    assert all(key["trusted"] for key in told["keys"])
    assert {role["role"]: (role["threshold"], role["keys"]) for role in told["roles"]}["root"] == (
        2, 3,
    )  # fmt: skip
    said = made("keys", "status")
    assert "elsewhere" in said
    assert "2 of 3" in said


def test_json_is_printed_where_something_is_shown(sdk: Run) -> None:
    assert len(json.loads(sdk("keys", "init", "--small", "--json"))["keys"]) == 9
    assert json.loads(sdk("keys", "add-model", MODEL, "--json"))["key"] == f"model-{MODEL}"
    assert json.loads(sdk("keys", "rotate", "snapshot", "--json"))["replaced"] == {
        "snapshot": "snapshot@2"
    }
    told = json.loads(sdk("repo", "refresh", "--json"))
    assert told["written"][-1] == "metadata/timestamp.json"
    assert told["due"] == []


NOT_THERE: dict[str, tuple[list[str], int, str]] = {
    "publish before a ceremony": (["publish", "build/net", "--release", "1"], 2, "is no build"),
    "status before a ceremony": (["keys", "status"], 0, ""),
    "rotate before a ceremony": (["keys", "rotate", "root-1"], 2, "no key root-1"),
    "add-model before a ceremony": (["keys", "add-model", "net"], 2, "sdk keys init"),
    "refresh before a ceremony": (["repo", "refresh"], 2, "sdk keys init"),
    "revoke before a ceremony": (["revoke", "net", "1.0.0"], 2, "sdk keys init"),
    "keys in the repository": (["keys", "init", "--keys", "repo/keys"], 2, "could read the keys"),
    "keys that are the repository": (["keys", "init", "--keys", "repo"], 2, "could read the keys"),
    "an unknown scheme": (["keys", "init", "--repo", "nosuch://x"], 2, "cannot be opened"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "says"), NOT_THERE.values(), ids=NOT_THERE)
def test_a_mistake_before_there_is_anything(
    arguments: list[str], code: int, says: str, sdk: Run
) -> None:
    assert says in sdk(*arguments, code=code)


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "a second ceremony": (["keys", "init"], 2, "already"),
    "an unknown release": (["revoke", "net", "9"], 2, "the newest are 1.0.0"),
    "an unknown model": (["revoke", "nit", "1.0.0"], 2, "knows no model nit"),
    "an unknown key": (["keys", "rotate", "root-9"], 2, "known are assignment"),
    "a bad model": (["keys", "add-model", "../x"], 2, "no name for a model"),
    "a bad release": (["publish", "build/next", "--release", "a/b"], 2, "no name for a release"),
    "the same release": (["publish", "build/next", "--release", "1.0.0"], 2, "published already"),
    "no release": (["publish", "build/next"], 2, "--release"),
    "an export for nobody": (
        ["publish", "build/next", "--release", "2", "--export", "x"], 2, "for whom",
    ),
    "a gate for nobody": (
        ["publish", "build/next", "--release", "2", "--slower-at-most", "2"], 2, "for whom",
    ),
    "a profile without a package": (
        ["publish", "build/next", "--release", "2", "--profile", "p"], 2, "Add --export",
    ),
    "a device and a group": (
        ["assign", "net", "1.0.0", "--group", "a", "--device", "0" * 32], 2, "and not both",
    ),
    "nobody": (["assign", "net", "1.0.0"], 2, "Name one"),
    "a device that is none": (
        ["assign", "net", "1.0.0", "--device", "pi"], 2, "32 hexadecimal digits",
    ),
    "a group that is a path": (["assign", "net", "1.0.0", "--group", "../x"], 2, "file's name"),
    "a ratio that is none": (
        ["assign", "net", "1.0.0", "--group", "a", "--slower-at-most", "0"], 2, "out of range",
    ),
    "a profile that it lacks": (
        ["assign", "net", "1.0.0", "--group", "a", "--export", "x", "--profile", "p"],
        2, "no variant for p",
    ),
    "an unmet build": (["publish", "build/unmet", "--release", "2"], 3, "unmet by intel-any"),
    "an unmet build with leave": (
        ["publish", "build/unmet", "--release", "2", "--allow-unproven"], 3, "unmet by intel-any",
    ),
    "an unproven build": (
        ["publish", "build/unproven", "--release", "2"], 3, "--allow-unproven",
    ),
    "a build that was changed": (["publish", "build/changed", "--release", "2"], 7, "changed"),
    "an export into a file": (
        ["assign", "net", "1.0.0", "--group", "a", "--export", "build/net/manifest.json/x"],
        6, "Cannot write",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which no mistake changes anything."""
    folder = tmp_path_factory.mktemp("mistakes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SLIPWAY_PASSPHRASE", PASSPHRASE)
        write_build(Path("build/net"), {"best": b"weights"})
        write_build(Path("build/next"), {"best": b"weights2"})
        for verdict in ("unmet", "unproven"):
            write_build(Path(f"build/{verdict}"), {"best": b"weights3"}, verdict=verdict)
        write_build(Path("build/changed"), {"best": b"weights4"})
        Path("build/changed/intel-any/best@0123abcd/model.bin").write_bytes(b"weights5")
        assert run(["keys", "init"]) == 0
        assert run(["keys", "add-model", MODEL]) == 0
        assert run(["publish", "build/net", "--release", "1.0.0"]) == 0
    return folder


@pytest.mark.parametrize(("arguments", "code", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_has_an_answer_and_a_code(
    arguments: list[str], code: int, says: str, sdk: Run, published: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(published)
    before = sorted(Path("repo/metadata").iterdir())
    assert says in sdk(*arguments, code=code)
    assert sorted(Path("repo/metadata").iterdir()) == before


def test_a_wrong_passphrase_says_so(
    sdk: Run, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(published)
    monkeypatch.setenv("SLIPWAY_PASSPHRASE", "battery staple")
    said = sdk("repo", "refresh", code=7)
    assert "cannot be opened with this passphrase" in said
    assert "battery" not in said


def test_without_a_terminal_a_missing_passphrase_is_told(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLIPWAY_PASSPHRASE", raising=False)
    found = subprocess.run(
        [sys.executable, "-m", "sdk", "repo", "refresh"],
        cwd=published, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 2
    assert "$SLIPWAY_PASSPHRASE" in found.stderr


def test_in_a_terminal_it_is_asked_for_and_never_shown(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLIPWAY_PASSPHRASE", raising=False)
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "sdk", "repo", "refresh"],
        cwd=published, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    while not shown.endswith(b": "):  # what is typed before that is thrown away
        shown += shown_next(master)
    os.write(master, PASSPHRASE.encode() + b"\n")
    while piece := shown_next(master):
        shown += piece
    os.close(master)
    assert child.wait(20) == 0, shown.decode()
    assert b"metadata/timestamp.json" in shown
    assert PASSPHRASE.encode() not in shown


def shown_next(master: int) -> bytes:
    """What a terminal shows next; nothing once the command has ended."""
    assert select.select([master], [], [], 20)[0], "the command says nothing more"
    try:
        return os.read(master, 1000)
    except OSError:
        return b""


def test_a_key_that_is_missing_at_publication_is_named(made: Run) -> None:
    for name in (f"model-{MODEL}", "snapshot", "timestamp", "assignment_offline"):
        path = Path("keys") / f"{name}.pem"
        path.rename(path.name)
        said = made("publish", "build/net", "--release", "1.0.0", "--group", "line-3", code=2)
        assert f"Bring {name}.pem into the keys folder" in said
        Path(path.name).rename(path)
        assert not Path("repo/blobs").exists(), "nothing was uploaded"
