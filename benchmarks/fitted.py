"""`python -m benchmarks.fitted`: the fitted estimate beside whole networks that it has not seen.

Run `sdk fit --profile host` first, and both on a machine that does nothing else. Networks of known
shapes, each at two sizes of its input, are lowered with every recipe of this machine and measured
by the one harness, each variant in a process of its own, windows in turn. None of them, and no
part of them, is among the programs of the fit. What was built and measured is kept in `--folder`
(default `build/fitted`), so a second run goes on where the first one stopped.

The bar: on at least 100 pairs of network and recipe the mean absolute error is at most 20 % (aim:
12 %), and the 90 % intervals hold 85 to 95 % of the measurements.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agent.bench import Budget, Contestant, Failure, contest
from agent.codec import decode, encode
from agent.errors import UsageError
from agent.folders import cache_folder
from benchmarks.architectures import ARCHITECTURES
from benchmarks.models import MODELS
from profiles import Profile
from sdk.assign import find_profile
from sdk.estimate import Interval, bounds
from sdk.estimate.fitted import fitted_latency_ms
from sdk.steps.fit import recipes_of
from sdk.timing_programs import INPUTS, Built, build_program
from targets.interface import Recipe

MOST_ERROR, AIM = 0.20, 0.12
COVERAGE = (0.85, 0.95)
FEWEST_PAIRS = 100
_SEED = 7
_VOCABULARY = 30522
_EXECUTORCH = ("resnet", "vit_tiny", "keyword", "detector", "mobilenet_v2")
"""ExecuTorch takes half a minute for each network."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """One network at one size."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    integers: bool = False

    @property
    def base(self) -> str:
        """The network's name without its size."""
        return self.name.rpartition("@")[0]


def networks() -> Iterator[Network]:
    """All of them: none has a part that a generated program was drawn from."""
    for name, (make, shape) in MODELS.items():
        for size in _SIZES.get(name, (shape.size,)):
            if name == "vit_tiny" and size != shape.size:
                continue  # its positions belong to one size
            yield Network(name=f"{name}@{_told(size)}", make=make, shape=(1, *size))
    for name, sides in _SIDES.items():
        make, shape, dtype = ARCHITECTURES[name]
        for side in sides:
            size = (side,) if dtype == torch.int64 else (3, side, side)
            integers = dtype == torch.int64
            label = f"{name}@{_told(size)}"
            yield Network(name=label, make=make, shape=(1, *size), integers=integers)


_SIZES: dict[str, tuple[tuple[int, ...], ...]] = {
    "mobilenet": ((3, 160, 160), (3, 224, 224)),
    "resnet": ((3, 128, 128), (3, 224, 224)),
    "gru": ((40, 64), (100, 64)),
    "lstm": ((40, 64), (100, 64)),
    "keyword": ((1, 49, 10), (1, 98, 20)),
    "detector": ((3, 192, 192), (3, 320, 320)),
    "minilm_sized": ((32, 384), (128, 384)),
    "large": ((8, 1024), (32, 1024)),
}
_SIDES: dict[str, tuple[int, ...]] = {
    "resnet50": (128, 224),
    "mobilenet_v2": (128, 224),
    "mobilenet_v3_large": (160, 224),
    "mobilenet_v3_small": (128, 224),
    "efficientnet_b0": (128, 224),
    "bert_base": (32, 128),
    "vit_b16": (224,),
    "yolo11n": (256, 416),
    "yolov8n": (256, 416),
}


