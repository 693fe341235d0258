"""`sdk publish`, `assign`, `revoke` and `sdk repo refresh`: what goes to devices, and what not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.errors import StorageError, UsageError
from sdk.cli.keys import Json, Keys, Repo, opened
from sdk.cli.output import err_console, out_console, print_json

if TYPE_CHECKING:
    from sdk.release.publish import Published, Tell
    from sdk.release.repository import Repository
    from sdk.release.roles import Due

PUBLISH_EXAMPLE = "Example: sdk publish build/minilm --release 1.2.0 --repo repo --group line-3"
ASSIGN_EXAMPLE = "Example: sdk assign minilm 1.2.0 --group line-3 --export minilm.slipway"
REVOKE_EXAMPLE = "Example: sdk revoke minilm 1.2.0 --repo repo"
REPO_EXAMPLE = "Example: sdk repo refresh --repo repo"

Group = Annotated[str | None, typer.Option("--group", help="Assign it to a group.")]
Device = Annotated[str | None, typer.Option("--device", help="Assign it to a device, by its id.")]
Slower = Annotated[
    float | None,
    typer.Option(
        "--slower-at-most",
        metavar="RATIO",
        help="Devices refuse it if it takes more than so many times the latency of what runs "
        "there: 1.1 is a tenth more.",
    ),
]
Export = Annotated[
    Path | None,
    typer.Option("--export", metavar="FILE", help="Also write a package, for a USB stick."),
]
Profile = Annotated[
    list[str] | None,
    typer.Option("--profile", help="Only this profile's variants into the package; repeatable."),
]
_DEVICE_ID = re.compile(r"[0-9a-f]{32}")

repo_app = typer.Typer(name="repo", help="Keep a repository fresh.", no_args_is_help=True)


def publish(
    build: Annotated[Path, typer.Argument(help="A model's build folder, such as build/minilm.")],
    release: Annotated[str, typer.Option("--release", help="Its name, such as 1.2.0.")],
    repo: Repo = "repo",
    keys: Keys = Path("keys"),
    allow_unproven: Annotated[
        bool, typer.Option("--allow-unproven", help="Also what no device has proven yet.")
    ] = False,
    group: Group = None,
    device: Device = None,
    slower_at_most: Slower = None,
    export: Export = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Sign a build as one release for the whole fleet, and upload what is new of it.

    Devices take it once it is assigned to them: here with --group or --device, or by `sdk assign`.
    """
    from sdk.release.publish import publish as do_publish

    order = _Order(group, device, slower_at_most, export, profile)
    repository = opened(repo, keys)
    with _told() as tell:
        if order.is_one:
            repository.assignment_signers()  # before anything is published
        found = do_publish(repository, build, release, allow_unproven=allow_unproven, tell=tell)
        order.carry_out(repository, found, tell)
    _remember(repository, found)
    warn_of(repository.due())
    if json:
        print_json(order.as_json(found))
        return
    told = f"{found.model} {found.release} is release {found.release_counter} at {repo}: "
    told += f"{found.uploaded_bytes} bytes uploaded, {found.deltas} deltas"
    out_console().print(told + order.said, markup=False, soft_wrap=True)


def _remember(repository: Repository, found: Published) -> None:
    """Keep the manifest here: devices report by its hash, and a fit asks what that was."""
    from agent.folders import data_folder
    from sdk.catalog import Catalog
    from sdk.release.publish import manifest_place

    try:
        content = repository.store.read(manifest_place(found.path, found.manifest_sha256))
        if content is not None:
            Catalog(data_folder()).keep_release(content)
    except StorageError as error:  # what was asked for is published
        told = f"warning: this release is not in the history: {error}"
        err_console().print(told, markup=False, soft_wrap=True)


