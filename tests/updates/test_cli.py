"""`sdk-agent` as a person, a unit file or a script calls it; the agent runs in a real process."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agent
from agent import cli
from agent.cli import main
from agent.config import Config
from agent.errors import EXIT_CODES
from agent.updates.home import Home
from agent.updates.install import confirm_now
from agent.updates.run import once
from tests.updates.devices import fresh_fleet, put
from tests.updates.fleet import MODEL, Fleet, passing, silent

ROOT = Path(agent.__file__).parent.parent
_AGENT = """
import sys
from agent import cli
from agent.updates import proving, run
from tests.updates.fleet import passing
# No model runs here: the preflight is the one of tests/updates/fleet.py.
run.run.__defaults__ = (passing,)
sys.exit(cli.main(sys.argv[1:]))
"""


def verbs() -> dict[str, argparse.ArgumentParser]:
    (found,) = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return fresh_fleet(tmp_path)


def written(config: Config, **more: Any) -> Config:
    """The same as a file in the state folder, for the command line."""
    lines = [f'repository = "{config.repository}"'] if config.repository else []
    lines += [f'group = "{config.group}"', "reserve_mib = 0"]
    lines += [f"{name} = {value}" for name, value in more.items()]
    (config.state / "agent.toml").write_text("\n".join(lines) + "\n")
    return config


@pytest.fixture
def device(fleet: Fleet) -> Config:
    return written(fleet.device(), poll_s=3600)


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Any, str]:
    """Exit code, what was printed as JSON, and what was told."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out.strip() else None, err


def test_each_verb_has_help_with_an_example_that_parses() -> None:
    assert set(verbs()) == {
        "trust", "enroll", "install", "run", "once", "status", "doctor", "unit", "rollback", "mark-good",
        "mark-bad", "health", "exec",
    }  # fmt: skip
    for name, parser in verbs().items():
        text = " ".join(parser.format_help().split())
        found = re.search(r"Example: sdk-agent (.+)$", text)
        assert found, f"{name} has no example"
        assert parser.description
        example = found[1].partition(" > ")[0]
        chosen = cli._parsed(shlex.split(example))
        assert chosen.command == name
        for option in ("--json", "--debug", "--state", "--config"):
            assert option in text


def test_the_help_tells_the_exit_codes() -> None:
    text = " ".join(cli._parser().format_help().split())
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in text


USAGE = [
    [],
    ["no-such-verb"],
    ["status", "--jso"],
    ["health", "net"],
    ["health", "net", "--good", "--bad", "x"],
]


@pytest.mark.parametrize("arguments", USAGE)
def test_a_wrong_command_line_ends_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def failures(tmp_path: Path) -> list[tuple[str, int, list[str]]]:
    state = ["--state", str(tmp_path / "state")]
    junk = tmp_path / "junk.zip"
    junk.write_bytes(b"junk")
    config = tmp_path / "bad.toml"
    config.write_text("poll_s = 0\n")
    return [
        ("no root yet", 2, ["once", *state]),
        ("no such root", 2, ["trust", str(tmp_path / "none.json"), *state]),
        ("no root metadata", 7, ["trust", str(junk), *state]),
        ("a bad configuration", 2, ["status", "--config", str(config)]),
        ("a state folder that is a file", 6, ["once", "--state", str(junk)]),
        ("no command", 2, ["exec", "net", *state]),
    ]


def test_failures_have_three_beats_and_their_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for what, code, arguments in failures(tmp_path):
        found, out, err = said(capsys, *arguments)
        assert found == code, f"{what}: {err}"
        assert out is None
        lines = err.strip().splitlines()
        assert lines[0].startswith("error: "), what
        assert len(lines) == 3, f"{what}: {err}"
        assert "Traceback" not in err
        found, _, err = said(capsys, *arguments, "--debug")
        assert found == code
        assert "Traceback" in err


def test_a_bug_is_kept_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Config) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("agent.updates.status.status", fail)
    code, _, err = said(capsys, "status", "--state", tmp_path)
    assert code == 1
    assert "ZeroDivisionError: oh" in err
    assert "Traceback" not in err
    (kept,) = tmp_path.glob("slipway-bug-*.txt")
    assert "Traceback" in kept.read_text()


