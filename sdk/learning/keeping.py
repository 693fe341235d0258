"""What reports taught, into a copy of the profile: nothing else of its file changes.

A profile of the package is copied to the user's own folder, which comes first from then on; one of
the project's or the user's is changed in its place, and what it was lies beside it, as `.old`. The
lines that are not about what was learnt stay as they stand, comments included.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from agent.errors import UsageError
from agent.folders import config_folder
from profiles import PACKAGE_FOLDER, Profile, Scale, files, parse
from sdk.detect import keep_scales, replace_kept, scale_toml
from sdk.project import profile_folders

_HEAD = re.compile(r"\s*\[")
_OURS = re.compile(r'\s*\[\s*fitted\s*\.\s*(?:[\w-]+|"[^"]*")\s*\.\s*\w+\s*\.\s*scale\s*[.\]]')


def keep(profile: Profile, scales: tuple[Scale, ...], project: Path, out: Path | None) -> Path:
    """Write a profile with these factors; where it is now.

    Args:
        profile: as it was found.
        scales: all that it is to have.
        project: its own profiles come first.
        out: where to write it, instead of where it will be found.

    Raises:
        UsageError: the file has a form that its lines cannot be changed in.
        StorageError: it cannot be written.
    """
    if profile.is_host:
        if out is None:
            return keep_scales(profile, scales)
        from sdk.detect import profile_toml

        named = dataclasses.replace(profile, name=out.stem, scales=scales)
        replace_kept(out, profile_toml(named).encode())
        return out
    source = file_of(profile, project)
    text = source.read_text(encoding="utf-8")
    place = out or _place(profile, source)
    replace_kept(place, with_scales(text, scales, str(source), place.stem).encode())
    return place


def file_of(profile: Profile, project: Path) -> Path:
    """The file that a profile was read from."""
    if profile.origin != "package":
        return Path(profile.origin)
    folders = profile_folders(project)
    return next(
        path
        for path in files(folders)
        if path.stem == profile.name and path.is_relative_to(PACKAGE_FOLDER)
    )


def with_scales(text: str, scales: tuple[Scale, ...], origin: str, name: str) -> str:
    """A profile's text with these factors in place of those that it had.

    Args:
        text: of the file.
        scales: all that it is to have.
        origin: what messages call it.
        name: that its own word for its name has to be.

    Raises:
        UsageError: the text is no profile, or its form hides where the factors are.
    """
    before = parse(text, origin)
    lines, ours = [], False
    for line in text.splitlines():
        if _HEAD.match(line):
            ours = bool(_OURS.match(line))
        if not ours:
            lines.append(line)
    while lines and not lines[-1].strip():
        lines.pop()
    for scale in scales:
        lines += scale_toml(scale)
    found = "\n".join(lines) + "\n"
    if name != before.name:
        found = re.sub(r'(?m)^name\s*=\s*".*"$', f'name = "{name}"', found, count=1)
    wanted = dataclasses.replace(before, scales=scales, name=name)
    try:
        is_right = parse(found, origin) == wanted
    except UsageError:
        is_right = False
    if not is_right:
        raise UsageError(
            f"{origin} cannot be changed line by line.",
            cause="What was learnt stands there in another form than a table of its own.",
            remedy="Remove fitted.TOOLCHAIN.ENGINE.scale from it, and run the command again.",
        )
    return found


def _place(profile: Profile, source: Path) -> Path:
    if profile.origin != "package":
        return source
    return config_folder() / "profiles" / profile.target / f"{profile.name}.toml"
