"""Two builds against each other: what counts as a change, and what is noise."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from agent.codec import encode
from agent.errors import UsageError
from agent.manifest import Fingerprint
from sdk.cli.app import run
from sdk.limits import LimitVerdict
from sdk.report.changes import print_comparison
from sdk.report.comparison import RUN_TO_RUN, Comparison, Delta, compare
from sdk.summary import CandidateSummary, LatencySummary, Summary
from tests import summaries
from tests.summaries import ALL, MIB

NAME = "openvino-int8-00000000"


def build(candidate: CandidateSummary | None = None, **changes: Any) -> Summary:
    """A build of one candidate."""
    one = candidate or summaries.measured(NAME, 1.6, 0.004)
    return summaries.summary(summaries.profile("intel-host", [one], NAME), **changes)


def delta(found: Comparison, quantity: str) -> Delta:
    deltas = found.profiles[0].candidates[0].deltas
    return next(delta for delta in deltas if delta.quantity == quantity)


def latencies(old: LatencySummary, new: LatencySummary, **changes: Any) -> Delta:
    pair = [build(summaries.measured(NAME, 1.0, 0.004, latency_ms=one)) for one in (old, new)]
    return delta(compare(pair[0], dataclasses.replace(pair[1], **changes)), "latency_p50_ms")


HOST = ALL["proven"].host
ELSEWHERE = Fingerprint(
    identity={**HOST.identity, "soc": "another"},
    software=HOST.software,
    conditions=HOST.conditions,
)
POWERSAVE = Fingerprint(
    identity=HOST.identity, software=HOST.software, conditions={"governor": "powersave"}
)


def latency(p50: float, **changes: Any) -> LatencySummary:
    return summaries.latency(p50, **changes)


LATENCIES: dict[str, tuple[LatencySummary, LatencySummary, dict[str, Any], str]] = {
    "the same": (latency(1.0), latency(1.0), {}, "within noise"),
    "much faster": (latency(1.0), latency(0.6), {}, "faster"),
    "much slower": (latency(1.0), latency(1.5), {}, "slower"),
    "apart, but by less than runs differ": (latency(1.0), latency(0.93), {}, "within noise"),
    "far, but wide": (latency(1.0, low=0.5, high=1.5), latency(0.7), {}, "within noise"),
    "far, but not stable": (latency(1.0), latency(0.5, stable=False), {}, "within noise"),
    "another machine": (latency(1.0), latency(0.5), {"host": ELSEWHERE}, "not comparable"),
    "another governor": (latency(1.0), latency(0.5), {"host": POWERSAVE}, "not comparable"),
}


@pytest.mark.parametrize("name", LATENCIES)
def test_a_latency_changed_only_beyond_what_two_runs_differ_by(name: str) -> None:
    old, new, changes, answer = LATENCIES[name]
    assert latencies(old, new, **changes).answer == answer


@given(st.floats(0.01, 1e3), st.floats(0.01, 1e3))
@example(516.0, 465.0)
def test_the_other_way_round_gives_the_opposite_answer(one: float, other: float) -> None:
    there = latencies(latency(one), latency(other)).answer
    back = latencies(latency(other), latency(one)).answer
    opposite = {"faster": "slower", "slower": "faster", "within noise": "within noise"}
    assert back == opposite[there]
    if abs(other / one - 1) <= RUN_TO_RUN / 2:
        assert there == back == "within noise"


def test_a_setting_of_one_candidates_own_measurement_counts_too() -> None:
    old, new = summaries.measured(NAME, 1.0, 0.0), summaries.measured(NAME, 0.5, 0.0)
    assert new.conditions is not None
    slow = dataclasses.replace(new.conditions.before, governor="powersave")
    other = dataclasses.replace(new, conditions=dataclasses.replace(new.conditions, before=slow))
    found = delta(compare(build(old), build(other)), "latency_p50_ms")
    assert found.answer == "not comparable"
    assert "governor performance -> powersave" in found.note


def test_a_little_more_memory_after_a_reboot_is_no_other_machine() -> None:
    host = Fingerprint(
        identity={**HOST.identity, "memory_bytes": (24 << 30) + 4096},
        software=HOST.software,
        conditions=HOST.conditions,
    )
    assert compare(build(), build(host=host)).machine == {}


DROPS = {
    "the same": (0.004, {}, "within noise"),
    "bounds that touch": (0.01, {}, "within noise"),
    "far worse": (0.1, {}, "worse"),
    "another metric": (0.1, {"metric": "cosine"}, "not comparable"),
}


@pytest.mark.parametrize("name", DROPS)
def test_a_drop_changed_only_where_the_bounds_part(name: str) -> None:
    value, changes, answer = DROPS[name]
    new = summaries.measured(NAME, 1.6, 0.0, accuracy=summaries.accuracy(value, **changes))
    assert delta(compare(build(), build(new)), "accuracy_drop").answer == answer
    if answer == "worse":
        assert delta(compare(build(new), build()), "accuracy_drop").answer == "better"


def test_int8_answers_of_another_instruction_set_do_not_compare() -> None:
    host = Fingerprint(
        identity={**HOST.identity, "isa": ["avx2"]}, software=HOST.software, conditions={}
    )
    assert delta(compare(build(), build(host=host)), "accuracy_drop").answer == "not comparable"


@pytest.mark.parametrize(
    ("memory", "size", "answers"),
    [
        (150 * MIB, 12 * MIB, ("within noise", "same")),
        (154 * MIB, 12 * MIB + 1, ("within noise", "larger")),
        (200 * MIB, 11 * MIB, ("larger", "smaller")),
        (100 * MIB, 12 * MIB, ("smaller", "same")),
        (None, 12 * MIB, ("unknown", "same")),
    ],
)
def test_memory_has_noise_and_size_has_none(
    memory: int | None, size: int, answers: tuple[str, str]
) -> None:
    new = summaries.measured(NAME, 1.6, 0.004, peak_memory_bytes=memory, size_bytes=size)
    found = compare(build(), build(new))
    assert (delta(found, "peak_memory_bytes").answer, delta(found, "size_bytes").answer) == answers


def test_candidates_and_profiles_come_and_go() -> None:
    one, two = summaries.measured(NAME, 1.6, 0.0), summaries.measured("x-f32-11111111", 3.0, 0.0)
    old = summaries.summary(summaries.profile("intel-host", [one], NAME), summaries.estimated())
    new = summaries.summary(
        summaries.profile("intel-host", [two], "x-f32-11111111"), summaries.all_break()
    )
    found = compare(old, new)
    host, n100, orin = found.profiles
    assert (host.appeared, host.vanished) == (("x-f32-11111111",), (NAME,))
    assert (host.old_selected, host.new_selected) == (NAME, "x-f32-11111111")
    assert next(d for d in host.selected if d.quantity == "latency_p50_ms").answer == "slower"
    assert (n100.old_verdict, n100.new_verdict) == (None, "unmet")
    assert (orin.old_verdict, orin.new_verdict) == ("unproven", None)


def test_another_model_other_tools_and_other_limits_are_told() -> None:
    new = build(program_digest="cd" * 32, tool_versions={"openvino": "2027.0.0"})
    profile = dataclasses.replace(new.results[0], limits={"latency_p90_ms": 5.0})
    found = compare(build(), dataclasses.replace(new, results=(profile,)))
    assert not found.is_same_model
    assert found.tools == {"openvino": ("2026.4.1", "2027.0.0"), "slipway-sdk": ("0.1.0", None)}
    assert found.profiles[0].limits["latency_p90_ms"] == (4.0, 5.0)


def test_a_new_limit_and_whom_it_fails_are_told() -> None:
    was, other = (
        summaries.measured(NAME, 1.6, 0.0),
        summaries.measured("onnxruntime-f32-22", 0.5, 0),
    )
    tighter = {**summaries.LIMITS, "latency_p90_ms": 1.0}
    old = summaries.profile("intel-host", [was, other], NAME)
    now = summaries.profile(
        "intel-host",
        [summaries.judged(one, tighter) for one in (was, other)],
        "onnxruntime-f32-22",
        limits=tighter,
    )
    found = compare(summaries.summary(old), summaries.summary(now))
    change, same = found.profiles[0].candidates
    assert (change.old_verdict, change.new_verdict) == ("met", "unmet")
    assert change.broken == ("latency_p90_ms",)
    assert (same.old_verdict, same.new_verdict, same.broken) == ("met", "met", ())
    text = printed(found)
    assert "limit on 90th-percentile latency: at most 4 ms -> at most 1 ms" in text
    assert f"{NAME}: met -> unmet by 90th-percentile latency" in text
    assert "1 candidate: nothing beyond noise" in text
    no_limit = dataclasses.replace(old, limits={})
    assert "limit on size: none -> at most 20 MiB" in printed(
        compare(summaries.summary(no_limit), summaries.summary(old))
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (("built", "met"), ("built", "unproven"), "met -> unproven"),
        (("built", "unmet"), ("failed", None), "unmet -> failed"),
        (("refused", None), ("built", "met"), "refused -> met"),
    ],
)
def test_what_became_of_a_candidate_is_told(
    old: tuple[str, str | None], new: tuple[str, str | None], told: str
) -> None:
    def of(status: str, verdict: str | None) -> Summary:
        limits = (LimitVerdict(name="size_mib", limit=20.0, value=None, verdict=verdict,
                               evidence=None),) if verdict else ()  # fmt: skip
        made = summaries.candidate(NAME, status=status, limits=limits)
        return summaries.summary(summaries.profile("intel-host", [made], None))

    assert f"{NAME}: {told}" in printed(compare(of(*old), of(*new)))


def printed(found: Comparison) -> str:
    """The comparison as a terminal shows it."""
    console = Console(record=True, width=160, file=io.StringIO())
    print_comparison(found, console)
    return console.export_text()


def test_builds_of_different_models_do_not_compare() -> None:
    with pytest.raises(UsageError, match="net and other"):
        compare(build(), build(model="other"))


def test_the_printed_comparison_names_what_changed_and_counts_the_rest() -> None:
    new = summaries.measured(NAME, 0.8, 0.1, size_bytes=11 * MIB)
    console = Console(record=True, width=160, file=io.StringIO())
    print_comparison(compare(build(), build(new, program_digest="cd" * 32)), console)
    text = console.export_text()
    for telling in ("the model itself changed", "met -> unmet", "-50.0 %", "faster", "worse",
                    "+9.60", "smaller", "one machine at two times"):  # fmt: skip
        assert telling in text
    print_comparison(compare(build(), build()), console)
    assert "1 candidate: nothing beyond noise" in console.export_text()
    print_comparison(compare(build(), build(new, host=ELSEWHERE)), console)
    assert "speed and memory do not compare: soc bench -> another" in console.export_text()


@pytest.mark.parametrize("name", ALL)
def test_any_build_compares_with_itself_and_with_any_other(name: str) -> None:
    for other in ALL.values():
        console = Console(record=True, width=160, file=io.StringIO())
        print_comparison(compare(ALL[name], other), console)
        assert console.export_text()
    answers = {
        delta.answer
        for profile in compare(ALL[name], ALL[name]).profiles
        for candidate in profile.candidates
        for delta in (*candidate.deltas, *profile.selected)
    }
    assert answers <= {"within noise", "same"}


def test_the_verb_compares_two_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, found in (("old", build()), ("new", build(summaries.measured(NAME, 0.8, 0.0)))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps(encode(found)))
    arguments = ["report", "--compare", str(tmp_path / "old"), str(tmp_path / "new")]
    assert run(arguments) == 0
    assert "faster" in capsys.readouterr().out
    assert run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["profiles"][0]["candidates"][0]["deltas"][0]["answer"] == "faster"
