"""What every way to a rig has to give, whatever driver reaches it and whatever program is there."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.errors import SlipwayError, StorageError, UsageError, VerificationError
from agent.processes import lives
from hil import bench
from hil.inventory import RigEntry, parse_inventory
from hil.outcome import LinkLostError
from hil.reach import Place
from hil.rig import Rig
from tests.hil.conftest import file_of

ROOT = Path(__file__).parents[2]
KINDS = ("ssh", "command", "adb", "runner")
Opens = Callable[[], Rig]


def _place(kind: str, folder: Path) -> Place:
    runner = folder / "runner"
    runner.write_text(f"#!/bin/sh\nexec env PYTHONPATH={ROOT} {sys.executable} -m agent.rig\n")
    runner.chmod(0o755)
    common = {"name": kind, "folder": str(folder / "rig"), "python": sys.executable}
    entry = {
        "command": RigEntry(**common, driver="command", command=("env",)),  # type: ignore[arg-type]
        "adb": RigEntry(**common, driver="adb", serial="R5CT"),  # type: ignore[arg-type]
        "runner": RigEntry(**common, driver="command", runner=str(runner)),  # type: ignore[arg-type]
    }[kind]
    inventory = parse_inventory("", folder / "hil.toml")
    return Place(entry=entry, inventory=inventory, known_hosts=folder / "known_hosts")


@pytest.fixture(params=KINDS)
def opens(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Opens]:
    """Reach the same rig, once more at each call."""
    if request.param == "ssh":
        open_one: Opens = request.getfixturevalue("loopback").open
    else:
        # Does what adb does with a device's shell; there is no device here.
        adb = tmp_path / "adb"
        adb.write_text(
            '#!/bin/sh\n[ "$1 $2 $3 $4" = "-s R5CT shell -T" ] && shift 4 && exec sh -c "$*"\n'
        )
        adb.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        open_one = _place(request.param, tmp_path).open
    rigs: list[Rig] = []

    def opened() -> Rig:
        rigs.append(open_one())
        return rigs[-1]

    yield opened
    for rig in rigs:
        rig.close()


def _leased(rig: Rig) -> Rig:
    rig.lease("me@here a test", lambda _: None, wait_s=20)
    return rig


def test_one_client_at_a_time_and_each_token_is_higher(opens: Opens) -> None:
    one = _leased(opens())
    with pytest.raises(StorageError, match="me@here a test has the rig"):
        opens().lease("you@there", lambda _: None, wait_s=0.3)
    with pytest.raises(UsageError, match="not this client's"):
        opens().run("look", time_limit_s=10)
    before = one._token
    one.close()
    assert _leased(opens())._token == before + 1


def test_a_file_is_sent_once_kept_whole_and_fetched_as_it_is(opens: Opens, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    name, path = file_of(tmp_path, content)
    rig = _leased(opens())
    assert rig.push({name: path}) == len(content)
    assert rig.push({name: path}) == 0
    rig.stage("ab" * 16, {"in/x.bin": name})
    with pytest.raises(VerificationError):
        rig.stage("cd" * 16, {"../x.bin": name})
    run = rig.run(
        "command", program=["cp", "in/x.bin", "y.bin"], files="ab" * 16, time_limit_s=20
    )  # fmt: skip
    assert run["found"] == {"status": 0}
    assert rig.fetch(run["run"], "y.bin") == content
    assert rig.fetch(run["run"], "y.bin", last_bytes=10) == content[-10:]
    with pytest.raises(SlipwayError):
        rig.fetch(run["run"], "../../lease/holder.json")


def test_a_run_says_what_it_is_and_a_second_one_waits(opens: Opens) -> None:
    rig = _leased(opens())
    assert bench.look(rig).identity["arch"]
    found = rig.run("look", time_limit_s=30)
    assert found["ended_s"] > found["began_s"] > 0
    with pytest.raises(UsageError, match="knows no run"):
        rig.run("fly", time_limit_s=10)
    late = rig.run("command", program=["sleep", "20"], time_limit_s=0.5)
    assert late["outcome"] == "timeout"


def test_a_client_that_goes_ends_its_run_and_the_next_has_it(opens: Opens) -> None:
    rig, told = _leased(opens()), list[str]()

    def work() -> None:
        with pytest.raises(LinkLostError):
            bench.command(
                rig, ["sh", "-c", "echo $$; exec sleep 60"], time_limit_s=60,
                on_output=told.append,
            )  # fmt: skip

    thread = threading.Thread(target=work)
    thread.start()
    while not "".join(told).endswith("\n"):
        time.sleep(0.02)
    rig.close()
    thread.join(20)
    _leased(opens())
    assert not lives(int("".join(told)))


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (RigEntry(name="a", driver="command", command=("no-such-adb",)), "cannot be started"),
        (RigEntry(name="a", driver="command", command=("false",)), "No runner answers"),
        (RigEntry(name="a", driver="command", command=("echo", "hello")), "No runner answers"),
        (RigEntry(name="a", driver="command", runner="/bin/true"), "No runner answers"),
    ],
)
def test_what_is_no_way_to_a_rig_is_told(entry: RigEntry, told: str, tmp_path: Path) -> None:
    inventory = parse_inventory("", tmp_path / "hil.toml")
    with pytest.raises(SlipwayError, match=told):
        Place(entry=entry, inventory=inventory, known_hosts=tmp_path / "k").open()
