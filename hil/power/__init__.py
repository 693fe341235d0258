"""Switch a rig off and on. One module for each kind of switch, found by its name.

A module has two functions, and nothing else is asked of it:

- `power_set(settings, on)` switches;
- `power_get(settings)` says whether it is on; None where the switch cannot tell.

`settings` is the rig's table `power` of the inventory. Third parties register theirs by the entry
point `slipway.power`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from agent.errors import NetworkError, UsageError
from hil.inventory import RigEntry

GROUP = "slipway.power"
OFF_S = 5.0
"""How long it stays off in a cycle: its capacitors hold for a while. `off_s` in the inventory."""


class PowerModule(Protocol):
    """A kind of switch."""

    def power_set(self, settings: Mapping[str, Any], on: bool) -> None: ...  # noqa: FBT001
    def power_get(self, settings: Mapping[str, Any]) -> bool | None: ...


def power_module(name: str) -> PowerModule:
    """The module of that name.

    Raises:
        UsageError: there is none.
    """
    own = {found.name for found in pkgutil.iter_modules(__path__)}
    if name in own:
        return cast("PowerModule", importlib.import_module(f"hil.power.{name}"))
    others = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if name in others:
        return cast("PowerModule", others[name].load())
    known = sorted(own | others.keys())
    near = difflib.get_close_matches(name, known, n=1)
    raise UsageError(
        f"There is no power switch of the kind {name[:80]!r}; known are: {', '.join(known)}.",
        cause=f"Did you mean {near[0]!r}?" if near else "The package that has it is not installed.",
        remedy="Correct `model` in the rig's table power.",
    )


def settings_of(entry: RigEntry) -> Mapping[str, Any]:
    """How a rig is switched.

    Raises:
        UsageError: the inventory does not say.
    """
    if entry.power is None:
        raise UsageError(
            f"Nothing is known of a power switch of {entry.name}.",
            cause="Its table `power` is missing in the inventory.",
            remedy='Add one, such as: power = { model = "manual" }',
        )
    return entry.power


def switch(entry: RigEntry, *, on: bool) -> None:
    """Switch a rig on or off.

    Raises:
        UsageError: nothing is known of its switch, or its settings are wrong.
        NetworkError: the switch does not do it.
    """
    settings = settings_of(entry)
    module = power_module(str(settings["model"]))
    module.power_set(settings, on)
    if module.power_get(settings) is (not on):
        raise NetworkError(
            f"The switch of {entry.name} was told {'on' if on else 'off'}; it says that it is not.",
            cause="It is another outlet, or the switch is stuck.",
            remedy="Look at it.",
        )


def is_on(entry: RigEntry) -> bool | None:
    """Whether it has power; None where its switch cannot tell.

    Raises:
        UsageError: nothing is known of its switch.
        NetworkError: the switch does not answer.
    """
    settings = settings_of(entry)
    return power_module(str(settings["model"])).power_get(settings)


def cycle(entry: RigEntry, sleep: Callable[[float], None] = time.sleep) -> None:
    """Switch a rig off, and after a while on; raises as `switch` does."""
    off_s = settings_of(entry).get("off_s", OFF_S)
    if not isinstance(off_s, int | float) or isinstance(off_s, bool) or not 0 <= off_s <= 600:
        raise UsageError(f"off_s of {entry.name} is {off_s!r}; it has to be seconds, up to 600.")
    switch(entry, on=False)
    sleep(float(off_s))
    switch(entry, on=True)
