"""What reports taught about a profile, in sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from profiles import Profile, Scale
from sdk.estimate.constants import DEFAULT
from sdk.estimate.scaled import is_current
from sdk.learning.gather import WHY, Gathered
from sdk.learning.scales import FEWEST_MODELS, Learnt

_SHOWN = 5


def scale_lines(profile: Profile) -> list[str]:
    """What a build's estimates go by beside the profile's facts: fitted when, from what."""
    return [
        _used(profile, scale)
        if is_current(scale, profile, DEFAULT)
        else f"estimates for {profile.name}: what {_from(scale)} taught of {_where(scale)} is not "
        "used, since the profile's other facts have changed: sdk fit --reports"
        for scale in profile.scales
    ]


def learnt_lines(learnt: Learnt) -> Iterator[str]:
    """What became of the reports of one toolchain: old, new, and how far off each is."""
    where = f"{learnt.toolchain} on {learnt.engine}"
    what = (
        f"{_count(learnt.reports, 'report')} of {_count(learnt.models, 'model')} from "
        f"{_count(learnt.devices, 'device')}"
    )
    if learnt.new is None:
        yield f"{where}: {what}, and nothing can be estimated for them without more facts"
        return
    yield f"{where}: {what}; {_verdict(learnt)}"
    old = learnt.old.factors if learnt.old else {}
    for kind, new in sorted(learnt.new.factors.items()):
        before = _factors(old[kind]) if kind in old else "1"
        yield f"  {kind}: {before} -> {_factors(new)}"
    if learnt.missing:
        yield (
            f"  {_count(learnt.missing, 'more model')} would tell an interval "
            f"({FEWEST_MODELS} are needed): it gets no narrower"
        )


def gathered_lines(found: Gathered) -> Iterator[str]:
    """What was not counted, and why."""
    yield f"{len(found.observations)} of {_count(found.total, 'report')} count"
    for device, why in list(found.refused.items())[:_SHOWN]:
        yield f"  refused: {device} is another device: {why}"
    if len(found.refused) > _SHOWN:
        yield f"  refused: {len(found.refused) - _SHOWN} more devices that are of another type"
    for reason, count in found.aside.items():
        yield f"  set aside: {_count(count, 'report')}: {WHY[reason]}"


def described(scale: Scale) -> str:
    """One line of a profile's page."""
    told = f"{_where(scale)}: by {_from(scale)}"
    for kind, factors in scale.factors.items():
        told += f"; {kind} x {_factors(factors)}"
    return told + _off(scale)


def _used(profile: Profile, scale: Scale) -> str:
    return f"estimates for {profile.name} by {_where(scale)} go by {_from(scale)}{_off(scale)}"


def _verdict(learnt: Learnt) -> str:
    assert learnt.new is not None
    assert learnt.error_now is not None
    now = f"estimates are off by {_percent(learnt.error_now)} now"
    if learnt.new.error is None:
        return f"{now}; one model cannot tell how far off the new ones are on another: used"
    new = f"the new ones by {_percent(learnt.new.error)}, on models that were left out"
    return f"{now}, {new}: {'used' if learnt.used else 'kept as they are'}"


def _off(scale: Scale) -> str:
    if scale.error is None:
        return ""
    told = f"; off by {_percent(scale.error)} on models that were left out"
    if scale.low is not None and scale.high is not None:
        told += f", nine in ten between {scale.low:.3g} and {scale.high:.3g} of the estimate"
    return told


def _from(scale: Scale) -> str:
    busy = f" ({scale.unstable} unstable)" if scale.unstable else ""
    return (
        f"{_count(scale.reports, 'report')}{busy} of {_count(scale.models, 'model')} from "
        f"{_count(scale.devices, 'device')}, fitted {scale.date}"
    )


def _where(scale: Scale) -> str:
    return f"{scale.toolchain} on {scale.engine}"


def _factors(factors: Mapping[str, float]) -> str:
    fixed, work = factors["fixed"], factors["work"]
    return f"{work:.3g}" if fixed == work else f"{fixed:.3g} fixed, {work:.3g} work"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
