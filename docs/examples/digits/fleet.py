"""Deliver the digits to a fleet of three devices, of two kinds, one of which refuses a release.

python fleet.py BUILD    BUILD is a folder for what is built here, such as build

Everything is made anew in BUILD/served, and done by the commands that an operator, a publisher and
a device would use. All three devices are agents on this machine. Two of them are told another
processor, an Intel N100, by a made-up /proc/cpuinfo: what they measure is this machine's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deliver import BIN, HERE, MODEL, agent, application, run, say, status

from agent.sessions import active

LINES = {"line-1": ["desk"], "line-2": ["board-a", "board-b"]}
"""Group -> its devices: the desk is this machine, the boards are N100s."""
ONLINE_KEYS = ("snapshot", "timestamp", "assignment")
BOARD_MIB = 48
"""What release 1.1.0 promises the boards. A Python with ONNX Runtime alone takes more."""
CPUINFO = """\
processor\t: {number}
vendor_id\t: GenuineIntel
model name\t: Intel(R) N100
flags\t\t: fma f16c avx2 avx_vnni

"""
PATIENCE_S = 180.0


def main() -> int:
    build = Path(sys.argv[1] if len(sys.argv) > 1 else "build").resolve()
    folder = build / "served"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["SLIPWAY_PASSPHRASE"] = "only for this example"

    say("a build for this machine, and for boards with an N100, which are made up on this machine")
    first = build_for_both(HERE, folder / "1.0.0")
    say(f"another one, which promises the boards that it takes {BOARD_MIB} MiB at most")
    second = build_for_both(promised(folder / "project"), folder / "1.1.0")
    say(
        "no N100 was there to measure it, so it is unproven: each board proves it before it runs it"
    )

    say("keys; the server gets three of them, none of which can sign a release")
    repo, keys = folder / "repo", folder / "keys"
    run("sdk", "keys", "init", "--repo", str(repo), "--keys", str(keys))
    run("sdk", "keys", "add-model", MODEL, "--repo", str(repo), "--keys", str(keys))
    online = folder / "online-keys"
    online.mkdir()
    for name in ("keys.json", *(f"{name}.pem" for name in ONLINE_KEYS)):
        shutil.copy(keys / name, online)

    with contextlib.ExitStack() as stack:
        address = stack.enter_context(server(folder, repo, online))
        os.environ["SLIPWAY_SERVER"] = address
        os.environ["SLIPWAY_API_KEY"] = (folder / "default.key").read_text().strip()
        devices = {name: folder / name for names in LINES.values() for name in names}
        for group, names in LINES.items():
            for name in names:
                say(f"{name} joins {group}, by a token that is good once")
                enrol(devices[name], group, address, is_board=group == "line-2")
                stack.enter_context(agent(devices[name]))

        publish(first, "1.0.0", keys, address)
        assigned("1.0.0", devices, "--all")
        publish(second, "1.1.0", keys, address)
        stages = "line-1:100%,line-2:1,line-2:100%"
        staged = assigned("1.1.0", devices, "--stages", stages)

        say("why")
        print(run("sdk", "fleet", "rollouts", "show", staged["id"]))
        print(run("sdk", "fleet", "devices", "list"))
        running = {name: status(state)["models"][0]["release"] for name, state in devices.items()}
        for name, state in devices.items():
            print(f"{name:8} runs {MODEL} {running[name]}: {right(state)} of 40 digits are right")
    expected = {"desk": "1.1.0", "board-a": "1.0.0", "board-b": "1.0.0"}
    stopped_at = staged["state"], staged["stage"]
    return 0 if running == expected and stopped_at == ("halted", 1) else 1


def build_for_both(project: Path, out: Path) -> Path:
    """A build for this machine and for the N100; what was built before comes from the cache."""
    kinds = [word for name in ("host", "n100") for word in ("--profile", name)]
    run("sdk", "build", str(project), "--target", "intel", *kinds, "--jobs", "2", "--out", str(out))
    return out / MODEL


def promised(project: Path) -> Path:
    """The example's project, unchanged but for a limit."""
    shutil.copytree(HERE, project, ignore=shutil.ignore_patterns("__pycache__"))
    with (project / "sdk.toml").open("a") as file:
        file.write(f"\n[limits.n100]\npeak_memory_mib = {BOARD_MIB}\n")
    return project


