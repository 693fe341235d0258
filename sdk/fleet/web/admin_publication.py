"""`/v1/admin`: what a publisher sends: files by their hashes, then the metadata that names them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.concurrency import run_in_threadpool

from agent.errors import VerificationError
from agent.updates.fetch import blob_path
from sdk.fleet.publication import accept, receive
from sdk.fleet.refusals import RefusedError
from sdk.fleet.web.admin_models import Changes, Item, Received
from sdk.fleet.web.desk import ALWAYS, Desk, Operator, Viewer, tenant_of, write

router = APIRouter(prefix="/v1/admin", tags=["publication"], responses=ALWAYS)
Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
Part = Annotated[str, Path(pattern=r"^[A-Za-z0-9_@+=][A-Za-z0-9_.@+=-]{0,199}$")]
_BYTES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("/me")
def me(caller: Viewer) -> Item:
    """Whose key this is."""
    return {"tenant": caller.tenant, "name": caller.name, "role": caller.role}


@router.put("/blobs/{sha256}", openapi_extra=_BYTES)
async def put_blob(server: Desk, caller: Operator, request: Request, sha256: Sha256) -> Received:
    """Add a file, which is named by its hash; one that is there is read and left as it is."""
    place = tenant_of(server, caller).folder / blob_path(sha256)
    return Received(length=await receive(place, sha256, request.stream()))


@router.put("/manifests/{model}/{release}/{sha256}", openapi_extra=_BYTES)
async def put_manifest(
    server: Desk, caller: Operator, request: Request, model: Part, release: Part, sha256: Sha256
) -> Received:
    """Add a release's manifest; nobody sees it before metadata names it."""
    folder = tenant_of(server, caller).folder / "targets" / "models" / model / release
    place = folder / f"{sha256}.manifest.json"
    return Received(length=await receive(place, sha256, request.stream()))


@router.post("/changes")
async def change(server: Desk, caller: Operator, body: Changes) -> Item:
    """Take new metadata, if whoever has to sign it did; snapshot and timestamp follow."""
    contents = {name: text.encode() for name, text in body.metadata.items()}
    tenant = tenant_of(server, caller)
    try:
        written = await run_in_threadpool(accept, tenant, contents)
    except VerificationError as error:  # of what was sent: the server itself is well
        raise RefusedError(
            "impossible", error.what, cause=error.cause, remedy=error.remedy
        ) from error
    about = {"roles": sorted(contents)}
    await run_in_threadpool(write, server, caller, "published", about, lambda _: None)
    return {"written": written}
