"""The first words on a line to a rig: our runner is sent unless it is there, and answers."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from typing import Any

from agent.errors import StorageError, UsageError
from agent.rig.bootstrap import HELLO
from hil.bundle import bootstrap, bundle
from hil.line import Line
from hil.outcome import LinkLostError

_NOISE_BYTES = 64 << 10
"""What a login may say before the runner speaks."""


def greet(name: str, line: Line, folder: str, *, is_sent: bool, most_s: float) -> None:
    """Start the runner there.

    Args:
        name: of the rig, for messages.
        line: where a Python reads a program: its length in a line, then itself.
        folder: on the rig.
        is_sent: False where the line leads to a runner that is there already.
        most_s: the line is closed after this.

    Raises:
        LinkLostError: nobody answers.
        UsageError: its Python is too old.
        StorageError: its folder cannot be written.
    """
    code, program = bundle(), bootstrap()
    told = {"folder": folder, "sha256": code.sha256, "length": len(code.content)}
    first = json.dumps(told).encode() + b"\n"
    if is_sent:
        first = f"{len(program)}\n".encode() + program + first
    stuck = threading.Timer(most_s, line.close)
    stuck.start()
    try:
        line.write(first)
        answer = _answer(name, line)
        if is_sent and not answer.get("have") and "refused" not in answer:
            line.write(code.content)
    except OSError as error:
        raise _nobody(name, line, str(error)) from error
    finally:
        stuck.cancel()
    _check_answer(name, answer)


def _answer(name: str, line: Line) -> dict[str, Any]:
    noise = b""
    while len(noise) < _NOISE_BYTES:
        said = line.readline()
        if not said:
            raise _nobody(name, line, "the line ended")
        with contextlib.suppress(ValueError):
            found = json.loads(said)
            if isinstance(found, dict) and HELLO in found:
                return found
        noise += said
    raise _nobody(name, line, f"it says {noise[:200]!r} and goes on")


def _nobody(name: str, line: Line, why: str) -> LinkLostError:
    words = line.last_words()
    said = f" It said: {words[-300:]}" if words else ""
    return LinkLostError(
        f"No runner answers on the rig {name}: {why}.{said}",
        cause="There is no Python of that name, or its shell says something else at login.",
        remedy='Name the Python in the inventory: python = "/usr/bin/python3"',
    )


def _check_answer(name: str, answer: Mapping[str, Any]) -> None:
    refused = answer.get("refused")
    if refused == "python":
        found = ".".join(map(str, answer["python"]))
        raise UsageError(
            f"The rig {name} has Python {found} at {answer['path']}; 3.10 or newer is needed.",
            cause="Its system is older: JetPack 5 has Python 3.8.",
            remedy='Install a newer one there, and name it in the inventory: python = "..."',
        )
    if refused is not None:
        raise StorageError(
            f"The rig {name} cannot use its folder {answer.get('folder')}: {answer['why']}.",
            cause="The disk is full, or the folder belongs to another user.",
            remedy='Free some space there, or name another one in the inventory: folder = "..."',
        )
