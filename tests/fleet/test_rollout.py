"""The rules of a rollout: by tables, by properties, and by a fleet that does what it likes."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from agent.errors import UsageError
from agent.updates.states import FINAL, TRANSITIONS, State
from sdk.fleet.rules.bounds import median_of
from sdk.fleet.rules.gates import AdvanceIf, StageGate, judged_all
from sdk.fleet.rules.rollout import (
    BAD,
    Command,
    Progress,
    Rollout,
    RolloutState,
    Seen,
    Stage,
    Standing,
    Tally,
    Threshold,
    check,
    commanded,
    decide,
    place,
    reached,
    standing,
    tally,
)

THREE = Rollout(
    stages=(
        Stage(count=2, min_devices=2, soak_s=600.0),
        Stage(share=0.1, min_devices=3, confirmed_share=0.9),
        Stage(share=1.0, confirmed_share=0.9),
    ),
    halt_if=(Threshold(share=0.2, at_least=5),),
)


def _progress(stage: int = 1, quiet_s: float = 1e6, **counts: int) -> Progress:
    found = Tally(counts)  # type: ignore[arg-type]
    return Progress(stage=stage, in_stage=found, quiet_s=quiet_s, by_hardware={"pi": found})


DECISIONS: dict[str, tuple[Progress, str, str]] = {
    "nobody has come": (_progress(assigned=3), "wait", "stage 2: still waited for: 3"),
    "one is at it": (_progress(trying=1, confirmed=9), "wait", "still waited for: 1"),
    "all is well": (_progress(confirmed=10), "open", "10 of 10 confirmed it"),
    "all is well in the end": (_progress(2, confirmed=10), "finish", "10 of 10"),
    "enough of them": (_progress(confirmed=9, failed=1), "open", "9 of 10"),
    "too few of them": (_progress(confirmed=3, failed=1), "halt", "3 of 4 confirmed it, 90% have"),
    "it soaks": (_progress(0, 400.0, confirmed=2), "wait", "soaks for another 200 s"),
    "it has soaked": (_progress(0, 600.0, confirmed=2), "open", "2 of 2"),
    "too few tried it": (_progress(confirmed=2, absent=8), "halt", "tried by 2, not come for by 8"),
    "who is absent does not count": (_progress(confirmed=9, failed=1, absent=90), "open", "9 of"),
    "a fifth is bad": (_progress(confirmed=4, failed=1), "halt", "1 of 5 devices that tried it"),
    "others are still at it": (_progress(trying=4, failed=1), "halt", "1 of 5 devices"),
    "bad in several ways": (
        _progress(confirmed=6, failed=1, timed_out=1, trying=2), "halt", "2 of 10 devices",
    ),
    "too few to judge": (_progress(trying=2, failed=2), "wait", "still waited for: 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", DECISIONS)
def test_what_comes_next(name: str) -> None:
    progress, step, reason = DECISIONS[name]
    found = decide(THREE, "running", progress)
    assert found.step == step, found
    assert reason in found.reason


def test_one_kind_of_hardware_that_breaks_stops_it_for_all() -> None:
    kinds = {"pi": Tally({"failed": 5}), "xeon": Tally({"confirmed": 95})}
    progress = Progress(
        stage=2, in_stage=Tally({"failed": 5, "confirmed": 95}), quiet_s=0.0, by_hardware=kinds
    )
    found = decide(THREE, "running", progress)
    assert (found.step, found.reason[:33]) == ("halt", "5 of 5 devices of pi that tried i")


def test_what_was_acknowledged_does_not_stop_it_again_and_what_is_new_does() -> None:
    known = {"pi": Tally({"failed": 5, "confirmed": 5})}

    def now(**counts: int) -> str:
        found = _progress(2, **counts)
        return decide(THREE, "running", dataclasses.replace(found, acknowledged=known)).step

    assert now(failed=5, confirmed=5, trying=1) == "wait"
    assert now(failed=5, confirmed=60) == "finish"
    assert now(failed=6, confirmed=8, trying=1) == "halt"


@pytest.mark.parametrize("state", [state for state in get_args(RolloutState) if state != "running"])
def test_only_what_runs_goes_on(state: RolloutState) -> None:
    assert decide(THREE, state, _progress(confirmed=10)).step == "wait"


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no stage": ({"stages": ()}, "no stage"),
    "neither": ({"stages": (Stage(),)}, "stage 1 has a share and a count, or neither"),
    "both": ({"stages": (Stage(share=1.0, count=1),)}, "stage 1 has"),
    "more than all": ({"stages": (Stage(share=1.5),)}, "a share of 1.5"),
    "back": ({"stages": (Stage(share=0.5), Stage(share=0.2))}, "stage 2 reaches a share of 0.2"),
    "nobody": ({"stages": (Stage(count=0),)}, "reaches 0 devices"),
    "no time": ({"stages": (Stage(share=1.0, timeout_s=0.0),)}, "waits for 0 s"),
    "no number": ({"stages": (Stage(share=1.0, soak_s=float("nan")),)}, "soaks for nan s"),
    "none has to": ({"stages": (Stage(share=1.0, confirmed_share=0.0),)}, "a share of 0"),
    "no threshold": ({"halt_if": (Threshold(share=0.0),)}, "halts at a share of 0"),
    "halts at success": (
        {"halt_if": (Threshold(share=0.1, outcomes=("confirmed",)),)},
        "halts at confirmed",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_rollout_that_contradicts_itself_is_refused(name: str) -> None:
    changes, why = CONTRADICTIONS[name]
    with pytest.raises(UsageError, match=why):
        check(dataclasses.replace(THREE, **changes))


def test_one_that_does_not_is_taken() -> None:
    check(THREE)


SEEN: dict[str, tuple[Seen, Standing]] = {
    "not come yet": (Seen(assigned_s=950.0), "assigned"),
    "never came": (Seen(assigned_s=10.0), "absent"),
    "at it": (Seen(assigned_s=0.0, heard_s=950.0, state="DOWNLOADING"), "trying"),
    "on trial": (Seen(assigned_s=0.0, heard_s=950.0, state="TRIAL"), "trying"),
    "silent": (Seen(assigned_s=0.0, heard_s=10.0, state="TRIAL"), "timed_out"),
    "good, long ago": (Seen(assigned_s=0.0, heard_s=10.0, state="CONFIRMED"), "confirmed"),
    "refused": (Seen(assigned_s=0.0, heard_s=950.0, state="REJECTED"), "rejected"),
    "taken back": (Seen(assigned_s=0.0, heard_s=950.0, state="ROLLED_BACK"), "rolled_back"),
}


@pytest.mark.parametrize("name", SEEN)
def test_where_a_device_stands(name: str) -> None:
    seen, expected = SEEN[name]
    assert standing(seen, now_s=1000.0, timeout_s=100.0) == expected


@given(state=st.sampled_from([None, *TRANSITIONS]), heard=st.none() | st.floats(0, 1e6))
def test_every_state_stands_somewhere(state: State | None, heard: float | None) -> None:
    found = standing(Seen(assigned_s=0.0, heard_s=heard, state=state), now_s=1e6, timeout_s=1e3)
    assert found in get_args(Standing)
    assert (found in set(BAD) | {"confirmed"}) or state not in FINAL


STAGES = st.builds(
    Stage,
    share=st.none(),
    count=st.integers(1, 50),
    min_devices=st.integers(1, 5),
) | st.builds(Stage, share=st.floats(0.01, 1.0), min_devices=st.integers(1, 5))


@given(stages=st.lists(STAGES, min_size=1, max_size=5), devices=st.integers(0, 200))
def test_stages_only_ever_add_devices(stages: list[Stage], devices: int) -> None:
    rollout = Rollout(stages=tuple(stages))
    counts = [reached(rollout, stage, devices) for stage in range(len(stages))]
    assert counts == sorted(counts)
    assert all(count <= devices for count in counts)
    assert all(
        count >= min(one.min_devices, devices) for count, one in zip(counts, stages, strict=True)
    )


@given(names=st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=30))
def test_places_are_the_devices_own(names: set[str]) -> None:
    places = {name: place("r-1", name) for name in names}
    assert all(0.0 <= where < 1.0 for where in places.values())
    assert len(set(places.values())) == len(names)


def test_places_are_even() -> None:
    first = sum(place("r-1", f"device {n}") < 0.1 for n in range(10_000))
    assert 900 < first < 1100


@pytest.mark.parametrize("command", get_args(Command))
def test_a_command_that_is_given_twice_does_no_more(command: Command) -> None:
    for state in get_args(RolloutState):
        try:
            after = commanded(state, command)
        except UsageError:
            continue
        if command == "resume" and after == "running":
            continue
        assert commanded(after, command) == after


def test_what_is_over_is_not_resumed() -> None:
    with pytest.raises(UsageError, match="is finished cannot resume"):
        commanded("finished", "resume")


NEXT: dict[State, list[State]] = {state: sorted(then) for state, then in TRANSITIONS.items()}


class FleetMachine(RuleBasedStateMachine):
    """Devices come late, fall silent, flap, lie and are deleted; an operator pauses and resumes."""

    devices: Bundle[str] = Bundle("devices")
    rollout = Rollout(
        stages=(
            Stage(count=2, min_devices=1, soak_s=50.0, timeout_s=100.0),
            Stage(share=0.5, min_devices=2, confirmed_share=0.8, timeout_s=100.0),
            Stage(share=1.0, confirmed_share=0.8, timeout_s=100.0),
        ),
        halt_if=(Threshold(share=0.3, at_least=3),),
    )

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.known: set[str] = set()
        self.seen: dict[str, Seen] = {}
        self.stage = -1
        self.state: RolloutState = "running"
        self.changed_s = 0.0
        self.steps: list[str] = []
        self.named = 0

    @initialize(target=devices, count=st.integers(3, 12))
    def begin(self, count: int) -> Any:
        check(self.rollout)
        names = [self._named() for _ in range(count)]
        self._open()
        return names[0]

    @rule(target=devices)
    def joins(self) -> str:
        return self._named()

    @rule(device=consumes(devices))
    def is_deleted(self, device: str) -> None:
        self.known.discard(device)
        self.seen.pop(device, None)
        self._look()

    @rule(seconds=st.sampled_from([1.0, 20.0, 60.0, 101.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self._look()

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def somebody_goes_on(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.seen)))
        seen = self.seen[name]
        then = ["RECEIVED"] if seen.state is None else NEXT[seen.state]
        if then:
            self._says(name, data.draw(st.sampled_from(then)))  # type: ignore[arg-type]

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def somebody_lies(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.seen)))
        self._says(name, data.draw(st.sampled_from(sorted(TRANSITIONS))))  # type: ignore[arg-type]

    @precondition(lambda self: self.seen)
    @rule()
    def all_is_well(self) -> None:
        for name in list(self.seen):
            self._says(name, "CONFIRMED", look=False)
        self._look()

    @rule(times=st.integers(1, 3))
    def is_paused(self, times: int) -> None:
        if self.state in ("running", "paused"):
            for _ in range(times):
                self.state = commanded(self.state, "pause")
            assert self.state == "paused"

    @precondition(lambda self: self.state == "paused")
    @rule()
    def is_resumed(self) -> None:
        self.state = commanded(self.state, "resume")
        self._look()

    @invariant()
    def nobody_has_it_early(self) -> None:
        if self.stage < 0:
            return
        later = [name for name in self.known - set(self.seen) if name in self.order]
        for name in self.seen:
            # Whoever stood behind at the opening is reached no sooner.
            assert self.order.index(name) < self.limit, (name, later)

    @invariant()
    def what_is_bad_enough_has_stopped_it(self) -> None:
        found = self._progress().in_stage
        bad, tried = found.of(*BAD), found.attempted
        if self.state == "running" and tried >= 3:
            assert bad < 0.3 * tried

    @invariant()
    def it_ends_only_well(self) -> None:
        if self.steps and self.steps[-1] == "finish":
            assert self.state == "finished"
            assert self.stage == len(self.rollout.stages) - 1

    def _named(self) -> str:
        self.named += 1
        self.known.add(f"d{self.named}")
        return f"d{self.named}"

    def _says(self, name: str, state: State, *, look: bool = True) -> None:
        self.seen[name] = dataclasses.replace(self.seen[name], heard_s=self.now, state=state)
        self.changed_s = self.now
        if look:
            self._look()

    def _progress(self) -> Progress:
        timeout_s = self.rollout.stages[max(self.stage, 0)].timeout_s
        found = tally(
            standing(seen, now_s=self.now, timeout_s=timeout_s) for seen in self.seen.values()
        )
        return Progress(stage=max(self.stage, 0), in_stage=found, quiet_s=self.now - self.changed_s)

    def _open(self) -> None:
        assert self.state == "running"
        self.stage += 1
        self.order = sorted(self.known, key=lambda name: place("r-1", name))
        self.order.sort(key=lambda name: name not in self.seen)  # who has it already keeps it
        self.limit = max(reached(self.rollout, self.stage, len(self.order)), len(self.seen))
        for name in self.order[: self.limit]:
            self.seen.setdefault(name, Seen(assigned_s=self.now))
        self.changed_s = self.now

    def _look(self) -> None:
        """A server's turn: it decides, and carries that out, until there is nothing to do."""
        for _ in range(len(self.rollout.stages) + 1):
            step = decide(self.rollout, self.state, self._progress()).step
            if step == "wait":
                return
            self.steps.append(step)
            if step == "open":
                self._open()
            else:
                self.state = "halted" if step == "halt" else "finished"
        raise AssertionError("it never comes to rest")