def assign(
    model: Annotated[str, typer.Argument(help="The model.")],
    release: Annotated[str, typer.Argument(help="One of its releases.")],
    repo: Repo = "repo",
    keys: Keys = Path("keys"),
    group: Group = None,
    device: Device = None,
    slower_at_most: Slower = None,
    export: Export = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Assign a release that is published to a group or a device, and export it as a package."""
    from sdk.release.publish import find

    order = _Order(group, device, slower_at_most, export, profile)
    repository = opened(repo, keys)
    with _told() as tell:
        found = find(repository, model, release)
        if repository.revoked(model).covers(found.release_counter):
            raise UsageError(
                f"{model} {release} is revoked.",
                cause="It was taken back; no device would take it.",
                remedy="Assign another release.",
            )
        order.carry_out(repository, found, tell, required=True)
    if json:
        print_json(order.as_json(found))
        return
    told = f"{model} {release} is release {found.release_counter} at {repo}"
    out_console().print(told + order.said, markup=False, soft_wrap=True)


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
    from sdk.release.publish import find

    repository = opened(repo, keys)
    found = find(repository, model, release)
    is_new = ceremony.revoke(repository, model, found.release_counter, below=below)
    told = f"{model} {release}{' and all before it' if below else ''} "
    told += "is revoked: devices that run it go back to what they ran before."
    if not is_new:
        told = f"{model} {release} is revoked already."
    out_console().print(told, markup=False, soft_wrap=True)


@repo_app.command("refresh", epilog=REPO_EXAMPLE)
def refresh(repo: Repo = "repo", keys: Keys = Path("keys"), json: Json = False) -> None:
    """Sign the repository's state anew: devices refuse one that is older than a day.

    What else will expire soon is signed anew too, where its keys are here.
    """
    repository = opened(repo, keys)
    written, due = repository.refresh()
    warn_of(due)
    if json:
        print_json({"written": written, "due": due})
        return
    out_console().print("\n".join(written), markup=False)


def warn_of(due: list[Due]) -> None:
    """Say what will expire, and whose keys are needed."""
    for one in due:
        warn(
            f"the {one.role} metadata expires at {one.expires}; bring "
            f"{', '.join(one.keys) or 'its keys'} and run sdk repo refresh"
        )


def warn(line: str) -> None:
    """Say what may go wrong later."""
    err_console().print(f"warning: {line}", markup=False, soft_wrap=True)


class _Order:
    """What the command line says of who gets a release."""

    def __init__(
        self,
        group: str | None,
        device: str | None,
        slower_at_most: float | None,
        export: Path | None,
        profiles: list[str] | None,
    ) -> None:
        from sdk.release.assign import check_whom
        from sdk.release.assign import slower_at_most as gate

        self.is_one = group is not None or device is not None
        if not self.is_one and (export is not None or slower_at_most is not None):
            raise UsageError(
                "--export and --slower-at-most need to know for whom.",
                cause="They belong to an assignment, which names a device or a group.",
                remedy="Add --group NAME or --device ID.",
            )
        if profiles and export is None:
            raise UsageError(
                "--profile says what goes into a package, and no package is asked for.",
                cause="A release always holds all profiles of its build.",
                remedy="Add --export FILE, or leave it out.",
            )
        if self.is_one:
            check_whom(device, group)
        if device is not None and not _DEVICE_ID.fullmatch(device):
            raise UsageError(
                f"{device!r} is no device's id.",
                cause="It has 32 hexadecimal digits.",
                remedy="Copy it from `sdk-agent status` on the device.",
            )
        self._group, self._device = group, device
        self._gates = () if slower_at_most is None else (gate(slower_at_most),)
        self.export, self._profiles = export, tuple(profiles or ())

    def carry_out(
        self, repository: Repository, found: Published, tell: Tell, *, required: bool = False
    ) -> None:
        """Write the assignment, and the package."""
        from sdk.release.assign import assign as do_assign
        from sdk.release.assign import assignment_for
        from sdk.release.package import export

        if not self.is_one and not required:
            return
        tell("assigning")
        assignment = do_assign(
            repository,
            assignment_for(found, device_id=self._device, group=self._group, gates=self._gates),
        )
        if self.export is not None:
            export(repository, assignment, self.export, self._profiles, tell)

    def as_json(self, found: Published) -> dict[str, Any]:
        """What was done."""
        return {
            **vars(found),
            "device_id": self._device,
            "group": self._group,
            "package": self.export,
        }

    @property
    def said(self) -> str:
        """The same for a person, after it is done."""
        told = (
            f"; assigned to {self._group or self._device}"
            if self.is_one
            else "; not assigned to anyone yet"
        )
        return told + (f"; the package is {self.export}" if self.export is not None else "")


@contextmanager
def _told() -> Iterator[Tell]:
    """Show what is being done: a live line in a terminal, plain lines in a log."""
    from sdk.cli.progress import shown
    from sdk.events import Event

    with shown(err_console(), lambda _: None) as on_event:
        yield lambda line: on_event(Event(kind="step", message=line))
