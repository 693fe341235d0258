"""What a repository assigns to this device: for each model the newest word that counts here.

A device has two files there, its own and its group's, with an envelope on each line. Each line is
judged alone, so that nothing that is wrong with one model's assignment keeps another's from the
device. What was taken before is no offer.
"""

from __future__ import annotations

from agent.errors import NetworkError, SlipwayError, VerificationError
from agent.updates.assignment import (
    MOST_MODELS,
    SignedAssignment,
    check_for_device,
    last_seen,
    opened,
    place_of,
)
from agent.updates.home import Home
from agent.updates.obtain import Tell
from agent.updates.source import MissingError, Source, read_short
from agent.updates.trust import Keys, View

_FILE_BYTES = MOST_MODELS * (4 << 10)
"""An assignment has half a kilobyte; 64 of the longest fit as well."""


def offers(home: Home, source: Source, view: View, tell: Tell) -> list[SignedAssignment]:
    """One at most for each model, whichever of the two files has the higher number; oldest first.

    Args:
        home: of the device.
        source: of the repository.
        view: its metadata, as it is trusted now.
        tell: is told what is wrong with an assignment that does not count.

    Raises:
        NetworkError: a file cannot be had now.
    """
    found: dict[str, SignedAssignment] = {}
    for place in _places(home):
        new: list[SignedAssignment] = []
        refused: list[str] = []
        try:
            keys = view.assignment_keys(offline=True)
            new, refused = _judged(home, _lines(source, place), keys)
        except NetworkError:
            raise
        except SlipwayError as error:
            refused.append(error.what)
        if refused:
            more = f" (and {len(refused) - 1} more are refused)" if len(refused) > 1 else ""
            tell(f"{place}: {refused[0]}{more}")
        for one in new:
            before = found.get(one.model)
            if before is None or before.assignment_seq < one.assignment_seq:
                found[one.model] = one
    return sorted(found.values(), key=lambda one: one.assignment_seq)


def _places(home: Home) -> list[str]:
    group = home.config.group
    own = place_of(device_id=home.device.device_id)
    return [own, place_of(group=group)] if group else [own]


def _lines(source: Source, place: str) -> list[bytes]:
    try:
        content = read_short(source, place, _FILE_BYTES)
    except MissingError:
        return []
    lines = content.splitlines()
    if len(content) > _FILE_BYTES or len(lines) > MOST_MODELS:
        raise VerificationError(
            f"It has {len(lines)} lines and {len(content)} bytes or more; {MOST_MODELS} lines and "
            f"{_FILE_BYTES} bytes are read.",
            cause="It is not what sdk assign writes.",
            remedy="Nothing was changed. Assign the releases anew.",
        )
    return lines


def _judged(home: Home, lines: list[bytes], keys: Keys) -> tuple[list[SignedAssignment], list[str]]:
    """Those that count here and were not taken yet, and why others do not count."""
    new: list[SignedAssignment] = []
    refused: list[str] = []
    for line in lines:
        try:
            found = opened(line, keys)
            seen = last_seen(home.journal.number, "offline", keys, found.model)
            if found.assignment_seq <= seen:
                continue
            check_for_device(
                found,
                device_id=home.device.device_id,
                group=home.config.group,
                now=home.now(),
                last_seq=seen,
            )
        except SlipwayError as error:
            refused.append(error.what)
            continue
        if home.journal.action(found.action_id) is None:
            new.append(found)
        else:
            refused.append(f"{found.action_id} was done before; each action is done once")
    return new, refused
