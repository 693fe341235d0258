"""A switch that programs of this machine speak to: lists of words, no shell.

[rig.desk-orin.power]
model = "command"
on = ["usbrelay", "R1_1=1"]
off = ["usbrelay", "R1_1=0"]
status = ["my-status", "R1_1"]    # optional: exit status 0 says on, 1 says off
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

from agent.errors import NetworkError, UsageError

LIMIT_S = 60.0


def power_set(settings: Mapping[str, Any], on: bool) -> None:  # noqa: FBT001  the module's form
    """Run the program for it.

    Raises:
        UsageError: the settings name none.
        NetworkError: it fails.
    """
    found = _run(settings, "on" if on else "off")
    if found.returncode:
        raise _failed(found)


def power_get(settings: Mapping[str, Any]) -> bool | None:
    """What the program for it says.

    Raises:
        NetworkError: it fails.
    """
    if "status" not in settings:
        return None
    found = _run(settings, "status")
    if found.returncode not in (0, 1):
        raise _failed(found)
    return found.returncode == 0


def _run(settings: Mapping[str, Any], name: str) -> subprocess.CompletedProcess[str]:
    command = settings.get(name)
    words = isinstance(command, list) and all(isinstance(word, str) for word in command)
    if not words or not command:
        raise UsageError(
            f"power.{name} is {command!r}; it has to be a list of words.",
            cause="A switch of the kind `command` needs `on` and `off`.",
            remedy=f'Write, for example: {name} = ["usbrelay", "R1_1=1"]',
        )
    try:
        return subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=LIMIT_S,
        )  # fmt: skip
    except OSError as error:
        raise UsageError(f"{command[0]} cannot be started: {error.strerror}.") from error
    except subprocess.TimeoutExpired as error:
        raise NetworkError(
            f"{command[0]} has not ended within {LIMIT_S:g} s.", remedy="Look at the switch."
        ) from error


def _failed(found: subprocess.CompletedProcess[str]) -> NetworkError:
    words = (found.stderr or found.stdout).strip()[-300:]
    return NetworkError(
        f"{' '.join(found.args)} ended with {found.returncode}: {words}",
        cause="The switch is not there, or does not obey.",
        remedy="Try the command by hand.",
    )
