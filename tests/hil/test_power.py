"""Power switches: by command, by hand, and what is wrong with them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.errors import NetworkError, SlipwayError, UsageError
from hil.inventory import RigEntry
from hil.power import cycle, is_on, power_module, switch


def _entry(**power: Any) -> RigEntry:
    return RigEntry(name="desk", host="h", power=power or None)


def _python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; from pathlib import Path; {code}", *arguments]


@pytest.fixture
def relay(tmp_path: Path) -> dict[str, Any]:
    """A switch that is a file."""
    state, log = str(tmp_path / "on"), str(tmp_path / "log")
    note = "open(sys.argv[2], 'a').write(sys.argv[3])"
    return {
        "model": "command",
        "on": _python(f"Path(sys.argv[1]).touch(); {note}", state, log, "1"),
        "off": _python(f"Path(sys.argv[1]).unlink(True); {note}", state, log, "0"),
        "status": _python("sys.exit(not Path(sys.argv[1]).exists())", state),
        "off_s": 7,
    }


def test_a_command_switches_and_tells(relay: dict[str, Any], tmp_path: Path) -> None:
    entry = _entry(**relay)
    assert is_on(entry) is False
    switch(entry, on=True)
    assert is_on(entry) is True
    slept: list[float] = []
    cycle(entry, slept.append)
    assert (tmp_path / "log").read_text() == "101"
    assert slept == [7.0]


def test_a_switch_that_does_not_obey_is_told(relay: dict[str, Any]) -> None:
    stuck = {**relay, "on": _python("pass")}
    with pytest.raises(NetworkError, match="says that it is not"):
        switch(_entry(**stuck), on=True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"on": _python("sys.exit('no relay')")}, "no relay"),
        ({"on": ["no-such-program"]}, "cannot be started"),
        ({"on": "usbrelay 1"}, "list of words"),
        ({"on": []}, "list of words"),
        ({"status": _python("sys.exit(3)")}, "ended with 3"),
        ({"model": "comand"}, "Did you mean 'command'"),
        ({"model": "../x"}, "known are: command, manual"),
    ],
)
def test_what_is_wrong_with_a_switch_is_named(
    relay: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(SlipwayError) as caught:
        switch(_entry(**{**relay, **changes}), on=True)
    assert told in str(caught.value)


def test_no_word_is_read_by_a_shell(relay: dict[str, Any], tmp_path: Path) -> None:
    odd = "$(touch x); `y`"
    switch(
        _entry(**{**relay, "on": _python("Path(sys.argv[1]).touch()", str(tmp_path / "on"), odd)}),
        on=True,
    )
    assert not (tmp_path / "x").exists()


def test_without_a_switch_that_is_said() -> None:
    with pytest.raises(UsageError, match="power switch"):
        cycle(_entry())


@pytest.mark.parametrize("off_s", ["3", -1, True, 1e9])
def test_a_pause_that_is_none_is_refused(relay: dict[str, Any], off_s: Any) -> None:
    with pytest.raises(UsageError, match="off_s"):
        cycle(_entry(**{**relay, "off_s": off_s}))


def test_by_hand_somebody_has_to_be_here(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    entry = _entry(model="manual", where="outlet 3")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(UsageError, match="nobody is here"):
        switch(entry, on=True)

    class Person:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return "\n"

    monkeypatch.setattr(sys, "stdin", Person())
    switch(entry, on=False)
    assert "Switch outlet 3 OFF" in capsys.readouterr().err
    assert is_on(entry) is None


def test_every_module_here_has_the_two_functions() -> None:
    for name in ("command", "manual"):
        module = power_module(name)
        assert callable(module.power_set)
        assert callable(module.power_get)
