"""`sdk fleet rollouts` and `revoke`: how releases go out, and what is taken back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.errors import UsageError
from sdk.cli.fleet_common import (
    LOCAL,
    Json,
    KeyFile,
    Most,
    Server,
    moment,
    opened,
    say,
    show_table,
    table,
)
from sdk.cli.fleet_gates import gate_table
from sdk.cli.fleet_watch import counts, headline, whom
from sdk.cli.output import print_json

if TYPE_CHECKING:
    from sdk.fleet.client import FleetClient
    from sdk.release.repository import Repository

LIST_EXAMPLE = "Example: sdk fleet rollouts list --limit 10"
SHOW_EXAMPLE = "Example: sdk fleet rollouts show r0c9d61f2a3b4"
PAUSE_EXAMPLE = "Example: sdk fleet rollouts pause r0c9d61f2a3b4"
RESUME_EXAMPLE = "Example: sdk fleet rollouts resume r0c9d61f2a3b4"
CANCEL_EXAMPLE = "Example: sdk fleet rollouts cancel r0c9d61f2a3b4"
REVERT_EXAMPLE = "Example: sdk fleet rollouts revert r0c9d61f2a3b4"
REVOKE_EXAMPLE = "Example: sdk fleet revoke minilm 1.2.0 --repo repo --keys keys --revert"
_UNDER_WAY = ("running", "paused", "halted")

RolloutName = Annotated[str, typer.Argument(metavar="ID", help="Of the rollout.")]

rollouts_app = typer.Typer(name="rollouts", help="How releases go out.", no_args_is_help=True)


@rollouts_app.command("list", epilog=LIST_EXAMPLE)
def list_rollouts(
    limit: Most = 100, server: Server = LOCAL, key_file: KeyFile = None, json: Json = False
) -> None:
    """Rollouts, the newest first."""
    with opened(server, key_file) as client:
        found = client.ask("GET", "rollouts", limit=min(limit, 1000))["items"]
    if json:
        print_json(found)
        return
    table(
        ("id", "model", "release", "to", "state", "stage", "made", "by", "reason"),
        (
            (
                one["id"], one["model"], one["release"], whom(one), one["state"], one["stage"] + 1,
                moment(one["made_s"]), one["made_by"], one["reason"],
            )
            for one in found
        ),
        "There is no rollout. Begin one: sdk fleet assign MODEL RELEASE --group GROUP",
    )  # fmt: skip


@rollouts_app.command("show", epilog=SHOW_EXAMPLE)
def show(
    rollout: RolloutName, server: Server = LOCAL, key_file: KeyFile = None, json: Json = False
) -> None:
    """How far a rollout has come, by hardware; its gates; and why devices did not keep it."""
    with opened(server, key_file) as client:
        found = client.ask("GET", "rollouts", rollout)
    if json:
        print_json(found)
        return
    say(headline(found))
    if found["reason"]:
        say(f"  {found['reason']}")
    say(f"  made {moment(found['made_s'])} by {found['made_by']}")
    if found["reverts"]:
        say(f"  it takes {found['reverts']} back")
    say(f"  all: {counts(found['progress'])}")
    for hardware, one in {**found["by_hardware"], **found["by_group"]}.items():
        ratio = found["ratios"].get(hardware)
        told = ""
        if ratio:
            told = f"; {ratio['median']:.2f} times the latency before, on {ratio['devices']}"
        say(f"  {hardware}: {counts(one)}{told}")
    if found["judged"]:
        show_table(gate_table(found["judged"]))
    for one in found["odd"]:
        told = f"{one['gate']} {one['value']:.3f}, the median of {one['hardware']} is"
        say(f"  look at the device {one['device']}: {told} {one['median']:.3f}")
    for one in found["reasons"]:
        say(f"  {one['devices']} {one['state']}: {one['reason'] or 'no reason was given'}")


@rollouts_app.command("pause", epilog=PAUSE_EXAMPLE)
def pause(
    rollout: RolloutName, server: Server = LOCAL, key_file: KeyFile = None, json: Json = False
) -> None:
    """No further stage is opened; devices that have it go on."""
    _command("pause", rollout, server, key_file, json=json)


@rollouts_app.command("resume", epilog=RESUME_EXAMPLE)
def resume(
    rollout: RolloutName, server: Server = LOCAL, key_file: KeyFile = None, json: Json = False
) -> None:
    """Go on with one that is paused or halted; what failed so far does not stop it again."""
    _command("resume", rollout, server, key_file, json=json)


@rollouts_app.command("cancel", epilog=CANCEL_EXAMPLE)
def cancel(
    rollout: RolloutName, server: Server = LOCAL, key_file: KeyFile = None, json: Json = False
) -> None:
    """End it: nobody else gets the release, and who has it keeps it."""
    _command("cancel", rollout, server, key_file, json=json)


@rollouts_app.command("revert", epilog=REVERT_EXAMPLE)
def revert(
    rollout: RolloutName, server: Server = LOCAL, key_file: KeyFile = None, json: Json = False
) -> None:
    """End it, and send the devices that took the release back to what they ran before."""
    _command("revert", rollout, server, key_file, json=json)


def revoke(
    model: Annotated[str, typer.Argument(help="The model.")],
    release: Annotated[str, typer.Argument(help="The release to take back.")],
    below: Annotated[
        bool, typer.Option("--below", help="It and all before it: no device goes back to them.")
    ] = False,
    repo: Annotated[
        str, typer.Option("--repo", metavar="PLACE", help="The repository that is served.")
    ] = "repo",
    keys: Annotated[
        Path, typer.Option("--keys", metavar="DIR", help="The folder of the model's key.")
    ] = Path("keys"),
    revert: Annotated[
        bool, typer.Option("--revert", help="Also revert the rollouts of it that are under way.")
    ] = False,
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Take a release back for ever: no device activates it any more.

    It is signed with the model's key, as sdk revoke does it. A server cannot do that by itself.
    """
    from sdk.cli.keys import opened as opened_repository
    from sdk.release import ceremony
    from sdk.release.publish import find

    repository = opened_repository(repo, keys)
    found = find(repository, model, release)
    _check_signer(repository, model)
    client = opened(server, key_file) if revert else None  # a lacking key is said before anything
    is_new = ceremony.revoke(repository, model, found.release_counter, below=below)
    reverted = []
    if client is not None:
        with client:
            reverted = _reverted(client, repository, model)
    if json:
        told = {"model": model, "release": release, "below": below, "new": is_new}
        print_json({**told, "reverted": reverted})
        return
    every = " and all before it" if below else ""
    say(f"{model} {release}{every} is revoked{'' if is_new else ' already'}")
    for name in reverted:
        say(f"the rollout {name} is taken back")


