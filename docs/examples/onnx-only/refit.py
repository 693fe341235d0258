"""A kind of device turns out slower than its profile says; its reports mend the profile.

python refit.py BUILD    BUILD is a folder for what is built here, such as build

Three agents on this machine are told another processor, an Intel N100, by a made-up /proc/cpuinfo;
what they measure is what the real runtimes take here. Their profile `edge-box` is wrong by
construction: it holds a fit that promises a tenth of a microsecond for everything that OpenVINO
does, as if it were copied from another board. So the first build carries OpenVINO's variants alone.
What follows is nobody's doing: the devices measure, `sdk fleet fit` learns, the next build chooses
another runtime, and the rollout replaces what ran: its gates hold it to what each device measured
of both. Somebody sends the slow variant out once more; the same gates take it back.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "digits"))  # the devices and the server of the other example

from deliver import agent, run, say, status  # noqa: E402
from fleet import ONLINE_KEYS, enrol, publish, server  # noqa: E402

from profiles import PACKAGE_FOLDER, Fitted  # noqa: E402
from sdk.detect import fitted_toml  # noqa: E402
from sdk.estimate.fitted import kind_of  # noqa: E402
from sdk.estimate.terms import terms  # noqa: E402
from sdk.learning.records import parse_reports  # noqa: E402
from targets.recipes import nncf, openvino  # noqa: E402

MODEL, PROFILE, GROUP = "digits-mlp", "edge-box", "boxes"
DEVICES = 3
PATIENCE_S = 180.0
GATES = (
    *("--gate", "latency<=0.9", "--gate", "agreement>=0.999", "--gate-devices", str(DEVICES)),
    *("--gate-confidence", "75%", "--on-halt", "revert"),  # three devices prove no more
)


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build").resolve() / "refitted"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["SLIPWAY_PASSPHRASE"] = "only for this example"
    project = folder / "project"
    shutil.copytree(HERE, project, ignore=shutil.ignore_patterns("__pycache__"))
    write_profile(project)

    say("a first build, to know the model's operators")
    first = build(project, folder / "0")
    say("the profile as somebody copied it: OpenVINO is promised to take next to nothing")
    write_profile(project, wrong_block(first))
    first = build(project, folder / "1")
    print(f"   chosen by estimate: {chosen(first)}")

    say("keys, a server, three devices, release 1.0.0 for all of them")
    repo, keys, online = folder / "repo", folder / "keys", folder / "online-keys"
    run("sdk", "keys", "init", "--repo", str(repo), "--keys", str(keys))
    run("sdk", "keys", "add-model", MODEL, "--repo", str(repo), "--keys", str(keys))
    online.mkdir()
    for name in ("keys.json", *(f"{name}.pem" for name in ONLINE_KEYS)):
        shutil.copy(keys / name, online)
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(server(folder, repo, online))
        os.environ["SLIPWAY_SERVER"] = address
        os.environ["SLIPWAY_API_KEY"] = (folder / "default.key").read_text().strip()
        devices = [folder / f"box-{number}" for number in range(DEVICES)]
        for state in devices:
            enrol(state, GROUP, address, is_board=True)
            stack.enter_context(agent(state))
        publish(first, "1.0.0", keys, address)
        rolled_out("1.0.0", devices)
        before = {variant(state) for state in devices}

        say("what the devices measured, held against the profile")
        learn(project)

        say("the next build")
        second = build(project, folder / "2")
        print(f"   chosen by estimate: {chosen(second)}")
        publish(second, "1.1.0", keys, address)
        shown = rolled_out("1.1.0", devices, *GATES)
        after = {variant(state) for state in devices}

        say("somebody sends the first build out again")
        publish(first, "1.2.0", keys, address)
        refused = rolled_out("1.2.0", devices, *GATES)
        back = {variant(state) for state in devices}
    (ratio,) = shown["ratios"].values() if shown["ratios"] else ({},)
    print(f"\nbefore: {', '.join(sorted(before))}\nafter:  {', '.join(sorted(after))}")
    print(f"latency of 1.1.0 over 1.0.0, each device against itself: {json.dumps(ratio)}")
    turned = all("/openvino-" in one for one in before) and all(
        "/onnxruntime-" in one for one in after
    )
    held = (verdicts(shown)["latency@500"], verdicts(refused)["latency@500"])
    if held != ("passed", "broken") or refused["state"] != "reverted" or back != after:
        raise SystemExit(f"the gates did not hold: {json.dumps([shown, refused], indent=2)}")
    return 0 if turned and "/onnxruntime-" in chosen(second) else 1


def write_profile(project: Path, block: Fitted | None = None) -> None:
    """The N100's data sheet under another name, with a fit that it does not deserve."""
    text = (PACKAGE_FOLDER / "intel/n100.toml").read_text()
    text = text.replace('name = "n100"', f'name = "{PROFILE}"', 1)
    lines = [] if block is None else fitted_toml(block)
    (project / "profiles").mkdir(exist_ok=True)
    (project / f"profiles/{PROFILE}.toml").write_text("\n".join([text, *lines, ""]))


