"""What an estimate consists of, in two parts that differ from device to device in their own way.

`fixed` is what a request and each kernel cost beside their work, `work` all else. Pure.
"""

from __future__ import annotations

import dataclasses
import hashlib

from agent.codec import canonical
from profiles import Profile
from sdk.estimate.constants import Constants
from sdk.estimate.fitted import find_fitted
from sdk.estimate.latency import latency_parts
from sdk.estimate.terms import terms
from targets.interface import Program, Recipe

_FIXED = ("request", ".kernels")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """Milliseconds; their sum is the estimate."""

    fixed: float
    work: float

    @property
    def total(self) -> float:
        """The estimate."""
        return self.fixed + self.work


def parts(program: Program, profile: Profile, recipe: Recipe, constants: Constants) -> Parts | None:
    """An estimate's parts: by the profile's fit where that covers it, else by its data sheet."""
    own, amounts = find_fitted(profile, recipe), terms(program, recipe)
    if own is not None and amounts.keys() <= own.ms.keys():
        times = {name: own.ms[name] * amount for name, amount in amounts.items()}
        fixed = sum(ms for name, ms in times.items() if name.endswith(_FIXED))
        if sum(times.values()):
            return Parts(fixed=fixed, work=sum(times.values()) - fixed)
    found = latency_parts(program, profile, recipe, constants)
    return None if found is None else Parts(fixed=found[0], work=found[1])


def base_digest(profile: Profile, toolchain: str, engine: str, constants: Constants) -> str:
    """A name for all that `parts` reads of a profile: factors on one base say nothing of another.

    What it takes for a figure counts, and not where the figure comes from.
    """
    facts = profile.engines.get(engine)
    bandwidth = profile.bandwidth_gb_s
    read = {
        "peak": {name: figure.value for name, figure in facts.peak.items()} if facts else None,
        "bandwidth": bandwidth.value if bandwidth else None,
        "cores": profile.cores,
        "constants": _values(constants, engine),
        "fitted": [
            [entry.ms, entry.kinds]
            for entry in profile.fitted
            if (entry.toolchain, entry.engine) == (toolchain, engine)
        ],
    }
    return hashlib.sha256(canonical(read)).hexdigest()[:16]


def _values(constants: Constants, engine: str) -> object:
    own = constants.engines.get(engine)
    if own is None:
        return None
    efficiency = {
        name: {precision: figure.value for precision, figure in table.items()}
        for name, table in own.efficiency.items()
    }
    fixed = (own.launch_ms, own.launch_ms_per_core, own.request_ms, own.bandwidth)
    return [efficiency, [figure.value for figure in fixed]]
