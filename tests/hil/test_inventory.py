"""The inventory: what is taken, what is refused, and that adding loses nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import UsageError
from hil.inventory import RigEntry, add_rig, inventory_path, parse_inventory, read_inventory

PATH = Path("hil.toml")
FULL = """
[rig.desk-orin]
host = "10.0.0.7"
port = 2222
user = "nvidia"
key = "~/.ssh/id_ed25519"
passphrase_env = "ORIN_PASSPHRASE"
jump = "gate"
profile = "jetson-orin-nano-super"
python = "/usr/bin/python3.10"
folder = "/data/rig"
tags = ["desk 3", "fan"]
power = { model = "manual" }

[rig.gate]
host = "gate.example"
"""
REFUSED = {
    "a key that is misspelt": ('[rig.a]\nhost = "h"\nprot = 1', "Did you mean 'port'"),
    "a table that is misspelt": ('[rigs.a]\nhost = "h"', "Did you mean 'rig'"),
    "no host": ("[rig.a]\nport = 22", "rig.a.host"),
    "a host with a space": ('[rig.a]\nhost = "a b"', "rig.a.host"),
    "a host that is a number": ("[rig.a]\nhost = 7", "rig.a.host"),
    "a port of text": ('[rig.a]\nhost = "h"\nport = "22"', "rig.a.port"),
    "a port that is none": ('[rig.a]\nhost = "h"\nport = 70000', "rig.a.port"),
    "a port that is true": ('[rig.a]\nhost = "h"\nport = true', "rig.a.port"),
    "a name with a slash": ('[rig."a/b"]\nhost = "h"', "rig.a/b"),
    "a Python with an option": ('[rig.a]\nhost = "h"\npython = "python3 -c"', "rig.a.python"),
    "a Python that a shell would read": ('[rig.a]\nhost = "h"\npython = "p;reboot"', "python"),
    "a Python that is an option": ('[rig.a]\nhost = "h"\npython = "-c"', "rig.a.python"),
    "a user with a quote": ("[rig.a]\nhost = \"h\"\nuser = \"a'b\"", "rig.a.user"),
    "a jump over nobody": ('[rig.a]\nhost = "h"\njump = "b"', "rig.a.jump"),
    "a jump over a jump": (
        '[rig.a]\nhost = "h"\njump = "b"\n[rig.b]\nhost = "h"\njump = "c"\n[rig.c]\nhost = "h"',
        "jump",
    ),
    "tags that are a word": ('[rig.a]\nhost = "h"\ntags = "x"', "rig.a.tags"),
    "power without a model": ('[rig.a]\nhost = "h"\npower = {}', "rig.a.power"),
    "an empty folder": ('[rig.a]\nhost = "h"\nfolder = ""', "rig.a.folder"),
    "a driver that is not known": ('[rig.a]\ndriver = "telnet"', "rig.a.driver"),
    "a command that is a line": ('[rig.a]\ndriver = "command"\ncommand = "x y"', "rig.a.command"),
    "a command of no words": ('[rig.a]\ndriver = "command"', "rig.a.command"),
    "a runner that a shell would read": ('[rig.a]\ndriver = "adb"\nrunner = "a;b"', "runner"),
    "a serial that is an option": ('[rig.a]\ndriver = "adb"\nserial = "-e"', "rig.a.serial"),
    "a jump over a phone": (
        '[rig.a]\nhost = "h"\njump = "b"\n[rig.b]\ndriver = "adb"', "rig.a.jump",
    ),
    "no TOML": ("[rig.a", "not TOML"),
    "a rig that is a word": ("rig = 1", "rig"),
}  # fmt: skip


def test_all_fields_are_read() -> None:
    found = parse_inventory(FULL, PATH).rig("desk-orin")
    assert found == RigEntry(
        name="desk-orin", host="10.0.0.7", port=2222, user="nvidia", key="~/.ssh/id_ed25519",
        passphrase_env="ORIN_PASSPHRASE", jump="gate", profile="jetson-orin-nano-super",
        python="/usr/bin/python3.10", folder="/data/rig", tags=("desk 3", "fan"),
        power={"model": "manual"},
    )  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_so_is_refused_with_its_place(name: str) -> None:
    text, told = REFUSED[name]
    with pytest.raises(UsageError) as caught:
        parse_inventory(text, PATH)
    assert told in str(caught.value)


def test_a_rig_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="desk-orin"):
        parse_inventory(FULL, PATH).rig("desk-orim")


def test_what_was_added_is_read_again_and_what_stood_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "hil.toml"
    path.write_text("# ours\n" + FULL)
    entry = RigEntry(
        name="pi.5", host="fe80::1%eth0", user="pi", folder='/a "b"\\c', tags=("x", "ö")
    )
    add_rig(path, entry)
    assert path.read_text().startswith("# ours\n" + FULL)
    assert read_inventory(path).rig("pi.5") == entry
    with pytest.raises(UsageError, match="already"):
        add_rig(path, entry)


def test_what_cannot_be_added_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "hil.toml"
    path.write_text(FULL)
    with pytest.raises(UsageError):
        add_rig(path, RigEntry(name="a", host="h", python="p;q"))
    assert path.read_text() == FULL


def test_the_nearest_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert inventory_path(None, Path("/config")) == Path("/config/hil.toml")
    (tmp_path / "hil.toml").touch()
    assert inventory_path(None, Path("/config")) == tmp_path / "hil.toml"
    assert inventory_path(Path("x"), Path("/config")) == Path("x")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        parse_inventory(f'[rig.a]\nhost = "h"\n{text}', PATH)
