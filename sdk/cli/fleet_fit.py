"""`sdk fleet fit`: what the fleet's devices measured, learnt into a profile."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdk.cli.fleet_common import LOCAL, Json, KeyFile, Server, opened

if TYPE_CHECKING:
    from sdk.fleet.client import FleetClient
    from sdk.learning.gather import Sighting
    from sdk.learning.sources import Sources

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
EXAMPLE = "Example: sdk fleet fit --profile n100 --dry-run"


def fit(
    profile: Annotated[str, typer.Option("--profile", "-p", help="Whose devices count.")],
    exported: Annotated[
        list[Path] | None,
        typer.Option(
            "--export",
            metavar="FILE",
            help="Instead of asking the server: sdk fleet export measurements; repeat for more.",
        ),
    ] = None,
    reports: Annotated[
        list[str] | None,
        typer.Option("--reports", help="Beside these of builds, as sdk fit takes them."),
    ] = None,
    project: Annotated[Path, typer.Option("--project", help="Its own profiles first.")] = Path(),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The profile with its factors goes there.")
    ] = None,
    unstable: Annotated[
        bool, typer.Option("--unstable", help="Count also reports of devices that were busy.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be learnt.")
    ] = False,
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Learn from what devices measured of the releases they were given, as sdk fit --reports does.

    Three devices have to have measured a variant before it counts. The releases' programs are those
    that were built here, or whose build's folder is named with --reports.
    """
    from agent.folders import data_folder
    from sdk.catalog import Catalog
    from sdk.cli.refit import learn_from, profile_named
    from sdk.learning.sources import Sources as Known

    found = profile_named(profile, None, project)
    named = [*(reports or ()), *map(str, exported or ())]
    if exported:
        sightings = Known(Catalog(data_folder())).read(named)
    else:
        with opened(server, key_file) as client:
            sources = Known(Catalog(data_folder()), _Repository(client).manifest)
            sightings = [*sources.read(named), *_told(client, sources)]
    learn_from(sightings, found, project, out=out, unstable=unstable, dry_run=dry_run, json=json)


def _told(client: FleetClient, sources: Sources) -> Iterator[Sighting]:
    from sdk.learning.sources import lines

    chunks = client.stream("export", "measurements", form="jsonl")
    return sources.fleet(lines(_split(chunks), client.server))


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Bytes as they come -> lines."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


class _Repository:
    """The releases' manifests, as the server serves them to devices."""

    def __init__(self, client: FleetClient) -> None:
        from sdk.fleet.publisher import ServerStore

        self._store = ServerStore(client)

    def manifest(self, model: str, release: str, sha256: str) -> bytes | None:
        """A release's manifest; None where a device names what no release can be called."""
        from sdk.release.publish import manifest_place

        if not (_NAME.fullmatch(model) and _NAME.fullmatch(release) and _SHA256.fullmatch(sha256)):
            return None
        return self._store.read(manifest_place(f"models/{model}/{release}/manifest.json", sha256))
