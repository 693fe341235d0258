"""`python -m benchmarks.learn`: a profile wrong by a factor of 2, before and after a few reports.

Whole networks that no fit has seen are lowered with this machine's recipes and measured on the
loopback rig: over SSH, as another user, by the harness that is pushed there. A few of them are the
reports; the others are what estimates are judged on. The profile is this machine's, as `sdk fit`
left it, brought to the level of all that was measured (the machine may be busier by now than it was
then), and made wrong from there: all its times are taken times 2, or halved.

Run `sdk fit --profile host` first. As root, with Debian's openssh-server. What was built and
measured is kept in `--folder` (default `build/learn`), so a second run goes on where the first one
stopped.
`--plot FILE` draws the points of the table's first line.

The bar: on networks that were not reported the mean error at least halves, and the intervals hold
nine in ten of them, as far as so many can tell. Which networks are reported is luck, so the same
measurements are also divided otherwise, many times.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.codec import decode, pretty
from agent.folders import cache_folder
from agent.measurement import Failure
from agent.rig.job import own_python
from benchmarks import learn_plot
from benchmarks.rigs import Served
from hil import bench
from hil.rig import Rig
from profiles import Figure, Profile
from sdk.assign import find_profile
from sdk.estimate import Interval, estimate
from sdk.fit import mean_error
from sdk.fit_judgement import least_count
from sdk.learning.gather import Gathered, gather
from sdk.learning.records import Measured, Reports, parse_reports, reports_bytes
from sdk.learning.scales import learn, scales_of
from sdk.microbenchmarks import Case, cases
from sdk.microbenchmarks.modules import example_of, module_of
from sdk.steps.fit import recipes_of
from sdk.timing_programs import INPUTS, Built, build_program
from targets.interface import Recipe
from tests.hil.conftest import BORROW

if TYPE_CHECKING:
    from benchmarks.run import Row

REPORTED, UNSEEN = 8, 16
WRONG = (2.0, 0.5)
"""The profile's times over those that it should have. Beside them the table has 1: what the reports
make of a profile that is right at the median."""
_DRAW = "xlearn"
"""Of the networks: none that a fit draws."""
_SEED = 7
_SPLITS = 60
_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """One network under one recipe: measured on the rig, and estimated before and after."""

    network: str
    recipe: str
    ms: float
    before: Interval
    after: Interval

    @property
    def inside(self) -> bool:
        """Whether the interval holds what was measured."""
        return self.after.low <= self.ms <= self.after.high


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one wrong profile."""

    wrong: float
    counted: Gathered
    pairs: tuple[Pair, ...]
    """Of networks that were not reported."""

    @property
    def errors(self) -> tuple[float, float]:
        """The mean of |estimated - measured| / measured, before and after."""
        before = mean_error((pair.before.value, pair.ms) for pair in self.pairs)
        return before, mean_error((pair.after.value, pair.ms) for pair in self.pairs)

    @property
    def factors(self) -> tuple[float, float]:
        """The factor that estimates are off by either way, at the median, before and after."""
        before = statistics.median(abs(math.log(p.before.value / p.ms)) for p in self.pairs)
        after = statistics.median(abs(math.log(p.after.value / p.ms)) for p in self.pairs)
        return math.exp(before), math.exp(after)

    @property
    def coverage(self) -> float:
        """What share the intervals hold."""
        return sum(pair.inside for pair in self.pairs) / len(self.pairs)

    @property
    def networks(self) -> int:
        return len({pair.network for pair in self.pairs})


def networks() -> list[Case]:
    """In an order of which the first are reported."""
    found = [case for case in cases(networks=_DRAW) if case.is_net]
    random.Random(_SEED).shuffle(found)
    return found[: REPORTED + UNSEEN]


def recipes(profile: Profile) -> list[Recipe]:
    """What a build would try here without data; ExecuTorch's take half a minute each."""
    return [
        recipe
        for recipe in recipes_of(profile)
        if recipe.toolchain != "executorch" and recipe.quantisation is None
    ]


