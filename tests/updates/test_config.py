"""`agent.toml`: what is read, what is refused, and what comes before what."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import Config, Idle, Ladder, Preflight, Trial, read_config
from agent.errors import UsageError
from agent.shim import default_state


def config_in(folder: Path, text: str) -> Config:
    (folder / "agent.toml").write_text(text)
    return read_config(None, folder)


def test_without_a_file_everything_has_a_default(tmp_path: Path) -> None:
    assert read_config(None, tmp_path) == Config(state=tmp_path)


def test_every_entry(tmp_path: Path) -> None:
    found = config_in(
        tmp_path,
        """
        repository = "https://updates.example.org/fleet"
        root = "root.json"
        group = "line-3"
        poll_s = 30
        reserve_mib = 10
        root_folder = "/host"
        [trial]
        seconds = 60.5
        confirm = "deadline"
        [preflight]
        seconds = 100
        memory_mib = 512
        measure_s = 1
        [idle]
        hook = "is-idle"
        [ladder]
        reserve_mib = 32
        """,
    )
    assert found == Config(
        state=tmp_path,
        repository="https://updates.example.org/fleet",
        root=tmp_path / "root.json",
        group="line-3",
        poll_s=30.0,
        reserve_mib=10,
        trial=Trial(seconds=60.5, confirm="deadline"),
        preflight=Preflight(seconds=100.0, memory_mib=512, measure_s=1.0),
        idle=Idle(hook=str(tmp_path / "is-idle")),
        ladder=Ladder(reserve_mib=32),
        root_folder=Path("/host"),
    )


def test_the_example_in_the_documentation_is_read(tmp_path: Path) -> None:
    import agent.config

    lines = (agent.config.__doc__ or "").splitlines()
    text = "\n".join(line for line in lines if " = " in line or line.startswith("["))
    assert config_in(tmp_path, text).group == "line-3"


REFUSED = [
    ("an unknown entry", "pol_s = 1", "pol_s"),
    ("an unknown entry of a table", "[trial]\nsecond = 1", "trial.second"),
    ("another type", 'poll_s = "often"', "poll_s"),
    ("another word", '[trial]\nconfirm = "maybe"', "confirm"),
    ("a scalar for a table", "trial = 3", "trial"),
    ("a poll without a pause", "poll_s = 0", "poll_s is 0"),
    ("no number", "poll_s = nan", "poll_s is nan"),
    ("no end", "[trial]\nseconds = inf", "trial.seconds is inf"),
    ("less than nothing", "reserve_mib = -1", "reserve_mib is -1"),
    ("no memory at all", "[preflight]\nmemory_mib = 0", "preflight.memory_mib is 0"),
    ("no TOML", "poll_s", "agent.toml"),
]


@pytest.mark.parametrize(
    ("text", "told"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError) as refusal:
        config_in(tmp_path, text)
    assert told in refusal.value.what
    assert refusal.value.cause
    assert refusal.value.remedy


def test_a_named_file_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path / "agent.toml", None)


def test_the_command_line_comes_before_the_file(tmp_path: Path) -> None:
    place = tmp_path / "elsewhere.toml"
    place.write_text('state = "own"\nrepository = "repo"\n')
    found = read_config(place, None)
    assert found.state == tmp_path / "own"
    assert found.repository == str(tmp_path / "repo"), "paths are relative to the file"
    assert read_config(place, tmp_path / "told").state == tmp_path / "told"


def test_the_usual_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_STATE", str(tmp_path / "told"))
    assert default_state() == tmp_path / "told"
    monkeypatch.delenv("SLIPWAY_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("agent.shim._SYSTEM", tmp_path / "system")
    own = tmp_path / "slipway"
    assert default_state() == own
    (tmp_path / "system").mkdir()
    assert default_state() == tmp_path / "system", "a user asks for the device's agent"
    own.mkdir()
    assert default_state() == own, "unless there is one of their own"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_state() == tmp_path / "system"
