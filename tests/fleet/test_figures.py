"""What of a report is kept: known names, and numbers that could have been measured."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import VerificationError
from agent.updates.judge import ratios
from agent.updates.report import Report, integers_only
from sdk.fleet.rules.figures import check, compared
from sdk.fleet.rules.gates import QUANTILES, StageGate
from tests.updates.test_judge import measured

DEVICE = "d" * 32


def _report(**more: Any) -> Report:
    values: dict[str, Any] = {
        "version": 1, "device_id": DEVICE, "action_id": "a-1", "journal_seq": 1, "model": "net",
        "release": "1.0.0", "manifest_sha256": "a" * 64, "variant": "v", "state": "TRIAL",
        "reason": "", "fingerprint_sha256": "b" * 64, "at": "2026-11-22T12:00:00Z",
    }  # fmt: skip
    return Report(**{**values, **more})


def _facts(**facts: Any) -> dict[str, Any]:
    return {"proof": {"v": {"facts": facts}}}


TAKEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "no proof of the variant": ({"proof": {"w": {"facts": {"memory_bytes": "1"}}}}, {}),
    "a proof that is no table": ({"proof": {"v": "x"}}, {}),
    "memory": (_facts(memory_bytes="4096"), {"memory_bytes": 4096.0}),
    "latency": (_facts(measurement={"latency_ms": {"p50": "1.5"}}), {"p50_ms": 1.5}),
    "a ratio": (
        _facts(ratio_to_running={"value": "0.9", "low": "0.8", "high": "1.0", "more": "x"}),
        {"ratio_to_running": {"value": 0.9, "low": 0.8, "high": 1.0}},
    ),
    "a drop below 0": (_facts(drop={"value": "-0.5"}), {"drop": {"value": -0.5}}),
    "agreement of the worst output": (
        _facts(agreement={"y": "0.99", "z": "0.5"}),
        {"agreement": 0.5},
    ),
    "agreement of nothing": (_facts(agreement={}), {}),
    "ratios": (
        _facts(ratios_to_running={"latency@950": "1.5", "memory": 2, "latency@1": "7", "x": "y"}),
        {"ratios": {"latency@950": 1.5, "memory": 2.0}},
    ),
    "of what was refused the closest": (
        {
            "variant": None,
            "state": "FAILED",
            "proof": {
                "a": {"facts": {"ratios_to_running": {"latency@500": "3.0"}}},
                "b": {"facts": {"ratios_to_running": {"latency@500": "2.0"}}},
                "c": {"facts": {"agreement": {"y": "0.1"}}},
                "d": "x",
            },
        },
        {"ratios": {"latency@500": 2.0}},
    ),
    "without speed the one that agrees most": (
        {
            "variant": None,
            "state": "FAILED",
            "proof": {n: {"facts": {"agreement": {"y": f"0.{n}"}}} for n in "283"},
        },
        {"agreement": 0.8},
    ),
    "of a refusal that tried nothing": ({"variant": None, "state": "FAILED", "proof": {}}, {}),
    "of none while it is undecided": (
        {"variant": None, "proof": {"a": {"facts": {"memory_bytes": "1"}}}},
        {},
    ),
    "a name that nobody knows": (_facts(hack="1"), {}),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_was_measured_is_taken(name: str) -> None:
    more, expected = TAKEN[name]
    assert check(_report(**more), DEVICE) == expected


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another device": ({"device_id": "e" * 32}, "it is of the device"),
    "no state": ({"state": "GREAT"}, "there is no state"),
    "a long name": ({"model": "x" * 201}, "its model has 201 characters"),
    "a long reason": ({"reason": "x" * 2001}, "its reason has 2001 characters"),
    "a long hash": ({"manifest_sha256": "x" * 65}, "its manifest_sha256 has 65 characters"),
    "a long digest": ({"fingerprint_sha256": "x" * 65}, "its fingerprint_sha256 has 65"),
    "a name with a NUL": ({"model": "ne\0t"}, "its model holds a NUL"),
    "a number below 0": ({"journal_seq": -1}, "its journal_seq is -1"),
    "a number without end": ({"journal_seq": 1 << 63}, "its journal_seq is 9223372036854775808"),
    "too many variants": ({"proof": {str(n): {} for n in range(65)}}, "it speaks of 65 variants"),
    "infinite memory": (_facts(memory_bytes="Infinity"), "memory_bytes is inf"),
    "no number": (_facts(memory_bytes="nan"), "memory_bytes is nan"),
    "memory below 0": (_facts(memory_bytes=-1), "memory_bytes is -1"),
    "memory that is true": (_facts(memory_bytes=True), "memory_bytes is 'True'"),
    "a list": (_facts(memory_bytes=[1]), "memory_bytes is '[1]'"),
    "a word": (_facts(measurement={"latency_ms": {"p50": "fast"}}), "p50_ms is 'fast'"),
    "a ratio of 0": (_facts(ratio_to_running={"value": "0"}), "ratio_to_running is 0"),
    "digits without end": (_facts(memory_bytes="1" * 5000), "memory_bytes is '111"),
    "a ratio that is no number": (
        _facts(ratios_to_running={"latency@950": "NaN"}),
        "latency@950 is nan",
    ),
    "a ratio beyond all": (_facts(ratios_to_running={"memory": "1e7"}), "memory is 1e+07"),
    "agreement beyond all": (_facts(agreement={"y": "1.5"}), "agreement is 1.5"),
    "agreement that is no number": (_facts(agreement={"y": "nan"}), "agreement is nan"),
    "no drop": (_facts(drop={"value": "1e308"}), "drop is 1e+308"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_name(name: str) -> None:
    more, why = REFUSED[name]
    with pytest.raises(VerificationError, match="is not taken") as refused:
        check(_report(**more), DEVICE)
    assert why in refused.value.what


def test_gates_read_what_agents_tell() -> None:
    """The two sides name the same things alike."""
    facts = integers_only(
        {
            "ratios_to_running": ratios(measured(3.0), measured(2.0)),
            "agreement": {"y": 0.999}, "drop": {"value": 0.01, "low": 0.0, "high": 0.02},
        }
    )  # fmt: skip
    told = compared(check(_report(proof={"v": {"facts": facts}}), DEVICE))
    latencies = [StageGate(quantity="latency", quantile_permille=q, limit_ppm=1) for q in QUANTILES]
    others = [StageGate(quantity=name, limit_ppm=1) for name in ("memory", "agreement", "drop")]
    assert set(told) == {gate.name for gate in [*latencies, *others]}
    assert told["latency@950"] == pytest.approx(1.5, rel=0.02)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("facts", "memory_bytes", "measurement", "latency_ms", "p50", "drop"),
                    *("ratio_to_running", "value", "low", "high", "v", "agreement"),
                    *("ratios_to_running", "latency@950", "memory"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in _numbers(inner)]
    return [value]


@given(VALUES)
def test_whatever_a_device_signs_only_numbers_come_out(facts: Any) -> None:
    try:
        found = check(_report(proof={"v": {"facts": facts}}), DEVICE)
    except VerificationError:
        return
    names = {"memory_bytes", "p50_ms", "drop", "ratio_to_running", "agreement", "ratios"}
    assert set(found) <= names
    assert all(math.isfinite(one) for one in compared(found).values())
    assert all(type(one) is float and math.isfinite(one) for one in _numbers(found))
