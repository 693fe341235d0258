"""Pruning: only what cannot be, told with the figure, and never what could win."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.manifest import Signature
from profiles import Profile, find
from sdk.estimate import estimate, file_bytes
from sdk.limits import LimitVerdict
from sdk.plan import Candidate, Planned
from sdk.prune import audit, disproof, reason, with_disproofs
from sdk.result import Result
from sdk.select import find_baseline, select
from sdk.verdicts import deciding
from targets.interface import OpCost, Program, Recipe
from tests.test_select import result

MIB = 1 << 20
LAPTOP = find("core-ultra-155h", ())
PHONE = find("snapdragon-8-gen-3", ())


def program(gflop: float = 10.0, weight_mib: int = 100) -> Program:
    weights = weight_mib * MIB
    cost = OpCost(
        op="Conv", kind="conv", flops=int(gflop * 1e9), bytes=weights, weight_bytes=weights
    )
    return Program(
        kind="exported",
        path=Path("program.pt2"),
        signature=Signature(inputs=(), outputs=(), dims={}),
        digest="0" * 64,
        costs=(cost,),
        weight_bytes=weights,
        activation_bytes=MIB,
        activation_bytes_at_max=MIB,
    )


def candidate(precision: str = "f32", profile: Profile = LAPTOP) -> Candidate:
    recipe = Recipe(toolchain="openvino", format="openvino", precision=precision)
    return Candidate(model="net", profile=profile, recipe=recipe)


# 100 MiB of f32 weights, 10 GFLOP: at best 5.2 ms in f32 and 1.2 ms in int8 on the laptop's CPU
CASES: dict[str, tuple[str, Profile, dict[str, float], str | None]] = {
    "too large": ("f32", LAPTOP, {"size_mib": 40}, "size_mib would be at least 50"),
    "in f16 it may fit": ("f16", LAPTOP, {"size_mib": 40}, None),
    "in int8 it fits": ("int8", LAPTOP, {"size_mib": 40}, None),
    "not even in int8": ("int8", LAPTOP, {"size_mib": 10}, "size_mib would be at least 12.5"),
    "too slow": ("f32", LAPTOP, {"latency_p50_ms": 3}, "latency_p50_ms would be at least 5.18"),
    "int8 may be fast enough": ("int8", LAPTOP, {"latency_p50_ms": 3}, None),
    "every quantile": ("f32", LAPTOP, {"latency_p99_ms": 3}, "latency_p99_ms would be at least"),
    "too few": ("f32", LAPTOP, {"throughput_per_s": 200}, "throughput_per_s would be at most 192"),
    "throughput within reach": ("f32", LAPTOP, {"throughput_per_s": 80}, None),
    "too much memory": (
        "f32",
        LAPTOP,
        {"peak_memory_mib": 40},
        "peak_memory_mib would be at least",
    ),
    "memory within reach": ("f32", LAPTOP, {"peak_memory_mib": 60}, None),
    "a device without rates has no latency": ("f32", PHONE, {"latency_p50_ms": 1e-9}, None),
    "but a size": ("f32", PHONE, {"size_mib": 40}, "size_mib"),
    "accuracy is not predicted": ("f32", LAPTOP, {"accuracy_drop": 0.0}, None),
    "speedup is relative": ("f32", LAPTOP, {"speedup": 100}, None),
    "no limits": ("f32", LAPTOP, {}, None),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_only_what_cannot_be_is_disproved(case: Any) -> None:
    precision, profile, limits, expected = case
    found = disproof(candidate(precision, profile), program(), limits)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found.verdict, found.evidence) == ("unmet", "estimate")
        assert expected in reason(found)


def planned(*precisions: str, refusal: str | None = None) -> tuple[Planned, ...]:
    return tuple(Planned(candidate=candidate(p), refusal=refusal) for p in precisions)


def test_what_is_refused_stays_refused() -> None:
    (found,) = with_disproofs(planned("f32", refusal="not here"), program(), {"size_mib": 1})
    assert (found.refusal, found.disproof) == ("not here", None)


@pytest.mark.parametrize("relative", ["speedup", "memory_reduction", "size_reduction"])
def test_the_baseline_of_a_relative_limit_is_never_pruned(relative: str) -> None:
    limits = {"size_mib": 10.0, relative: 0.5}
    f32, int8 = with_disproofs(planned("f32", "int8"), program(), limits)
    assert f32.disproof is None
    assert int8.disproof is not None
    f32, _ = with_disproofs(planned("f32", "int8"), program(), {"size_mib": 10.0})
    assert f32.disproof is not None


@given(
    st.floats(0.001, 1000),
    st.integers(1, 4000),
    st.sampled_from(["f32", "f16", "bf16", "int8"]),
    st.sampled_from(["size_mib", "peak_memory_mib", "latency_p50_ms", "throughput_per_s"]),
    st.floats(0.01, 10_000),
)
def test_nothing_is_pruned_that_its_estimate_allows(
    gflop: float, weight_mib: int, precision: str, name: str, limit: float
) -> None:
    made, one = program(gflop, weight_mib), candidate(precision)
    predicted = estimate(made, LAPTOP, one.recipe)
    assert predicted.latency_ms is not None
    assert predicted.peak_memory_bytes is not None
    best = {
        "size_mib": file_bytes(made, one.recipe).low / MIB,
        "peak_memory_mib": predicted.peak_memory_bytes.low / MIB,
        "latency_p50_ms": predicted.latency_ms.low,
        "throughput_per_s": -1000 / predicted.latency_ms.low,
    }[name]
    wanted = -limit if name == "throughput_per_s" else limit
    assert (disproof(one, made, {name: limit}) is None) is (best <= wanted)


def test_a_looser_limit_never_prunes_more() -> None:
    for limit in (1.0, 5.0, 20.0, 100.0):
        tight = disproof(candidate(), program(), {"latency_p50_ms": limit})
        loose = disproof(candidate(), program(), {"latency_p50_ms": 2 * limit})
        assert loose is None or tight is not None


TOO_LARGE = LimitVerdict(
    name="size_mib", limit=40.0, value=100.0, verdict="unmet", evidence="estimate",
    note="at least 50",
)  # fmt: skip


def as_pruned(found: Result) -> Result:
    return dataclasses.replace(
        found, status="pruned", step="estimate", reason=reason(TOO_LARGE), verdicts=(TOO_LARGE,),
        report=None, accuracy=None, size_bytes=None,
    )  # fmt: skip


def test_what_was_pruned_is_never_chosen_and_keeps_its_reason() -> None:
    found = select([result("a-f32", 4), as_pruned(result("b-int8", 1))], {"size_mib": 40.0})
    assert found.chosen is not None
    assert found.chosen.candidate.recipe.toolchain == "a-f32"
    assert found.results[1].status == "pruned"
    assert deciding(found.results[1]).startswith("size_mib would be at least 50, the limit is 40")
    assert found.results[1].verdicts == (TOO_LARGE,)
    assert find_baseline(found.results) == dataclasses.replace(found.results[0])


def test_all_pruned_is_unmet() -> None:
    found = select([as_pruned(result("a-f32")), as_pruned(result("b-int8"))], {"size_mib": 1.0})
    assert (found.verdict, found.chosen, found.ladder) == ("unmet", None, ())


TOO_SLOW = LimitVerdict(
    name="latency_p50_ms", limit=1.0, value=5.0, verdict="unmet", evidence="estimate"
)


def audited(*names: str, limits: dict[str, float], dropped: tuple[str, ...]) -> str | None:
    results = select([result(name, 4) for name in names], limits).results
    entries = [
        Planned(
            candidate=found.candidate,
            refusal=None,
            disproof=TOO_SLOW if found.candidate.recipe.toolchain in dropped else None,
        )
        for found in results
    ]
    return audit(entries, results)


AUDITS: dict[str, tuple[dict[str, float], tuple[str, ...], str | None]] = {
    "nothing dropped": ({}, (), None),
    "rightly": (
        {"latency_p50_ms": 1.0},
        ("a-f32", "b-int8"),
        "would have dropped 2 candidates; none of them turned out to meet the limits",
    ),
    "wrongly": (
        {"latency_p50_ms": 10.0},
        ("b-int8",),
        "would have dropped 1 candidate; 1 of them turned out to break no limit: b-int8-int8",
    ),
}


@pytest.mark.parametrize("case", AUDITS.values(), ids=AUDITS)
def test_the_audit_tells_what_pruning_would_have_cost(case: Any) -> None:
    limits, dropped, expected = case
    found = audited("a-f32", "b-int8", limits=limits, dropped=dropped)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert expected in found
