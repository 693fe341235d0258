"""`sdk profiles`: list device types, show one, compare two, check a file, detect this machine's."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.errors import UsageError
from agent.files import storage_errors
from sdk.cli.output import err_console, out_console, print_json

if TYPE_CHECKING:
    from profiles import Profile
    from sdk.profile_check import Suspicion

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ProjectFolder = Annotated[Path, typer.Option("--project", help="Its own profiles come first.")]

profiles_app = typer.Typer(
    help="Device types: list them, show one, compare two, check a file, detect this machine's.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Example: sdk profiles show core-ultra-155h",
)


@profiles_app.command("list", epilog="Example: sdk profiles list")
def list_profiles(project: ProjectFolder = Path(), json: Json = False) -> None:
    """All profiles: the project's, the user's, the package's."""
    from profiles import all_profiles
    from sdk.project import profile_folders
    from sdk.report.profiles import listing

    found = sorted(
        all_profiles(profile_folders(project)).values(), key=lambda p: (p.target, p.name)
    )
    if json:
        keys = ("name", "target", "title", "memory_bytes", "status", "origin")
        print_json([{key: getattr(profile, key) for key in keys} for profile in found])
        return
    out_console().print(listing(found))


@profiles_app.command("show", epilog="Example: sdk profiles show core-ultra-155h")
def show_profile(
    name: Annotated[str, typer.Argument(help="A profile's name, or `host`.")],
    project: ProjectFolder = Path(),
    toml: Annotated[bool, typer.Option("--toml", help="Print it as a profile's file.")] = False,
    json: Json = False,
) -> None:
    """One profile: its engines, memory, rates and software, each figure with its source."""
    from sdk.cli.refit import profile_named
    from sdk.detect import profile_toml
    from sdk.report.profiles import drawing

    profile = profile_named(name, None, project)
    if json:
        print_json(profile)
    elif toml:
        out_console().print(profile_toml(profile), markup=False, soft_wrap=True, end="")
    else:
        out_console().print(drawing(profile))


@profiles_app.command("check", epilog="Example: sdk profiles check profiles/my-board.toml")
def check_profiles(
    files: Annotated[list[Path], typer.Argument(help="Profiles to check.")],
    project: ProjectFolder = Path(),
    json: Json = False,
) -> None:
    """Is a profile well-formed, free of contradictions, and as it was probably meant?

    Exit code 2 where one is wrong; what is only suspicious is printed and exits with 0.
    """
    checked = list(_checked(files, project))
    if json:
        print_json(checked)
    else:
        for line in (line for entry in checked for line in _lines(entry)):
            out_console().print(line, markup=False, soft_wrap=True)
    if any(entry.error for entry in checked):
        raise typer.Exit(UsageError.exit_code)


@profiles_app.command("detect", epilog="Example: sdk profiles detect --out profiles/mine.toml")
def detect_profile(
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="The one of this machine's kind if not given."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write it there; stdout otherwise.")
    ] = None,
    json: Json = False,
) -> None:
    """This machine as a profile: CPU, ISA flags, cores, memory, measured bandwidth and peak."""
    from agent.files import write_atomic
    from agent.folders import cache_folder
    from sdk.detect import detect, host_target, profile_toml

    with err_console().status("measuring bandwidth and peak"):
        profile = detect(target or host_target(), cache_folder())
    if json:
        print_json(profile)
    elif out is None:
        out_console().print(profile_toml(profile), markup=False, soft_wrap=True, end="")
    else:
        named = dataclasses.replace(profile, name=out.stem)  # a file is called as its profile is
        write_atomic(out, profile_toml(named).encode())
        err_console().print(f"written to {out}", markup=False)


@profiles_app.command("diff", epilog="Example: sdk profiles diff n100 profiles/n100.toml")
def diff_profiles(
    left: Annotated[str, typer.Argument(help="A profile's name or file, or `host`.")],
    right: Annotated[str, typer.Argument(help="Another one, such as the `.old` beside it.")],
    project: ProjectFolder = Path(),
    json: Json = False,
) -> None:
    """Two profiles side by side, where they differ: facts, fitted constants, their provenance."""
    from sdk.profile_diff import diff
    from sdk.report.profiles import side_by_side

    found = diff(_named(left, project), _named(right, project))
    if json:
        print_json({"left": left, "right": right, "differences": found})
    elif found:
        out_console().print(side_by_side(left, right, found))
    else:
        out_console().print("no difference", markup=False)


def _named(name: str, project: Path) -> Profile:
    """A profile by its name, or the one in a file, which may be called otherwise."""
    from profiles import parse
    from sdk.cli.refit import profile_named

    path = Path(name)
    if path.suffix in (".toml", ".old") or path.is_file():
        with storage_errors(path):
            return parse(path.read_text(encoding="utf-8"), name)
    return profile_named(name, None, project)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Checked:
    """What was found in one file."""

    file: str
    profile: str | None
    """Its name; null where the file is wrong."""
    error: dict[str, str] | None
    warnings: tuple[Suspicion, ...]


def _checked(paths: Iterable[Path], project: Path) -> Iterator[_Checked]:
    from profiles import load
    from sdk.profile_check import check_target, suspicions
    from targets import target_names

    read: dict[Path, Profile] = {}
    wrong: dict[Path, dict[str, str]] = {}
    for path in dict.fromkeys(paths):
        try:
            found = load(path)
            check_target(found, target_names())
            read[path] = found
        except UsageError as error:
            wrong[path] = {"what": error.what, "cause": error.cause, "remedy": error.remedy}
    known = tuple(_known(project, {path.resolve() for path in read}))
    for path in dict.fromkeys(paths):
        profile = read.get(path)
        beside = [other for other in read.values() if other is not profile]
        warned = suspicions(profile, [*beside, *known], targets=target_names()) if profile else ()
        yield _Checked(
            file=str(path),
            profile=profile.name if profile else None,
            error=wrong.get(path),
            warnings=tuple(warned),
        )


def _known(project: Path, checked: set[Path]) -> Iterator[Profile]:
    """The project's profiles, the user's and the package's, but for the files being checked."""
    from profiles import files, load
    from sdk.project import profile_folders

    for file in dict.fromkeys(path.resolve() for path in files(profile_folders(project))):
        if file in checked:
            continue
        # One that is malformed is told to whoever checks it.
        with contextlib.suppress(UsageError):
            yield load(file)


def _lines(entry: _Checked) -> Iterator[str]:
    count = len(entry.warnings)
    warned = f", {count} warning{'s' if count > 1 else ''}" if count else ""
    yield f"{entry.file}: {'wrong' if entry.error else 'ok'}{warned}"
    if entry.error:
        yield f"  error: {entry.error['what']}"
        yield from (f"         {entry.error[key]}" for key in ("cause", "remedy"))
    for warning in entry.warnings:
        yield f"  warning: {warning.path} {warning.what}."
        yield f"           {warning.remedy}"
