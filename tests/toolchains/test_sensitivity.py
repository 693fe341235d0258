"""Which operators lose what by being quantised: found out by leaving them out, one group a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.sessions import load
from targets import variations
from targets.interface import Program, Ranking, Recipe, Sensitivity
from targets.recipes import nncf, openvino
from targets.toolchains import openvino as toolchain
from tests.toolchains.cases import VENDOR_WARNINGS, Case
from tests.toolchains.test_conformance import cosine
from tests.toolchains.variants import lower
from tests.toolchains.zoo import ZOO, Entry, exported

pytestmark = [pytest.mark.toolchain, *VENDOR_WARNINGS]

INT8 = openvino("CPU", "int8", "f32", quantisation=nncf(None) | {"samples": 16})


def _trap() -> Any:
    """A stack whose second layer reads one channel a thousand times as large as the others."""
    import torch
    from torch import nn

    class Trap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 16, 3, padding=1)
            self.fragile = nn.Conv2d(16, 16, 3, padding=1)
            self.third = nn.Conv2d(16, 16, 3, padding=1)
            self.last = nn.Linear(16, 8)
            with torch.no_grad():
                self.first.weight[0] *= 1000
                self.fragile.weight[:, 0] /= 1000

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.fragile(torch.tanh(self.first(image) / 1000) * 1000))
            return self.last(torch.relu(self.third(x)).mean(dim=(2, 3)))

    return Trap()


TRAP = Entry(name="trap", make=_trap, inputs=ZOO["cnn"].inputs)


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, tuple[Sensitivity, ...]]:
    program = exported(TRAP, tmp_path_factory.mktemp("trap"))
    return program, toolchain.sensitivities(program, INT8, TRAP.calibration())


def test_the_fragile_layer_is_the_one_to_keep(
    trap: tuple[Program, tuple[Sensitivity, ...]], tmp_path: Path
) -> None:
    program, groups = trap
    worst = max(groups, key=lambda group: group.error)
    assert any("convolution_1" in name for name in worst.operators)
    assert sum(group.work for group in groups) == pytest.approx(1)

    sample = TRAP.sample(99)
    expected = TRAP.module()(*(_tensor(value) for value in sample.values()))[0].numpy()
    found = {}
    for name, recipe in {"all": INT8, "mixed": variations.keeping(INT8, worst.operators)}.items():
        lower(Case(name=name, recipe=recipe), TRAP, program, tmp_path / name)
        with load(tmp_path / name) as session:
            found[name] = cosine(session.run(sample)["output"], expected)
    assert found["mixed"] > found["all"]
    assert found["mixed"] > 0.999


@pytest.mark.parametrize("name", ["cnn", "vit", "encoder"])
def test_every_group_can_be_kept(
    name: str, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    entry, program = ZOO[name], program_of(name)
    groups = toolchain.sensitivities(program, INT8, entry.calibration())
    assert groups
    assert all(group.operators for group in groups)
    assert len(groups) <= 40
    names = tuple(name for group in groups[:2] for name in group.operators)
    recipe: Recipe = variations.keeping(INT8, names)
    lower(Case(name="mixed", recipe=recipe), entry, program, tmp_path / "mixed")


def test_openvino_says_that_it_ranks() -> None:
    assert isinstance(toolchain, Ranking)


def _tensor(value: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(value)
