"""Run a process of the fleet server: its web side, its chores, its log; until it is to stop."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from agent.errors import StorageError, UsageError
from agent.files import write_atomic
from sdk.fleet.chores import chores
from sdk.fleet.database import open_database, writing
from sdk.fleet.online import Tenant
from sdk.fleet.server import Server, Settings
from sdk.fleet.store.access import make_key
from sdk.fleet.tables import api_key
from sdk.fleet.web.app import make_app
from sdk.fleet.web.connection import Connection

STOP_S = 10
"""A request that is on its way has so long to come to its end."""
_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonLines(logging.Formatter):
    """One JSON object a line: what a client sent is data in it, and cannot begin a line."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as JSON."""
        told: dict[str, Any] = {
            "at": dt.datetime.fromtimestamp(record.created, tz=dt.timezone.utc).isoformat(),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        told |= {name: value for name, value in vars(record).items() if name not in _KNOWN}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def serve(
    *,
    database: str,
    tenants: Mapping[str, Tenant],
    settings: Settings,
    host: str,
    port: int,
    keys_folder: Path,
    ready: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C; what is on its way is answered first.

    Args:
        database: its URL.
        tenants: by name.
        settings: how it behaves.
        host: to listen at.
        port: to listen at; 0 for any that is free.
        keys_folder: where the first admin's key of each tenant is put, as `<tenant>.key`.
        ready: is told the address once it answers.

    Raises:
        UsageError: a tenant's repository or keys are not here, or the database is a newer one's.
        StorageError: the database cannot be used, or the port is.
    """
    for tenant in tenants.values():
        tenant.check()
    listener = _listening(host, port)
    with contextlib.closing(listener):
        server = Server(open_database(database), tenants, settings)
        with contextlib.closing(server):
            _first_keys(server, keys_folder)
            _log_json()
            _allow_connections()
            sys.setswitchinterval(0.001)  # the one thread that writes should not hold others up
            app = make_app(server)
            app.router.lifespan_context = _lifespan(server, lambda: ready(_address(listener)))
            config = uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=STOP_S,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=settings.trusted_proxies or None,
            )
            # uvicorn ends in order, and sends the signal again: what follows is to be done too.
            signal.signal(signal.SIGTERM, lambda *_: None)
            uvicorn.Server(config).run(sockets=[listener])


def _lifespan(server: Server, ready: Callable[[], None]) -> Any:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async def work() -> None:
            while True:
                await run_in_threadpool(chores, server)
                await asyncio.sleep(server.settings.tick_s)

        task = asyncio.create_task(work())
        # What stays for ever need not be looked through again: that held all polls up for 0.1 s.
        gc.collect()
        gc.freeze()
        ready()
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return lifespan


def _listening(host: str, port: int) -> socket.socket:
    """The port, taken before anything is written.

    Raises:
        UsageError: there is no such address here.
        StorageError: it is in use.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        kind = UsageError if isinstance(error, OverflowError | socket.gaierror) else StorageError
        raise kind(
            f"The server cannot listen at {host}:{port}: {error}.",
            cause="Another process listens there, or the address is not this machine's.",
            remedy="Stop it, or name another one: --port 8001",
        ) from error
    listener.settimeout(0)
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _first_keys(server: Server, folder: Path) -> None:
    """Each tenant has an admin's key from the beginning, in a file that its owner alone reads."""
    for tenant in server.tenants:
        with writing(server.engine) as connection:
            found = connection.execute(
                api_key.select().where(api_key.c.tenant == tenant).limit(1)
            ).first()
            if found is not None:
                continue
            _, key = make_key(connection, tenant, "first admin", "admin", server.now_s())
            write_atomic(folder / f"{tenant}.key", f"{key}\n".encode(), mode=0o600)


def _allow_connections() -> None:
    """Each connection takes a file; shells allow 1,024 of them, and systems many more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _log_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    level = os.environ.get("SLIPWAY_LOG", "INFO").upper()
    for name in ("slipway.fleet", "uvicorn.error"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel("WARNING" if name == "uvicorn.error" else level)
