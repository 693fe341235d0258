"""`sdk keys`, `sdk publish`, `sdk revoke`, `sdk repo`: who signs, and what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from agent.errors import UsageError
from sdk.cli.output import err_console, out_console, print_json

if TYPE_CHECKING:
    from sdk.release.repository import Repository

KEYS_EXAMPLE = "Example: sdk keys init --repo repo --keys keys"
PUBLISH_EXAMPLE = "Example: sdk publish build/minilm --release 1.2.0 --repo repo --group line-3"
REVOKE_EXAMPLE = "Example: sdk revoke minilm 1.2.0 --repo repo"
REPO_EXAMPLE = "Example: sdk repo refresh --repo repo"

Repo = Annotated[str, typer.Option("--repo", help="The repository: a folder, or a URL.")]
Keys = Annotated[Path, typer.Option("--keys", help="The folder of the keys.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

keys_app = typer.Typer(name="keys", help="Make, add, rotate and show keys.", no_args_is_help=True)
repo_app = typer.Typer(name="repo", help="Keep a repository fresh.", no_args_is_help=True)


def _opened(repo: str, keys: Path) -> Repository:
    from sdk.release.keystore import KeyStore
    from sdk.release.repository import Repository
    from sdk.release.store import store_of

    return Repository(store_of(repo), KeyStore(keys))


@keys_app.command("init", epilog=KEYS_EXAMPLE)
def init(
    repo: Repo = "repo",
    keys: Keys = Path("keys"),
    small: Annotated[
        bool, typer.Option("--small", help="One targets key signs a new model, and not two.")
    ] = False,
    json: Json = False,
) -> None:
    """Make all keys, and an empty repository that trusts them.

    The secrets are encrypted with $SLIPWAY_PASSPHRASE. Keep the files of root and targets offline.
    """
    from sdk.release.ceremony import initialise

    names = initialise(_opened(repo, keys), small=small)
    if json:
        print_json({"keys": names})
        return
    lines = [
        f"{len(names)} keys in {keys}, and a repository at {repo}.",
        "Take the files of root-* and targets-* offline: only a new model or a new key needs them.",
        f"Give every device {repo}/metadata/1.root.json, by a way that you trust.",
    ]
    out_console().print("\n".join(lines), markup=False, soft_wrap=True)


@keys_app.command("add-model", epilog="Example: sdk keys add-model minilm --repo repo")
def add_model(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    repo: Repo = "repo",
    keys: Keys = Path("keys"),
) -> None:
    """Give a model a key of its own, for its release CI."""
    from sdk.release import ceremony

    name = ceremony.add_model(_opened(repo, keys), model)
    out_console().print(f"{name} signs the releases of {model}.", markup=False)


@keys_app.command("rotate", epilog="Example: sdk keys rotate timestamp --repo repo")
def rotate(
    name: Annotated[str, typer.Argument(help="The key's name, as sdk keys status shows it.")],
    repo: Repo = "repo",
    keys: Keys = Path("keys"),
) -> None:
    """Replace a key; devices follow by themselves."""
    from sdk.release import ceremony

    fresh = ceremony.rotate(_opened(repo, keys), name)
    out_console().print(f"{fresh} stands for {name} from now on.", markup=False)


@keys_app.command("status", epilog="Example: sdk keys status --repo repo")
def status(repo: Repo = "repo", keys: Keys = Path("keys"), json: Json = False) -> None:
    """Every key: what it signs, and whether its secret is here."""
    from sdk.release import ceremony

    found = ceremony.status(_opened(repo, keys))
    if json:
        print_json(found)
        return
    table = Table("key", "signs", "made", "secret", "trusted", box=None)
    for key in found:
        here = "here" if key.here else "elsewhere"
        table.add_row(key.name, key.role, key.made, here, "yes" if key.trusted else "no")
    out_console().print(table)


def publish(
    build: Annotated[Path, typer.Argument(help="A model's build folder, such as build/minilm.")],
    release: Annotated[str, typer.Option("--release", help="Its name, such as 1.2.0.")],
    repo: Repo = "repo",
    keys: Keys = Path("keys"),
    allow_unproven: Annotated[
        bool, typer.Option("--allow-unproven", help="Also what no device has proven yet.")
    ] = False,
    group: Annotated[str | None, typer.Option("--group", help="Assign it to a group.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Assign it to a device.")] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="Also write a package for it.")
    ] = None,
    json: Json = False,
) -> None:
    """Sign a build as one release for the whole fleet, and upload what is new of it."""
    from sdk.release.assign import assignment_for, place_of, signed
    from sdk.release.package import export as write_package
    from sdk.release.publish import publish as do_publish

    if export is not None and group is None and device is None:
        raise UsageError(
            "--export needs to know for whom.",
            cause="A package carries an assignment, which names a device or a group.",
            remedy="Add --group NAME or --device ID.",
        )
    repository = _opened(repo, keys)
    with err_console().status("publishing") as shown:
        found = do_publish(
            repository,
            build,
            release,
            allow_unproven=allow_unproven,
            tell=shown.update,
        )
        if group is not None or device is not None:
            assignment = assignment_for(found, device_id=device, group=group)
            place = place_of(assignment)
            repository.store.write(place, signed(repository, assignment))
            if export is not None:
                write_package(repository, assignment, export)
    if json:
        print_json(found)
        return
    told = f"{found.model} {found.release} is release {found.release_counter} at {repo}"
    if export is not None:
        told += f"; the package is {export}"
    out_console().print(told, markup=False, soft_wrap=True)


def revoke(
    model: Annotated[str, typer.Argument(help="The model.")],
    release: Annotated[str, typer.Argument(help="The release to take back.")],
    repo: Repo = "repo",
    keys: Keys = Path("keys"),
    below: Annotated[
        bool, typer.Option("--below", help="It and all before it: no device goes back to them.")
    ] = False,
) -> None:
    """Take a release back: no device activates it any more."""
    from sdk.release import ceremony
    from sdk.release.publish import manifest_of

    repository = _opened(repo, keys)
    path = f"models/{model}/{release}/manifest.json"
    try:
        manifest = manifest_of(repository, model, path)
    except KeyError as error:
        raise UsageError(
            f"{model} {release} was never published here.",
            cause="The name is misspelt, or the repository is another one.",
            remedy="Look into the repository's targets folder.",
        ) from error
    assert manifest.release_counter is not None
    ceremony.revoke(repository, model, manifest.release_counter, below=below)
    out_console().print(f"{model} {release} is revoked.", markup=False)


@repo_app.command("refresh", epilog=REPO_EXAMPLE)
def refresh(repo: Repo = "repo", keys: Keys = Path("keys")) -> None:
    """Sign the repository's state anew: devices refuse one that is older than a day."""
    repository = _opened(repo, keys)
    written = repository.refresh()
    out_console().print("\n".join(written), markup=False)