class GatedMachine(FleetMachine):
    """The same, with devices that also say how the release compares, late, twice or never."""

    asked = AdvanceIf(
        gates=(StageGate(quantity="latency", limit_ppm=1_100_000),), confidence=0.75, liars=0.0
    )
    rollout = Rollout(
        stages=(
            Stage(count=2, soak_s=50.0, timeout_s=100.0, advance_if=asked),
            Stage(share=0.5, confirmed_share=0.8, timeout_s=100.0, advance_if=asked),
            Stage(share=1.0, confirmed_share=0.8, timeout_s=100.0, advance_if=asked),
        ),
        halt_if=FleetMachine.rollout.halt_if,
    )

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, float] = {}

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), ratio=st.sampled_from([0.5, 1.0, 1.1, 1.2, 9.0]))
    def somebody_has_measured(self, data: st.DataObject, ratio: float) -> None:
        self.told[data.draw(st.sampled_from(sorted(self.seen)))] = ratio
        self._look()

    @precondition(lambda self: self.seen)
    @rule(ratio=st.sampled_from([1.0, 1.2]))
    def all_have_measured_and_it_is_well(self, ratio: float) -> None:
        self.told.update(dict.fromkeys(self.seen, ratio))
        self.all_is_well()

    @invariant()
    def what_is_slower_everywhere_has_stopped_it(self) -> None:
        ratios = [self.told.get(name, 0.0) for name in self.seen]
        if self.state == "running" and len(ratios) >= 2:
            assert min(ratios) <= 1.1

    def _ratios(self) -> list[float]:
        return [self.told[name] for name in self.seen if name in self.told]

    def _progress(self) -> Progress:
        found, ratios = super()._progress(), self._ratios()
        out = min(found.in_stage.open, len(self.seen) - len(ratios))
        sample = median_of(ratios, self.asked.confidence, self.asked.liars, out)
        tried = ["pi"] if found.in_stage.attempted else []
        judged = judged_all(self.asked, tried, {("latency@500", "pi"): sample})
        return dataclasses.replace(found, gates=judged)

    def _open(self) -> None:
        if self.stage >= 0:
            good = [ratio <= 1.1 for ratio in self._ratios()]
            assert len(good) >= 2
            assert good.count(True) > good.count(False)
        super()._open()


