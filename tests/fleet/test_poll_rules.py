"""What a poll changes, by a table, by properties, and by a device that does what it likes."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.updates.states import CANCELLABLE, FINAL, TRANSITIONS, State
from agent.updates.wire import Doing, Poll, Refused, Running
from sdk.fleet.rules.pace import JITTER, MOST_STRETCH, Minutes, next_poll_s
from sdk.fleet.rules.poll import Call, Outcome, Status, Work, outcome, said

STATES: tuple[State, ...] = get_args(State)


def _work(number: int = 1, call: Call = "open", model: str = "net", **more: Any) -> Work:
    return Work(id=f"a{number}", model=model, call=call, assignment_seq=number, **more)


def _poll(*actions: tuple[int, State], refused: tuple[int, ...] = ()) -> Poll:
    return Poll(
        agent="0.1.0",
        boot_id="b",
        fingerprint_sha256="0" * 64,
        actions=tuple(
            Doing(action_id=f"a{number}", state=state, journal_seq=5) for number, state in actions
        ),
        refused=tuple(Refused(action_id=f"a{number}", reason="no") for number in refused),
    )


def _running(sha256: str | None, *actions: tuple[int, State], model: str = "net") -> Poll:
    return dataclasses.replace(
        _poll(*actions), models=(Running(model=model, running_sha256=sha256),)
    )


def _told(found: Outcome) -> tuple[str | None, str | None, dict[str, tuple[str, str | None]]]:
    return found.assign, found.cancel, {one.id: (one.status, one.state) for one in found.changes}


CASES: dict[str, tuple[Poll, list[Work], tuple[Any, Any, Any]]] = {
    "nothing to do": (_poll(), [], (None, None, {})),
    "work that it has not heard of": (_poll(), [_work()], ("a1", None, {})),
    "the oldest work first": (_poll(), [_work(3), _work(2, model="b")], ("a2", None, {})),
    "newer work for the same model takes the older one's place": (
        _poll(), [_work(3), _work(2)], ("a3", None, {"a2": ("called_off", None)}),
    ),
    "work that was called off takes nobody's place": (
        _poll(), [_work(1), _work(2, "withdrawn")], ("a1", None, {"a2": ("called_off", None)}),
    ),
    "it is at it": (
        _poll((1, "TRIAL")), [_work(1), _work(2, model="b")],
        (None, None, {"a1": ("open", "TRIAL")}),
    ),
    "it is done, and the next one comes": (
        _poll((1, "CONFIRMED")), [_work(1), _work(2, model="b")],
        ("a2", None, {"a1": ("over", "CONFIRMED")}),
    ),
    "it does what nobody here knows": (_poll((9, "TRIAL")), [_work()], (None, None, {})),
    "it told of an end that nobody waits for": (_poll((9, "FAILED")), [_work()], ("a1", None, {})),
    "it runs what it is to run": (
        _running("f" * 64), [_work(plain_sha256="f" * 64), _work(2, model="b")],
        ("a2", None, {"a1": ("over", "CONFIRMED")}),
    ),
    "it runs something else": (
        _running("e" * 64), [_work(plain_sha256="f" * 64)], ("a1", None, {}),
    ),
    "nothing runs": (_running(None), [_work(plain_sha256="f" * 64)], ("a1", None, {})),
    "another model of the same bytes": (
        _running("f" * 64, model="b"), [_work(plain_sha256="f" * 64)], ("a1", None, {}),
    ),
    "it is to run it with gates of the assignment's own": (
        _running("f" * 64), [_work()], ("a1", None, {}),
    ),
    "it runs it on trial": (
        _running("f" * 64, (1, "TRIAL")), [_work(plain_sha256="f" * 64)],
        (None, None, {"a1": ("open", "TRIAL")}),
    ),
    "it runs it on a trial that nobody here knows": (
        _running("f" * 64, (9, "TRIAL")), [_work(plain_sha256="f" * 64)], (None, None, {}),
    ),
    "it runs what was called off": (
        _running("f" * 64), [_work(1, "withdrawn", plain_sha256="f" * 64)],
        (None, None, {"a1": ("called_off", None)}),
    ),
    "it runs what is held": (
        _running("f" * 64), [_work(1, "held", plain_sha256="f" * 64)], (None, None, {}),
    ),
    "it fell back, after it had begun": (
        _running("f" * 64), [_work(state="STAGED", plain_sha256="f" * 64)], ("a1", None, {}),
    ),
    "it refuses": (
        _poll(refused=(1,)), [_work(1), _work(2, model="b")],
        ("a2", None, {"a1": ("over", "REJECTED")}),
    ),
    "it was called off before it came": (
        _poll(), [_work(1, "withdrawn")], (None, None, {"a1": ("called_off", None)}),
    ),
    "it is called off": (
        _poll((1, "STAGED")), [_work(1, "withdrawn")], (None, "a1", {"a1": ("open", "STAGED")}),
    ),
    "it is called off, and the next one comes": (
        _poll((1, "STAGED")), [_work(1, "withdrawn"), _work(2)],
        ("a2", "a1", {"a1": ("open", "STAGED")}),
    ),
    "it gave up what was called off": (
        _poll((1, "FAILED")), [_work(1, "withdrawn")],
        (None, None, {"a1": ("called_off", "FAILED")}),
    ),
    "it is too late to call it off": (
        _poll((1, "ACTIVATING")), [_work(1, "withdrawn"), _work(2)],
        (None, None, {"a1": ("open", "ACTIVATING")}),
    ),
    "it went through with what was called off": (
        _poll((1, "CONFIRMED")), [_work(1, "withdrawn")],
        (None, None, {"a1": ("over", "CONFIRMED")}),
    ),
    "what is held waits": (_poll(), [_work(1, "held")], (None, None, {})),
    "what is held is called off": (
        _poll((1, "DOWNLOADING")), [_work(1, "held")],
        (None, "a1", {"a1": ("open", "DOWNLOADING")}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_a_device_says_decides_what_it_is_told(name: str) -> None:
    poll, works, expected = CASES[name]
    assert _told(outcome(poll, works)) == expected


def test_an_older_word_of_an_action_changes_nothing_but_an_end_does() -> None:
    work = _work(state="TRIAL", journal_seq=7)
    old = Doing(action_id="a1", state="STAGED", journal_seq=3)
    assert (said(work, old).state, said(work, old).journal_seq) == ("TRIAL", 7)
    ended = Doing(action_id="a1", state="ROLLED_BACK", journal_seq=3)
    assert (said(work, ended).state, said(work, ended).status) == ("ROLLED_BACK", "over")


WORKS = st.lists(
    st.builds(
        Work,
        id=st.sampled_from([f"a{number}" for number in range(6)]),
        model=st.just("net"),
        call=st.sampled_from(["open", "held", "withdrawn"]),
        assignment_seq=st.integers(1, 9),
        state=st.none() | st.sampled_from(sorted(set(STATES) - FINAL)),
        journal_seq=st.integers(0, 9),
    ),
    max_size=5,
    unique_by=lambda work: work.id,
)
ACTIONS = st.lists(
    st.builds(
        Doing,
        action_id=st.sampled_from([f"a{number}" for number in range(8)]),
        state=st.sampled_from(STATES),
        journal_seq=st.integers(0, 9),
    ),
    max_size=8,
)
REFUSED = st.lists(
    st.builds(
        Refused,
        action_id=st.sampled_from([f"a{number}" for number in range(8)]),
        reason=st.just("no"),
    ),
    max_size=4,
)


@given(WORKS, ACTIONS, REFUSED)
def test_whatever_a_device_says_it_is_told_what_it_may_be(
    works: list[Work], actions: list[Doing], refused: list[Refused]
) -> None:
    poll = dataclasses.replace(_poll(), actions=tuple(actions), refused=tuple(refused))
    found = outcome(poll, works)
    by_id = {work.id: work for work in works}
    told = {one.action_id: one for one in actions}
    over = {change.id for change in found.changes if change.status != "open"}
    changed = [change.id for change in found.changes]
    assert len(changed) == len(set(changed))
    assert set(changed) <= set(by_id)
    if found.assign is not None:
        assert by_id[found.assign].call == "open"
        assert found.assign not in {*told, *over, *(one.action_id for one in refused)}
        assert not [
            one for one in actions if one.state not in FINAL and one.action_id != found.cancel
        ]
    if found.cancel is not None:
        assert told[found.cancel].state in CANCELLABLE
        work = by_id[found.cancel]
        assert work.call != "open" or _followed(work, works)
    for change in found.changes:
        assert change.journal_seq >= by_id[change.id].journal_seq
        assert (change.state in FINAL) <= (change.status != "open")
        assert (change.status == "over") <= (change.state in FINAL)


def _followed(work: Work, works: list[Work]) -> bool:
    return any(
        one.call != "withdrawn" and one.assignment_seq >= work.assignment_seq and one != work
        for one in works
    )


class Polls(RuleBasedStateMachine):
    """A server that assigns and calls off, a device that forgets, starts anew and lies."""

    @initialize()
    def begin(self) -> None:
        self.server: dict[str, Work] = {}
        self.ended: dict[str, Status] = {}
        self.device: dict[str, tuple[State, int]] = {}
        self.number = 0

    @rule()
    def assign(self) -> None:
        self.number += 1
        self.server[f"a{self.number}"] = _work(self.number)

    @rule()
    def withdraw(self) -> None:
        for name, work in self.server.items():
            self.server[name] = dataclasses.replace(work, call="withdrawn")

    @rule()
    def poll(self) -> None:
        self._polls(
            tuple(
                Doing(action_id=name, state=state, journal_seq=seq)
                for name, (state, seq) in self.device.items()
            )
        )

    @rule()
    def goes_on(self) -> None:
        """The action that is not over takes its first way on."""
        self._step(lambda then: then[0])

    @rule(choice=st.randoms(use_true_random=False))
    def goes_somewhere(self, choice: Any) -> None:
        self._step(choice.choice)

    @rule()
    def loses_its_journal(self) -> None:
        self.device.clear()

    @rule(actions=ACTIONS)
    def lies(self, actions: list[Doing]) -> None:
        self._polls(tuple(actions))

    @invariant()
    def at_most_one_is_under_way(self) -> None:
        assert len([name for name, (state, _) in self.device.items() if state not in FINAL]) <= 1

    def teardown(self) -> None:
        """Whatever happened: a device that is honest from now on comes to the end of its work."""
        for _ in range(40 * (len(self.server) + 1)):
            self.poll()
            self.goes_on()
        assert not self.server

    def _step(self, choose: Any) -> None:
        for name, (state, seq) in self.device.items():
            if state not in FINAL:
                self.device[name] = (choose(list(TRANSITIONS[state])), seq + 1)
                return

    def _polls(self, actions: tuple[Doing, ...]) -> None:
        poll = dataclasses.replace(_poll(), actions=actions)
        found = outcome(poll, list(self.server.values()))
        for change in found.changes:
            assert change.id not in self.ended, "an action that is over came back"
            if change.status != "open":
                self.ended[change.id] = change.status
                del self.server[change.id]
            else:
                self.server[change.id] = dataclasses.replace(
                    self.server[change.id], state=change.state, journal_seq=change.journal_seq
                )
        for name, (state, _) in list(self.device.items()):
            if state in FINAL:  # told now, and heard
                del self.device[name]
        if found.cancel in self.device and self.device[found.cancel][0] in CANCELLABLE:
            self.device[found.cancel] = ("FAILED", self.device[found.cancel][1] + 1)
        busy = [name for name, (state, _) in self.device.items() if state not in FINAL]
        if found.assign is not None and not busy:
            assert found.assign not in self.ended, "work that is over was handed out"
            self.device[found.assign] = ("RECEIVED", 1)


TestPolls = pytest.mark.slow(Polls.TestCase)
TestPolls.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@given(st.floats(1.0, 3600.0), st.floats(0.0, 1e9), st.floats(0.0, 1.0))
def test_the_next_poll_is_near_the_asked_one_and_later_under_load(
    poll_s: float, waited_s: float, chance: float
) -> None:
    found = next_poll_s(poll_s, waited_s, chance)
    assert max(1, (1 - JITTER) * poll_s - 1) <= found <= MOST_STRETCH * (1 + JITTER) * poll_s + 1
    assert next_poll_s(poll_s, 0.0, chance) <= found


@given(st.lists(st.floats(0.0, 600.0), max_size=60).map(sorted), st.integers(1, 5))
def test_nobody_is_answered_more_often_in_a_minute_than_is_allowed(
    moments: list[float], most: int
) -> None:
    minutes = Minutes(most)
    answered: list[float] = []
    for number, now_s in enumerate(moments):
        wait_s = minutes.wait_s("d", now_s)
        assert 0 <= wait_s <= 60
        if not wait_s:
            answered.append(now_s)
        assert minutes.wait_s(f"other {number}", now_s) == 0  # another one is not held up
    for begin in answered:  # two windows may meet within a minute
        assert len([one for one in answered if begin <= one < begin + 60.0]) <= 2 * most
