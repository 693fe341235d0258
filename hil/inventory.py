"""`hil.toml`: which rigs there are, and how each is reached. No secret stands in it.

A table for each, such as `[rig.desk-orin]`, with a `host` or another `driver` at least; the fields
are `RigEntry`'s.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import UsageError
from agent.files import write_atomic
from profiles.toml_text import read_toml, toml_key, toml_value

FILE = "hil.toml"
DRIVERS = ("ssh", "adb", "command")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9_:%.-]{1,253}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_PROGRAM = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+-]{0,199}")
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,99}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigEntry:
    """One rig, as the inventory has it."""

    name: str
    driver: str = "ssh"
    """How it is reached (hil.drivers)."""
    host: str = ""
    """Of a rig that SSH reaches."""
    command: tuple[str, ...] = ()
    """Of the driver `command`: words of this machine, before the program that runs there."""
    serial: str | None = None
    """Of the driver `adb`: which device; None: the only one."""
    runner: str | None = None
    """On the rig: a program that speaks the protocol itself, where no Python is to."""
    port: int = 22
    user: str | None = None
    """None: whoever asks."""
    key: str | None = None
    """A file; None: what the SSH agent holds, and the usual files."""
    passphrase_env: str | None = None
    """The variable that holds the key's passphrase."""
    jump: str | None = None
    """Another rig of this file, through which it is reached."""
    profile: str | None = None
    python: str = "python3"
    """On the rig: a path, or a name that its shell finds."""
    folder: str = "~/.cache/slipway-rig"
    """On the rig: what is pushed lies there."""
    tags: tuple[str, ...] = ()
    power: Mapping[str, Any] | None = None
    """`model`: a module in `hil.power`; the rest is its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inventory:
    """The rigs of one file."""

    path: Path
    rigs: Mapping[str, RigEntry]

    def rig(self, name: str) -> RigEntry:
        """The rig of that name.

        Raises:
            UsageError: there is none.
        """
        if name in self.rigs:
            return self.rigs[name]
        near = difflib.get_close_matches(name, self.rigs, n=1)
        known = ", ".join(sorted(self.rigs)) or "none"
        raise UsageError(
            f"There is no rig {name[:80]!r} in {self.path}; known are: {known}.",
            cause=f"Did you mean {near[0]!r}?" if near else "It was not added yet.",
            remedy="Add it: sdk hil add NAME USER@HOST",
        )

    def check_new(self, name: str) -> None:
        """Whether a rig may be added by that name.

        Raises:
            UsageError: there is one.
        """
        if name in self.rigs:
            raise UsageError(
                f"There is a rig {name!r} in {self.path} already.",
                cause="Its key has changed, or the name is taken.",
                remedy=f"Take its key anew: sdk hil add {name} --again",
            )


def inventory_path(given: Path | None, config_folder: Path) -> Path:
    """Where the inventory is: as given, else here or above, else in the user's own folder."""
    if given is not None:
        return given
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / FILE).is_file():
            return folder / FILE
    return config_folder / FILE


def read_inventory(path: Path) -> Inventory:
    """The inventory in a file; one that is not there is empty.

    Raises:
        UsageError: it cannot be read, or something in it is not known or not so.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Inventory(path=path, rigs={})
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}.", remedy="Name another one: --inventory FILE"
        ) from error
    return parse_inventory(text, path)


def parse_inventory(text: str, path: Path) -> Inventory:
    """The same of a text; `path` is for messages.

    Raises:
        UsageError: as for `read_inventory`.
    """
    document = read_toml(text, str(path))
    _check_keys(document, {"rig"}, str(path))
    tables = document.get("rig", {})
    if not isinstance(tables, dict) or not all(isinstance(one, dict) for one in tables.values()):
        raise _wrong(f"{path}: rig", tables, "tables such as [rig.desk-orin]")
    rigs = {name: _entry(name, table, str(path)) for name, table in tables.items()}
    for name, rig in rigs.items():
        if rig.jump is not None and (
            rig.jump not in rigs
            or rigs[rig.jump].jump is not None
            or rigs[rig.jump].driver != "ssh"
        ):
            raise _wrong(
                f"{path}: rig.{name}.jump", rig.jump,
                "the name of another rig of this file, which is reached directly",
            )  # fmt: skip
    return Inventory(path=path, rigs=rigs)


def add_rig(path: Path, entry: RigEntry) -> Inventory:
    """Add a rig at the end of the file; what stands there is not touched.

    Raises:
        UsageError: there is one of that name, or something of it is not so.
        StorageError: the file cannot be written.
    """
    read_inventory(path).check_new(entry.name)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    text = before + ("\n" if before and not before.endswith("\n\n") else "") + _text(entry)
    after = parse_inventory(text, path)
    write_atomic(path, text.encode())
    return after


def _text(entry: RigEntry) -> str:
    lines = [f"[rig.{toml_key(entry.name)}]"]
    for field in dataclasses.fields(entry):
        value = getattr(entry, field.name)
        if field.name in ("name", "power") or value == field.default:
            continue
        lines.append(f"{field.name} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def _entry(name: str, table: dict[str, Any], origin: str) -> RigEntry:
    where = f"{origin}: rig.{name}"
    fields = {field.name for field in dataclasses.fields(RigEntry)} - {"name"}
    _check_keys(table, fields, where)
    _check(name, _NAME, f"{where}", "a name of small letters, digits and ._-")
    driver = table.get("driver", "ssh")
    if driver not in DRIVERS:
        raise _wrong(f"{where}.driver", driver, f"one of {', '.join(DRIVERS)}")
    if driver == "ssh" and "host" not in table:
        raise _wrong(f"{where}.host", None, "a name or an address")
    if driver == "command" and not (table.get("command") or table.get("runner")):
        raise _wrong(f"{where}.command", None, "the words that reach it")
    for key, form in (
        ("host", _HOST),
        ("user", _USER),
        ("python", _PROGRAM),
        ("runner", _PROGRAM),
        ("serial", _SERIAL),
        ("passphrase_env", _VARIABLE),
        ("jump", _NAME),
        ("profile", _NAME),
    ):
        if key in table:
            _check(table[key], form, f"{where}.{key}", f"text of the form {form.pattern}")
    port = table.get("port", 22)
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise _wrong(f"{where}.port", port, "a number from 1 to 65535")
    for key in ("key", "folder"):
        value = table.get(key, "x")
        if not isinstance(value, str) or not value or "\0" in value or "\n" in value:
            raise _wrong(f"{where}.{key}", value, "a path")
    for key in ("tags", "command"):
        words = table.get(key, [])
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise _wrong(f"{where}.{key}", words, "a list of words")
    power = table.get("power")
    if power is not None and (not isinstance(power, dict) or "model" not in power):
        raise _wrong(f"{where}.power", power, 'a table with a `model`, such as "manual"')
    lists = {key: tuple(table.get(key, ())) for key in ("tags", "command")}
    return RigEntry(**{**table, "name": name, **lists})


def _check(value: Any, form: re.Pattern[str], where: str, wanted: str) -> None:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise _wrong(where, value, wanted)


def _check_keys(table: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UsageError(
                f"{where} has a key {key!r} that is not known.",
                cause=f"Did you mean {near[0]!r}?" if near else "It is misspelt.",
                remedy=f"Known are: {', '.join(sorted(known))}.",
            )


def _wrong(where: str, value: Any, wanted: str) -> UsageError:
    return UsageError(
        f"{where} is {value!r}; it has to be {wanted}."[:400], remedy="Correct the line."
    )
