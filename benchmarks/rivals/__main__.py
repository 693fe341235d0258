"""Ours against every vendor's default: `python -m benchmarks.rivals prepare|run|render --out DIR`.

`prepare` trains the models and makes every rival's files; nothing is timed, so the machine may be
busy. `run` searches for ours and measures all of them side by side, on a machine that does nothing
else; each model's result is a file of its own, and a run that was killed goes on with the next.
`exhaust` walks the same space to its end for the traps. `render` writes the table and the plot.
docs/explanation/rivals.md says by which rules.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.bench import Budget, Contestant, Failure, Measurement, contest
from agent.codec import decode, pretty
from agent.files import write_atomic
from agent.identity import fingerprint
from agent.variant import read_record
from benchmarks.rivals.contestant import write_python
from benchmarks.rivals.figures import AGAIN, OURS, Entry, Model, near, within
from benchmarks.rivals.makers import RIVALS, describe, place
from benchmarks.rivals.models import CASES, LIMITS, prepare
from sdk import build
from sdk.search.clock import seconds as parse_time
from sdk.summary import Summary

TIME_LIMIT_S = 900
"""For a rival to make its files; who takes longer has made none."""
CLOSE = 1.1
"""A rival this close to the fastest one takes part in the further contests."""
_PACKAGES = ("torch", "openvino", "nncf", "onnxruntime", "executorch", "torchao", "onnx")


def prepare_all(names: Sequence[str], out: Path, *, olive: str | None) -> None:
    """Train or settle, make all rivals' files, and judge them; what is there is kept."""
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    if olive:
        environment["OLIVE_PYTHON"] = olive
    for name in names:
        folder = out / name
        began = time.monotonic()
        prepare(name, folder)
        told = json.loads((folder / "answers.json").read_text())
        print(f"{name}: ready after {time.monotonic() - began:.0f} s, {told}", flush=True)
        for rival in RIVALS:
            file = place(rival, folder) / "judged.json"
            if file.exists():
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            judged = _made_and_judged(rival, name, folder, environment)
            file.write_text(json.dumps(judged))
            print(f"  {rival}: {judged}", flush=True)
        _capture(folder)


def _capture(folder: Path) -> None:
    """Capture the project ahead: a build for a device that is not this one measures nothing."""
    told = folder / "captured.json"
    if told.exists():
        return
    began = time.monotonic()
    build(
        folder / "project",
        targets=["intel"],
        profiles=["core-ultra-155h"],
        budget_s=1.0,
        out=folder / "captured",
    )
    told.write_text(json.dumps({"seconds": round(time.monotonic() - began, 1)}))


def _made_and_judged(
    rival: str, name: str, folder: Path, environment: Mapping[str, str]
) -> dict[str, Any]:
    where = place(rival, folder)
    failed = _run(["benchmarks.rivals.makers", rival, name, str(folder)], environment, where)
    if failed:
        return {"failed": failed}
    judged = _judged(where, name, folder, environment)
    if "failed" in judged and RIVALS[rival].second:
        describe(rival, name, folder, RIVALS[rival].second)
        again = _judged(where, name, folder, environment)
        note = f"with its defaults: {judged['failed']}"
        judged = again if "failed" in again else {**again, "note": note}
    return judged


