"""A tenant's repository: its files with ranges, cached for ever where a name tells the content."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import FileResponse
from starlette.responses import Response

from sdk.fleet.refusals import RefusedError
from sdk.fleet.web.desk import Desk
from sdk.fleet.web.errors import responses

_FOR_EVER = "public, max-age=31536000, immutable"
_PART = r"[A-Za-z0-9_@+=][A-Za-z0-9_.@+=-]{0,199}"
_SERVED = (
    (re.compile(r"blobs/sha256/([0-9a-f]{64})"), _FOR_EVER),
    (re.compile(rf"targets/models/{_PART}/{_PART}/([0-9a-f]{{64}})\.manifest\.json"), _FOR_EVER),
    (re.compile(rf"metadata/[0-9]{{1,16}}\.{_PART}\.json"), _FOR_EVER),
    (re.compile(r"metadata/timestamp\.json"), "no-cache"),
)
"""What is served of the folder, and for how long it may be kept."""
_RANGE = re.compile(r"bytes=(?:([0-9]{1,16})-([0-9]{0,16})|-[0-9]{1,16})")
"""One piece at a time: nobody who fetches needs more, and whoever floods does."""


router = APIRouter(prefix="/v1/repo", tags=["repository"])


@router.get(
    "/{tenant}/{path:path}",
    response_class=FileResponse,
    responses={
        200: {"content": {"application/octet-stream": {}}},
        206: {"description": "The part that was asked for."},
        416: {"description": "There is no such part."},
        **responses(400, 404),
    },
)
@router.head("/{tenant}/{path:path}", include_in_schema=False)
def file(
    server: Desk, tenant: str, path: str, part: Annotated[str | None, Header(alias="Range")] = None
) -> Response:
    """A file of a TUF repository: metadata, a manifest or a blob."""
    _check_range(part)
    own = server.tenants.get(tenant)
    if own is None:
        raise _missing(tenant, path)
    return _file(own.folder, tenant, path)


def _check_range(asked: str | None) -> None:
    """Whether that names a part of a file; Starlette would refuse it in a form of its own.

    Raises:
        RefusedError: it cannot.
    """
    found = _RANGE.fullmatch(asked or "bytes=0-")
    if found is None or (found[2] and int(found[1]) > int(found[2])):
        raise RefusedError(
            "malformed",
            f"There is no part {str(asked)[:80]!r} of a file.",
            cause="One part is sent at a time.",
            remedy="Ask for one: Range: bytes=0-1023",
        )


def _file(folder: Path, tenant: str, path: str) -> Response:
    for form, kept in _SERVED:
        found = form.fullmatch(path)
        if found is None:
            continue
        place = folder / path
        try:
            leaves = not place.resolve(strict=True).is_relative_to(folder.resolve())
            state = place.stat()
        except (OSError, RuntimeError) as error:  # the latter: links that lead in a circle
            raise _missing(tenant, path) from error
        if leaves or not stat.S_ISREG(state.st_mode):
            raise _missing(tenant, path)
        headers = {"Cache-Control": kept}
        if found.groups():  # its name is its content's
            headers["ETag"] = f'"{found[1]}"'
        kind = "application/json" if path.endswith(".json") else "application/octet-stream"
        return FileResponse(place, stat_result=state, media_type=kind, headers=headers)
    raise _missing(tenant, path)


def _missing(tenant: str, path: str) -> RefusedError:
    return RefusedError(
        "missing",
        f"The repository of {tenant[:80]!r} has no {path[:200]!r}.",
        cause="It was not published here.",
        remedy="Publish it, or look at the address.",
    )
