"""The model that runs here, for an application: `agent.sessions.active("minilm").run({...})`.

The session follows the link `current`: a switch is noticed between two runs and never within one.
An opening counts as a start of the application, until a first run has gone well: so a release that
cannot be opened or run is taken back like one whose application does not come up.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from agent.errors import SlipwayError, UsageError
from agent.local import Word, say
from agent.shim import CURRENT, VARIABLE, count_start, default_state, forget_starts, is_on_trial
from agent.tensors import Array
from agent.updates.slots import Slot, Slots
from agent.variant import VariantRecord, prepared_name

GOOD_RUNS = 20
"""After so many runs without an error the application has said that it is well."""
_AGAIN_S = 10.0
"""A word is said again no sooner: nobody may have listened the first time."""


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
    """A session of whatever is installed, reopened where that changes; one run at a time."""

    def __init__(self, model: str, state: Path | None, open_variant: Open) -> None:
        """Open it.

        Raises:
            UsageError: none is installed.
            ToolchainError: its runtime is missing, or refuses the file.
        """
        self._model = model
        self._state = (state or default_state()).absolute()
        self._open = open_variant
        self._slots = Slots(self._state / "models" / model)
        self._link = self._slots.folder / CURRENT
        # Whoever was started by `sdk-agent exec` was counted there.
        self._counted = os.environ.get(VARIABLE) == str(self._link)
        self._turn = threading.Lock()
        self._session: Opened | None = None
        self._slot: Slot | None = None
        self._seen: tuple[int, int] | None = None
        self._runs = 0
        self._said: dict[bool, float] = {}
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
        with self._turn:
            if self._session is None or _identity(self._link) != self._seen:
                self._reopen()
            assert self._session is not None
            try:
                answer = self._session.run(inputs)
            except UsageError:
                raise  # the inputs are wrong, not the release
            except Exception as error:
                if self._is_due(good=False):
                    self.report(good=False, reason=f"a run failed: {error}")
                raise
            self._runs += 1
            if self._runs == 1:
                forget_starts(self._slots.folder)
            if self._runs >= GOOD_RUNS and self._is_due(good=True) and self._is_waited_for():
                self.report(good=True, reason=f"{self._runs} runs")
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
        if not self._counted:
            count_start(self._slots.folder)
        self._counted = False
        while True:
            # The link is looked at before the slot: a switch in between is seen by the next run.
            self._seen = _identity(self._link)
            try:
                self._slot = self._opened()
            except Exception as error:
                if _identity(self._link) != self._seen:
                    continue  # it was switched just now, and the slot may be another one already
                if self._slots.current() is not None and self._is_due(good=False):
                    reason = error.what if isinstance(error, SlipwayError) else str(error)
                    self.report(good=False, reason=f"it cannot be opened: {reason}")
                raise
            self._runs = 0
            self._said.clear()
            return

    def _opened(self) -> Slot:
        slot = self._slots.read(self._slots.current())
        if slot is None:
            raise UsageError(
                f"No release of {self._model} is installed in {self._state}.",
                cause="Nothing was installed yet, or the state folder is another one.",
                remedy="Install one: sdk-agent install PACKAGE",
            )
        prepared = self._state / "prepared" / prepared_name(slot.variant)
        self._session = self._open(slot.folder, slot.variant, prepared=prepared)
        return slot

    def _is_waited_for(self) -> bool:
        """The first time always; then as long as a trial lasts: nobody may have listened."""
        return self._runs == GOOD_RUNS or is_on_trial(self._slots.folder)

    def _is_due(self, *, good: bool) -> bool:
        """Whether such a word may be said now: rarely enough to cost the application nothing."""
        last, now = self._said.get(good), time.monotonic()
        if last is not None and now - last < _AGAIN_S:
            return False
        self._said[good] = now
        return True


def _identity(link: Path) -> tuple[int, int] | None:
    """Changes with every switch: a new link is another file."""
    try:
        found = os.lstat(link)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
