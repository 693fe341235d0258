"""A cold build of one target beside the same vendor calls, each in a fresh process.

Both sides load, export, convert, quantise and save the same recipes of one MiniLM-sized model.
Left out on our side is what the vendors' calls do not do: running the original on all samples,
checking every variant's answers, and measuring. Capture itself is in.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.models import write_project
from benchmarks.vendors import RECIPES

MODEL = "minilm_sized"
OURS = """
import json, sys, time
from sdk import build
spent = {}
def on_event(event):
    if event.kind in ("done", "failed") and event.seconds and event.message != "measuring":
        spent[event.message] = event.seconds
build(sys.argv[1], targets=["intel"], profiles=["host"], out=sys.argv[2], on_event=on_event)
print(json.dumps(spent))
"""


def measure(environment: dict[str, str], folder: Path) -> tuple[float, float]:
    """Seconds of our capture and lowerings, and of the vendors' calls."""
    project = write_project(folder / "cold", MODEL)
    fresh = {**environment, "SLIPWAY_CACHE": str(folder / "cold-cache")}
    found = subprocess.run(
        [sys.executable, "-P", "-c", OURS, str(project), str(folder / "cold-out")],
        check=True,
        env=fresh,
        capture_output=True,
        text=True,
    )
    spent = json.loads(found.stdout.splitlines()[-1])
    theirs = 0.0
    for recipe in RECIPES:
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "benchmarks.vendors", recipe, MODEL, str(folder / recipe)],
            check=True,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs += time.perf_counter() - started
        print(f"  vendor {recipe}: {time.perf_counter() - started:.1f} s", flush=True)
    for step, took in spent.items():
        print(f"  ours {step}: {took:.1f} s", flush=True)
    # The f16 file has no vendor call of its own: openvino-f32's default is that file.
    ours = sum(took for step, took in spent.items() if "openvino-f16" not in step)
    return ours, theirs