@pytest.mark.toolchain  # the doctor imports every runtime
def test_trust_status_and_doctor_of_a_new_device(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state", tmp_path / "new", "--json"]
    code, found, _ = said(capsys, "doctor", *state)
    assert code == 0
    assert any("sdk-agent trust" in problem for problem in found["problems"])
    root = fleet.repo / "metadata" / "1.root.json"
    code, found, _ = said(capsys, "trust", root, *state)
    assert (code, found["root_version"]) == (0, 1)
    code, found, _ = said(capsys, "status", *state)
    assert code == 0
    assert found["models"] == []
    assert found["agent_runs"] is False
    code, found, _ = said(capsys, "doctor", *state)
    assert found["problems"] == ["No repository is configured: only packages are installed."]
    assert found["fingerprint"]["identity"]["arch"]
    assert found["runtimes"]["onnxruntime"]


def test_status_for_a_person(
    device: Config, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.release("1.0.0")
    with Home(device) as home:
        once(home, silent, passing)
    assert main(["status", "--state", str(device.state)]) == 0
    out, _ = capsys.readouterr()
    assert "release  1.0.0" in out
    assert "state  TRIAL" in out
    assert "None" not in out


def test_the_unit_names_this_program(
    device: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, found, _ = said(capsys, "unit", "--state", device.state, "--json")
    assert code == 0
    assert f'ReadWritePaths="{device.state}"' in found["unit"]
    assert (
        f'ExecStart="{sys.executable}" "-m" "agent" "run" "--state" "{device.state}"'
        in found["unit"]
    )
    monkeypatch.setattr("sys.argv", ["/opt/x y/sdk-agent", "unit"])
    _, found, _ = said(capsys, "unit", "--state", "/var/lib/100%", "--json")
    assert 'ExecStart="/opt/x y/sdk-agent" "run" "--state" "/var/lib/100%%"' in found["unit"]


def test_words_without_an_agent_are_judged_here(
    device: Config, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state", device.state, "--json"]
    for release, word, expected in (
        ("1.0.0", ["--good"], "CONFIRMED"),
        ("2.0.0", ["--bad", "NaN"], "ROLLED_BACK"),
        ("3.0.0", ["--exit-code", "139"], "ROLLED_BACK"),
    ):
        fleet.release(release)
        with Home(device) as home:
            once(home, silent, passing)
        assert said(capsys, "health", MODEL, "--exit-code", "0", *state)[1] == {"heard": False}
        code, found, _ = said(capsys, "health", MODEL, *word, *state)
        assert code == 0
        assert found["state"] == expected
    assert "exit code 139" in found["reason"]


def test_by_hand_without_an_agent(
    device: Config, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state", device.state, "--json"]
    fleet.release("1.0.0")
    with Home(device) as home:
        once(home, silent, passing)
    code, found, _ = said(capsys, "mark-good", MODEL, *state)
    assert (code, found["state"]) == (0, "CONFIRMED")
    code, _, err = said(capsys, "mark-bad", MODEL, *state)
    assert code == 2
    assert "not on trial" in err
    code, _, err = said(capsys, "rollback", MODEL, *state)
    assert code == 2
    assert "no release of net to go back to" in err
    code, found, _ = said(capsys, "once", *state)
    assert (code, found) == (0, {"action": None})
    (fleet.repo / "metadata").rename(fleet.repo / "gone")
    code, _, err = said(capsys, "once", *state)
    assert code == 8, err


def test_exec_counts_and_becomes_the_command(tmp_path: Path) -> None:
    state = tmp_path / "state"
    put(state, b"one")
    slots = put(state, b"two", on_trial=True)
    code = "import os; print(os.environ['SLIPWAY_MODEL'])"
    for starts in range(1, 5):
        done = subprocess.run(
            [sys.executable, "-m", "agent", "exec", MODEL, "--state", str(state), "--", sys.executable, "-c", code],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert done.stdout.strip() == str(slots.folder / "current")
        assert slots.current() == ("A" if starts == 4 else "B")
    assert "back to slot A" in done.stderr


_IMPORTS = """
import sys
import agent.cli
assert not {"numpy", "tuf", "securesystemslib", "cryptography", "urllib3", "zstandard", "sqlite3"} & set(sys.modules)
import agent.updates.run, agent.updates.status
heavy = {"numpy", "onnxruntime", "openvino", "torch", "agent.tensors", "agent.measurement"} & set(sys.modules)
assert not heavy, heavy
"""


def test_what_the_command_line_loads() -> None:
    subprocess.run([sys.executable, "-c", _IMPORTS], cwd=ROOT, check=True, timeout=60)


def test_every_module_of_the_agent_is_python_3_10() -> None:
    import ast

    for path in (ROOT / "agent").rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))


# The agent at work, in a process.


class Running:
    """`sdk-agent run`, and the command line beside it."""

    def __init__(self, config: Config, log: Path, *arguments: str) -> None:
        self.config, self.log = config, log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _AGENT, "run", "--state", str(config.state), *arguments],
                cwd=ROOT, stdout=stream, stderr=stream, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def until(self, text: str, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def listens(self) -> None:
        deadline = time.monotonic() + 30
        while not (self.config.state / "agent.sock").exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@contextlib.contextmanager
def at_work(config: Config, log: Path, *arguments: str) -> Iterator[Running]:
    running = Running(config, log, *arguments)
    try:
        running.listens()
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def test_an_agent_at_work_does_what_it_is_asked(
    fleet: Fleet, device: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state", device.state, "--json"]
    fleet.release("1.0.0")
    package = None
    with at_work(device, tmp_path / "log") as running:
        running.until("net: TRIAL")
        found = said(capsys, "status", *state)[1]
        assert found["agent_runs"] is True
        assert found["action"]["state"] == "TRIAL"
        assert said(capsys, "health", MODEL, "--good", *state)[1] == {"heard": True}
        running.until("net: CONFIRMED")
        # What takes the lock is done by the agent that has it.
        package = fleet.package(fleet.publish("2.0.0"))
        code, found, err = said(capsys, "install", package, *state)
        assert (code, found["state"], found["release"]) == (0, "TRIAL", "2.0.0"), err
        code, found, _ = said(capsys, "mark-good", MODEL, *state)
        assert (code, found["state"]) == (0, "CONFIRMED")
        code, found, _ = said(capsys, "rollback", MODEL, "--reason", "worse", *state)
        assert (code, found["state"], found["release"]) == (0, "TRIAL", "1.0.0")
        code, found, _ = said(capsys, "mark-bad", MODEL, *state)
        assert (code, found["state"]) == (0, "ROLLED_BACK")
        fleet.release("3.0.0")
        code, found, _ = said(capsys, "once", *state)
        assert (code, found["release"], found["state"]) == (0, "3.0.0", "TRIAL")
        assert said(capsys, "health", MODEL, "--bad", "NaN\n in the output", *state)[0] == 0
        running.until("net: ROLLED_BACK: the application says: NaN")
        # Errors arrive as what they were.
        code, _, err = said(capsys, "mark-good", MODEL, *state)
        assert code == 2
        assert "not on trial" in err
        code, _, err = said(capsys, "install", tmp_path / "none.zip", *state)
        assert code == 2
        assert "none.zip" in err
        # A second one is refused.
        second = Running(device, tmp_path / "second")
        assert second.process.wait(30) == 6
        assert "Another agent has the state folder" in second.log.read_text()
        # Nonsense and clients that hang change nothing.
        with socket.socket(socket.AF_UNIX) as hangs, socket.socket(socket.AF_UNIX) as floods:
            hangs.connect(str(device.state / "agent.sock"))
            floods.connect(str(device.state / "health.sock"))
            with contextlib.suppress(OSError):
                floods.sendall(b"x" * 100_000)
            assert said(capsys, "once", *state)[0] == 0
        maps = Path(f"/proc/{running.process.pid}/maps").read_text()
        assert "onnxruntime" not in maps
        assert running.stop() == 0
    assert sorted(path.name for path in device.state.glob("*.sock")) == []
    assert said(capsys, "status", *state)[1]["agent_runs"] is False
    assert said(capsys, "status", *state)[1]["models"][0]["release"] == "2.0.0"


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGTERM, 0, marks=pytest.mark.long), (signal.SIGINT, 130)],
)
def test_a_signal_in_the_middle_leaves_nothing_broken(
    fleet: Fleet, device: Config, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    fleet.release("1.0.0")
    with at_work(device, tmp_path / "log") as running:
        running.until("net: STAGED")
        assert running.stop(number) == code, running.log.read_text()
        assert "Traceback" not in running.log.read_text()
    with Home(device) as home:
        action = once(home, silent, passing)
        assert action is not None
        assert action.state == "TRIAL", action.reason
        assert confirm_now(home, MODEL).state == "CONFIRMED"


@pytest.mark.long
def test_what_an_agent_tells_as_json(fleet: Fleet, device: Config, tmp_path: Path) -> None:
    fleet.release("1.0.0")
    with at_work(device, tmp_path / "log", "--json") as running:
        running.until("net: TRIAL")
        running.stop()
    lines = [json.loads(line)["told"] for line in running.log.read_text().splitlines()]
    assert "net: TRIAL" in lines
    assert len(lines) == len(set(lines)), "nothing is told twice"


@pytest.mark.long
def test_a_killed_agent_leaves_a_socket_that_deceives_nobody(
    device: Config, tmp_path: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.release("1.0.0")
    with at_work(device, tmp_path / "log") as running:
        running.until("net: TRIAL")
        running.process.kill()
        running.process.wait()
    assert (device.state / "health.sock").exists()
    code, found, _ = said(capsys, "health", MODEL, "--good", "--state", device.state, "--json")
    assert (code, found["state"]) == (0, "CONFIRMED")


def python_3_10() -> str | None:
    """An interpreter at the agent's floor, where one is found and runs."""
    found = shutil.which("python3.10")
    if found is None:
        return None
    done = subprocess.run([found, "-c", "pass"], capture_output=True, check=False, timeout=60)
    return found if done.returncode == 0 else None


@pytest.mark.skipif(python_3_10() is None, reason="there is no python3.10 on the path")
def test_the_agent_starts_under_python_3_10() -> None:
    python = python_3_10()
    assert python is not None
    code = "import agent.cli, agent.shim, agent.updates.run, agent.updates.status"
    subprocess.run([python, "-c", code], cwd=ROOT, check=True, timeout=60)
