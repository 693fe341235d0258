"""`sdk-agent`: what a person or a unit file asks of a device's agent.

argparse and nothing else: the agent's import time is part of every poll of a small device. Where
an agent is at work, it is asked to do what would take its lock.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.errors import EXIT_CODES, NetworkError, SlipwayError, StorageError, UsageError

_INTERRUPTED = 130
_UNIT = """[Unit]
Description=Slipway agent
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={command}
Restart=always
RestartSec=10
# It needs its own folder and the network, nothing else.
ProtectSystem=strict
ReadWritePaths="{state}"
PrivateTmp=true
NoNewPrivileges=true

[Install]
WantedBy=multi-user.target
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit codes are those of `sdk`."""
    chosen = _parsed(sys.argv[1:] if arguments is None else arguments)
    try:
        answer = chosen.does(chosen)
        if answer is not None:
            _show(answer, as_json=chosen.json)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SlipwayError as error:
        return _say(error, debug=chosen.debug)
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        from agent.files import storage_error

        place = Path(str(error.filename or "?"))
        return _say(storage_error(error, place), debug=chosen.debug)
    except Exception:  # noqa: BLE001  the one place where a bug ends
        return _bug(debug=chosen.debug)
    return 0


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; of `exec`, all behind the first `--` is the command to become."""
    told, command = list(arguments), list[str]()
    if told[:1] == ["exec"] and "--" in told:
        at = told.index("--")
        told, command = told[:at], told[at + 1 :]
    return _parser().parse_args(told, argparse.Namespace(argv=command))


def commands() -> dict[str, str]:
    """Every command with its help, for the documentation."""
    actions = _parser()._actions  # noqa: SLF001  argparse has no other door
    chosen = next(a for a in actions if isinstance(a, argparse._SubParsersAction))  # noqa: SLF001
    return {name: parser.format_help() for name, parser in chosen.choices.items()}


