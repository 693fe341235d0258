"""(Profile, Project) -> candidates, and why some are not worth building. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from agent.errors import UsageError
from profiles import Profile
from sdk.limits import LimitVerdict
from targets.interface import Availability, Program, Recipe, Request, Target, Toolchain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assignment:
    """One profile to build for."""

    target: str
    profile: Profile
    limits: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """(program, profile, recipe): planned, not built."""

    model: str
    profile: Profile
    recipe: Recipe

    @property
    def identifier(self) -> str:
        """The same string in code, CLI, file names and logs."""
        return f"{self.model}/{self.profile.name}/{self.recipe.name}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A candidate, or why it is refused before anything is built."""

    candidate: Candidate
    refusal: str | None
    disproof: LimitVerdict | None = None
    """The limit that the estimate says it cannot meet even at best (sdk/prune.py)."""


def plan(
    model: str,
    target: Target,
    request: Request,
    toolchains: Mapping[str, Toolchain],
    availability: Mapping[str, Availability],
) -> tuple[Planned, ...]:
    """All candidates of a target on a profile, in the target's order.

    `request.program` may be None (nothing captured yet): then only what depends on the profile
    and on the toolchains' presence is decided.
    """
    if request.profile.target != target.NAME:
        raise UsageError(
            f"The profile {request.profile.name} belongs to {request.profile.target}, "
            f"not to {target.NAME}.",
            cause="A profile serves one target.",
            remedy=f"Name one of {target.NAME}'s: sdk profiles list",
        )
    planned = []
    for recipe in _unique(target.recipes(request)):
        candidate = Candidate(model=model, profile=request.profile, recipe=recipe)
        toolchain = toolchains[recipe.toolchain]
        available = _for_target(target, toolchain, availability[recipe.toolchain])
        refusal = _refusal(recipe, request, toolchain, available)
        planned.append(Planned(candidate=candidate, refusal=refusal))
    return tuple(planned)


def _for_target(target: Target, toolchain: Toolchain, available: Availability) -> Availability:
    """With the target's own extra to install, where it has one: it brings the other toolchains."""
    extra = getattr(target, "EXTRA", None)
    if extra is None or available.ok:
        return available
    remedy = available.remedy.replace(f"[{toolchain.EXTRA}]", f"[{extra}]")
    return dataclasses.replace(available, remedy=remedy)


def _unique(recipes: Iterable[Recipe]) -> Iterable[Recipe]:
    return {recipe.digest: recipe for recipe in recipes}.values()


def _refusal(
    recipe: Recipe, request: Request, toolchain: Toolchain, available: Availability
) -> str | None:
    if recipe.needs_isa and not set(recipe.needs_isa) & set(request.profile.isa):
        return f"{request.profile.name} has none of {', '.join(recipe.needs_isa)}"
    engine = request.profile.engines.get(recipe.engine)
    if engine is None:
        return f"{request.profile.name} has no {recipe.engine}"
    if engine.precisions and recipe.precision not in engine.precisions:
        return (
            f"the {recipe.engine} of {request.profile.name} computes in "
            f"{', '.join(engine.precisions)}, not in {recipe.precision}"
        )
    if (recipe.quantisation or {}).get("samples", 0) and not request.has_data:
        return "static int8 needs real samples to calibrate with: add [data] to sdk.toml"
    if not available.ok:
        missing = ", ".join(available.missing)
        told = f" ({missing} missing)" if missing else ""
        return f"{recipe.toolchain} is not installed{told}: {available.remedy}"
    if request.program is not None:
        return _problems(request.program, recipe, toolchain)
    return None


def _problems(program: Program, recipe: Recipe, toolchain: Toolchain) -> str | None:
    found = [
        f"{problem.what} ({problem.where})" if problem.where else problem.what
        for problem in toolchain.supports(program, recipe)
    ]
    return "; ".join(found) or None