def _judged(where: Path, name: str, folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    log = folder / "logs" / where.name
    command = ["benchmarks.rivals.judge", str(where), name, str(folder)]
    failed = _run(command, environment, log)
    if failed:
        return {"failed": failed}
    lines = (log / "stdout.txt").read_text().splitlines()
    judged: dict[str, Any] = json.loads(lines[-1])
    return judged


def _run(module: Sequence[str], environment: Mapping[str, str], log: Path) -> str:
    """Run a module to its end; what failed, or nothing."""
    log.mkdir(parents=True, exist_ok=True)
    with (log / "stdout.txt").open("w") as out, (log / "stderr.txt").open("w") as err:
        try:
            found = subprocess.run(
                [sys.executable, "-m", *module],
                check=False,
                env=dict(environment),
                stdout=out,
                stderr=err,
                timeout=TIME_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            return f"not done after {TIME_LIMIT_S} s"
    if found.returncode == 0:
        return ""
    lines = [line for line in (log / "stderr.txt").read_text().splitlines() if line.strip()]
    return (lines[-1] if lines else f"ended with {found.returncode}")[:200]


def run_all(names: Sequence[str], out: Path, *, budget_s: float, window: Budget) -> None:
    """Search and measure, one model after the other; results go to `<out>/results`."""
    results = out / "results"
    results.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = results / f"{name}.json"
        if file.exists():
            continue
        missing = [r for r in RIVALS if not (place(r, out / name) / "judged.json").exists()]
        if missing:
            print(f"{name}: left out, not prepared: {', '.join(missing)}", flush=True)
            continue
        began = time.monotonic()
        print(f"{name}: searching", flush=True)
        model = measured(name, out / name, budget_s=budget_s, window=window)
        write_atomic(file, pretty(model))
        print(f"{name}: {time.monotonic() - began:.0f} s in all", flush=True)


def measured(name: str, folder: Path, *, budget_s: float, window: Budget) -> Model:
    """One model: ours found, everybody measured in one contest, the best few again."""
    case = CASES[name]
    began = time.monotonic()
    summary = build(
        folder / "project",
        targets=["intel"],
        profiles=["host"],
        budget_s=budget_s,
        limits={"accuracy_drop": LIMITS[case.metric]},
        out=folder / "out",
        jobs=2,
    )
    build_s = time.monotonic() - began
    (result,) = summary.results
    places: dict[str, Path] = {}
    judged: dict[str, dict[str, Any]] = {}
    if result.variant is not None:
        ours = (folder / "out" / summary.model / result.variant).resolve()
        places = {OURS: ours, AGAIN: ours}
        found = _judged(ours, name, folder, os.environ)
        judged = {OURS: found, AGAIN: found}
    for rival in RIVALS:
        judged[rival] = json.loads((place(rival, folder) / "judged.json").read_text())
        if "failed" not in judged[rival]:
            places[rival] = place(rival, folder)
    strays = [n for n in RIVALS if RIVALS[n].format == "openvino" and not judged[n].get("within")]
    if not strays:
        places.pop("OpenVINO f32", None)  # it only stands in for others
    first = _contest(places, folder, window)
    entries = {contestant: _entry(first.get(contestant), own) for contestant, own in judged.items()}
    model = Model(
        name=name,
        told=case.told,
        metric=case.metric,
        limit=LIMITS[case.metric],
        trap=case.trap,
        alike=json.loads((folder / "answers.json").read_text())["alike"],
        entries={k: v for k, v in entries.items() if k not in RIVALS or not _only_stands_in(k, v)},
        repeats=(),
        chosen=(result.selected or "").rsplit("/", 1)[-1],
        precision=_precision(summary),
        verdict=result.verdict,
        search=_searched(summary, budget_s, build_s),
    )
    return dataclasses.replace(model, repeats=_repeated(model, places, folder, window))


def _only_stands_in(rival: str, entry: Entry) -> bool:
    return RIVALS[rival].also and entry.p50_ms is None


def _repeated(
    model: Model, places: Mapping[str, Path], folder: Path, window: Budget
) -> tuple[dict[str, float], ...]:
    rivals = within(model)
    if OURS not in places or not rivals:
        return ()
    least = model.entries[rivals[0]].p50_ms or 0.0
    chosen = [n for n in rivals[:3] if (model.entries[n].p50_ms or 0.0) <= CLOSE * least]
    few = {name: places[name] for name in (OURS, AGAIN, *chosen)}
    repeats = []
    for _ in range(2):
        found = _contest(few, folder, window)
        repeats.append(
            {n: m.latency_ms.p50 for n, m in found.items() if isinstance(m, Measurement)}
        )
    return tuple(repeats)


def _contest(
    places: Mapping[str, Path], folder: Path, window: Budget
) -> dict[str, Measurement | Failure]:
    torch_python = write_python(folder / "logs" / "python-with-torch")
    contestants = [
        Contestant(name, where, str(torch_python))
        if read_record(where).runtime.format == "pytorch"
        else Contestant(name, where)
        for name, where in places.items()
    ]
    return contest(
        contestants,
        inputs=folder / "inputs.safetensors",
        log_folder=folder / "logs" / "contest",
        budget=window,
        time_limit_s=TIME_LIMIT_S,
    )


def _entry(found: Measurement | Failure | None, judged: Mapping[str, Any]) -> Entry:
    drop, kept = judged.get("drop"), bool(judged.get("within"))
    if isinstance(found, Measurement):
        latency = found.latency_ms
        return Entry(
            p50_ms=latency.p50,
            drop=drop,
            within=kept,
            note=str(judged.get("note", ""))[:200],
            stable=latency.stable,
            windows_ms=tuple(round(value, 5) for value in found.windows_ms),
        )
    note = str(judged.get("failed", "")) if found is None else f"{found.kind}: {found.message}"
    return Entry(p50_ms=None, drop=drop, within=False, note=note[:200])


def _precision(summary: Summary) -> str:
    (result,) = summary.results
    return next((c.precision for c in result.candidates if c.role == "chosen"), "")


def _searched(summary: Summary, budget_s: float, build_s: float) -> dict[str, Any]:
    (result,) = summary.results
    record = result.search
    heats = [(heat.cost, heat.seconds) for heat in record.heats] if record else []
    return {
        "budget_s": budget_s,
        "build_s": round(build_s, 1),
        "spent_s": record.spent_s if record else build_s,
        "near_s": near(heats) or 0.0,
        "candidates": len([c for c in result.candidates if c.status in ("built", "failed")]),
        "untried": record.untried if record else 0,
        "ended": record.ended if record else False,
    }


def gather(out: Path) -> dict[str, Any]:
    """All results as one document, with what they were made on."""
    models = []
    for name in CASES:
        file = out / "results" / f"{name}.json"
        if file.exists():
            models.append(json.loads(file.read_bytes()))
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "host": json.loads(pretty(fingerprint())),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "models": models,
    }


def models_of(document: Mapping[str, Any]) -> list[Model]:
    """The models of a gathered document."""
    return [decode(Model, entry) for entry in document["models"]]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("step", choices=("prepare", "run", "exhaust", "render"))
    parser.add_argument("--out", type=Path, required=True, help="models, files and results")
    parser.add_argument("--models", default=",".join(CASES), help="a,b: only these")
    parser.add_argument("--budget", default="4m", help="of each search: 90s, 4m")
    parser.add_argument("--seconds", type=float, default=2.0, help="of runs of each contestant")
    parser.add_argument("--olive", help="the Python of Olive's environment")
    chosen = parser.parse_args(arguments)
    names = chosen.models.split(",")
    unknown = sorted(set(names) - set(CASES))
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}; known are {', '.join(CASES)}")
    out = chosen.out.resolve()
    for name in ("CACHE", "DATA", "CONFIG"):
        os.environ[f"SLIPWAY_{name}"] = str(out / "own" / name.lower())
    if chosen.step == "prepare":
        prepare_all(names, out, olive=chosen.olive)
    elif chosen.step == "run":
        window = Budget(seconds_per_contestant=chosen.seconds)
        run_all(names, out, budget_s=parse_time(chosen.budget), window=window)
    elif chosen.step == "exhaust":
        from benchmarks.rivals.exhaustive import exhaust_all

        exhaust_all([name for name in names if CASES[name].trap], out)
    else:
        from benchmarks.rivals.page import write

        write(gather(out))


if __name__ == "__main__":
    main()