def build(name: str, folder: Path, profile: Profile) -> None:
    """Lower one network with all recipes, in this process."""
    case = next(case for case in networks() if case.name == name)
    examples = [example_of(case, seed).numpy() for seed in range(4)]
    found = build_program(
        case.name, module_of(case), examples, recipes(profile), folder / name, dynamic=case.dynamic
    )
    (folder / f"{name}.json").write_bytes(pretty(found))


def measured(case: Case, folder: Path, profile: Profile, rig: Rig) -> Reports | None:
    """What the rig measured of a network; None where it could not be built."""
    file, kept = folder / f"{case.name}.json", folder / f"{case.name}.reports.json"
    if kept.is_file():
        return parse_reports(kept.read_bytes(), str(kept))
    if not file.is_file():
        command = [sys.executable, "-m", "benchmarks.learn", "--folder", str(folder)]
        with (folder / "build.log").open("ab") as log:
            done = subprocess.run(
                [*command, "--build", case.name], check=False, stdout=log, stderr=log
            )
        if done.returncode:
            print(f"{case.name}: could not be built; {folder / 'build.log'}", flush=True)
            return None
    built = decode(Built, json.loads(file.read_text()))
    found = bench.contest(
        rig,
        {name: folder / place for name, place in built.variants.items()},
        inputs=folder / built.name / INPUTS,
        budget=bench.Budget(seconds_per_contestant=_SECONDS, min_runs=20),
    )
    by_name = {recipe.name: recipe for recipe in recipes(profile)}
    reports = Reports(
        schema=1,
        model=case.name,
        device=rig.name,
        fingerprint=bench.look(rig),
        program=dataclasses.replace(built.program, path=Path()),
        measured=tuple(
            Measured(
                identifier=f"{case.name}/{profile.name}/{name}",
                profile=profile.name,
                recipe=by_name[name],
                ms=one.latency_ms.p50,
                stable=one.latency_ms.stable,
                notes=one.notes,
            )
            for name, one in found.items()
            if not isinstance(one, Failure)
        ),
    )
    kept.write_bytes(reports_bytes(reports))
    for place in built.variants.values():
        shutil.rmtree(folder / place, ignore_errors=True)
    return reports


def made_wrong(profile: Profile, factor: float) -> Profile:
    """The profile with all its times taken times a factor."""

    def slower(figure: Figure) -> Figure:
        return dataclasses.replace(figure, value=figure.value / factor)

    cpu = profile.engines["cpu"]
    peak = {name: slower(figure) for name, figure in cpu.peak.items()}
    fitted = tuple(
        dataclasses.replace(block, ms={name: ms * factor for name, ms in block.ms.items()})
        for block in profile.fitted
    )
    return dataclasses.replace(
        profile,
        engines={**profile.engines, "cpu": dataclasses.replace(cpu, peak=peak)},
        bandwidth_gb_s=slower(profile.bandwidth_gb_s) if profile.bandwidth_gb_s else None,
        fitted=fitted,
        scales=(),
    )


def outcome(wrong: float, profile: Profile, found: Sequence[Reports]) -> Outcome:
    """Refit the wrong profile with the first reports; judge it on the others."""
    before = made_wrong(profile, wrong)
    sightings = [one for reports in found[:REPORTED] for one in reports.sightings()]
    counted = gather(sightings, before, unstable=True)
    learnt = learn(counted.observations, before, "today")
    after = dataclasses.replace(before, scales=scales_of(learnt, ()))
    pairs = []
    for reports in found[REPORTED:]:
        for one in reports.measured:
            old = estimate(reports.program, before, one.recipe).latency_ms
            new = estimate(reports.program, after, one.recipe).latency_ms
            if old is not None and new is not None:
                told = one.recipe.name.rpartition("-")[0]
                pairs.append(
                    Pair(network=reports.model, recipe=told, ms=one.ms, before=old, after=new)
                )
    return Outcome(wrong=wrong, counted=counted, pairs=tuple(pairs))


@contextlib.contextmanager
def loopback(folder: Path) -> Iterator[Rig]:
    """A rig on this machine, over SSH, whose Python borrows this one's packages."""
    with contextlib.closing(Served(folder)) as served:
        python = own_python(Path(served.entry.folder))
        own = [path for path in sys.path if path.endswith("site-packages")]
        for command in (
            ["/usr/bin/python3", "-m", "venv", "--without-pip", str(python.parents[1])],
            [str(python), "-c", BORROW, *own],
        ):
            subprocess.run(
                ["runuser", "-u", served.entry.user, "--", *command], check=True, cwd="/"
            )
        with served.open() as rig:
            yield rig


