"""A new fit is used only where it is nearer than what it would replace."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.manifest import Signature
from profiles import Fitted, Profile, find
from sdk.estimate import bounds
from sdk.estimate.fitted import kind_of
from sdk.fit import FEWEST_HELD_OUT, Fit, HeldOut, Origin, Row, fit, mean_error
from sdk.fit_judgement import (
    Coverage,
    Judged,
    Reason,
    Rival,
    coverage,
    errors_before,
    is_finite,
    judge,
    least_count,
    used_blocks,
)
from sdk.report.fits import accepted, refusal
from sdk.steps.fit import draw_of
from targets.interface import OpCost, Program, Recipe
from targets.recipes import openvino

F32 = openvino("CPU", "f32", "f32")
BF16 = openvino("CPU", "bf16", "bf16")
AGAIN = "sdk fit --profile host --fresh"
PROFILE = find("core-ultra-155h", ())
NO_RATES = dataclasses.replace(
    PROFILE,
    engines={"cpu": dataclasses.replace(PROFILE.engines["cpu"], peak={})},
)


def _program(gflop: float) -> Program:
    cost = OpCost(
        op="aten.conv2d.default", kind="conv", flops=int(gflop * 1e9), bytes=0,
        rows=196, columns=64, depth=576, taps=9,
    )  # fmt: skip
    return Program(
        kind="exported", path=Path("program.pt2"),
        signature=Signature(inputs=(), outputs=(), dims={}),
        digest="", costs=(cost,), weight_bytes=0,
    )  # fmt: skip


def _held_out(
    ratios: Sequence[float], predicted: float = 2.0, recipe: Recipe = F32, per_network: int = 1
) -> tuple[HeldOut, ...]:
    """Measured over predicted of each; several measurements of one network stand together."""
    program = _program(0.1)
    return tuple(
        HeldOut(
            row=Row(
                name=f"net_{index // per_network}",
                program=program,
                recipe=recipe,
                ms=ratio * predicted,
                judges=True,
            ),
            predicted=predicted,
        )
        for index, ratio in enumerate(ratios)
    )


def _block(request_ms: float = 1.0, **changes: object) -> Fitted:
    """Constants by which every program takes that long."""
    block = Fitted(
        toolchain="openvino", engine="cpu", kinds=(kind_of(F32),), rows=900, held_out=40,
        ms={"request": request_ms, **dict.fromkeys(_CONV_TERMS, 0.0)},
        error=0.1, low=0.8, high=1.2, date="2026-11-21", device="ab12", tools={},
    )  # fmt: skip
    return dataclasses.replace(block, **changes)  # type: ignore[arg-type]


_CONV_TERMS = ("conv.f32.kernels", "conv.f32.gflop")


def _fit(held_out: Sequence[HeldOut], block: Fitted | None) -> Fit:
    return Fit(toolchain="openvino", engine="cpu", rows=900, held_out=tuple(held_out), block=block)


def _profile(*fitted: Fitted, base: Profile = PROFILE) -> Profile:
    return dataclasses.replace(base, fitted=fitted)


def _by_data_sheet() -> float:
    found = bounds(_program(0.1), PROFILE, F32).latency_ms
    assert found is not None
    return found.value


TRUE = 2.0
"""What all measurements take in the cases below; the data sheet says something else."""
NEAR = [1.0, 1.02, 0.98, 1.01, 0.99] * 8
OFF = [ratio * 1.3 for ratio in NEAR]
SAME = [1.0] * 40
AS_TOLD = [ratio * _by_data_sheet() / TRUE for ratio in NEAR]
"""What the data sheet's estimate says."""

CASES: list[tuple[str, Sequence[float], Fitted | None, Profile, Reason, Rival | None]] = [
    ("nearer than the data sheet", NEAR, _block(), _profile(), "better", "data sheet"),
    ("nothing else estimates", OFF, _block(), _profile(base=NO_RATES), "better", None),
    (
        "nearer than the earlier fit",
        NEAR,
        _block(),
        _profile(_block(1.2 * TRUE)),
        "better",
        "earlier fit",
    ),
    (
        "off by more than the earlier fit",
        OFF,
        _block(),
        _profile(_block(1.3 * TRUE)),
        "no better",
        "earlier fit",
    ),
    (
        "another engine's fit is no rival",
        NEAR,
        _block(),
        _profile(_block(TRUE, engine="gpu")),
        "better",
        "data sheet",
    ),
    (
        "nor is another toolchain's",
        NEAR,
        _block(),
        _profile(_block(TRUE, toolchain="onnxruntime")),
        "better",
        "data sheet",
    ),
    (
        "off by more than the data sheet",
        AS_TOLD,
        _block(),
        _profile(),
        "no better",
        "data sheet",
    ),
    (
        "between an earlier fit and the data sheet, which is best",
        AS_TOLD,
        _block(),
        _profile(_block(10 * TRUE)),
        "no better",
        "data sheet",
    ),
    ("too few rows to fit", NEAR, None, _profile(), "too few", None),
    ("one network", SAME, _block(), _profile(), "too few", None),
    ("no number", NEAR, _block(math.nan), _profile(), "not finite", None),
    ("endless", NEAR, _block(math.inf), _profile(), "not finite", None),
    ("an error that is none", NEAR, _block(error=math.nan), _profile(), "not finite", None),
    ("an interval of nothing", NEAR, _block(low=0.0), _profile(), "not finite", None),
]


