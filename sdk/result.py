"""One candidate and all that became known of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from agent.bench import Measurement
from agent.manifest import Role
from agent.metrics import Drop
from agent.sessions import OperatorTime
from sdk.estimate import Estimate
from sdk.limits import Evidence, LimitVerdict
from sdk.plan import Candidate
from sdk.prove import Report

Status = Literal["built", "failed", "pruned", "refused", "planned"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The drop on the final split, and on the selection split, by which metric."""

    metric: str
    final: Drop | None
    selection: Drop | None
    evidence: Evidence
    proves: bool
    """Whether numerics found so can prove a limit for this profile."""
    samples_needed: int | None = None
    """Final samples it would take to prove the limit; None if proven, or if no number would do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One candidate and all that became known of it."""

    candidate: Candidate
    status: Status
    step: str | None = None
    """Where it failed: plan, estimate, lower, evaluate, measure."""
    reason: str = ""
    size_bytes: int | None = None
    estimate: Estimate | None = None
    report: Report | None = None
    accuracy: Accuracy | None = None
    placement: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Engine -> share of the graph, as the runtime tells it, else as the compiler did."""
    verdicts: tuple[LimitVerdict, ...] = ()
    role: Role | None = None
    operators: tuple[OperatorTime, ...] | None = None
    """Where the time goes, the slowest first; None where nobody asked or the runtime is silent."""
    notes: tuple[str, ...] = ()
    left: str = ""
    """Why a search left it behind before the final contest; its figures are of an earlier heat,
    and are not to be held against those of the final."""

    varies: str | None = None
    """The digest of the plain recipe whose files this one runs with other options."""

    @property
    def speed(self) -> Measurement | None:
        """The measurement, where it was made on the device itself, beside the others."""
        report = self.report
        if self.left:
            return None
        return report.measurement if report and report.speed_evidence == "device" else None
