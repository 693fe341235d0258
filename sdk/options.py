"""What `sdk build` was asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from sdk.limits import DEFAULT_ACCURACY_DROP
from sdk.objective import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What `sdk build` was asked for, beside what the project file says."""

    targets: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    """`NAME` or `TARGET=NAME`; `host` is this machine."""
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rig: str | None = None
    """Prove on this rig of the inventory; None: on this machine."""
    inventory: Path | None = None
    """`hil.toml`; None: the one here or above, else the user's own."""
    out: Path = Path("build")
    jobs: int = 1
    fresh: bool = False
    prune: bool = True
    """Leave out candidates that cannot meet a limit even at the best of their estimate."""
    objective: Objective = "latency"
    """What is to be least among the variants that keep the limits."""
    budget_s: float | None = None
    """Search for so long for a better variant than the target's own recipes; None: only those."""
    seed: int = 0
    """Of the search's order among what is equally promising."""
    drop_default: float = DEFAULT_ACCURACY_DROP
    """The limit on the accuracy drop where none is given."""
    drop_most: float | None = None
    """A limit on the accuracy drop that tightens whatever is given."""