def wrong_block(built: Path) -> Fitted:
    """A tenth of a microsecond for each unit of work, and less where it is plain f32."""
    program = parse_reports((built / "reports.json").read_bytes(), str(built)).program
    recipes = (
        openvino("CPU", "f32", "f32"),
        openvino("CPU", "f16", "f32"),
        openvino("CPU", "int8", "f32", quantisation=nncf(None)),
    )
    names = {name for recipe in recipes for name in terms(program, recipe)}
    return Fitted(
        toolchain="openvino", engine="cpu",
        ms={name: 5e-5 if ".f32." in name else 1e-4 for name in sorted(names)},
        kinds=tuple(sorted({kind_of(recipe) for recipe in recipes})),
        rows=300, held_out=60, error=0.1, low=0.8, high=1.25,
        date="2026-01-01", device="another board", tools={"openvino": "2025.0"},
    )  # fmt: skip


def learn(project: Path) -> None:
    fit = ["sdk", "fleet", "fit", "--profile", PROFILE, "--project", str(project)]
    print(run(*fit, "--unstable").rstrip())
    old = project / f"profiles/{PROFILE}.toml"
    changed = run("sdk", "profiles", "diff", f"{old}.old", str(old), "--json")
    paths = [one["path"] for one in json.loads(changed)["differences"]]
    if not all(path.startswith("fitted.openvino.cpu.scale.") for path in paths):
        raise SystemExit(f"more than what was learnt has changed: {paths}")


def build(project: Path, out: Path) -> Path:
    target = ["--target", "intel", "--profile", PROFILE]
    run("sdk", "build", str(project), *target, "--out", str(out))
    return out / MODEL


def chosen(built: Path) -> str:
    summary = json.loads((built / "summary.json").read_text())
    for note in summary["results"][0]["notes"]:
        print(f"   {note}")
    return str(summary["results"][0]["selected"])


def variant(state: Path) -> str:
    return str(status(state)["models"][0]["variant"])


def verdicts(shown: Any) -> dict[str, str]:
    return {one["gate"]: one["verdict"] for one in shown["judged"]}


def rolled_out(release: str, devices: list[Path], *gates: str) -> Any:
    """Send a release to all, be the application on each device, until the rollout is over."""
    say(f"{MODEL} {release} for all")
    found = json.loads(run("sdk", "fleet", "assign", MODEL, release, "--all", *gates, "--json"))
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        for state in devices:
            if any(one["state"] == "TRIAL" for one in status(state)["models"]):
                run("sdk-agent", "mark-good", MODEL, "--state", str(state))
        shown = json.loads(run("sdk", "fleet", "rollouts", "show", found["rollout"], "--json"))
        if shown["state"] in ("finished", "halted", "reverted"):
            print(f"   the rollout is {shown['state']} {shown['reason']}".rstrip(), flush=True)
            for one in shown["judged"]:
                print(f"   {one['gate']}: {one['value']:.3f} of {one['limit']:g}, {one['verdict']}")
            return shown
        time.sleep(0.5)
    raise SystemExit(f"{release}: nothing came of it within {PATIENCE_S:g} s")


if __name__ == "__main__":
    sys.exit(main())
