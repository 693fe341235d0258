"""The table of an action's states, and what a restart makes of whatever it finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.updates.states import (
    CANCELLABLE,
    FINAL,
    MOST_STARTS,
    MOST_WRITES,
    TRANSITIONS,
    Clock,
    Decision,
    Found,
    State,
    Step,
    is_over,
    may_follow,
    reconcile,
)

NOW = Clock(boot_id="this", uptime_s=1000.0)
LATER, PAST = Clock(boot_id="this", uptime_s=1001.0), Clock(boot_id="this", uptime_s=999.0)
OTHER_BOOT = Clock(boot_id="other", uptime_s=1.0)
STATES = sorted(TRANSITIONS)
BEFORE_SWITCH: tuple[State, ...] = ("RECEIVED", "DOWNLOADING", "STAGED", "PREFLIGHT")


def _found(state: State, **changes: object) -> Found:
    usual = Found(
        state=state,
        new_slot=None if state in BEFORE_SWITCH else "B",
        current="B" if state == "TRIAL" else "A",
        new_complete=state not in BEFORE_SWITCH,
        starts=0,
        boots=0,
        writes=6,
        deadline=LATER if state in ("TRIAL", "ROLLING_BACK") else None,
        now=NOW,
    )
    return dataclasses.replace(usual, **changes)  # type: ignore[arg-type]


CASES: dict[str, tuple[Found, Step]] = {
    "it was only received": (_found("RECEIVED"), "continue"),
    "in the middle of a download": (_found("DOWNLOADING"), "continue"),
    "all is here": (_found("STAGED"), "continue"),
    "in the preflight": (_found("PREFLIGHT"), "continue"),
    "the same on a device where nothing runs": (_found("PREFLIGHT", current=None), "continue"),
    "the switch was not done": (_found("ACTIVATING"), "continue"),
    "of a first installation": (_found("ACTIVATING", current=None), "continue"),
    "and its slot is damaged": (_found("ACTIVATING", new_complete=False), "give up"),
    "the switch was done": (_found("ACTIVATING", current="B"), "enter trial"),
    "but the slot is damaged": (
        _found("ACTIVATING", current="B", new_complete=False),
        "roll back",
    ),
    "on trial": (_found("TRIAL"), "continue"),
    "its time is up": (_found("TRIAL", deadline=PAST), "roll back"),
    "its time is up and silence is good": (
        _found("TRIAL", deadline=PAST, silence_is_good=True),
        "continue",
    ),
    "to the second": (_found("TRIAL", deadline=NOW), "roll back"),
    "a deadline of another boot": (_found("TRIAL", deadline=OTHER_BOOT), "continue"),
    "two starts": (_found("TRIAL", starts=2), "continue"),
    "three starts": (_found("TRIAL", starts=3), "roll back"),
    "three starts and silence is good": (
        _found("TRIAL", starts=3, silence_is_good=True),
        "roll back",
    ),
    "three boots": (_found("TRIAL", boots=3), "roll back"),
    "the shim fell back": (_found("TRIAL", current="A", starts=4), "finish rollback"),
    "the shim fell back, and there were too many entries": (
        _found("TRIAL", current="A", writes=MOST_WRITES),
        "finish rollback",
    ),
    "what is on trial is damaged": (_found("TRIAL", new_complete=False), "roll back"),
    "it was being taken back": (_found("ROLLING_BACK"), "finish rollback"),
    "and was": (_found("ROLLING_BACK", current="A"), "finish rollback"),
    "again and again": (_found("ROLLING_BACK", writes=99), "finish rollback"),
    "too many entries of a download": (_found("DOWNLOADING", writes=MOST_WRITES), "give up"),
    "too many before the switch": (_found("ACTIVATING", writes=MOST_WRITES), "give up"),
    "too many after it": (_found("ACTIVATING", current="B", writes=MOST_WRITES), "roll back"),
    "too many on trial": (_found("TRIAL", writes=MOST_WRITES), "roll back"),
    "one less than too many": (_found("DOWNLOADING", writes=MOST_WRITES - 1), "continue"),
    "somebody else switched": (
        _found("PREFLIGHT", new_slot="B", current="B", new_complete=True),
        "roll back",
    ),
    "confirmed": (_found("CONFIRMED", current="B"), "nothing"),
    "taken back": (_found("ROLLED_BACK"), "nothing"),
    "refused": (_found("REJECTED"), "nothing"),
    "failed": (_found("FAILED"), "nothing"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_restart(name: str) -> None:
    found, step = CASES[name]
    decision = reconcile(found)
    assert (decision.step, bool(decision.reason)) == (step, True)


# The table.


def test_what_is_final() -> None:
    assert {"CONFIRMED", "ROLLED_BACK", "REJECTED", "FAILED"} == FINAL
    assert set(CANCELLABLE).isdisjoint(FINAL)


def _ways(state: State) -> Iterator[tuple[State, ...]]:
    if state in FINAL:
        yield (state,)
    for then in TRANSITIONS[state]:
        yield from ((state, *way) for way in _ways(then))


def test_every_state_is_reached_and_ends_without_a_circle() -> None:
    ways = list(_ways("RECEIVED"))  # a circle would not return
    assert {state for way in ways for state in way} == set(TRANSITIONS)
    assert all(way[-1] in FINAL for way in ways)
    # Twice over, each noted twice, is still less than what counts as a loop.
    assert 2 * max(map(len, ways)) < MOST_WRITES


def test_nothing_is_confirmed_that_was_not_on_trial() -> None:
    for way in _ways("RECEIVED"):
        if "CONFIRMED" in way or "ROLLED_BACK" in way:
            trial = way.index("TRIAL")
            assert way[:trial] == (*BEFORE_SWITCH, "ACTIVATING")
    assert [state for state in STATES if "TRIAL" in TRANSITIONS[state]] == ["ACTIVATING"]


def test_what_may_be_called_off_has_an_end_for_it() -> None:
    assert all(FINAL & set(TRANSITIONS[state]) for state in CANCELLABLE)


@pytest.mark.parametrize("state", sorted(FINAL))
def test_the_end_is_the_end(state: State) -> None:
    assert not any(may_follow(state, then) for then in STATES)


# Whatever is found.

CLOCKS = st.builds(
    Clock, boot_id=st.sampled_from(["this", "other", ""]), uptime_s=st.floats(0, 1e9)
)
ANYTHING = st.builds(
    Found,
    state=st.sampled_from(STATES),
    new_slot=st.sampled_from([None, "A", "B"]),
    current=st.sampled_from([None, "A", "B"]),
    new_complete=st.booleans(),
    starts=st.integers(0, 6),
    boots=st.integers(0, 6),
    writes=st.integers(1, 40),
    deadline=st.none() | CLOCKS,
    now=CLOCKS,
    silence_is_good=st.booleans(),
)


def _switched(found: Found) -> bool:
    return found.new_slot is not None and found.new_slot == found.current


@given(ANYTHING)
def test_what_is_decided_can_be_done(found: Found) -> None:
    step = reconcile(found).step
    assert (step == "nothing") == (found.state in FINAL)
    if step == "give up":
        assert not _switched(found)
        assert {"FAILED", "REJECTED"} & set(TRANSITIONS[found.state])
    if step == "enter trial":
        assert found.state == "ACTIVATING"
        assert _switched(found)
    if step == "roll back":
        assert _switched(found)
    if step == "finish rollback":
        assert found.state in ("TRIAL", "ROLLING_BACK")


@given(ANYTHING)
def test_nothing_damaged_and_nothing_unasked_for_goes_on_running(found: Found) -> None:
    step = reconcile(found).step
    if found.state not in FINAL and _switched(found) and not found.new_complete:
        assert step in ("roll back", "finish rollback")
    if found.state in BEFORE_SWITCH:
        assert (step == "roll back") == _switched(found)


@given(ANYTHING)
def test_a_trial_goes_on_only_while_it_may(found: Found) -> None:
    if found.state == "TRIAL" and reconcile(found).step == "continue":
        assert _switched(found)
        assert found.new_complete
        assert max(found.starts, found.boots) < MOST_STARTS
        assert found.writes < MOST_WRITES
        assert found.silence_is_good or not is_over(found.deadline, found.now)


def _done(found: Found, decision: Decision) -> Found:
    """What is found after a decision was carried out."""
    writes = found.writes + 1
    if decision.step in ("roll back", "finish rollback"):
        return dataclasses.replace(found, state="ROLLED_BACK", current=None, writes=writes)
    if decision.step == "give up":
        return dataclasses.replace(found, state="FAILED", writes=writes)
    if decision.step == "enter trial":
        return dataclasses.replace(found, state="TRIAL", writes=writes)
    return found


@given(ANYTHING)
def test_restarts_alone_come_to_rest_within_two(found: Found) -> None:
    for _ in range(2):
        found = _done(found, reconcile(found))
    assert reconcile(found).step in ("nothing", "continue") or found.state == "TRIAL"
    assert _done(found, reconcile(found)).state in (*FINAL, *BEFORE_SWITCH, "ACTIVATING", "TRIAL")


@given(ANYTHING)
def test_restarts_without_end_end_an_action(found: Found) -> None:
    """Each boot of a trial is counted, and each entry of anything else is."""
    for _ in range(MOST_WRITES + 1):
        step = reconcile(found)
        found = _done(found, step)
        if found.state == "TRIAL":
            found = dataclasses.replace(found, boots=found.boots + 1, writes=found.writes + 1)
        else:
            found = dataclasses.replace(found, writes=found.writes + 1)
    assert found.state in FINAL


@given(CLOCKS, CLOCKS)
def test_a_deadline_counts_within_its_boot_alone(deadline: Clock, now: Clock) -> None:
    if deadline.boot_id != now.boot_id:
        assert not is_over(deadline, now)
    else:
        assert is_over(deadline, now) == (now.uptime_s >= deadline.uptime_s)
