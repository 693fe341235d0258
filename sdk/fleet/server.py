"""One process of a fleet server: what it is told, and what its parts share."""

from __future__ import annotations

import dataclasses
import random
import secrets
import time
from collections.abc import Mapping

import sqlalchemy as sa

from sdk.fleet.committer import Committer
from sdk.fleet.database import migrate, writing
from sdk.fleet.online import Tenant
from sdk.fleet.rules.pace import next_poll_s
from sdk.fleet.store.assignments import Assignments
from sdk.fleet.store.batch import Ask
from sdk.fleet.store.exchange import Exchange, Reply
from sdk.fleet.store.shared import shared_secret


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How the server behaves."""

    poll_s: float = 60.0
    """Between two polls of a device, where there is nothing to do."""
    tick_s: float = 2.0
    """Between two looks at the rollouts."""
    enrolments_per_minute: int = 120
    """From one address."""
    requests_per_minute: int = 600
    """Of one device: many times what an agent at work needs."""
    admin_per_minute: int = 600
    """With one API key."""
    trusted_proxies: str = ""
    """Addresses whose `X-Forwarded-For` is believed, as uvicorn takes them."""


class Server:
    """A process: its database, its tenants, the one thread that writes for devices."""

    def __init__(
        self, engine: sa.Engine, tenants: Mapping[str, Tenant], settings: Settings
    ) -> None:
        """Bring the database up to date, and begin to work.

        Raises:
            UsageError: the database was made by a newer version.
            StorageError: it cannot be written.
        """
        migrate(engine)
        self.engine = engine
        self.tenants = tenants
        self.settings = settings
        self.name = secrets.token_hex(8)
        """Of this process."""
        with writing(engine) as connection:
            self.fleet = shared_secret(connection, "fleet").hex()[:32]
            """Of the server: the same in all its processes."""
            self.nonce_secret = shared_secret(connection, "nonce")
        self.assignments = Assignments(tenants)
        exchange = Exchange(self.assignments, self._next_poll_s, settings.requests_per_minute)
        self.committer: Committer[Ask, Reply] = Committer(engine, exchange.carry_out)

    def close(self) -> None:
        """Answer what has come; then let go of the database."""
        self.committer.close()
        self.engine.dispose()

    def now_s(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def _next_poll_s(self) -> int:
        chance = random.random()  # noqa: S311  nobody gains by guessing it
        return next_poll_s(self.settings.poll_s, self.committer.waited_s, chance)
