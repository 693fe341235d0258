"""`sdk-agent`: what a person or a unit file asks of a device's agent.

argparse and nothing else: the agent's import time is part of every poll of a small device.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.errors import SlipwayError, UsageError

_UNIT = """[Unit]
Description=Slipway agent
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={program} run --state {state}
Restart=always
RestartSec=10
# The agent needs its own folder and the network, nothing else.
ProtectSystem=strict
ReadWritePaths={state}
PrivateTmp=true
NoNewPrivileges=true

[Install]
WantedBy=multi-user.target
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is that of docs/reference/cli.md."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        answer = chosen.does(chosen)
    except KeyboardInterrupt:
        return 130
    except SlipwayError as error:
        if chosen.debug:
            traceback.print_exc()
        for line in (error.what, error.cause, error.remedy):
            if line:
                print(line, file=sys.stderr)
        return error.exit_code
    if answer is not None:
        _show(answer, as_json=chosen.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdk-agent", description="Install signed releases, prove them here, take them back."
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state", type=Path, help="the state folder")
    common.add_argument("--config", type=Path, help="agent.toml, where it is elsewhere")
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument("--debug", action="store_true", help="print tracebacks")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, does: Callable[[Any], Any], told: str, example: str) -> Any:
        found = commands.add_parser(
            name, parents=[common], help=told, description=told, epilog=f"Example: {example}"
        )
        found.set_defaults(does=does)
        return found

    install = add("install", _install, "Install a package.", "sdk-agent install minilm-1.2.0.zip")
    install.add_argument("package", type=Path)
    add("run", _run, "Poll, install, watch, until it is stopped.", "sdk-agent run")
    add("once", _once, "Look once, and do what there is to do.", "sdk-agent once --json")
    add("status", _status, "What runs, and what is under way.", "sdk-agent status")
    add("doctor", _doctor, "What this device is and has.", "sdk-agent doctor")
    add("unit", _unit, "Print a systemd unit.", "sdk-agent unit > /etc/systemd/system/slipway.service")
    for name, does, told in (
        ("rollback", _rollback, "Go back to the release before."),
        ("mark-good", _mark_good, "Confirm the release on trial."),
        ("mark-bad", _mark_bad, "Take the release on trial back."),
    ):
        command = add(name, does, told, f"sdk-agent {name} minilm")
        command.add_argument("model")
        if name != "mark-good":
            command.add_argument("--reason", default="an operator's decision")
    health = add("health", _health, "Say how the application is.", 'sdk-agent health minilm --bad "NaN"')
    health.add_argument("model")
    word = health.add_mutually_exclusive_group(required=True)
    word.add_argument("--good", action="store_true")
    word.add_argument("--bad", metavar="REASON")
    shim = add("exec", _exec, "Count a start, then become the command.", "sdk-agent exec minilm -- ./app")
    shim.add_argument("model")
    shim.add_argument("argv", nargs=argparse.REMAINDER)
    return parser


def _home(chosen: Any) -> Any:
    from agent.config import read_config
    from agent.home import Home

    return Home(read_config(chosen.config, chosen.state))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _install(chosen: Any) -> Any:
    from agent.install import install

    with _home(chosen) as home:
        return _action(install(home, chosen.package, _tell))


def _run(chosen: Any) -> None:
    from agent.config import read_config
    from agent.run import run

    run(read_config(chosen.config, chosen.state), _tell)


def _once(chosen: Any) -> Any:
    from agent.run import once

    with _home(chosen) as home:
        return _action(once(home, _tell))


def _status(chosen: Any) -> Any:
    from agent.status import status

    with _home(chosen) as home:
        return status(home)


def _doctor(chosen: Any) -> Any:
    from agent.config import read_config
    from agent.status import doctor

    return doctor(read_config(chosen.config, chosen.state))


def _unit(chosen: Any) -> Any:
    from agent.config import read_config

    state = read_config(chosen.config, chosen.state).state.absolute()
    print(_UNIT.format(program=Path(sys.argv[0]).absolute(), state=state), end="")


def _rollback(chosen: Any) -> Any:
    from agent.install import go_back

    with _home(chosen) as home:
        return _action(go_back(home, chosen.model, chosen.reason, _tell))


def _mark_good(chosen: Any) -> Any:
    from agent import update

    with _home(chosen) as home:
        return _action(update.confirm(home, _on_trial(home, chosen.model), "an operator's word"))


def _mark_bad(chosen: Any) -> Any:
    from agent import update

    with _home(chosen) as home:
        return _action(update.roll_back(home, _on_trial(home, chosen.model), chosen.reason))


def _on_trial(home: Any, model: str) -> Any:
    action = home.journal.unfinished()
    if action is None or action.model != model or action.state != "TRIAL":
        state = "nothing is under way" if action is None else f"{action.model} is in {action.state}"
        raise UsageError(
            f"{model} is not on trial: {state}.",
            cause="It was confirmed or taken back already, or was never installed.",
            remedy="sdk-agent status",
        )
    return action


def _health(chosen: Any) -> None:
    from agent.config import read_config
    from agent.health import Word, say

    state = read_config(chosen.config, chosen.state).state
    say(state, Word(model=chosen.model, good=bool(chosen.good), reason=chosen.bad or ""))


def _exec(chosen: Any) -> None:
    from agent.config import default_state
    from agent.shim import main as become

    command = chosen.argv[1:] if chosen.argv[:1] == ["--"] else chosen.argv
    if not command:
        raise UsageError(
            "There is no command to become.", remedy="sdk-agent exec MODEL -- COMMAND ..."
        )
    become(chosen.state or default_state(), chosen.model, command)


def _action(action: Any) -> Any:
    if action is None:
        return {"action": None}
    told = dataclasses.asdict(action)
    return {name: told[name] for name in ("id", "model", "state", "reason", "variant", "slot")}


def _show(answer: Any, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer, indent=2, default=str))
        return
    rows = answer if isinstance(answer, list) else [answer]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items() if value not in (None, "")))
