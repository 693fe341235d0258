"""A rig that says nonsense, prints megabytes, has no idea of the time, or loses its client's lease."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.errors import NetworkError, SlipwayError, UsageError
from hil import bench
from hil.bench import LOG_BYTES, RunFailedError
from hil.inventory import RigEntry, parse_inventory
from hil.link import READ
from hil.outcome import LinkLostError
from hil.reach import Place
from tests.hil.conftest import Started, file_of

HELLO = (
    "import sys, json\n"
    "sys.stdin.readline()\n"
    "print(json.dumps({'slipway-rig': 1, 'have': True, 'folder': '/x', 'free_bytes': 1}))\n"
    "sys.stdin.readline()\n"
)
NONSENSE = {
    "a page": "print('<html>502 Bad Gateway</html>')",
    "a list": "print([1])",
    "a number": "print(7)",
    "nothing that it was asked": "print('{}')",
    "half a line": "print('{\"id\": 1, ', end='')",
    "fewer bytes than it says": 'print(\'{"id": 1, "result": {}, "bytes": 9}\'); print(\'abc\')',
    "bytes of no number": 'print(\'{"id": 1, "result": {}, "bytes": "many"}\')',
    "no text at all": "sys.stdout.buffer.write(b'\\xff\\xfe\\n')",
}


@pytest.mark.parametrize("name", NONSENSE)
def test_output_that_is_no_answer_ends_the_line_with_words(name: str, tmp_path: Path) -> None:
    runner = tmp_path / "runner"
    runner.write_text(f"#!{sys.executable}\n{HELLO}{NONSENSE[name]}\n")
    runner.chmod(0o755)
    entry = RigEntry(name="bad", driver="command", runner=str(runner))
    place = Place(
        entry=entry, inventory=parse_inventory("", tmp_path / "h"), known_hosts=tmp_path / "k"
    )
    began = time.monotonic()
    with pytest.raises(LinkLostError, match="The rig bad is lost") as caught:
        place.open()
    assert caught.value.exit_code == 8
    assert time.monotonic() - began < 10


def test_a_runner_of_another_version_is_told_so(tmp_path: Path) -> None:
    runner = tmp_path / "runner"
    answer = "print(json.dumps({'id': 1, 'result': {'version': 2, 'boot_id': 'b'}}))"
    runner.write_text(f"#!{sys.executable}\n{HELLO}{answer}\n")
    runner.chmod(0o755)
    entry = RigEntry(name="new", driver="command", runner=str(runner))
    inventory = parse_inventory("", tmp_path / "h")
    with pytest.raises(UsageError, match=r"speaks version 2 .* lacks \['aside'.* speaks 1"):
        Place(entry=entry, inventory=inventory, known_hosts=tmp_path / "k").open()


def test_megabytes_of_log_are_not_fetched(started: Started, tmp_path: Path) -> None:
    own = tmp_path / "rig" / "venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\nhead -c 5000000 /dev/zero | tr '\\0' x\necho the end\nexit 7\n")
    own.chmod(0o755)
    rig = started()
    rig.lease("me@here", lambda _: None, wait_s=20)
    with pytest.raises(RunFailedError) as caught:
        bench.probe(rig)
    assert caught.value.outcome == "crashed"
    assert len(caught.value.log) == LOG_BYTES
    assert caught.value.log.endswith("xthe end\n")
    assert len(str(caught.value)) < 2000, "what a person reads stays short"


@pytest.mark.parametrize("years", [-40, 40])
def test_a_clock_that_is_years_off_harms_nothing(
    started: Started, tmp_path: Path, years: int
) -> None:
    off_s = years * 365 * 86400
    code = f"import time; real = time.time; time.time = lambda: real() + {off_s};" + READ
    rig = started([sys.executable, "-u", "-c", code])
    assert abs(rig.hello["time_s"] - time.time() - off_s) < 60
    assert rig.lease("me@here", lambda _: None, wait_s=20) == []
    name, path = file_of(tmp_path, b"abc")
    assert (rig.push({name: path}), rig.push({name: path})) == (3, 0)
    assert bench.look(rig).identity["arch"]


def test_a_lease_that_is_lost_in_a_run_voids_its_result(started: Started, tmp_path: Path) -> None:
    rig, ends = started(), list[BaseException]()
    rig.lease("me@here", lambda _: None, wait_s=20)
    told: list[str] = []

    def work() -> None:
        try:
            bench.command(
                rig, ["sh", "-c", "echo on; sleep 2"], time_limit_s=20, on_output=told.append
            )
        except SlipwayError as error:
            ends.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not told:
        time.sleep(0.02)
    holder = tmp_path / "rig" / "lease" / "holder.json"
    holder.write_text(json.dumps({**json.loads(holder.read_text()), "token": 99, "name": "eve"}))
    thread.join(20)
    assert isinstance(ends[0], NetworkError)
    assert "is over" in str(ends[0])
    rig.close()
    assert list((tmp_path / "rig" / "runs").iterdir()), "it is another client's to clear by now"
