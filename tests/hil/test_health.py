"""What is wrong with a rig: a table of named cases."""

from __future__ import annotations

from typing import Any

import pytest

from agent.manifest import Fingerprint
from hil.bench import Probe
from hil.health import checks, unfit

HELLO: dict[str, Any] = {
    "python": [3, 11, 2], "free_bytes": 8 << 30, "time_s": 1000.0, "aside": None, "holder": None,
    "boot_id": "b1",
}  # fmt: skip


def _aside(**more: Any) -> dict[str, Any]:
    return {"by": "eve@lab", "reason": "", "failed": False, "hung_boot": None, **more}


WORKS = {"version": "1.31", "error": None}
FAILS = {"version": None, "error": {"what": "no"}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str] | None, set[str]]] = {
    "a rig that is well": ({}, {}, [], set()),
    "one without a profile": ({}, {}, None, set()),
    "too little disk": ({"free_bytes": 1 << 20}, {}, [], {"disk"}),
    "a clock that is years behind": ({"time_s": -1e8}, {}, [], {"clock"}),
    "a clock that is a second off": ({"time_s": 1001.0}, {}, [], set()),
    "somebody's work": ({}, {"load": 3.9}, [], {"load"}),
    "a load that is not told": ({}, {"load": None}, [], set()),
    "set aside": ({"aside": _aside()}, {}, [], {"lease"}),
    "off for a check": ({"aside": _aside(failed=True)}, {}, [], {"lease"}),
    "hung": ({"aside": _aside(failed=True, hung_boot="b1")}, {}, [], {"lease", "hang"}),
    "hung before": ({"aside": _aside(failed=True, hung_boot="b0")}, {}, [], {"lease"}),
    "no room at all": ({"free_bytes": 0}, {}, [], {"disk"}),
    "one installed, which does not load": (
        {},
        {"runtimes": {"onnxruntime": FAILS}, "has": ["onnxruntime"]},
        [],
        {"runtimes"},
    ),
    "in use": ({"holder": "eve@lab sdk build"}, {}, [], set()),
    "no runtime": ({}, {"runtimes": {"onnxruntime": FAILS}}, [], {"runtimes"}),
    "one of two": ({}, {"runtimes": {"onnxruntime": FAILS, "openvino": WORKS}}, [], set()),
    "another board": ({}, {}, ["identity.soc is 'x', not 'y'"], {"profile"}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_found_with_what_to_do(name: str) -> None:
    hello, more, differs, wrong = CASES[name]
    probe = Probe(
        fingerprint=Fingerprint(
            identity={"cores": 4},
            software={"runtimes": dict.fromkeys(more.get("has", ()), "1.31")},
            conditions={},
        ),
        conditions={"load_1m": more.get("load", 0.1)},
        runtimes=more.get("runtimes", {"onnxruntime": WORKS}),
    )
    found = list(checks({**HELLO, **hello}, probe, now_s=1000.0, differs=differs))
    assert {one.what for one in found if not one.is_well} == wrong
    assert all(one.remedy for one in found if not one.is_well)
    grave = ("hung", "no room at all", "one installed, which does not load")
    assert bool(unfit(found)) == (name in grave)
