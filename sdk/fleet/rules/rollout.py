"""The rules of a rollout: who comes when, and from what devices said of it, what to do next.

Pure: counts and seconds go in, a decision comes out. Whoever keeps the devices counts them and
carries it out.

A release goes out in stages. Shares are taken of the devices that tried it, as AWS IoT Jobs does:
of the whole group, most of which may be switched off, a broken release would never be enough. A
device that took the work and fell silent has failed. One that never came for it says nothing about
the release, and is not waited for beyond the stage's time.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from agent.errors import UsageError
from agent.updates.states import State
from sdk.fleet.rules.gates import AdvanceIf, Judged, broken, missing, why_not

Standing = Literal[
    "assigned", "trying", "confirmed", "failed", "rejected", "rolled_back", "timed_out", "absent"
]
"""Of one device in a rollout: it has not come for the work, is at it, came to that end, fell
silent over it, or did not come for it in time."""
RolloutState = Literal[
    "running", "paused", "halted", "finished", "reverting", "reverted", "cancelled", "revoked"
]
Command = Literal["pause", "resume", "cancel", "revert"]
Step = Literal["wait", "open", "halt", "finish"]

BAD: tuple[Standing, ...] = ("failed", "rejected", "rolled_back", "timed_out")
OVER: tuple[Standing, ...] = (*BAD, "confirmed")
"""Of a device that came to an end."""
_ENDS: Mapping[State, Standing] = {
    "CONFIRMED": "confirmed",
    "FAILED": "failed",
    "REJECTED": "rejected",
    "ROLLED_BACK": "rolled_back",
}
_COMMANDS: Mapping[Command, Mapping[RolloutState, RolloutState]] = {
    "pause": {"running": "paused", "paused": "paused"},
    "resume": {"paused": "running", "halted": "running", "running": "running"},
    "cancel": {
        "running": "cancelled",
        "paused": "cancelled",
        "halted": "cancelled",
        "cancelled": "cancelled",
    },
    "revert": {
        "running": "reverting",
        "paused": "reverting",
        "halted": "reverting",
        "finished": "reverting",
        "cancelled": "reverting",
        "revoked": "reverting",
        "reverting": "reverting",
        "reverted": "reverted",
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A wave of a rollout. One of `share` and `count` says how many devices it reaches in all."""

    group: str | None = None
    """It reaches this group alone, and is judged by it; None: all of the rollout's devices."""
    share: float | None = None
    """Of those, the ones that earlier stages reached included; above 0, at most 1."""
    count: int | None = None
    min_devices: int = 1
    """So many have to have tried it before the next stage may open."""
    confirmed_share: float = 1.0
    """Of those that tried it, before the next stage may open."""
    soak_s: float = 0.0
    """So long after the last of its devices came to an end."""
    timeout_s: float = 86400.0
    """A device that was not heard of for so long is not waited for; nor, once all have come to an
    end, is what gates still lack."""
    advance_if: AdvanceIf | None = None
    """What its devices have to have measured before the next stage may open."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Threshold:
    """Stops a rollout at once, whichever stage it is in."""

    outcomes: tuple[Standing, ...] = BAD
    share: float
    """Of those that tried it."""
    at_least: int = 1
    """As long as fewer have tried it, nothing is judged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """How a release goes out."""

    stages: tuple[Stage, ...]
    halt_if: tuple[Threshold, ...] = ()
    """Any of them, of all devices together, of one kind of hardware, or of one stage's group."""
    on_halt: Literal["pause", "revert"] = "pause"
    """Then wait for an operator, or send the devices that took it back to what they ran before."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Those that stages name; none where a stage reaches all of the rollout's devices."""
        if any(stage.group is None for stage in self.stages):
            return ()
        return tuple(dict.fromkeys(stage.group for stage in self.stages if stage.group))

    @property
    def gates(self) -> frozenset[str]:
        """The names of those that its stages have."""
        asked = [stage.advance_if for stage in self.stages if stage.advance_if is not None]
        return frozenset(gate.name for one in asked for gate in one.gates)