@contextlib.contextmanager
def server(folder: Path, repo: Path, keys: Path) -> Iterator[str]:
    """`sdk fleet serve` at a free port, as a service would; its address."""
    said = folder / "server.log"
    command = [BIN / "sdk", "fleet", "serve", "--repo", repo, "--keys", keys, "--port", "0"]
    with said.open("wb") as log:
        running = subprocess.Popen(
            [*command, "--poll", "1"], cwd=folder, stdout=subprocess.DEVNULL, stderr=log
        )
        try:
            yield address_in(said, running)
        finally:
            running.terminate()
            running.wait(timeout=30)


def address_in(said: Path, running: subprocess.Popen[bytes]) -> str:
    """Where a server listens, once it says so."""
    while running.poll() is None:
        found = re.search(r"^serving \S+ at (\S+)$", said.read_text(), re.MULTILINE)
        if found:
            say(f"a fleet server at {found[1]}, with a database in a file")
            return found[1]
        time.sleep(0.1)
    raise SystemExit(f"the server did not start:\n{said.read_text()}")


def enrol(state: Path, group: str, address: str, *, is_board: bool) -> None:
    """A device that is given an address and a token, and nothing else."""
    state.mkdir()
    settings = ["poll_s = 1"]
    if is_board:
        made_up(state / "machine")
        settings.append('root_folder = "machine"')
    settings += ["[preflight]", "measure_s = 0.5", ""]
    (state / "agent.toml").write_text("\n".join(settings))
    token = run("sdk", "fleet", "tokens", "add", "--group", group).strip()
    run("sdk-agent", "enroll", address, "--token", token, "--state", str(state))


def made_up(root: Path) -> None:
    """The root of a machine that has another processor, and is this one in all else."""
    for name in ("meminfo", "loadavg", "sys/kernel/random/boot_id"):
        place = root / "proc" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(Path("/proc") / name)
    (root / "proc/cpuinfo").write_text("".join(CPUINFO.format(number=n) for n in range(4)))


def publish(build: Path, release: str, keys: Path, address: str) -> None:
    say(f"publishing {release}: signed here, with the model's key, and sent to the server")
    command = ["sdk", "publish", str(build), "--release", release, "--keys", str(keys)]
    run(*command, "--repo", address, "--allow-unproven")


def assigned(release: str, devices: dict[str, Path], *whom: str) -> Any:
    """Send a release out, and be the application on each device until the rollout is over."""
    say(f"{MODEL} {release} {' '.join(whom)}")
    found = json.loads(run("sdk", "fleet", "assign", MODEL, release, *whom, "--json"))
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        for name, state in devices.items():
            if any(one["state"] == "TRIAL" for one in status(state)["models"]):
                application(state, None)
                print(f"   {name}: on trial, and its application is well")
        shown = json.loads(run("sdk", "fleet", "rollouts", "show", found["rollout"], "--json"))
        if shown["state"] in ("finished", "halted"):
            print(f"   the rollout is {shown['state']}: {shown['reason']}", flush=True)
            return shown
        time.sleep(0.3)
    raise SystemExit(f"{release}: nothing came of it within {PATIENCE_S:g} s")


def right(state: Path) -> int:
    """How many of 40 digits are read right by what a device runs at this moment."""
    from data import samples  # not at the top: see deliver.py

    with active(MODEL, state) as model:
        found = [
            model.run(inputs)["output"].argmax() == label
            for _, (_, inputs, label) in zip(range(40), samples(), strict=False)
        ]
    return sum(map(bool, found))


if __name__ == "__main__":
    sys.exit(main())