def _command(word: str, rollout: str, server: str, key_file: Path | None, *, json: bool) -> None:
    with opened(server, key_file) as client:
        state = client.ask("POST", "rollouts", rollout, word)["state"]
    if json:
        print_json({"rollout": rollout, "state": state})
        return
    say(f"the rollout {rollout} is {state}")


def _check_signer(repository: Repository, model: str) -> None:
    """Whether the model's key is here.

    Raises:
        UsageError: it is not: whose word a revocation is, and how they give it.
    """
    try:
        repository.check_signers(f"model-{model}", "snapshot", "timestamp")
    except UsageError as error:
        raise UsageError(
            error.what,
            cause="To revoke is the word of whoever signs the model; a server cannot give it.",
            remedy="Run this where the model's key is, with the repository that the server serves. "
            "Until then, stop it: sdk fleet rollouts revert ID",
        ) from error


def _reverted(client: FleetClient, repository: Repository, model: str) -> list[str]:
    """Revert what is under way of the model and is revoked; the rollouts' names."""
    from sdk.release.publish import find

    revoked = repository.revoked(model)
    names = []
    for one in client.ask("GET", "rollouts", limit=1000)["items"]:
        if one["model"] != model or one["state"] not in _UNDER_WAY:
            continue
        if revoked.covers(find(repository, model, one["release"]).release_counter):
            client.ask("POST", "rollouts", one["id"], "revert")
            names.append(one["id"])
    return names