@dataclasses.dataclass(frozen=True)
class Tally:
    """How many devices stand where."""

    counts: Mapping[Standing, int] = dataclasses.field(default_factory=dict)

    def of(self, *standings: Standing) -> int:
        """How many stand at one of these."""
        return sum(self.counts.get(standing, 0) for standing in standings)

    @property
    def attempted(self) -> int:
        """How many tried it, or are at it."""
        return self.of("trying", "confirmed", *BAD)

    @property
    def open(self) -> int:
        """How many are still waited for."""
        return self.of("assigned", "trying")

    def since(self, before: Tally) -> Tally:
        """Without the ends that were counted before; never below 0: devices may be deleted."""
        over = {name: before.of(name) for name in OVER}
        return Tally(collections.Counter(self.counts) - collections.Counter(over))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of one device's action; seconds on any one clock."""

    assigned_s: float
    heard_s: float | None = None
    """When the device last spoke of it; None if it never did."""
    state: State | None = None
    """What it said then."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a rollout has come."""

    stage: int
    """The one that is open, from 0."""
    in_stage: Tally
    """Of the devices that were reached up to this stage; only of its group, where it names one."""
    quiet_s: float
    """Since the last of them came to an end, or the stage was opened."""
    by_hardware: Mapping[str, Tally] = dataclasses.field(default_factory=dict)
    """Of all devices that were reached."""
    in_stage_by_hardware: Mapping[str, Tally] = dataclasses.field(default_factory=dict)
    """Of the devices of `in_stage`: what gates are judged for."""
    by_group: Mapping[str, Tally] = dataclasses.field(default_factory=dict)
    """Of the same devices; empty where no stage names a group."""
    acknowledged: Mapping[str, Tally] = dataclasses.field(default_factory=dict)
    """By stratum, what an operator knew of when resuming: it does not stop the rollout again."""
    gates: tuple[Judged, ...] = ()
    """Of the open stage."""

    @property
    def strata(self) -> Mapping[str, Tally]:
        """What thresholds are held against one by one: each kind of hardware, each group."""
        groups = {f"the group {name}": found for name, found in self.by_group.items()}
        return {**self.by_hardware, **groups}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do now, and why, for a person."""

    step: Step
    reason: str
    gates: tuple[Judged, ...] = ()
    """Those that it is halted over."""


def check(rollout: Rollout) -> None:
    """Whether a rollout can be carried out.

    Raises:
        UsageError: it cannot; the stage is named.
    """
    if not rollout.stages:
        raise _contradiction(
            "it has no stage", "Give one at least: a share of 1 reaches all devices"
        )
    before: dict[str | None, float] = {}
    for number, stage in enumerate(rollout.stages, 1):
        if (stage.share is None) == (stage.count is None):
            raise _contradiction(f"stage {number} has a share and a count, or neither", "Give one")
        if stage.share is not None:
            last = before.get(stage.group, 0.0)
            if not last < stage.share <= 1.0:
                why = f"stage {number} reaches a share of {stage.share:g}, the one before {last:g}"
                raise _contradiction(why, "Shares grow, up to 1, and count earlier stages in")
            before[stage.group] = stage.share
        if stage.count is not None and stage.count < 1:
            raise _contradiction(f"stage {number} reaches {stage.count} devices", "Give 1 or more")
        if stage.min_devices < 1 or not 0.0 < stage.confirmed_share <= 1.0:
            told = f"{stage.min_devices} devices and a share of {stage.confirmed_share:g}"
            raise _contradiction(
                f"stage {number} asks for {told}",
                "Ask for 1 device or more, and a share above 0, at most 1",
            )
        if not (0.0 < stage.timeout_s < math.inf and 0.0 <= stage.soak_s < math.inf):
            told = f"{stage.timeout_s:g} s, and soaks for {stage.soak_s:g} s"
            raise _contradiction(
                f"stage {number} waits for {told}", "Give it time, and no less than 0 s to soak"
            )
        why = why_not(stage.advance_if, stage.count) if stage.advance_if is not None else ""
        if why:
            raise _contradiction(f"of the gates of stage {number}: {why}", "Mend or drop them")
    for threshold in rollout.halt_if:
        if not 0.0 < threshold.share <= 1.0 or threshold.at_least < 1:
            told = f"a share of {threshold.share:g} of at least {threshold.at_least}"
            raise _contradiction(
                f"it halts at {told}", "Give a share above 0, at most 1, of at least 1 device"
            )
        if not threshold.outcomes or set(threshold.outcomes) - set(BAD):
            named = ", ".join(threshold.outcomes) or "nothing"
            raise _contradiction(f"it halts at {named}", f"Known are {', '.join(BAD)}")


def place(rollout_id: str, device_id: str) -> float:
    """Where a device stands in a rollout's order, from 0 to 1: the same for ever, in each another.

    So a device that joins or leaves moves no other one, and not the same ones are always first.

    >>> place("r-1", "d-1") == place("r-1", "d-1") != place("r-2", "d-1")
    True
    """
    return int(place_digits(rollout_id, device_id), 16) / 2.0**64


def place_digits(rollout_id: str, device_id: str) -> str:
    """The same times 2 ** 64, as 16 hexadecimal digits: databases sort by it."""
    return hashlib.sha256(f"{rollout_id}\0{device_id}".encode()).hexdigest()[:16]


def reached(rollout: Rollout, stage: int, devices: int, group: str | None = None) -> int:
    """How many of so many devices have the release assigned once a stage is open.

    Args:
        rollout: its rules.
        stage: the one that is open.
        devices: of the group, or of the whole rollout.
        group: that of stages which name it; None: of those that name none.

    >>> rollout = Rollout(stages=(Stage(count=2), Stage(share=0.1), Stage(share=1.0)))
    >>> [reached(rollout, stage, 55) for stage in range(3)]
    [2, 6, 55]
    """
    most = 0
    for one in rollout.stages[: stage + 1]:
        if one.group != group:
            continue
        share = 0 if one.share is None else math.ceil(one.share * devices)
        most = max(most, share, one.count or 0, one.min_devices)
    return min(most, devices)


def standing(seen: Seen, *, now_s: float, timeout_s: float) -> Standing:
    """Where a device stands: what it said last, unless that is too long ago."""
    if seen.state is not None and seen.state in _ENDS:
        return _ENDS[seen.state]
    if seen.heard_s is None or seen.state is None:
        return "absent" if now_s - seen.assigned_s > timeout_s else "assigned"
    return "timed_out" if now_s - seen.heard_s > timeout_s else "trying"


def tally(standings: Iterable[Standing]) -> Tally:
    """Count them."""
    return Tally(collections.Counter(standings))


def decide(rollout: Rollout, state: RolloutState, progress: Progress) -> Decision:
    """What comes next.

    What is bad stops it first; then the stage has to be over, good enough, proven by its gates, and
    quiet for its time.
    """
    if state != "running":
        return Decision(step="wait", reason=f"it is {state}")
    over = _over(rollout, progress)
    if over:
        return Decision(step="halt", reason=over)
    stage, found = rollout.stages[progress.stage], progress.in_stage
    number = f"stage {progress.stage + 1}"
    bad = broken(progress.gates)
    if bad:
        return Decision(step="halt", reason=f"{number}: {_words(bad)}", gates=bad)
    if found.open:
        return Decision(step="wait", reason=f"{number}: still waited for: {found.open}")
    if found.attempted < stage.min_devices:
        told = f"tried by {found.attempted}, not come for by {found.of('absent')}"
        return Decision(step="halt", reason=f"{number}: {told}; {stage.min_devices} have to")
    good = found.of("confirmed")
    if good < stage.confirmed_share * found.attempted:
        told = f"{good} of {found.attempted} confirmed it"
        return Decision(
            step="halt", reason=f"{number}: {told}, {stage.confirmed_share:.0%} have to"
        )
    lacking = missing(stage.advance_if, progress.gates) if stage.advance_if is not None else ()
    if lacking:
        told = f"{number}: {_words(lacking)}"
        if progress.quiet_s < stage.timeout_s:
            return Decision(step="wait", reason=told)
        return Decision(step="halt", reason=told, gates=lacking)
    if progress.quiet_s < stage.soak_s:
        left = stage.soak_s - progress.quiet_s
        return Decision(step="wait", reason=f"{number}: it soaks for another {left:.0f} s")
    told = f"{number}: {good} of {found.attempted} confirmed it"
    unproven = [one for one in progress.gates if one.verdict == "unproven"]
    if unproven:
        told += f"; {_words(unproven)}"
    is_last = progress.stage + 1 == len(rollout.stages)
    return Decision(step="finish" if is_last else "open", reason=told)


def commanded(state: RolloutState, command: Command) -> RolloutState:
    """The state after an operator's word; said twice, it changes nothing more.

    Raises:
        UsageError: that cannot be done in this state.
    """
    after = _COMMANDS[command].get(state)
    if after is None:
        raise UsageError(
            f"A rollout that is {state} cannot {command}.",
            cause="It came to its end, or somebody else was faster.",
            remedy=f"{command} is possible while it is {', '.join(sorted(_COMMANDS[command]))}.",
        )
    return after


def _over(rollout: Rollout, progress: Progress) -> str | None:
    """Which threshold is reached, of everybody, of one kind of hardware or of one group."""
    known = progress.acknowledged
    kinds = {kind: found.since(known.get(kind, Tally())) for kind, found in progress.strata.items()}
    reached_all = _sum(progress.by_hardware.values()) if progress.by_group else progress.in_stage
    every = reached_all.since(_sum(known.get(kind, Tally()) for kind in progress.by_hardware))
    for kind, found in {"": every, **kinds}.items():
        for threshold in rollout.halt_if:
            bad, tried = found.of(*threshold.outcomes), found.attempted
            if tried >= threshold.at_least and bad and bad >= threshold.share * tried:
                of = f" of {kind}" if kind else ""
                named = ", ".join(sorted(threshold.outcomes)).replace("_", " ")
                return f"{bad} of {tried} devices{of} that tried it: {named}"
    return None


def _words(found: Sequence[Judged]) -> str:
    more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0].words}{more}"


def _sum(tallies: Iterable[Tally]) -> Tally:
    every: collections.Counter[Standing] = collections.Counter()
    for one in tallies:
        every.update(one.counts)
    return Tally(every)


def _contradiction(why: str, remedy: str) -> UsageError:
    return UsageError(
        f"The rollout cannot be carried out: {why}.",
        cause="It contradicts itself.",
        remedy=f"{remedy}.",
    )