def _say(error: SlipwayError, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {error.what}", file=sys.stderr)
    for line in (error.cause, error.remedy):
        if line:
            print(f"       {line}", file=sys.stderr)
    return error.exit_code


def _bug(*, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    with tempfile.NamedTemporaryFile(
        "w", prefix="slipway-bug-", suffix=".txt", delete=False
    ) as kept:
        traceback.print_exc(file=kept)
    last = traceback.format_exc().strip().splitlines()[-1]
    print(f"error: this is a bug in Slipway: {last}", file=sys.stderr)
    print(f"       The traceback is in {kept.name}; please report it.", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    codes = "; ".join(f"{code} {told}" for code, told in EXIT_CODES.items())
    parser = argparse.ArgumentParser(
        prog="sdk-agent",
        description="Install signed releases, prove them here, take them back.",
        epilog=f"Exit codes: {codes}.",
        allow_abbrev=False,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state", type=Path, help="the state folder ($SLIPWAY_STATE)")
    common.add_argument("--config", type=Path, help="agent.toml, where it is elsewhere")
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument("--debug", action="store_true", help="print tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, does: Callable[[Any], Any], told: str, example: str) -> Any:
        found = commands.add_parser(
            name,
            parents=[common],
            help=told,
            description=told,
            epilog=f"Example: sdk-agent {example}",
            allow_abbrev=False,
        )
        found.set_defaults(does=does)
        return found

    trust = add("trust", _trust, "Trust a repository from now on.", "trust 1.root.json")
    trust.add_argument("root", type=Path, help="its metadata/1.root.json, come by safely")
    enroll = add(
        "enroll",
        _enroll,
        "Enrol with a fleet's server.",
        "enroll https://fleet.example.org --token slipway-...",
    )
    enroll.add_argument("url", help="the server's address, with the path that it lies under")
    enroll.add_argument("--token", help="lets this device in, and says whom to trust")
    enroll.add_argument("--tenant", help="of the server, where it has several")
    enroll.add_argument(
        "--root-sha256", metavar="HEX", help="of the repository's 1.root.json, without a token"
    )
    enroll.add_argument(
        "--new-key", action="store_true", help="replace this device's key; the old one vouches"
    )
    install = add("install", _install, "Install a package.", "install minilm-1.2.0.zip")
    install.add_argument("package", type=Path)
    add("run", _run, "Poll, install, watch, until it is stopped.", "run")
    add("once", _once, "Look once, and do what there is to do.", "once --json")
    add("status", _status, "What runs, and what is under way.", "status")
    add("doctor", _doctor, "What this device is and has, and what is wrong.", "doctor")
    add("unit", _unit, "Print a systemd unit.", "unit > /etc/systemd/system/slipway-agent.service")
    for name, told in (
        ("rollback", "Go back to the release before."),
        ("mark-good", "Confirm the release on trial."),
        ("mark-bad", "Take the release on trial back."),
    ):
        command = add(name, _by_hand, told, f"{name} minilm")
        command.add_argument("model")
        if name != "mark-good":
            command.add_argument("--reason", default="an operator's decision")
    health = add("health", _health, "Say how the application is.", 'health minilm --bad "NaN"')
    health.add_argument("model")
    word = health.add_mutually_exclusive_group(required=True)
    word.add_argument("--good", action="store_true")
    word.add_argument("--bad", metavar="REASON")
    word.add_argument(
        "--exit-code",
        type=int,
        metavar="N",
        help="of the application: for a hook; 0 says nothing, all others are bad",
    )
    shim = add("exec", _exec, "Count a start, then become the command.", "exec minilm -- ./app")
    shim.add_argument("model")
    shim.usage = "sdk-agent exec [-h] [--state STATE] MODEL -- COMMAND ..."
    return parser


def _config(chosen: Any) -> Any:
    from agent.config import read_config

    return read_config(chosen.config, chosen.state)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _tell_json(line: str) -> None:
    print(json.dumps({"told": line}), flush=True)


def _done_by_agent(chosen: Any, request: Mapping[str, Any], here: Callable[[Any], Any]) -> Any:
    """Do it here, or have the agent do it that has the state folder."""
    from agent.local import AGENT, ask
    from agent.updates.home import Home

    config = _config(chosen)
    try:
        home = Home(config)
    except StorageError as locked:
        if not (config.state / AGENT).exists():
            raise
        try:
            return ask(config.state, request)
        except NetworkError:
            raise locked from None
    with home:
        from agent.updates.recover import recover

        recover(home, _tell)
        return here(home)


def _trust(chosen: Any) -> Any:
    from agent.updates.trust import begin_trust

    return begin_trust(_config(chosen).state, chosen.root)


def _enroll(chosen: Any) -> Any:
    from agent.updates.enrol import enrol

    return enrol(
        _config(chosen),
        chosen.url,
        token=chosen.token,
        tenant=chosen.tenant,
        root_sha256=chosen.root_sha256,
        new_key=chosen.new_key,
    )


def _install(chosen: Any) -> Any:
    from agent.updates.install import install
    from agent.updates.run import told

    package = chosen.package.absolute()
    return _done_by_agent(
        chosen,
        {"do": "install", "package": str(package)},
        lambda home: told(install(home, package, _tell)),
    )


def _run(chosen: Any) -> None:
    from agent.updates.run import run

    if run(_config(chosen), _tell_json if chosen.json else _tell) == signal.SIGINT:
        raise KeyboardInterrupt


def _once(chosen: Any) -> Any:
    from agent.updates.keeping import Keeper
    from agent.updates.run import do

    request = {"do": "once"}
    return _done_by_agent(chosen, request, lambda home: do(home, request, _tell, Keeper()))


def _status(chosen: Any) -> Any:
    from agent.updates.status import status

    return status(_config(chosen))


def _doctor(chosen: Any) -> Any:
    from agent.updates.status import doctor

    return doctor(_config(chosen))


def _unit(chosen: Any) -> Any:
    state = _config(chosen).state
    own = Path(sys.argv[0]).absolute()
    program = [own] if own.name == "sdk-agent" else [sys.executable, "-m", "agent"]
    command = [*program, "run", "--state", state]
    if chosen.config is not None:
        command += ["--config", chosen.config.absolute()]
    # systemd.service(5): quotes keep spaces together, a percent sign begins a specifier.
    quoted = " ".join('"' + str(word).replace("%", "%%") + '"' for word in command)
    unit = _UNIT.format(command=quoted, state=str(state).replace("%", "%%"))
    if chosen.json:
        return {"unit": unit}
    print(unit, end="")
    return None


def _by_hand(chosen: Any) -> Any:
    from agent.updates.keeping import Keeper
    from agent.updates.run import do

    request = {"do": chosen.command, "model": chosen.model}
    if chosen.command != "mark-good":
        request["reason"] = chosen.reason
    return _done_by_agent(chosen, request, lambda home: do(home, request, _tell, Keeper()))


def _health(chosen: Any) -> Any:
    from agent.local import HEALTH, Word, say
    from agent.updates.run import told

    if chosen.exit_code == 0:
        return {"heard": False}
    reason = chosen.bad or (f"exit code {chosen.exit_code}" if chosen.exit_code else "")
    word = Word(model=chosen.model, good=bool(chosen.good), reason=reason)
    config = _config(chosen)
    if (config.state / HEALTH).exists():
        try:
            say(config.state, word)
        except NetworkError:
            pass  # it died and left its socket: said here instead
        else:
            return {"heard": True}
    from agent.updates.home import Home
    from agent.updates.outcome import watch

    with Home(config) as home:
        action = home.journal.unfinished()
        if action is None or action.state != "TRIAL":
            return {"heard": False}
        return told(watch(home, action, (word,)))


def _exec(chosen: Any) -> None:
    from agent.shim import default_state
    from agent.shim import main as become

    if not chosen.argv:
        raise UsageError(
            "There is no command to become.",
            cause="Nothing stands behind the model.",
            remedy="Write it behind two dashes: sdk-agent exec MODEL -- COMMAND ...",
        )
    # Nothing else is asked, the configuration neither: it has to work where the agent does not.
    become(chosen.state or default_state(), chosen.model, chosen.argv)


def _show(answer: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer, indent=2, default=str))
        return
    print("\n".join(_lines(answer)))


def _lines(answer: Mapping[str, Any], indent: str = "") -> list[str]:
    found = []
    for name, value in answer.items():
        if value in (None, "", [], {}):
            continue
        if isinstance(value, Mapping):
            found += [f"{indent}{name}", *_lines(value, indent + "  ")]
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            for item in value:
                found += [f"{indent}{name}", *_lines(item, indent + "  ")]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            found.append(f"{indent}{name}  {shown}")
    return found or [f"{indent}nothing to do"]
