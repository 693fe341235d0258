"""Summaries as builds leave them, written by hand: the shapes that the reports have to show."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agent.identity import Conditions
from agent.manifest import Fingerprint
from agent.sessions import operator_times
from sdk.estimate import Estimate, Interval
from sdk.limits import Bounded, Evidence, LimitVerdict, judge, overall
from sdk.search.record import Heat, SearchRecord
from sdk.summary import (
    AccuracySummary,
    Bounds,
    CandidateSummary,
    LatencySummary,
    MeasuredUnder,
    ProfileSummary,
    RatioSummary,
    Summary,
)

MIB = 1 << 20
LIMITS = {"latency_p90_ms": 4.0, "size_mib": 20.0, "accuracy_drop": 0.02}
OPERATORS = operator_times(
    [
        [
            (f"features.{i}.0.conv", "Convolution", "brgconv_avx512_f32", 1.0 / (i + 1))
            for i in range(15)
        ]
    ]
)


def latency(p50: float, *, evidence: Evidence = "device", **changes: Any) -> LatencySummary:
    """A measured latency around a median, its tail a little longer than its head."""
    spread = tuple(
        round(p50 * (0.9 + 0.01 * i + (0.004 * max(0, i - 14)) ** 2), 4) for i in range(21)
    )
    found = LatencySummary(
        p50=p50, p90=p50 * 1.08, p95=p50 * 1.1, p99=p50 * 1.3, n=900, low=p50 * 0.98,
        high=p50 * 1.02, stable=True, evidence=evidence,
        bounds={q: Bounds(low=p50 * f * 0.98, high=p50 * f * 1.02)
                for q, f in (("p50", 1.0), ("p90", 1.08), ("p95", 1.1), ("p99", 1.3))},
        spread=spread, windows=tuple(p50 * (0.98 + 0.004 * i) for i in range(9)),
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def accuracy(drop: float, *, n: int = 400, **changes: Any) -> AccuracySummary:
    """A drop with bounds as some hundred samples give them."""
    found = AccuracySummary(
        metric="top1", value=0.97 * (1 - drop), original=0.97, drop=drop, low=drop * 0.8,
        high=drop * 1.2 + 3 / n, n=n, evidence="device",
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def estimate(low: float, value: float, high: float) -> Estimate:
    """A prediction of latency, and some of memory."""
    return Estimate(
        latency_ms=Interval(value=value, low=low, high=high),
        peak_memory_bytes=Interval(value=120 * MIB, low=40 * MIB, high=480 * MIB),
    )


def candidate(name: str, profile: str = "intel-host", **changes: Any) -> CandidateSummary:
    """A built candidate of which nothing is known but its size; its limits are judged as given."""
    found = CandidateSummary(
        identifier=f"net/{profile}/{name}", toolchain=name.split("-", maxsplit=1)[0],
        precision="int8" if "int8" in name else "f32", role=None, status="built", step=None,
        reason="", size_bytes=12 * MIB, load_ms=None, first_run_ms=None, evaluated_at={"batch": 1},
        latency_ms=None, throughput_per_s=None, peak_memory_bytes=None,
        memory_increment_bytes=None, estimate=Estimate(latency_ms=None, peak_memory_bytes=None),
        accuracy=None, numerics=None, placement={}, limits=(),
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def judged(found: CandidateSummary, limits: Mapping[str, float] = LIMITS) -> CandidateSummary:
    """The candidate with the verdicts that its own figures give."""
    return dataclasses.replace(
        found, limits=tuple(_verdict(n, v, found) for n, v in limits.items())
    )


def _verdict(name: str, limit: float, found: CandidateSummary) -> LimitVerdict:
    if name == "accuracy_drop":
        own = found.accuracy
        if own is None:
            return judge(name, limit, None, note="this machine has nothing to run it on")
        figure = Bounded(value=own.drop, low=own.low, high=own.high, evidence=own.evidence)
        return judge(name, limit, figure)
    if name == "size_mib":
        size = (found.size_bytes or 0) / MIB
        return judge(name, limit, Bounded(value=size, low=size, high=size, evidence="device"))
    measured, predicted = found.latency_ms, found.estimate.latency_ms
    if measured is not None and measured.bounds is not None:
        bounds = measured.bounds["p90"]
        value = measured.p90 or 0
        return judge(
            name, limit, Bounded(value=value, low=bounds.low, high=bounds.high, evidence="device")
        )
    if predicted is not None:
        return judge(
            name,
            limit,
            Bounded(
                value=predicted.value, low=predicted.low, high=predicted.high, evidence="estimate"
            ),
        )
    return judge(name, limit, None)


def measured(name: str, p50: float, drop: float, **changes: Any) -> CandidateSummary:
    """A candidate measured on the device itself."""
    now = Conditions(
        power_mode=None, governor="performance", clocks_mhz=(2400.0, 2500.0), load_1m=0.4,
        temperatures_c={"x86_pkg_temp": 52.0},
    )  # fmt: skip
    found = candidate(
        name,
        latency_ms=latency(p50),
        accuracy=accuracy(drop),
        estimate=estimate(p50 / 3, p50 * 1.2, p50 * 5),
        peak_memory_bytes=150 * MIB,
        memory_increment_bytes=70 * MIB,
        load_ms=80.0,
        first_run_ms=2 * p50,
        throughput_per_s=1000 / p50,
        placement={"CPU": 1.0},
        conditions=MeasuredUnder(
            before=now,
            after=dataclasses.replace(now, load_1m=1.1, temperatures_c={"x86_pkg_temp": 61.0}),
            environment={"cpus": 2},
            versions={"openvino": "2026.4.1"},
        ),
    )
    return judged(dataclasses.replace(found, **changes))


def profile(
    name: str, candidates: list[CandidateSummary], selected: str | None, **changes: Any
) -> ProfileSummary:
    """A profile whose verdict is that of the selected candidate."""
    chosen = next((c for c in candidates if selected and c.identifier.endswith(selected)), None)
    marked = tuple(dataclasses.replace(c, role="chosen") if c is chosen else c for c in candidates)
    baseline = next((c for c in marked if "f32" in c.identifier and c.status == "built"), None)
    found = ProfileSummary(
        target="intel", profile=name, verdict=overall(chosen.limits) if chosen else "unmet",
        selected=chosen.identifier if chosen else None,
        selected_by=None if chosen is None else "measured" if chosen.latency_ms else "estimate",
        variant=None, ladder=(chosen.identifier,) if chosen else (), candidates=marked,
        title="A test bench", platform="linux", match={"identity.soc": "bench"},
        limits=dict(LIMITS), baseline=baseline.identifier if baseline else None,
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def summary(*results: ProfileSummary, **changes: Any) -> Summary:
    """A build of those profiles."""
    found = Summary(
        schema=1, model="net", program_digest="ab" * 32, started=1_795_000_000, seconds=157.7,
        accuracy_note="", results=results,
        host=Fingerprint(
            identity={"arch": "x86_64", "soc": "bench", "isa": ["avx2", "avx512_vnni"], "cores": 2,
                      "gpu": None, "sm": None, "memory_bytes": 24 << 30, "emulated": False},
            software={"os": "debian 12", "driver": None, "jetpack": None,
                      "runtimes": {"openvino": "2026.4.1"}},
            conditions={"power_mode": None, "governor": "performance"},
        ),
        tool_versions={"openvino": "2026.4.1", "slipway-sdk": "0.1.0"},
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def proven() -> ProfileSummary:
    """Measured on the spot: one is chosen, one is slower, one loses too much, one failed."""
    ratio = RatioSummary(value=0.52, low=0.51, high=0.54, rounds=9)
    return profile(
        "intel-host",
        [
            measured("openvino-f32-aaaaaaa1", 3.1, 0.0, operators=OPERATORS),
            measured(
                "openvino-int8-aaaaaaa2", 1.6, 0.004, size_bytes=4 * MIB, ratio_to_baseline=ratio,
                operators=OPERATORS[:6], reason="the fastest: p50 1.6 ms",
            ),
            measured("onnxruntime-int8-aaaaaaa3", 4.4, 0.006, size_bytes=4 * MIB,
                     reason="latency_p90_ms 4.75 > 4 (device)"),
            measured("executorch-int8-aaaaaaa4", 1.2, 0.35, size_bytes=5 * MIB,
                     reason="accuracy_drop 0.35 > 0.02 (device)"),
            candidate("openvino-bf16-aaaaaaa5", status="failed", step="lower", size_bytes=None,
                      reason="the compiler died of SIGSEGV [crashed]"),
        ],
        "openvino-int8-aaaaaaa2",
    )  # fmt: skip


def estimated(name: str = "orin-nano", **changes: Any) -> ProfileSummary:
    """Nothing was measured: candidates are ranked by estimate, and nothing is proven."""
    host = {"evidence": "host", "n": 400}
    return profile(
        name,
        [
            judged(candidate("tensorrt-f16-bbbbbbb1", name, estimate=estimate(0.8, 2.4, 7.2),
                             accuracy=accuracy(0.0001, **host))),
            judged(candidate("tensorrt-int8-bbbbbbb2", name, estimate=estimate(0.5, 1.5, 4.5),
                             accuracy=accuracy(0.012, **host), size_bytes=5 * MIB)),
            judged(candidate("onnxruntime-f32-bbbbbbb3", name, estimate=estimate(5, 15, 45),
                             accuracy=accuracy(0.0, **host))),
            candidate("aotinductor-f16-bbbbbbb4", name, status="refused", step="plan",
                      size_bytes=None, reason="aotinductor is not installed: pip install torch"),
        ],
        "tensorrt-int8-bbbbbbb2",
        **{"target": "jetson", "title": "NVIDIA Jetson Orin Nano 8 GB (Super)", **changes},
        match={"identity.soc": ["nvidia,tegra234"], "software.jetpack": {"min": "6.1", "below": "7"}},
    )  # fmt: skip


def nothing_built() -> ProfileSummary:
    """Every candidate failed or was refused."""
    reasons = ("operator aten::foo is not supported", "out of memory [out_of_memory]")
    found = [
        candidate(f"openvino-f{i}-cccccccc", status="refused" if i % 2 else "failed",
                  step="plan" if i % 2 else "lower", size_bytes=None, reason=reasons[i % 2])
        for i in range(4)
    ]  # fmt: skip
    return profile("xeon", found, None, title="A large server")


def nothing_planned() -> ProfileSummary:
    """No candidate at all."""
    return profile("empty", [], None, title=None, match=None, platform=None)


def all_break() -> ProfileSummary:
    """Built and measured, and each breaks a limit."""
    return profile(
        "n100",
        [
            measured("openvino-f32-ddddddd1", 9.0, 0.0),
            measured("openvino-int8-ddddddd2", 4.6, 0.001),
        ],
        None,
        title="Intel N100",
    )


def many(count: int = 30) -> ProfileSummary:
    """Many candidates, some with very long names, clustered and spread over two decades."""
    name = "openvino-int8-mixed-with-an-unreasonably-long-recipe-name-{:02d}-eeeeee{:02d}"
    found = [
        measured(
            (name if i % 3 == 0 else "onnxruntime-int8-{:02d}-eeeeee{:02d}").format(i, i),
            0.4 * 1.17**i, 0.0005 * ((i * 7) % 11), size_bytes=(3 + i % 9) * MIB,
            reason="3.4 times the chosen one's latency (3.3 to 3.5)" * (1 + i % 2),
        )
        for i in range(count)
    ]  # fmt: skip
    return profile("bench-of-many", found, "eeeeee00", limits={**LIMITS, "latency_p50_ms": 8.0})


def searched() -> ProfileSummary:
    """What a search found in a time that did not suffice for all."""
    found = many(26)
    left = [
        candidate(f"openvino-int8-mixed-fffffff{i}", found.profile, status="planned",
                  size_bytes=None, reason="the budget ended before it was tried")
        for i in range(3)
    ]  # fmt: skip
    tried = tuple(c.identifier.rsplit("/", 1)[-1] for c in found.candidates)
    heats = (
        Heat(tried=tried[:9], best=tried[0], cost=1.0, seconds=31.0),
        Heat(tried=tried[9:], best=tried[0], cost=None, seconds=29.5),
    )
    record = SearchRecord(
        objective="latency", budget_s=60.0, spent_s=66.2, seed=0, heats=heats, untried=3
    )
    candidates = (*found.candidates, *left)
    return dataclasses.replace(found, candidates=candidates, search=record)


def phone() -> ProfileSummary:
    """A phone: nothing here can measure it."""
    return estimated("pixel", platform="android", target="mobile", title="A phone")


ALL: dict[str, Summary] = {
    "proven": summary(proven()),
    "estimated": summary(estimated()),
    "nothing built": summary(nothing_built()),
    "nothing planned": summary(nothing_planned()),
    "all break": summary(all_break()),
    "many": summary(many()),
    "searched": summary(searched()),
    "five profiles": summary(
        proven(), estimated(), phone(), all_break(), nothing_built(),
        accuracy_note="fidelity to the original, not accuracy on labels",
    ),
    "nothing asked": summary(),
}  # fmt: skip
"""Every shape by name."""
