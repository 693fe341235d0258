"""Deliver the digits to a device on this machine: a good release, and two that should not stay.

python deliver.py BUILD    BUILD is what `sdk build` wrote for this example, such as build

Keys, repository and device are made anew in BUILD/fleet. Everything is done by the commands that a
publisher and a device would use; the application is the function `application` below.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.sessions import active

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
MODEL, GROUP = "digits", "bench"
TIMES_SLOWER = 3.0
"""What the application takes for too slow."""
PATIENCE_S = 120.0


def main() -> int:
    build = Path(sys.argv[1] if len(sys.argv) > 1 else "build").resolve()
    fleet = build / "fleet"
    shutil.rmtree(fleet, ignore_errors=True)
    fleet.mkdir(parents=True)
    os.environ["SLIPWAY_PASSPHRASE"] = "only for this example"
    repo = ["--repo", str(fleet / "repo"), "--keys", str(fleet / "keys")]

    say("keys, and a repository that trusts them")
    run("sdk", "keys", "init", *repo)
    run("sdk", "keys", "add-model", MODEL, *repo)

    state = fleet / "device"
    say("a device that trusts the repository's root")
    run("sdk-agent", "trust", str(fleet / "repo/metadata/1.root.json"), "--state", str(state))
    settings = [f'repository = "{fleet / "repo"}"', f'group = "{GROUP}"', "poll_s = 1"]
    (state / "agent.toml").write_text("\n".join([*settings, "[preflight]", "measure_s = 2", ""]))

    say("the same network with an experiment left in, as a build of its own")
    wasteful = build_wasteful(fleet)

    with agent(state):
        publish(build / MODEL, "1.0.0", repo)
        first, usual_ms = watched(state, "1.0.0")
        publish(wasteful, "1.1.0", repo)
        second, _ = watched(state, "1.1.0", usual_ms)
        publish(wasteful, "1.2.0", [*repo, "--slower-at-most", "1.2"])
        third, _ = watched(state, "1.2.0", usual_ms)
        found = status(state)["models"][0]
    rows = [first, second, third]
    print()
    for release, state_, reason in rows:
        print(f"{MODEL} {release}  {state_:12} {reason}")
    print(f"\nwhat runs: {MODEL} {found['release']}, {found['variant']}")
    expected = ["CONFIRMED", "ROLLED_BACK", "FAILED"]
    return 0 if [row[1] for row in rows] == expected and found["release"] == "1.0.0" else 1


def application(state: Path, usual_ms: float | None) -> float:
    """What a program on the device does: read digits, and mind how long it takes.

    Returns:
        The median of its runs, in milliseconds.
    """
    # Not at the top: scikit-learn sets variables of the environment, which a build's cache heeds.
    from data import samples

    with active(MODEL, state) as model:
        took = []
        for number, (_, inputs, _) in enumerate(samples()):
            started = time.perf_counter()
            model.run(inputs)
            took.append((time.perf_counter() - started) * 1e3)
            median = statistics.median(took)
            if number >= 10 and usual_ms is not None and median > TIMES_SLOWER * usual_ms:
                model.report(
                    good=False, reason=f"{median:.2f} ms a digit, {usual_ms:.2f} ms before"
                )
                break
            if number >= 40:  # after 20 runs the library has said that all is well
                break
    return statistics.median(took)


def watched(
    state: Path, release: str, usual_ms: float | None = None
) -> tuple[tuple[str, str, str], float | None]:
    """Wait for what becomes of a release; the application runs as soon as it is on trial.

    Returns:
        The row of the table, and what is usual from now on.
    """
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        time.sleep(0.3)
        found = status(state)
        done = [m for m in found["models"] if m["last_release"] == release]
        if not done:
            continue
        if done[0]["state"] == "TRIAL":
            median = application(state, usual_ms)
            usual_ms = median if usual_ms is None else usual_ms
        elif done[0]["state"] in ("CONFIRMED", "ROLLED_BACK", "FAILED", "REJECTED"):
            return (release, done[0]["state"], done[0]["reason"] or ""), usual_ms
    raise SystemExit(f"{release}: nothing came of it within {PATIENCE_S:g} s")


def build_wasteful(fleet: Path) -> Path:
    """The example's project, with the other network and without limits on its latency."""
    project = fleet / "wasteful"
    shutil.copytree(HERE, project, ignore=shutil.ignore_patterns("__pycache__"))
    told = (project / "sdk.toml").read_text().replace(":make_model", ":make_wasteful_model")
    told = told.replace("latency_p90_ms = 2.0", "latency_p90_ms = 1000.0")
    (project / "sdk.toml").write_text(told)
    out = fleet / "build"
    run("sdk", "build", str(project), "--target", "intel", "--profile", "host", "--out", str(out))
    return out / MODEL


def publish(build: Path, release: str, options: list[str]) -> None:
    say(f"publishing {release}")
    allow = "--allow-unproven"  # phones are unproven here, and this device proves its own variant
    run("sdk", "publish", str(build), "--release", release, "--group", GROUP, allow, *options)


def status(state: Path) -> Any:
    return json.loads(run("sdk-agent", "status", "--json", "--state", str(state)))


@contextlib.contextmanager
def agent(state: Path) -> Iterator[None]:
    """`sdk-agent run`, as a service would."""
    with (state / "agent.log").open("wb") as log:
        running = subprocess.Popen(
            [BIN / "sdk-agent", "run", "--state", str(state)], stdout=log, stderr=log
        )
        try:
            yield
        finally:
            running.terminate()
            running.wait(timeout=30)


def run(*command: str) -> str:
    found = subprocess.run(
        [str(BIN / command[0]), *command[1:]], check=False, stdout=subprocess.PIPE, text=True
    )
    if found.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {found.returncode}")
    return found.stdout


def say(line: str) -> None:
    print(f"== {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
