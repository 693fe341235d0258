"""One world for each test: a server in a folder, SQLite or PostgreSQL, listening at a port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.client import Client
from tests.fleet.postgres import fresh_database
from tests.fleet.world import World, listening


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fleet.db'}"
    else:
        with fresh_database() as url:
            yield url


@pytest.fixture
def world(tmp_path: Path, database: str) -> Iterator[World]:
    """A server on each kind of database."""
    made = World(tmp_path, database)
    yield made
    made.close()


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    """Asks that server."""
    with listening(world) as address, Client(address, world) as made:
        yield made