def _told(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """One network under one recipe: measured, and predicted."""

    network: str
    toolchain: str
    recipe: str
    ms: float
    stable: bool
    predicted: Interval | None
    """None where the fit does not cover it."""
    by_default: Interval | None
    """What the data sheets alone predict."""

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        assert self.predicted is not None
        return self.predicted.value / self.ms - 1.0

    @property
    def inside(self) -> bool:
        """Whether the interval holds what was measured."""
        found = self.predicted
        return found is not None and found.low <= self.ms <= found.high


def build(network: Network, recipes: Sequence[Recipe], folder: Path) -> Built:
    """Lower a network with all recipes, in this process."""
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        torch.manual_seed(_SEED)
        model = network.make()
        if network.integers:
            draw = lambda: torch.randint(0, _VOCABULARY, network.shape, generator=generator)  # noqa: E731
        else:
            draw = lambda: torch.randn(network.shape, generator=generator)  # noqa: E731
        _settle(model, draw)
        examples = [draw().numpy() for _ in range(4)]
    return build_program(network.name, model.eval(), examples, recipes, folder / network.name)


def _settle(model: nn.Module, draw: Callable[[], torch.Tensor]) -> None:
    """Let batch norms know their inputs: without, activations fade to denormals, which are slow."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = None
        model.train()(torch.cat([draw(), draw()]))


def measure(built: Built, folder: Path, seconds: float) -> dict[str, dict[str, Any]]:
    """Recipe's name -> {ms, stable}, all recipes of a network in one contest."""
    found = contest(
        [Contestant(name, folder / place) for name, place in built.variants.items()],
        inputs=folder / built.name / INPUTS,
        log_folder=folder / "logs" / built.name,
        budget=Budget(seconds_per_contestant=seconds, window_s=0.1, min_runs=20, min_rounds=7),
    )
    return {
        name: {"ms": result.latency_ms.p50, "stable": result.latency_ms.stable}
        for name, result in found.items()
        if not isinstance(result, Failure)
    }


def pairs(profile: Profile, folder: Path, seconds: float) -> Iterator[Pair]:
    """Build and measure what is not there yet; every pair beside its predictions."""
    for network in networks():
        record = folder / f"{network.name}.json"
        if not record.is_file():
            command = [sys.executable, "-m", "benchmarks.fitted", "--folder", str(folder)]
            with (folder / "build.log").open("ab") as log:
                found = subprocess.run(
                    [*command, "--build", network.name], check=False, stdout=log, stderr=log
                )
            if found.returncode:
                print(f"{network.name}: could not be built; {folder / 'build.log'}", flush=True)
                continue
        built = decode(Built, json.loads(record.read_text()))
        figures = folder / f"{network.name}.measured.json"
        if not figures.is_file():
            figures.write_text(json.dumps(measure(built, folder, seconds)))
            for place in built.variants.values():
                shutil.rmtree(folder / place, ignore_errors=True)  # hundreds of megabytes each
        measured = json.loads(figures.read_text())
        for recipe in recipes_of(profile):
            if recipe.name in measured:
                figure = measured[recipe.name]
                yield Pair(
                    network=network.name,
                    toolchain=recipe.toolchain,
                    recipe=recipe.name.rpartition("-")[0],
                    ms=figure["ms"],
                    stable=figure["stable"],
                    predicted=fitted_latency_ms(built.program, profile, recipe),
                    by_default=bounds(built.program, profile, recipe).latency_ms,
                )


def table(found: Sequence[Pair]) -> str:
    """How far off, by toolchain and in all; beside it what the data sheets alone give."""
    header = ("toolchain", "pairs", "error", "bias", "inside", "worst", "by data sheets")
    lines = [header, ("---", *["---:"] * (len(header) - 1))]
    groups: dict[str, list[Pair]] = collections.defaultdict(list)
    for pair in found:
        if pair.predicted is not None:
            groups[pair.toolchain].append(pair)
            groups["all"].append(pair)
    for name in sorted(groups, key=lambda name: (name == "all", name)):
        own = groups[name]
        worst = max(own, key=lambda pair: abs(pair.error))
        default = [abs(p.by_default.value / p.ms - 1) for p in own if p.by_default]
        lines.append(
            (
                name,
                str(len(own)),
                f"{statistics.fmean(abs(pair.error) for pair in own):.1%}",
                f"{statistics.median(pair.error for pair in own):+.1%}",
                f"{statistics.fmean(pair.inside for pair in own):.0%}",
                f"{worst.error:+.0%} {worst.network} {worst.recipe}",
                f"{statistics.fmean(default):.0%}",
            )
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/fitted"))
    parser.add_argument("--seconds", type=float, default=1.0, help="to measure for, each variant")
    parser.add_argument("--pairs", action="store_true", help="print every pair")
    parser.add_argument("--build", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    profile = find_profile("intel", "host", Path(), cache_folder())
    if chosen.build:
        network = next(n for n in networks() if n.name == chosen.build)
        wanted = [
            recipe
            for recipe in recipes_of(profile)
            if recipe.toolchain != "executorch" or network.base in _EXECUTORCH
        ]
        built = build(network, wanted, folder)
        (folder / f"{network.name}.json").write_text(json.dumps(encode(built)))
        return 0
    if not profile.fitted:
        raise UsageError(
            f"Nothing is fitted for {profile.name}.", remedy="Run: sdk fit --profile host"
        )
    found = []
    for pair in pairs(profile, folder, chosen.seconds):
        found.append(pair)
        if chosen.pairs:
            told = "not covered" if pair.predicted is None else f"{pair.error:+6.1%}"
            mark = "" if pair.inside else " outside"
            mark += "" if pair.stable else " unstable"
            print(f"{pair.network:28} {pair.recipe:24} {pair.ms:9.3f} ms {told}{mark}", flush=True)
    covered = [pair for pair in found if pair.predicted is not None]
    print(table(found))
    error = statistics.fmean(abs(pair.error) for pair in covered)
    inside = statistics.fmean(pair.inside for pair in covered)
    held = len(covered) >= FEWEST_PAIRS and error <= MOST_ERROR
    held = held and COVERAGE[0] <= inside <= COVERAGE[1]
    print(
        f"\n{len(covered)} pairs (at least {FEWEST_PAIRS}), "
        f"{len(found) - len(covered)} not covered; "
        f"error {error:.1%} (at most {MOST_ERROR:.0%}, aim {AIM:.0%}); "
        f"inside {inside:.0%} ({COVERAGE[0]:.0%} to {COVERAGE[1]:.0%}): "
        f"{'held' if held else 'NOT held'}"
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