@pytest.mark.parametrize(
    ("ratios", "block", "profile", "reason", "before"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_what_becomes_of_a_fit(
    ratios: Sequence[float],
    block: Fitted | None,
    profile: Profile,
    reason: Reason,
    before: Rival | None,
) -> None:
    per_network = len(ratios) if ratios == SAME else 1
    (found,) = judge([_fit(_held_out(ratios, per_network=per_network), block)], profile)
    assert (found.reason, found.before) == (reason, before)
    assert found.used is (reason == "better")
    assert used_blocks([found]) == ((block,) if found.used else ())
    has_earlier = any((e.toolchain, e.engine) == ("openvino", "cpu") for e in profile.fitted)
    assert found.kept == ("earlier fit" if has_earlier else "data sheet")
    if before is not None:
        assert found.error_before == min(found.errors_before.values())
    told = [accepted(found)] if found.used else list(refusal(found, AGAIN))
    assert all(told)
    assert told[0].startswith("openvino on cpu: ")


@pytest.mark.parametrize(
    ("held_out", "profile", "rows", "errors"),
    [
        (
            _held_out([1.0] * 12, TRUE),
            _profile(_block(1.5 * TRUE)),
            12,
            {"data sheet": abs(_by_data_sheet() / TRUE - 1), "earlier fit": 0.5},
        ),
        # The earlier fit has no bf16: an estimate of it falls back on the data sheet's.
        (
            [*_held_out([1.0] * 6, TRUE), *_held_out([1.0] * 6, TRUE, BF16)],
            _profile(_block(TRUE), base=NO_RATES),
            12,
            {},
        ),
        # Without a rate the data sheet says nothing, and the earlier fit of ten in twelve.
        (
            [*_held_out([1.0] * 10, TRUE), *_held_out([1.0] * 2, TRUE, BF16)],
            _profile(_block(2 * TRUE), base=NO_RATES),
            10,
            {"earlier fit": 1.0},
        ),
        (_held_out([1.0] * 12), _profile(base=NO_RATES), 12, {}),
    ],
    ids=["both", "rivals of few are none", "what one leaves out all do", "no rival"],
)
def test_all_are_judged_on_the_same_measurements(
    held_out: Sequence[HeldOut], profile: Profile, rows: int, errors: Mapping[Rival, float]
) -> None:
    judged, found = errors_before(held_out, profile, has_earlier=bool(profile.fitted))
    assert len(judged) == rows
    assert found == pytest.approx(errors)


@given(
    st.lists(st.floats(0.05, 20.0), min_size=FEWEST_HELD_OUT, max_size=30),
    st.none() | st.floats(0.01, 100.0),
    st.floats(0.01, 100.0),
)
def test_no_fit_replaces_one_with_a_smaller_error(
    ratios: list[float], earlier_ms: float | None, predicted: float
) -> None:
    held_out = _held_out(ratios, predicted)
    profile = _profile(*([] if earlier_ms is None else [_block(earlier_ms)]))
    (found,) = judge([_fit(held_out, _block())], profile)
    own = mean_error((predicted, entry.row.ms) for entry in held_out)
    others = [_by_data_sheet()] + ([] if earlier_ms is None else [earlier_ms])
    before = min(mean_error((ms, e.row.ms) for e in held_out) for ms in others)
    if found.used:
        assert own < before
    elif found.reason == "no better":
        assert own >= before
    else:
        assert found.reason in ("interval", "too few")


def test_times_are_learnt_once_and_what_says_nothing_new_is_refused() -> None:
    draw, origin = random.Random(3), Origin(date="2026-11-21", device="ab12", tools={})
    gflops = [10 ** draw.uniform(-3, -0.5) for _ in range(80)]

    def rows(ms: Sequence[float]) -> list[Row]:
        return [
            Row(name=f"net_{i}", program=_program(g), recipe=F32, ms=m, judges=True)
            for i, (g, m) in enumerate(zip(gflops, ms, strict=True))
        ]

    (good,) = judge(fit(rows([0.02 + 8 * g for g in gflops]), origin), PROFILE)
    assert good.used
    (kept,) = used_blocks([good])
    # Every third was measured while something else ran.
    spoilt = rows([(0.02 + 8 * g) * (3.0 if i % 3 == 0 else 1.0) for i, g in enumerate(gflops)])
    (again,) = judge(fit(spoilt, origin), _profile(kept))
    assert (again.used, again.reason, again.before) == (False, "no better", "earlier fit")
    assert used_blocks([again]) == ()
    # And a machine that became slower is learnt anew.
    (slower,) = judge(fit(rows([0.05 + 11 * g for g in gflops]), origin), _profile(kept))
    assert (slower.used, slower.before) == (True, "earlier fit")


def test_times_that_nothing_can_be_computed_with_are_refused() -> None:
    rows = [
        Row(name=f"net_{i}", program=_program(0.1), recipe=F32, ms=5e-324, judges=True)
        for i in range(40)
    ]
    (found,) = judge(fit(rows, Origin(date="d", device="x", tools={})), PROFILE)
    assert (found.used, found.reason) == (False, "not finite")


def _contradicting() -> tuple[HeldOut, ...]:
    """Every fold lies beside the others."""
    from sdk.fit import fold_of

    found = _held_out([1.0] * 60)
    return tuple(
        dataclasses.replace(e, predicted=e.row.ms / 3.0 ** fold_of(e.row.name)) for e in found
    )


@pytest.mark.parametrize(
    ("held_out", "refused"),
    [
        (_held_out(NEAR), False),
        (_held_out([1.0, 1.1, 0.9] * 12 + [5.0, 5.0]), False),
        (_contradicting(), True),
    ],
    ids=["alike", "two far off", "folds that contradict each other"],
)
def test_coverage_of_what_was_not_seen(held_out: Sequence[HeldOut], refused: bool) -> None:
    found = coverage(held_out)
    assert found is not None
    assert 0 <= found.least <= found.promised <= 0.9
    assert (found.share < found.least) is refused


def test_an_interval_that_does_not_hold_what_it_claims_is_refused() -> None:
    held_out = _contradicting()
    (found,) = judge([_fit(held_out, _block())], _profile(base=NO_RATES))
    assert (found.used, found.reason) == (False, "interval")
    what, cause, _ = refusal(found, AGAIN)
    assert "it claims 90 %" in what
    assert "busy or throttled" in cause


def test_a_network_with_many_recipes_counts_once() -> None:
    ratios = [1.0, 1.1, 0.9, 1.05] * 15
    one, many = coverage(_held_out(ratios)), coverage(_held_out(ratios, per_network=4))
    assert one is not None
    assert many is not None
    assert many.least < one.least


@given(st.integers(1, 200), st.floats(0.5, 0.95))
def test_the_bound_is_the_tail_of_the_binomial(n: int, probability: float) -> None:
    from scipy.stats import binom

    count = least_count(n, probability)
    assert binom.cdf(count, n, probability) > 0.01
    assert count == 0 or binom.cdf(count - 1, n, probability) <= 0.01 + 1e-9


def test_is_finite() -> None:
    assert is_finite(_block())
    assert not is_finite(_block(-1.0))
    assert not is_finite(_block(low=2.0, high=1.0))


def _told(**changes: object) -> Judged:
    entry = Judged(
        toolchain="openvino", engine="cpu", used=False, reason="no better", rows=900, held_out=90,
        error=0.31, error_before=0.24, before="earlier fit",
        errors_before={"data sheet": 0.6, "earlier fit": 0.24}, kept="earlier fit",
    )  # fmt: skip
    return dataclasses.replace(entry, **changes)  # type: ignore[arg-type]


SENTENCES: list[tuple[str, Judged, str, str]] = [
    (
        "an earlier fit",
        _told(),
        "cpu: the new fit is off by 31 %, the one it would replace by 24 %, the data sheet's",
        "or nothing has changed since",
    ),
    (
        "as few decimals as tell them apart",
        _told(error=0.2404),
        "off by 24.04 %, the one it would replace by 24.00 %",
        "busy or throttled",
    ),
    (
        "the data sheet",
        _told(before="data sheet", errors_before={"data sheet": 0.24}, kept="data sheet"),
        "off by 31 %, the data sheet's estimate by 24 %: estimates go on by the data sheet",
        "The machine was busy or throttled while it measured.",
    ),
    (
        "the data sheet, and an earlier fit that is worse",
        _told(before="data sheet", errors_before={"data sheet": 0.24, "earlier fit": 0.4}),
        "the data sheet's estimate by 24 %, the one it would replace by 40 %: kept the old one",
        "busy or throttled",
    ),
    (
        "too few",
        _told(reason="too few", error=None, held_out=4),
        "900 measurements, 4 of them to judge it by, and it takes 20, 10",
        "could not be built",
    ),
    ("not finite", _told(reason="not finite"), "are not finite: kept the old one", "close to 0"),
    (
        "interval",
        _told(reason="interval", coverage=Coverage(share=0.5, promised=0.9, least=0.78)),
        "holds 50 % of what it has not seen; it claims 90 %, and below 78 % is no chance",
        "some of the programs",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("judged", "what", "cause"),
    [case[1:] for case in SENTENCES],
    ids=[case[0] for case in SENTENCES],
)
def test_a_refusal_in_three_beats(judged: Judged, what: str, cause: str) -> None:
    beats = refusal(judged, AGAIN)
    assert what in beats[0]
    assert cause in beats[1]
    assert AGAIN in beats[2]


def test_a_next_fit_is_judged_on_networks_that_the_earlier_has_not_seen() -> None:
    first, second = _block(), _block(2.0)
    assert draw_of(()) == ""
    assert len({draw_of(()), draw_of([first]), draw_of([second])}) == 3
    assert draw_of([first]) == draw_of([_block()])
