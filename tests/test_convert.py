"""The conversion that recipes begin with: made once, kept, its failure told to each of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.identity import fingerprint
from sdk.cache import Cache
from sdk.project_reader import load_project
from sdk.steps.capture import Captured
from sdk.steps.convert import converted
from sdk.steps.lower import lower
from sdk.steps.runner import Runner
from sdk.workers import StepFailure, Workers
from targets.interface import Program, Recipe
from tests.projects import write_project
from tests.toolchains.zoo import ZOO, exported

F32 = Recipe(
    toolchain="openvino", format="openvino", precision="f32", backend="CPU",
    options={"device": "CPU", "INFERENCE_PRECISION_HINT": "f32"},
)  # fmt: skip
F16 = Recipe(toolchain="openvino", format="openvino", precision="f16", backend="CPU")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def runner_of(tmp_path: Path, said: list[str]) -> Callable[[], Runner]:
    project = load_project(write_project(tmp_path / "project"))
    return lambda: Runner(
        project, Cache(tmp_path / "cache"), Workers(tmp_path), fingerprint(),
        fresh=False, on_event=lambda event: said.append(f"{event.kind}: {event.message}"),
    )  # fmt: skip


@pytest.fixture
def captured(tmp_path: Path) -> Captured:
    folder = tmp_path / "captured"
    folder.mkdir()
    return Captured(
        program=exported(ZOO["cnn"], folder), folder=folder, samples={}, metric=None,
        original_scores=None, has_evaluation=False, digest="",
    )  # fmt: skip


STARTED = "start: converting the model for openvino"


@pytest.mark.toolchain
def test_two_recipes_at_a_time_and_a_later_build_share_one_conversion(
    runner_of: Callable[[], Runner], captured: Captured, said: list[str]
) -> None:
    runner = runner_of()
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda recipe: lower(runner, recipe, captured), (F32, F16))
    assert one.failure is other.failure is None
    assert one.digest != other.digest
    found = converted(runner_of(), F32, captured, None)
    assert isinstance(found, Program)
    assert (found.kind, found.digest) == ("openvino", captured.program.digest)
    assert found.path.is_file()
    assert said.count(STARTED) == 1


@pytest.mark.toolchain
def test_a_program_that_cannot_be_converted_fails_every_recipe_and_is_tried_once(
    runner_of: Callable[[], Runner], captured: Captured, said: list[str]
) -> None:
    captured.program.path.write_bytes(b"no program")
    runner = runner_of()
    failures = [lower(runner, recipe, captured).failure for recipe in (F32, F16)]
    assert all(failure and "torch cannot load program.pt2" in failure for failure in failures)
    assert said.count(STARTED) == 1
    assert isinstance(converted(runner, F32, captured, None), StepFailure)


def test_what_several_threads_ask_for_is_made_once(runner_of: Callable[[], Runner]) -> None:
    runner, made, gate = runner_of(), [], threading.Barrier(4)

    def make() -> int:
        made.append(1)
        time.sleep(0.02)
        return len(made)

    def ask(_: int) -> int:
        gate.wait()
        return runner.once("key", make)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [1] * 4
