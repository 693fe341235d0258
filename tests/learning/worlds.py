"""Programs, devices and their reports, where the truth is known."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path

from agent.manifest import Fingerprint, Signature, TensorSpec
from profiles import Profile, find
from sdk.estimate.constants import DEFAULT
from sdk.estimate.parts import parts
from sdk.learning.gather import Sighting
from targets.interface import OpCost, Program, Recipe
from targets.recipes import onnxruntime, openvino

F32 = openvino("CPU", "f32", "f32")
ORT = onnxruntime(None, find("n100", ()), "f32")
DEVICE = Fingerprint(
    identity={
        "arch": "x86_64", "soc": "Intel(R) N100", "isa": ["avx2", "avx_vnni"], "cores": 4,
        "memory_bytes": 8 << 30, "emulated": False,
    },
    software={"os": "Debian 12", "runtimes": {"openvino": "2026.4.1", "onnxruntime": "1.31.1"}},
    conditions={},
)  # fmt: skip
OTHER = dataclasses.replace(DEVICE, identity={**DEVICE.identity, "soc": "Intel(R) N200"})


def profile() -> Profile:
    """Of the devices here, without anything learnt."""
    return find("n100", ())


def program(number: int) -> Program:
    """A network of a few convolutions and products; another one for each number."""
    draw = random.Random(number)
    costs, size = [], draw.uniform(4.0, 8.0)
    for _ in range(draw.randint(3, 20)):
        flops = int(10 ** draw.uniform(size - 0.5, size + 0.5))
        kind = "conv" if draw.random() < 0.6 else "matmul"
        costs.append(
            OpCost(
                op="aten.conv2d.default" if kind == "conv" else "aten.linear.default",
                kind=kind,  # type: ignore[arg-type]
                flops=flops,
                bytes=int(10 ** draw.uniform(size - 2.0, size - 1.0)),
                rows=196, columns=64, depth=64,
            )
        )  # fmt: skip
    spec = TensorSpec(name="x", dtype="float32", shape=(1, 3, 8, 8))
    return Program(
        kind="onnx",
        path=Path(),
        signature=Signature(inputs=(spec,), outputs=(spec,), dims={}),
        digest=f"{number:064x}",
        costs=tuple(costs),
        weight_bytes=1 << 20,
    )


def true_ms(
    of: Program, recipe: Recipe = F32, *, fixed: float = 2.0, work: float = 2.0,
    within: Profile | None = None,
) -> float:  # fmt: skip
    """What such a device takes: its two parts, by so much more than the profile says."""
    found = parts(of, within or profile(), recipe, DEFAULT)
    assert found is not None
    return fixed * found.fixed + work * found.work


def sighting(
    of: Program, ms: float, device: str = "bench", recipe: Recipe = F32, **more: object
) -> Sighting:
    """One good report."""
    values: dict[str, object] = {
        "device": device, "origin": "rig", "variant": f"net/n100/{recipe.name}",
        "fingerprint": DEVICE, "program": of, "recipe": recipe, "ms": ms, "stable": True, **more,
    }  # fmt: skip
    return Sighting(**values)  # type: ignore[arg-type]


def fleet(
    models: int, devices: int, *, noise: float = 0.03, seed: int = 0, off: float = 0.0
) -> list[Sighting]:
    """Devices that report every model twice, each a little apart; models are off by their own."""
    draw = random.Random(seed)
    found = []
    for number in range(models):
        one = program(number)
        own = math.exp(draw.gauss(0.0, off))
        for index in range(devices):
            for _ in range(2):
                ms = own * true_ms(one) * math.exp(draw.uniform(-noise, noise))
                found.append(sighting(one, ms, f"device-{index}", origin="fleet"))
    return found
