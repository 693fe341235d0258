"""All that a server's database holds, to be compared."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sdk.fleet import tables as t
from tests.fleet.world import World


def dump(
    world: World, *, without: Collection[str] = ("lease",), tenant: str | None = None
) -> dict[str, list[Any]]:
    """Table -> its rows, in one order.

    Args:
        world: whose database.
        without: tables that are left out.
        tenant: only what is this tenant's.
    """
    found: dict[str, list[Any]] = {}
    for table in t.metadata.sorted_tables:
        if table.name in without:
            continue
        wanted = table.select()
        if tenant is not None:
            if "tenant" in table.c:
                wanted = wanted.where(table.c.tenant == tenant)
            elif "device_id" in table.c:
                own = t.device.select().with_only_columns(t.device.c.id)
                wanted = wanted.where(table.c.device_id.in_(own.where(t.device.c.tenant == tenant)))
        found[table.name] = sorted(map(repr, world.rows(wanted)))
    return found
