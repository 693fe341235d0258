"""`sdk bench`, `sdk verify`, `sdk compare`: one variant, or two, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdk.cli.output import err_console, out_console, print_json

if TYPE_CHECKING:
    from agent.bench import Measurement
    from sdk.golden_check import GoldenCheck

BENCH_EXAMPLE = "Example: sdk bench build/digits/intel-host/chosen"
VERIFY_EXAMPLE = "Example: sdk verify build/digits/intel-host/chosen"
COMPARE_EXAMPLE = "Example: sdk compare build/digits/intel-host/chosen build/digits/intel-host/X"

Seconds = Annotated[float, typer.Option("--seconds", min=0.2, help="Time to measure for, each.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Variant = Annotated[Path, typer.Argument(help="The folder of a variant.")]


def bench(variant: Variant, seconds: Seconds = 3.0, json: Json = False) -> None:
    """Measure a variant's speed and memory here, in a process of its own."""
    from sdk import api

    with err_console().status("measuring"):
        found = api.bench(variant, seconds=seconds)
    if json:
        print_json(found)
        return
    out_console().print("\n".join(measured(found)), markup=False)


def measured(found: Measurement) -> list[str]:
    """A measurement, as lines."""
    latency = found.latency_ms
    return [
        f"p50 {latency.p50:.3f} ms (95 % bounds {latency.low:.3f} to {latency.high:.3f})",
        f"{latency.n} runs, {'stable' if latency.stable else 'NOT stable'}",
        *(f"{name} {value:.3f} ms" for name, value in _quantiles(latency)),
        f"load {found.load_ms:.1f} ms, first run {found.first_run_ms:.1f} ms",
        f"{found.throughput_per_s:.1f} runs/s, {_callers(found.callers)}",
        f"memory: peak {_mib(found.memory_peak_bytes)}",
        f"memory over the loaded runtime: {_mib(found.memory_increment_bytes)}",
        *found.notes,
    ]


def _quantiles(latency: object) -> list[tuple[str, float]]:
    return [
        (name, value)
        for name in ("p90", "p95", "p99")
        if (value := getattr(latency, name)) is not None
    ]


def _callers(count: int) -> str:
    return "one caller" if count == 1 else f"{count} callers"


def _mib(size_bytes: int | None) -> str:
    return "not measured" if size_bytes is None else f"{size_bytes / (1 << 20):.1f} MiB"


def verify(variant: Variant, json: Json = False) -> None:
    """Check a variant's files by hash, and its answers against the golden data."""
    from sdk import api

    found = api.verify(variant)
    if json:
        print_json(found)
        return
    show_check(found)


def show_check(found: GoldenCheck) -> None:
    """Print how well each output agreed."""
    floors = {floor.output: floor.min_ppm / 1e6 for floor in found.floors}
    console = out_console()
    console.print(f"{found.id}: {found.samples} golden samples", markup=False)
    for agreement in found.agreements:
        console.print(
            f"  {agreement.output}: {agreement.metric} {agreement.value:.6f} "
            f"(floor {floors.get(agreement.output, 0):.6f})",
            markup=False,
        )
    largest = "not finite" if found.max_abs is None else f"{found.max_abs:.3g}"
    console.print(f"  largest difference {largest}", markup=False)


def compare(
    left: Variant,
    right: Annotated[Path, typer.Argument(help="The folder of another.")],
    seconds: Seconds = 3.0,
    json: Json = False,
) -> None:
    """Measure two variants of one model in alternating windows: which is faster, by how much."""
    from sdk import api

    with err_console().status("measuring in turn"):
        found = api.compare(left, right, seconds=seconds)
    if json:
        print_json(found)
        return
    ratio = found.ratio
    answer = "no difference beyond the noise"
    if ratio.high < 1:
        answer = f"{left.name} is faster"
    elif ratio.low > 1:
        answer = f"{right.name} is faster"
    out_console().print(
        f"{left.name}: p50 {found.left.latency_ms.p50:.3f} ms\n"
        f"{right.name}: p50 {found.right.latency_ms.p50:.3f} ms\n"
        f"ratio {ratio.value:.3f} (95 % bounds {ratio.low:.3f} to {ratio.high:.3f}): {answer}",
        markup=False,
    )
