"""`python -m benchmarks.run [NAME ...]`: one table of what was asked, and what was measured.

Run it on a machine that does nothing else. Each figure stands beside its bound; exit code 1 if one
is over it. docs/explanation/speed.md says what was predicted, measured, and why they differ.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import cold_build, published, vendor_defaults
from benchmarks.models import write_project

SDK = [sys.executable, "-P", "-m", "sdk"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One figure beside its bound."""

    name: str
    value: float
    bound: float
    unit: str
    low: float | None = None
    """The least that the noise allows: where it is told, this must not be over the bound."""

    @property
    def over(self) -> bool:
        """Whether it breaks its bound."""
        return (self.value if self.low is None else self.low) > self.bound


def seconds(command: list[str], environment: dict[str, str], runs: int) -> float:
    """The median time of a command as a whole process, after one run to warm up."""
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        subprocess.run(
            command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def help_time(environment: dict[str, str], folder: Path) -> Iterator[Row]:
    """How long `sdk --help` takes."""
    del folder
    command = [str(Path(sys.executable).with_name("sdk")), "--help"]
    yield Row(name="sdk --help", value=seconds(command, environment, 9), bound=0.3, unit="s")


def rebuild_time(environment: dict[str, str], folder: Path) -> Iterator[Row]:
    """How long a build takes when nothing changed, of a small model and of one of 90 MB."""
    for model in ("keyword", "minilm_sized"):
        project = write_project(folder / model, model)
        command = [*SDK, "build", str(project), "--target", "intel", "--profile", "host"]
        command += ["--out", str(folder / "out")]
        value = seconds(command, environment, 5)
        yield Row(name=f"rebuild of {model}, nothing changed", value=value, bound=1.5, unit="s")


def cold(environment: dict[str, str], folder: Path) -> Iterator[Row]:
    """A cold build beside the same vendor calls in fresh processes."""
    ours, theirs = cold_build.measure(environment, folder)
    yield Row(name="cold build / the same vendor calls", value=ours / theirs, bound=1.5, unit="x")


def chosen(environment: dict[str, str], folder: Path) -> Iterator[Row]:
    """The chosen variant's latency beside the best plain vendor default's."""
    for model in ("mobilenet", "keyword", "gru", "vit_tiny"):
        ratio = vendor_defaults.ratio(model, environment, folder)
        name = f"chosen / best vendor default, {model}"
        yield Row(name=name, value=ratio.value, low=ratio.low, bound=1.0, unit="x")


def estimate_error(environment: dict[str, str], folder: Path) -> Iterator[Row]:
    """How far the estimate is off published latencies of devices that nothing was chosen on."""
    del environment, folder
    held = [row for row in published.rows() if row.published.set == "held out" and row.predicted]
    off = published.error([row.ratio for row in held], [row.inside for row in held])
    yield Row(name="estimate / published, typical factor", value=off.spread, bound=1.5, unit="x")


def updates(environment: dict[str, str], folder: Path) -> Iterator[Row]:
    """The agent's footprint, and what a release costs to publish and to send."""
    del environment
    from benchmarks import updates as measured

    yield from measured.footprint(folder)
    yield from measured.publishing(folder)
    yield from measured.deltas(folder)


def polls(environment: dict[str, str], folder: Path) -> Iterator[Row]:
    """Signed, durable polls beside a bare FastAPI POST, on the same core."""
    del environment
    from benchmarks import fleet as measured

    yield from measured.polls(folder / "polls")


def fleet(environment: dict[str, str], folder: Path) -> Iterator[Row]:
    """10,000 devices for five minutes, an update for all, and all of them back at once."""
    del environment
    from benchmarks import fleet as measured

    yield from measured.fleet_of_ten_thousand(folder / "fleet")


def rows(environment: dict[str, str], folder: Path) -> Iterator[Row]:
    """A release for 100,000 devices; $SLIPWAY_POSTGRES names an empty database to try, too."""
    del environment
    from benchmarks import fleet as measured

    yield from measured.rows(folder / "rows", os.environ.get("SLIPWAY_POSTGRES"))


def rigs(environment: dict[str, str], folder: Path) -> Iterator[Row]:
    """A run on a rig beside the bare remote command, a first push beside scp; as root."""
    del environment
    from benchmarks import rigs as measured

    yield from measured.overhead(folder / "rigs")
    yield from measured.pushes(folder / "rigs")


def learn(environment: dict[str, str], folder: Path) -> Iterator[Row]:
    """A profile wrong by a factor of 2, before and after a few reports of a rig; as root.

    Estimates go by this user's own `sdk fit --profile host`.
    """
    del environment
    from benchmarks import learn as measured

    (folder / "learn").mkdir()
    yield from measured.rows(folder / "learn")


BENCHMARKS: dict[str, Callable[[dict[str, str], Path], Iterator[Row]]] = {
    "help": help_time,
    "rebuild": rebuild_time,
    "cold": cold,
    "chosen": chosen,
    "estimate": estimate_error,
    "updates": updates,
    "polls": polls,
    "fleet": fleet,
    "rows": rows,
    "rigs": rigs,
    "learn": learn,
}


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; print the table."""
    over = 0
    print(f"{'figure':48} {'measured':>12} {'bound':>8}")
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        for name in ("CACHE", "DATA", "CONFIG"):
            environment[f"SLIPWAY_{name}"] = str(Path(folder) / name.lower())
        for name in names or BENCHMARKS:
            for row in BENCHMARKS[name](environment, Path(folder)):
                over += row.over
                mark = "" if row.low is None else f"  at least {row.low:.3f}"
                mark += "  OVER" if row.over else ""
                print(
                    f"{row.name:48} {row.value:10.3f} {row.unit:1} {row.bound:8.2f}{mark}",
                    flush=True,
                )
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
