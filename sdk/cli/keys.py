"""`sdk keys`: who may sign what."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.errors import UsageError
from sdk.cli.output import out_console, print_json

if TYPE_CHECKING:
    from sdk.release.repository import Repository

INIT_EXAMPLE = "Example: sdk keys init --repo repo --keys keys"
ADD_EXAMPLE = "Example: sdk keys add-model minilm --repo repo"
ROTATE_EXAMPLE = "Example: sdk keys rotate timestamp --repo repo"
STATUS_EXAMPLE = "Example: sdk keys status --repo repo"

Repo = Annotated[
    str,
    typer.Option(
        "--repo", metavar="PLACE", help="The repository: a folder, a store, or a fleet server."
    ),
]
Keys = Annotated[Path, typer.Option("--keys", metavar="DIR", help="The folder of the keys.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

keys_app = typer.Typer(name="keys", help="Make, add, rotate and show keys.", no_args_is_help=True)


def opened(repo: str, keys: Path) -> Repository:
    """The repository at a folder or a URL, with the keys of a folder.

    Raises:
        UsageError: it cannot be, or the keys lie where the repository is served from.
    """
    from sdk.release.keystore import KeyStore
    from sdk.release.repository import Repository
    from sdk.release.store import FolderStore, store_of

    if repo.startswith(("http://", "https://")):
        from sdk.cli.fleet_common import opened as asked
        from sdk.fleet.publisher import ServerRepository

        return ServerRepository(asked(repo, None), KeyStore(keys, ask=_asking()))
    store = store_of(repo)
    if isinstance(store, FolderStore):
        served, own = store.folder.resolve(), keys.resolve()
        if served == own or served in own.parents:
            raise UsageError(
                f"The keys folder {keys} lies in the repository {repo}.",
                cause="Whoever may read the repository could read the keys.",
                remedy="Keep them elsewhere: --keys DIR",
            )
    return Repository(store, KeyStore(keys, ask=_asking()))


@keys_app.command("init", epilog=INIT_EXAMPLE)
def init(
    repo: Repo = "repo",
    keys: Keys = Path("keys"),
    small: Annotated[
        bool, typer.Option("--small", help="One targets key signs a new model, and not two.")
    ] = False,
    json: Json = False,
) -> None:
    """Make all keys, and an empty repository that trusts them.

    The secrets are encrypted with the passphrase in $SLIPWAY_PASSPHRASE, or one that is asked for.
    Keep the files of root and targets offline.
    """
    from sdk.release.ceremony import initialise

    names = initialise(opened(repo, keys), small=small)
    if json:
        print_json({"keys": names})
        return
    lines = [
        f"{len(names)} keys in {keys}, and a repository at {repo}.",
        "Take the files of root-* and targets-* offline: only a new model or a new key needs them.",
        f"Give every device {repo}/metadata/1.root.json, by a way that you trust.",
    ]
    out_console().print("\n".join(lines), markup=False, soft_wrap=True)


@keys_app.command("add-model", epilog=ADD_EXAMPLE)
def add_model(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    repo: Repo = "repo",
    keys: Keys = Path("keys"),
    json: Json = False,
) -> None:
    """Give a model a key of its own, for its release CI."""
    from sdk.release import ceremony

    name = ceremony.add_model(opened(repo, keys), model)
    if json:
        print_json({"model": model, "key": name})
        return
    told = f"{name} signs the releases of {model}; its secret is {keys / name}.pem."
    out_console().print(told, markup=False, soft_wrap=True)


@keys_app.command("rotate", epilog=ROTATE_EXAMPLE)
def rotate(
    names: Annotated[
        list[str],
        typer.Argument(help="The keys' names, as sdk keys status shows them.", metavar="NAME..."),
    ],
    repo: Repo = "repo",
    keys: Keys = Path("keys"),
    json: Json = False,
) -> None:
    """Replace keys, lost ones too; devices follow by themselves.

    Name all that are lost at once: those that are left sign for them.
    """
    from sdk.release import ceremony

    made = ceremony.rotate(opened(repo, keys), *names)
    replaced = dict(zip(dict.fromkeys(names), made, strict=True))
    if json:
        print_json({"replaced": replaced})
        return
    for old, new in replaced.items():
        told = f"{new} stands for {old} from now on; the old secret is {old}.pem.retired."
        out_console().print(told, markup=False, soft_wrap=True)


@keys_app.command("status", epilog=STATUS_EXAMPLE)
def status(repo: Repo = "repo", keys: Keys = Path("keys"), json: Json = False) -> None:
    """Every key: what it signs, and whether its secret is here. Every role: when it expires."""
    from rich.table import Table

    from sdk.release import ceremony

    repository = opened(repo, keys)
    found, roles = ceremony.status(repository), ceremony.roles(repository)
    if json:
        print_json({"keys": found, "roles": roles})
        return
    table = Table("key", "signs", "made", "secret", "trusted", box=None)
    for key in found:
        here = "here" if key.here else "elsewhere"
        table.add_row(key.name, key.role, key.made, here, "yes" if key.trusted else "no")
    out_console().print(table)
    if not roles:
        out_console().print(f"There is no repository at {repo}.", markup=False)
        return
    table = Table("role", "version", "expires", "signatures", box=None)
    for role in roles:
        wanted = f"{role.threshold} of {role.keys}"
        table.add_row(role.role, str(role.version), role.expires, wanted)
    out_console().print()
    out_console().print(table)


def _asking() -> Callable[[bool], str] | None:
    return _ask if sys.stdin.isatty() else None


def _ask(new: bool) -> str:  # noqa: FBT001  see sdk.release.keystore.Ask
    return str(
        typer.prompt("Passphrase of the keys", hide_input=True, confirmation_prompt=new, err=True)
    )
