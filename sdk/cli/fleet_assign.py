"""`sdk fleet assign`: send a release out."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

from agent.errors import UsageError
from sdk.cli.fleet_common import (
    LOCAL,
    Json,
    KeyFile,
    Server,
    device_id,
    opened,
    say,
    seconds,
    share,
    share_or_count,
)
from sdk.cli.fleet_gates import advance_if, gated
from sdk.cli.fleet_watch import follow
from sdk.cli.output import err_console, print_json

EXAMPLE = "Example: sdk fleet assign minilm 1.2.0 --group line-3 --stages 1,10%,100% --watch"


def assign(
    model: Annotated[str, typer.Argument(help="The model.")],
    release: Annotated[str, typer.Argument(help="One of its releases.")],
    group: Annotated[str | None, typer.Option("--group", help="To a group.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="To a device, by its id.")] = None,
    every: Annotated[bool, typer.Option("--all", help="To all devices.")] = False,
    stages: Annotated[
        str,
        typer.Option(
            "--stages",
            metavar="LIST",
            help="How many devices each reaches in all, as 1,10%,100%; or of a group alone, as "
            "line-1:100%,line-2:1,line-2:100%.",
        ),
    ] = "100%",
    confirmed: Annotated[
        str,
        typer.Option(
            "--confirmed", metavar="SHARE",
            help="Of those that tried it, before the next stage opens.",
        ),
    ] = "100%",
    soak: Annotated[
        str, typer.Option("--soak", metavar="TIME", help="Between a stage's end and the next.")
    ] = "0s",
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="TIME", help="A silent device is not waited for.")
    ] = "24h",
    min_devices: Annotated[
        int, typer.Option("--min-devices", min=1, help="So many have to have tried each stage.")
    ] = 1,
    halt_at: Annotated[
        str,
        typer.Option("--halt-at", metavar="SHARE", help="It stops if so many that tried it fail."),
    ] = "20%",
    halt_min: Annotated[
        int, typer.Option("--halt-min", min=1, help="Nothing is judged before so many tried it.")
    ] = 5,
    on_halt: Annotated[
        Literal["pause", "revert"],
        typer.Option("--on-halt", help="Then wait for you, or take it back by itself."),
    ] = "pause",
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", metavar="GATE",
            help="What devices have to have measured, for each kind of hardware, before the next "
            "stage opens; again for more. Such as latency@950<=1.1, memory<=1.1, drop<=1%, "
            "agreement>=0.999, confirmed>=90%.",
        ),
    ] = None,
    gate_devices: Annotated[
        int, typer.Option("--gate-devices", min=1, help="So many of a kind have to report.")
    ] = 1,
    gate_confidence: Annotated[
        str, typer.Option("--gate-confidence", metavar="SHARE", help="Of what gates conclude.")
    ] = "95%",
    liars: Annotated[
        str,
        typer.Option("--liars", metavar="SHARE", help="Gates hold though so many devices lie."),
    ] = "20%",
    unproven: Annotated[
        Literal["halt", "pass"],
        typer.Option(
            "--unproven", help="Of a kind with too few devices for its gates: stop, or go on."
        ),
    ] = "halt",
    slower_at_most: Annotated[
        float | None,
        typer.Option(
            "--slower-at-most", metavar="RATIO",
            help="Devices refuse it if it takes more than so many times the latency of what runs.",
        ),
    ] = None,
    deadline: Annotated[
        str, typer.Option("--deadline", metavar="TIME", help="Of the trial on each device.")
    ] = "1h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say whom it reaches.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it until it is over.")] = False,
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Send a release out, in stages.

    Before it starts it is said how many devices can run it, and why others cannot.
    """
    reaches = [_reach(one.strip()) for one in stages.split(",")]
    whom = _whom(group, device, reaches, every=every)
    stage = {
        "min_devices": min_devices,
        "confirmed_share": share(confirmed, "--confirmed"),
        "soak_s": seconds(soak, "--soak"),
        "timeout_s": seconds(timeout, "--timeout"),
    }
    asked = advance_if(gate or [], gate_devices, gate_confidence, liars, unproven)
    staged, said = gated([{**one, **stage} for one in reaches], asked)
    order = {
        "model": model,
        "release": release,
        "group": group,
        "device": device,
        "stages": staged,
        "halt_if": [{"share": share(halt_at, "--halt-at"), "at_least": halt_min}],
        "on_halt": on_halt,
        "gates": _gates(slower_at_most),
        "deadline_s": int(seconds(deadline, "--deadline")),
    }
    with opened(server, key_file) as client:
        found = client.ask("POST", "rollouts", body={**order, "dry_run": True})
        for line in [*said, *fit_words(found["fit"])]:
            err_console().print(line, markup=False, soft_wrap=True)
        if not dry_run:
            found = client.ask("POST", "rollouts", body=order)
        if json:
            print_json(found)
        elif dry_run:
            say("nothing was assigned: it was a dry run")
        else:
            say(f"the rollout {found['rollout']} of {model} {release} to {whom} has begun")
        if watch and not dry_run:
            sys.stdout.flush()
            follow(client, found["rollout"], json=json)


def fit_words(fit: dict[str, Any]) -> list[str]:
    """Whom a release reaches, for a person; the most frequent reason first.

    >>> reasons = {"it lacks openvino": 2}
    >>> fit_words({"fits": 3, "unknown": 1, "has_it": 0, "reasons": reasons, "unproven": []})
    ['3 can run it', '1 have not told what they are: they find out themselves', \
'2 cannot: it lacks openvino']
    """
    lines = [f"{fit['fits']} can run it"]
    if fit["has_it"]:
        lines.append(f"{fit['has_it']} run it already, and are left alone")
    if fit["unknown"]:
        lines.append(f"{fit['unknown']} have not told what they are: they find out themselves")
    ordered = sorted(fit["reasons"].items(), key=lambda item: (-item[1], item[0]))
    return [*lines, *(f"{count} cannot: {why}" for why, count in ordered), *fit["unproven"]]


def _whom(
    group: str | None, device: str | None, reaches: list[dict[str, Any]], *, every: bool
) -> str:
    named = [str(one["group"]) for one in reaches if "group" in one]
    if named and not (group or device or every):
        return f"the groups {', '.join(dict.fromkeys(named))}"
    if [group is not None, device is not None, every].count(True) != 1:
        raise UsageError(
            "A release goes to a group, to a device, or to all.",
            cause="None of --group, --device and --all was given, or more than one.",
            remedy="Give one: --group line-3",
        )
    if device is not None:
        return f"the device {device_id(device)}"
    return f"the group {group}" if group is not None else "all"


def _reach(text: str) -> dict[str, Any]:
    """How far a stage reaches, as the server takes it."""
    group, _, reach = text.rpartition(":")
    found = share_or_count(reach, "--stages")
    named = {"group": group} if group else {}
    return {**named, **({"count": found} if isinstance(found, int) else {"share": found})}


def _gates(slower_at_most: float | None) -> list[Any]:
    from agent.codec import encode
    from sdk.release.assign import slower_at_most as gate

    return [] if slower_at_most is None else [encode(gate(slower_at_most))]
