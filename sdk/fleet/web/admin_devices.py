"""`/v1/admin`: devices, groups, reports and the numbers of a status."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from sdk.fleet.database import reading
from sdk.fleet.export import as_csv, as_lines
from sdk.fleet.server import Server
from sdk.fleet.store import access, devices, measurements, overview
from sdk.fleet.web.admin_models import (
    DeviceId,
    Done,
    Group,
    Item,
    Items,
    Moved,
    NewGroup,
    Why,
)
from sdk.fleet.web.desk import ALWAYS, Desk, Limit, Name, Operator, Viewer, write

router = APIRouter(prefix="/v1/admin", tags=["fleet"], responses=ALWAYS)


@router.get("/status")
def status(server: Desk, caller: Viewer) -> Item:
    """The fleet in numbers, and the rollouts that are not over."""
    with reading(server.engine) as connection:
        return overview.status(connection, caller.tenant, server.now_s())


@router.get("/devices")
def list_devices(
    server: Desk,
    caller: Viewer,
    group: Annotated[Group | None, Query()] = None,
    standing: Literal["accepted", "pending", "rejected", "quarantined"] | None = None,
    after: Annotated[str, Query(pattern=r"^[0-9a-f]{0,64}$")] = "",
    limit: Limit = 100,
) -> Items:
    """Devices, with what each should run, has activated and confirmed, and does run."""
    with reading(server.engine) as connection:
        found = devices.page(
            connection, caller.tenant, group=group, standing=standing, after=after, most=limit
        )
    return Items(items=found, after=found[-1]["id"] if len(found) == limit else None)


@router.get("/devices/{device_id}")
def show_device(server: Desk, caller: Viewer, device_id: DeviceId) -> Item:
    """All that is known of a device."""
    with reading(server.engine) as connection:
        return devices.show(connection, caller.tenant, device_id)


@router.post("/devices/{device_id}/accept")
def accept_device(server: Desk, caller: Operator, device_id: DeviceId) -> Done:
    """Let a device in that waits, was turned away or is quarantined."""
    write(
        server, caller, "device accepted", {"device": device_id},
        lambda connection: devices.accept(
            connection, caller.tenant, device_id, server.now_s()
        ),
    )  # fmt: skip
    return Done()


@router.post("/devices/{device_id}/reject")
def reject_device(server: Desk, caller: Operator, device_id: DeviceId, body: Why) -> Done:
    """Turn a device away, or remove it; what it runs goes on running there."""
    write(
        server, caller, "device rejected", {"device": device_id, "why": body.why},
        lambda connection: devices.reject(
            connection, caller.tenant, device_id, body.why, server.now_s()
        ),
    )  # fmt: skip
    return Done()


@router.put("/devices/{device_id}/group")
def move_device(server: Desk, caller: Operator, device_id: DeviceId, body: Moved) -> Done:
    """Put a device into a group."""
    write(
        server, caller, "device moved", {"device": device_id, "group": body.group},
        lambda connection: devices.move(
            connection, caller.tenant, device_id, body.group, server.now_s()
        ),
    )  # fmt: skip
    return Done()


@router.get("/groups")
def list_groups(server: Desk, caller: Viewer) -> Items:
    """Groups, with how many devices are in each."""
    with reading(server.engine) as connection:
        return Items(items=devices.groups(connection, caller.tenant))


@router.post("/groups")
def make_group(server: Desk, caller: Operator, body: NewGroup) -> Done:
    """Make a group."""
    done = write(
        server, caller, "group made", {"group": body.name},
        lambda connection: access.ensure_group(
            connection, caller.tenant, body.name, server.now_s()
        ),
    )  # fmt: skip
    return Done(done=done)


@router.delete("/groups/{group}")
def drop_group(server: Desk, caller: Operator, group: Name) -> Done:
    """Remove a group that no rollout is under way to."""
    write(
        server, caller, "group dropped", {"group": group},
        lambda connection: devices.drop_group(connection, caller.tenant, group),
    )  # fmt: skip
    return Done()


@router.get("/reports")
def reports(
    server: Desk,
    caller: Viewer,
    device: DeviceId | None = None,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Limit = 100,
    order: Literal["oldest", "newest"] = "oldest",
) -> Items:
    """Reports in the order in which they came; `after` is the last `id` that was seen.

    With the order `newest`, the last so many, whatever was seen; the newest is at the end of them.
    """
    with reading(server.engine) as connection:
        if order == "newest":
            return Items(items=overview.newest_reports(connection, caller.tenant, device, limit))
        found = overview.reports(connection, caller.tenant, device, after, limit)
    return Items(items=found, after=str(found[-1]["id"]) if len(found) == limit else None)


@router.get(
    "/export/{what}",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}, "application/x-ndjson": {}}}},
)
def export(
    server: Desk,
    caller: Viewer,
    what: Literal["devices", "reports", "measurements"],
    form: Literal["csv", "jsonl"] = "jsonl",
) -> StreamingResponse:
    """All devices or all reports, or each variant's time in them, a line each."""
    rows = _all(server, caller.tenant, what)
    if form == "csv":
        return StreamingResponse(as_csv(rows), media_type="text/csv")
    return StreamingResponse(as_lines(rows), media_type="application/x-ndjson")


def _all(server: Server, tenant: str, what: str) -> Iterator[Item]:
    """All of them, a page at a time, so that nothing waits for a slow reader."""
    return _measurements(server, tenant) if what == "measurements" else _items(server, tenant, what)


def _measurements(server: Server, tenant: str) -> Iterator[Item]:
    after: int | None = 0
    while after is not None:
        with reading(server.engine) as connection:
            found, after = measurements.page(connection, tenant, after, 1000)
        yield from found


def _items(server: Server, tenant: str, what: str) -> Iterator[Item]:
    after, number = "", 0
    while True:
        with reading(server.engine) as connection:
            if what == "devices":
                found = devices.page(connection, tenant, after=after, most=1000)
            else:
                found = overview.reports(connection, tenant, None, number, 1000)
        yield from found
        if len(found) < 1000:
            return
        after, number = str(found[-1]["id"]), found[-1]["id"]
