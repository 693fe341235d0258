"""The model that runs here, for an application: `agent.sessions.active("minilm").run({...})`.

The session follows the link `current`: a switch is noticed between two runs and never within one.
An opening counts as a start of the application, until a first run has gone well: so a release that
cannot be opened or run is taken back like one whose application does not come up.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from agent.config import default_state
from agent.errors import SlipwayError, UsageError
from agent.local import Word, say
from agent.shim import count_start, forget_starts
from agent.tensors import Array
from agent.updates.slots import CURRENT, Slot, Slots
from agent.variant import VariantRecord, prepared_name

GOOD_RUNS = 20
"""After so many runs without an error the application has said that it is well."""


class Opened(Protocol):
    """What is used of a session."""

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]: ...
    def close(self) -> None: ...


class Open(Protocol):
    """How a variant is opened: `agent.sessions.open_record`."""

    def __call__(
        self, folder: Path, record: VariantRecord, *, prepared: Path | None = None
    ) -> Opened: ...


class ActiveSession:
    """A session of whatever is installed, reopened where that changes."""

    def __init__(self, model: str, state: Path | None, open_variant: Open) -> None:
        """Open it.

        Raises:
            UsageError: none is installed.
            ToolchainError: its runtime is missing, or refuses the file.
        """
        self._model = model
        self._state = state or default_state()
        self._open = open_variant
        self._slots = Slots(self._state / "models" / model)
        self._session: Opened | None = None
        self._slot: Slot | None = None
        self._link: tuple[int, int] | None = None
        self._runs = 0
        self._reopen()

    @property
    def slot(self) -> Slot:
        """What runs: its release, its variant, its files."""
        assert self._slot is not None
        return self._slot

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run once, on whatever is installed at that moment; as `CheckedSession.run`.

        Raises:
            UsageError: a name, dtype or shape does not fit the signature.
            SlipwayError: what was installed since cannot be opened.
        """
        if self._session is None or _identity(self._slots.folder / CURRENT) != self._link:
            self._reopen()
        assert self._session is not None
        try:
            answer = self._session.run(inputs)
        except UsageError:
            raise  # the inputs are wrong, not the release
        except Exception as error:
            self.report(good=False, reason=f"a run failed: {error}")
            raise
        self._runs += 1
        if self._runs == 1:
            forget_starts(self._slots.folder)
        if self._runs == GOOD_RUNS:
            self.report(good=True, reason=f"{GOOD_RUNS} runs")
        return answer

    def report(self, *, good: bool, reason: str = "") -> None:
        """Tell the agent how it goes; where none listens, nobody is told."""
        with contextlib.suppress(SlipwayError):
            say(self._state, Word(model=self._model, good=good, reason=reason))

    def close(self) -> None:
        """Give the runtime's memory back."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> ActiveSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reopen(self) -> None:
        self.close()
        count_start(self._slots.folder)
        # The link is looked at before the slot: a switch in between is seen by the next run.
        self._link = _identity(self._slots.folder / CURRENT)
        slot = self._slots.read(self._slots.current())
        if slot is None:
            raise UsageError(
                f"No release of {self._model} is installed in {self._state}.",
                cause="Nothing was installed yet, or the state folder is another one.",
                remedy="Install one: sdk-agent install PACKAGE",
            )
        prepared = self._state / "prepared" / prepared_name(slot.variant)
        try:
            self._session = self._open(slot.folder, slot.variant, prepared=prepared)
        except SlipwayError as error:
            self.report(good=False, reason=error.what)
            raise
        self._slot, self._runs = slot, 0


def _identity(link: Path) -> tuple[int, int] | None:
    """Changes with every switch: a new link is another file."""
    try:
        found = os.lstat(link)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