for machine in (FleetMachine, GatedMachine):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestFleet = FleetMachine.TestCase
TestGatedFleet = GatedMachine.TestCase


def test_stages_of_a_group_count_its_devices_alone() -> None:
    rollout = Rollout(
        stages=(
            Stage(group="a", share=1.0),
            Stage(group="b", count=1),
            Stage(group="b", share=0.5),
            Stage(share=1.0),
        )
    )
    check(rollout)
    assert rollout.groups == ()  # the last stage reaches everybody
    assert [reached(rollout, stage, 10, "a") for stage in range(3)] == [10, 10, 10]
    assert [reached(rollout, stage, 10, "b") for stage in range(3)] == [0, 1, 5]
    assert [reached(rollout, stage, 10) for stage in range(4)] == [0, 0, 0, 10]


def test_a_group_is_judged_by_itself() -> None:
    """Or else what went well elsewhere would hide that nothing does here."""
    rollout = Rollout(
        stages=(Stage(group="a", share=1.0), Stage(group="b", share=1.0)),
        halt_if=(Threshold(share=0.5, at_least=2),),
    )
    good, bad = Tally({"confirmed": 98}), Tally({"failed": 2})
    progress = Progress(
        stage=1,
        in_stage=bad,
        quiet_s=0.0,
        by_hardware={"x86_64": Tally({"confirmed": 98, "failed": 2})},
        by_group={"a": good, "b": bad},
    )
    found = decide(rollout, "running", progress)
    assert (found.step, "the group b" in found.reason) == ("halt", True)
    known = dataclasses.replace(progress, acknowledged=progress.strata)
    assert "the group b" not in decide(rollout, "running", known).reason
