"""Gates as rows: the few figures that decide are picked by the database, from an index.

However many devices report, a look takes a count and three figures for each gate and each kind of
hardware. Looks are taken with the rollout's other steps, and never when a device polls.
"""

from __future__ import annotations

import collections
from typing import Any

import sqlalchemy as sa

from agent.codec import decode, encode
from sdk.fleet import tables as t
from sdk.fleet.rules.bounds import Sample, places, share_of
from sdk.fleet.rules.gates import MEDIAN_LATENCY, AdvanceIf, Judged, fences, judged_all
from sdk.fleet.rules.rollout import OVER, Progress, Stage, Tally
from sdk.fleet.store.progress import plan_of

_MOST_ODD = 20
"""Devices that are named as odd, of one gate and one kind of hardware."""
_QUARTILES_OF = 8
"""Fewer devices have no quartiles to speak of."""


def judge(connection: sa.Connection, row: Any, found: Progress) -> tuple[Judged, ...]:
    """The gates of a rollout's open stage, for each kind of hardware that tried the release."""
    stage = plan_of(row).stages[found.stage]
    if stage.advance_if is None:
        return ()
    advance = stage.advance_if
    kinds = {name: one for name, one in found.in_stage_by_hardware.items() if one.attempted}
    counted = _counts(connection, row.id, stage)
    samples = {}
    for gate in advance.gates:
        for kind, tally in kinds.items():
            if gate.quantity == "confirmed":
                samples[gate.name, kind] = _confirmed(tally, advance)
            elif (gate.name, kind) in counted:
                devices = counted[gate.name, kind]
                out = min(tally.open, max(0, tally.open + tally.of(*OVER) - devices))
                told = _told(row.id, stage, gate.name, kind)
                samples[gate.name, kind] = _sample(connection, told, devices, out, advance)
    return judged_all(advance, kinds, samples, waived(row))


def waived(row: Any) -> list[tuple[str, str]]:
    """The gates, each with a kind of hardware, that do not stop a rollout any more."""
    return [(gate, hardware) for gate, hardware in row.waived or ()]


def seen(row: Any) -> tuple[Judged, ...]:
    """The gates as they were when the rollout was looked at last."""
    return decode(tuple[Judged, ...], row.judged or [], "judged")


def all_seen(row: Any) -> list[list[str]]:
    """What is waived once an operator has seen what a rollout was halted over, and goes on."""
    new = [(one.gate, one.hardware) for one in seen(row) if one.stopped]
    return encode(sorted({*waived(row), *new}))  # type: ignore[no-any-return]


def medians(connection: sa.Connection, rollout_id: str) -> dict[str, dict[str, Any]]:
    """Hardware -> the median of the devices' ratios of latency, and how many there are."""
    stage = Stage()
    counted = _counts(connection, rollout_id, stage)
    found = {}
    for (gate, kind), devices in counted.items():
        if gate == MEDIAN_LATENCY:
            told = _told(rollout_id, stage, gate, kind)
            found[kind] = {"median": _at(connection, told, devices // 2), "devices": devices}
    return found


def odd_devices(connection: sa.Connection, row: Any) -> list[dict[str, Any]]:
    """Devices whose figures lie far out of those of their kind: for an operator to look at."""
    stages = plan_of(row).stages
    stage = stages[min(row.stage, len(stages) - 1)]
    names = {gate.name for gate in stage.advance_if.gates} if stage.advance_if else set()
    found = []
    for (gate, kind), devices in sorted(_counts(connection, row.id, stage).items()):
        if gate not in names | {MEDIAN_LATENCY} or devices < _QUARTILES_OF:
            continue
        told = _told(row.id, stage, gate, kind)
        places = (devices // 4, devices // 2, (3 * devices) // 4)
        low, middle, high = (_at(connection, told, place) for place in places)
        least, most = fences(low, middle, high)
        value = t.figure.c.value
        rows = connection.execute(
            told.with_only_columns(t.figure.c.device_id, value)
            .where(sa.or_(value < least, value > most))
            .order_by(value.desc(), t.figure.c.device_id)
            .limit(_MOST_ODD)
        )
        found += [
            {
                "device": one.device_id, "hardware": kind, "gate": gate, "value": one.value,
                "median": middle,
            }
            for one in rows
        ]  # fmt: skip
    return found


def verdicts(connection: sa.Connection) -> dict[str, int]:
    """Verdict -> how many gates stand so, of the rollouts that are not over."""
    rows = connection.execute(
        sa.select(t.rollout.c.judged).where(t.rollout.c.state.in_(("running", "paused", "halted")))
    )
    return dict(collections.Counter(one["verdict"] for (told,) in rows for one in told or ()))


def _counts(connection: sa.Connection, rollout_id: str, stage: Stage) -> dict[tuple[str, str], int]:
    """(gate, hardware) -> how many devices have told it."""
    rows = connection.execute(
        sa.select(t.figure.c.gate, t.figure.c.hardware, sa.func.count())
        .join(t.device, t.device.c.id == t.figure.c.device_id)
        .where(t.figure.c.rollout_id == rollout_id, *_counts_for(stage))
        .group_by(t.figure.c.gate, t.figure.c.hardware)
    )
    return {(gate, hardware): count for gate, hardware, count in rows}


def _told(rollout_id: str, stage: Stage, gate: str, hardware: str) -> sa.Select[Any]:
    return (
        sa.select(t.figure.c.value)
        .join(t.device, t.device.c.id == t.figure.c.device_id)
        .where(
            t.figure.c.rollout_id == rollout_id,
            t.figure.c.gate == gate,
            t.figure.c.hardware == hardware,
            *_counts_for(stage),
        )
    )


def _counts_for(stage: Stage) -> list[sa.ColumnElement[bool]]:
    """Whose figures count: an operator can take a device that lies out of it."""
    found = [t.device.c.standing == "accepted"]
    if stage.group is not None:
        found.append(t.device.c.group_name == stage.group)
    return found


def _sample(
    connection: sa.Connection, told: sa.Select[Any], devices: int, out: int, advance: AdvanceIf
) -> Sample:
    found = places(devices, out, advance.confidence, advance.liars)
    return Sample(
        devices=devices,
        value=_at(connection, told, found.middle),
        low=None if found.low is None else _at(connection, told, found.low),
        high=None if found.high is None else _at(connection, told, found.high),
    )


def _at(connection: sa.Connection, told: sa.Select[Any], place: int) -> float:
    """The figure at a place of the sorted ones, from 0."""
    wanted = told.order_by(t.figure.c.value).offset(place).limit(1)
    return float(connection.execute(wanted).scalar_one())


def _confirmed(tally: Tally, advance: AdvanceIf) -> Sample:
    good, over = tally.of("confirmed"), tally.of(*OVER)
    return share_of(good, over, advance.confidence, advance.liars, tally.open)