def outcomes(folder: Path) -> list[Outcome]:
    """Build and measure what is not there yet, refit each wrong profile; tell what luck did."""
    profile = find_profile("intel", "host", Path(), cache_folder())
    found = []
    with tempfile.TemporaryDirectory() as place, loopback(Path(place) / "rig") as rig:
        for case in networks():
            reports = measured(case, folder, profile, rig)
            if reports is not None and reports.measured:
                found.append(reports)
                print(f"{case.name}: {len(reports.measured)} measurements", flush=True)
    own = level(profile, found)
    print(f"the networks' times are {own:.2f} of the profile's, at the median")
    right = made_wrong(profile, own)
    for wrong in (*WRONG, 1.0):
        print(divided(wrong, right, found), flush=True)
    return [outcome(wrong, right, found) for wrong in (*WRONG, 1.0)]


def divided(wrong: float, profile: Profile, found: Sequence[Reports]) -> str:
    """What becomes of a wrong profile, whichever networks are reported: one line."""
    draw, order, ends = random.Random(_SEED), list(found), []
    for _ in range(_SPLITS):
        draw.shuffle(order)
        ends.append(outcome(wrong, profile, order))
    before, after = zip(*(one.errors for one in ends), strict=True)
    halved = sum(new <= old / 2 for old, new in zip(before, after, strict=True))
    return (
        f"x {wrong:g}, {_SPLITS} choices of who reports: {statistics.mean(before):.0%} before, "
        f"{statistics.mean(after):.0%} after ({max(after):.0%} at worst), halved in {halved}, "
        f"{statistics.mean(one.coverage for one in ends):.0%} inside"
    )


def level(profile: Profile, found: Sequence[Reports]) -> float:
    """The median of measured over estimated: what the profile is off by already."""
    ratios = []
    for reports in found:
        for one in reports.measured:
            known = estimate(reports.program, profile, one.recipe).latency_ms
            if known is not None:
                ratios.append(one.ms / known.value)
    return statistics.median(ratios)


def rows(folder: Path) -> Iterator[Row]:
    """Each wrong profile's error after its reports over that before, and what intervals miss."""
    from benchmarks.run import Row

    for one in outcomes(folder)[: len(WRONG)]:
        before, after = one.errors
        print(table([one]))
        name = f"error on unseen networks, after / before, profile x {one.wrong:g}"
        yield Row(name=name, value=after / before, bound=0.5, unit="x")
        least = least_count(one.networks, 0.9) / one.networks
        name = f"unseen networks outside their interval, profile x {one.wrong:g}"
        yield Row(name=name, value=1 - one.coverage, bound=1 - least, unit=" ")


def table(found: Sequence[Outcome]) -> str:
    """Before beside after."""
    heads = ("profile's times", "reports", "unstable", "unseen", "error", "after")
    lines = [(*heads, "factor", "after", "inside"), ("---", *["---:"] * 8)]
    for one in found:
        before, after = one.errors
        reports = one.counted.observations
        lines.append(
            (
                f"x {one.wrong:g}",
                str(len(reports)),
                str(sum(not entry.stable for entry in reports)),
                str(len(one.pairs)),
                f"{before:.0%}",
                f"{after:.0%}",
                *(f"{factor:.2f}" for factor in one.factors),
                f"{one.coverage:.0%}",
            )
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/learn"))
    parser.add_argument("--plot", type=Path, help="draw it there, as SVG")
    parser.add_argument("--build", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if chosen.build:
        build(chosen.build, folder, find_profile("intel", "host", Path(), cache_folder()))
        return 0
    found = outcomes(folder)
    print(table(found))
    if chosen.plot:
        points = [(p.ms, p.before.value, p.after) for p in found[0].pairs]
        chosen.plot.write_text(learn_plot.drawing(points))
    return 0


if __name__ == "__main__":
    sys.exit(main())
