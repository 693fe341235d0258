"""What this machine can run of another device's variants, and as what."""

from __future__ import annotations

import dataclasses

import pytest

from agent.manifest import Fingerprint
from profiles import Engine, find
from sdk.prove import runnable_as
from targets.interface import Recipe

PROFILE = dataclasses.replace(
    find("core-ultra-155h", ()),
    match={"identity.gpu": "a GPU"},
    engines={name: Engine(name=name, title=name, peak={}) for name in ("cpu", "gpu")},
)


def recipe(format: str, engine: str, check: str | None) -> Recipe:
    return Recipe(toolchain=format, format=format, precision="f32", engine=engine, check=check)


@pytest.mark.parametrize(
    ("made", "gpu", "expected"),
    [
        (recipe("openvino", "cpu", None), None, ("openvino", False)),
        (recipe("tensorrt", "gpu", "onnxruntime"), None, ("onnxruntime", True)),
        (recipe("tensorrt", "gpu", "onnxruntime"), "a GPU", ("tensorrt", False)),
        (recipe("tensorrt", "dla", "onnxruntime"), "a GPU", ("onnxruntime", True)),
        # Its own format, on the CPU: still a check, which must not pass for a measurement.
        (recipe("onnxruntime", "gpu", "onnxruntime"), None, ("onnxruntime", True)),
        (recipe("onnxruntime", "gpu", "onnxruntime"), "a GPU", ("onnxruntime", False)),
        (recipe("executorch", "gpu", None), None, None),
    ],
)
def test_a_variant_runs_as_itself_or_as_a_check(
    made: Recipe, gpu: str | None, expected: tuple[str, bool] | None
) -> None:
    device = Fingerprint(identity={"gpu": gpu}, software={}, conditions={})
    assert runnable_as(made, PROFILE, device) == expected
