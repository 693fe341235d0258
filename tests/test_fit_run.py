"""The micro-benchmarks run for real: built, measured in series, fitted, kept, and used."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from agent.errors import UsageError
from agent.folders import cache_folder, data_folder
from agent.identity import fingerprint
from agent.measurement import Failure, Measurement
from agent.series import Item, series
from profiles import Profile, find
from sdk.cache import Cache
from sdk.detect import detect, keep_fit, merged
from sdk.estimate import estimate
from sdk.events import Event
from sdk.fit_judgement import Judged, used_blocks
from sdk.microbenchmarks import Case, cases
from sdk.steps.fit import fit_profile, measurable, recipes_of
from sdk.timing_programs import INPUTS, build_program
from sdk.workers import Workers
from targets import target

pytestmark = [
    pytest.mark.toolchain,
    pytest.mark.filterwarnings("ignore"),  # compilers warn of their own parts; builds log it
]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    arch = fingerprint().identity["arch"]
    name = next(name for name in ("intel", "linux-arm") if arch == target(name).HOST_ARCH)
    return detect(name, tmp_path_factory.mktemp("rates"))


def _handful() -> list[Case]:
    """Ten operators and eight networks: the fewest that say how far off they are."""
    nets = ("net_separable", "net_plain")
    some = ("linear", "softmax", "norm", "pointwise", "depthwise")
    return [
        case
        for case in cases()
        if case.family in nets or (case.family in some and case.name[-2:] < "02")
    ]


def _judge(host: Profile, said: list[Event], chosen: list[Case]) -> tuple[Judged, ...]:
    return fit_profile(
        host,
        Cache(cache_folder()),
        Workers(cache_folder()),
        chosen=chosen,
        toolchains=["onnxruntime"],
        on_event=said.append,
    )


def _fit(host: Profile, said: list[Event], chosen: list[Case]) -> Profile:
    return dataclasses.replace(host, fitted=used_blocks(_judge(host, said, chosen)))


def _estimates_within(factor: float, profile: Profile, folder: Path) -> None:
    """Of the right size at all: two tests share this machine; benchmarks/fitted.py has the bar."""
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 64))
    recipe = next(r for r in recipes_of(profile) if r.toolchain == "onnxruntime")
    built = build_program("own", net, [torch.ones(1, 512).numpy()], [recipe], folder / "own")
    place = folder / built.variants[recipe.name]
    item = Item(name="own", folder=place, inputs=folder / "own" / INPUTS)
    (measured,) = series([item], log_folder=folder / "logs")
    assert isinstance(measured, Measurement)
    guess = estimate(built.program, profile, recipe).latency_ms
    assert guess is not None
    assert guess.value / factor < measured.latency_ms.p50 < guess.value * factor


def test_a_handful_of_programs_fits_this_machine(host: Profile, tmp_path: Path) -> None:
    said: list[Event] = []
    chosen = _handful()
    profile = _fit(host, said, chosen)
    (entry,) = profile.fitted
    assert (entry.toolchain, entry.engine) == ("onnxruntime", "cpu")
    assert entry.rows > len(chosen)  # f32 for each, int8 for most
    assert entry.held_out >= 10
    assert all(value >= 0 for value in entry.ms.values())
    assert "onnxruntime" in entry.tools
    assert any(kind.startswith("int8 dynamic") for kind in entry.kinds)
    assert {event.kind for event in said} >= {"start", "done"}
    # What was measured is not measured again, and nothing of it is left but figures.
    again: list[Event] = []
    assert _fit(host, again, chosen) == profile
    assert {event.kind for event in again} == {"cached"}
    assert not list((cache_folder() / "work").iterdir())
    _estimates_within(10.0, profile, tmp_path)  # 1000 would be a wrong unit
    # And it is what later builds on this machine estimate by.
    keep_fit(host, profile.fitted)
    assert (data_folder() / "fitted").is_dir()
    found = detect(host.target, cache_folder())
    assert found.fitted == profile.fitted
    assert found.engines.keys() == host.engines.keys()


def test_a_spoilt_fit_is_named_with_its_file(host: Profile) -> None:
    file = keep_fit(host, ())
    file.write_text("[{")
    with pytest.raises(UsageError, match="cannot be read") as caught:
        detect(host.target, cache_folder())
    assert str(file) in caught.value.remedy


def test_a_machine_that_the_profile_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="This machine is no jetson-agx-thor"):
        measurable(find("jetson-agx-thor", ()), fingerprint())


@pytest.mark.parametrize("name", ["tensorrt", "opnvino"])
def test_a_toolchain_that_cannot_be_measured_is_refused(host: Profile, name: str) -> None:
    with pytest.raises(UsageError):
        measurable(host, fingerprint(), [name])


def test_other_toolchains_keep_their_blocks(host: Profile) -> None:
    from profiles import Fitted

    def block(toolchain: str, rows: int) -> Fitted:
        return Fitted(
            toolchain=toolchain, engine="cpu", ms={"request": 1.0}, kinds=("f32",), rows=rows,
            held_out=1, error=0.1, low=0.9, high=1.1, date="today", device="ab", tools={},
        )  # fmt: skip

    found = merged((block("a", 1), block("b", 1)), (block("b", 2), block("c", 2)))
    assert [(entry.toolchain, entry.rows) for entry in found] == [("a", 1), ("b", 2), ("c", 2)]


def test_a_series_goes_on_after_one_that_fails(host: Profile, tmp_path: Path) -> None:
    import torch

    recipe = next(r for r in recipes_of(host) if r.toolchain == "onnxruntime")
    examples = [torch.ones(1, 8).numpy()]
    items = []
    for name in ("first", "broken", "last"):
        built = build_program(name, torch.nn.Linear(8, 4), examples, [recipe], tmp_path / name)
        folder = tmp_path / built.variants[recipe.name]
        items.append(Item(name=name, folder=folder, inputs=tmp_path / name / INPUTS))
    (tmp_path / "broken" / recipe.name / "model.onnx").write_bytes(b"no model")
    first, broken, last = series(items, log_folder=tmp_path / "logs")
    assert isinstance(first, Measurement)
    assert isinstance(last, Measurement)
    assert isinstance(broken, Failure)
    assert broken.kind == "error"
    assert first.memory_peak_bytes is None
    assert first.latency_ms.p50 > 0
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    assert not any("agent.contestant" in Path(f"/proc/{c}/cmdline").read_text() for c in children)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_program_to_be_timed_keeps_the_batch_it_was_asked_for(
    host: Profile, tmp_path: Path, dynamic: bool
) -> None:
    import torch

    recipe = next(r for r in recipes_of(host) if r.toolchain == "onnxruntime")
    examples = [torch.ones(1, 3, 8, 8).numpy()]
    built = build_program(
        "net", torch.nn.Conv2d(3, 4, 3), examples, [recipe], tmp_path / "net", dynamic=dynamic
    )
    assert not built.failures
    (given,), (made,) = built.program.signature.inputs, built.program.signature.outputs
    batch = "batch" if dynamic else 1
    assert (given.shape, made.shape) == ((batch, 3, 8, 8), (batch, 4, 6, 6))
    (conv,) = (cost for cost in built.program.costs if cost.kind == "conv")
    assert (conv.rows, conv.columns, conv.depth, conv.taps) == (36, 4, 27, 9)  # at a batch of 1


@pytest.mark.long
def test_a_fit_that_is_no_better_is_not_kept(host: Profile) -> None:
    """Measured for real; beside it one that is hopeless, and one that knows these very times."""
    chosen = _handful()
    said: list[Event] = []
    (first,) = _judge(host, said, chosen)
    assert first.used
    assert first.before == "data sheet"
    assert first.block is not None
    # A thousandth of the time is predicted: each new fit is nearer.
    hopeless = dataclasses.replace(
        first.block, ms={name: value / 1000 for name, value in first.block.ms.items()}
    )
    (found,) = _judge(dataclasses.replace(host, fitted=(hopeless,)), said, chosen)
    assert (found.used, found.kept) == (True, "earlier fit")
    assert found.errors_before["earlier fit"] == pytest.approx(0.999, abs=0.001)
    # This one has seen the measurements that both are judged on; the new one sees them by turns.
    (found,) = _judge(dataclasses.replace(host, fitted=(first.block,)), said, chosen)
    assert (found.used, found.reason, found.before) == (False, "no better", "earlier fit")
    assert used_blocks([found]) == ()
    assert found.error == pytest.approx(first.error)
    assert found.error_before is not None
    assert found.error is not None
    assert found.error_before <= found.error
