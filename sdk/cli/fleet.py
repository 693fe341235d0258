"""`sdk fleet`: its verbs, and `serve`, which runs the server that the others ask."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.errors import UsageError
from sdk.cli import (
    fleet_access,
    fleet_assign,
    fleet_devices,
    fleet_fit,
    fleet_look,
    fleet_rollouts,
    fleet_watch,
)
from sdk.cli.output import err_console

if TYPE_CHECKING:
    from sdk.fleet.online import Tenant
    from sdk.fleet.server import Settings

SERVE_EXAMPLE = "Example: sdk fleet serve --repo repo --keys keys --port 8000"
BACKUP_EXAMPLE = "Example: sdk fleet backup --out fleet-2026-11-22.db"
_KNOWN = {"database", "host", "port", "poll_s", "trusted_proxies", "tenants"}

fleet_app = typer.Typer(
    name="fleet", help="The fleet server, and what is asked of it.", no_args_is_help=True
)


@fleet_app.command("serve", epilog=SERVE_EXAMPLE)
def serve(
    repo: Annotated[
        Path, typer.Option("--repo", metavar="DIR", help="The repository to serve.")
    ] = Path("repo"),
    keys: Annotated[
        Path, typer.Option("--keys", metavar="DIR", help="Snapshot, timestamp and assignment keys.")
    ] = Path("keys"),
    db: Annotated[
        str | None,
        typer.Option(
            "--db", metavar="URL", help="postgresql://USER@HOST/NAME, or sqlite:///fleet.db."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="The address to listen at.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="The port to listen at.")] = None,
    poll: Annotated[
        float | None,
        typer.Option("--poll", metavar="SECONDS", help="Between two polls of a device: 60."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="fleet.toml, for several tenants.")
    ] = None,
) -> None:
    """Serve devices and operators, until it is told to stop.

    At the first start an admin's key is written to ./default.key. The passphrase of the keys is
    $SLIPWAY_PASSPHRASE.
    """
    from sdk.fleet.serve import serve as do_serve

    told = _read(config)
    database = db or str(told.get("database", "sqlite:///fleet.db"))
    tenants = _tenants(told, repo, keys, config)

    def ready(address: str) -> None:
        err_console().print(f"serving {', '.join(tenants)} at {address}", markup=False)

    do_serve(
        database=database,
        tenants=tenants,
        settings=_settings(told, poll),
        host=host or str(told.get("host", "127.0.0.1")),
        port=int(told.get("port", 8000)) if port is None else port,
        keys_folder=Path(),
        ready=ready,
    )


fleet_app.command("status", epilog=fleet_look.STATUS_EXAMPLE)(fleet_look.status)
fleet_app.add_typer(fleet_access.tokens_app)
fleet_app.add_typer(fleet_devices.devices_app)
fleet_app.add_typer(fleet_devices.groups_app)
fleet_app.add_typer(fleet_look.releases_app)
fleet_app.command("assign", epilog=fleet_assign.EXAMPLE)(fleet_assign.assign)
fleet_app.add_typer(fleet_rollouts.rollouts_app)
fleet_app.command("revoke", epilog=fleet_rollouts.REVOKE_EXAMPLE)(fleet_rollouts.revoke)
fleet_app.command("watch", epilog=fleet_watch.EXAMPLE)(fleet_watch.watch)
fleet_app.command("reports", epilog=fleet_look.REPORTS_EXAMPLE)(fleet_look.reports)
fleet_app.command("export", epilog=fleet_look.EXPORT_EXAMPLE)(fleet_look.export)
fleet_app.command("fit", epilog=fleet_fit.EXAMPLE)(fleet_fit.fit)
fleet_app.add_typer(fleet_access.keys_app)
fleet_app.command("audit", epilog=fleet_access.AUDIT_EXAMPLE)(fleet_access.audit)


@fleet_app.command("backup", epilog=BACKUP_EXAMPLE)
def backup(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The copy.")],
    db: Annotated[
        str, typer.Option("--db", metavar="URL", help="The server's database.")
    ] = "sqlite:///fleet.db",
) -> None:
    """Copy an SQLite database, while the server is at work.

    To restore it: stop the server, put the copy in the database's place, remove the files beside it
    that end in -wal and -shm, and start the server. Devices tell it at their next polls what is so.
    """
    from sdk.fleet.backup import back_up

    length = back_up(db, out)
    err_console().print(f"{out}: {length} bytes", markup=False)


def _read(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        told = tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The configuration {config} cannot be read: {error}.",
            cause="The path is wrong, or the file is no TOML.",
            remedy="Correct it, or leave --config out.",
        ) from error
    unknown = sorted(set(told) - _KNOWN)
    if unknown:
        raise UsageError(
            f"{config} names {', '.join(unknown)}, which the server does not know.",
            cause="The name is misspelt.",
            remedy=f"Known are {', '.join(sorted(_KNOWN))}.",
        )
    return told


def _tenants(
    told: dict[str, Any], repo: Path, keys: Path, config: Path | None
) -> dict[str, Tenant]:
    """Tenant -> its repository and keys; paths are relative to the file that names them."""
    from sdk.fleet.online import Tenant
    from sdk.release.keystore import PASSPHRASE

    passphrase = os.environ.get(PASSPHRASE)
    named = told.get("tenants")
    if named is None:
        return {"default": Tenant("default", repo, keys, passphrase)}
    assert config is not None
    found = {}
    for name, own in named.items():
        if not isinstance(own, dict) or set(own) != {"repository", "keys"}:
            raise UsageError(
                f"{config}: the tenant {name} needs `repository` and `keys`, and nothing else.",
                cause="One is missing or misspelt.",
                remedy='[tenants.default]\nrepository = "repo"\nkeys = "keys"',
            )
        folder = config.parent
        found[name] = Tenant(name, folder / own["repository"], folder / own["keys"], passphrase)
    return found


def _settings(told: dict[str, Any], poll: float | None) -> Settings:
    from sdk.fleet.server import Settings

    poll_s = float(told.get("poll_s", 60.0)) if poll is None else poll
    if not 1.0 <= poll_s <= 3600.0:
        raise UsageError(
            f"Devices cannot poll every {poll_s:g} s.",
            cause="It goes from 1 to 3600.",
            remedy="Give another one: --poll 60",
        )
    return Settings(poll_s=poll_s, trusted_proxies=str(told.get("trusted_proxies", "")))
