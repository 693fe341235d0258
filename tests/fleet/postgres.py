"""A real PostgreSQL for the tests: Debian's, started once for each worker in a folder of its own."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

INSTALLED = Path("/usr/lib/postgresql")
USER = "postgres"


@contextlib.contextmanager
def fresh_database() -> Iterator[str]:
    """The URL of an empty database."""
    base = running()
    name = f"fleet_{secrets.token_hex(6)}"
    admin = sa.create_engine(f"{base}/postgres", isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(sa.text(f"create database {name}"))
        yield f"{base}/{name}"
        with admin.connect() as connection:
            connection.execute(sa.text(f"drop database if exists {name} with (force)"))
    finally:
        admin.dispose()


@functools.cache
def running() -> str:
    """The address of a server of this process's own."""
    return Cluster().start()


class Cluster:
    """A PostgreSQL server in a folder, which can be stopped, killed and started again."""

    def __init__(self) -> None:
        found = sorted(INSTALLED.glob("*/bin"), key=lambda path: int(path.parent.name))
        if not found or os.geteuid() != 0:
            pytest.skip(
                "PostgreSQL is not installed, or this is not root: tests/install-postgres.sh"
            )
        self._bin = found[-1]
        self._folder = Path(tempfile.mkdtemp(prefix="slipway-postgres-"))
        shutil.chown(self._folder, USER)
        atexit.register(self.remove)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._run(
            "initdb", "-D", str(self._folder / "data"), "-A", "trust", "--no-sync", "-E", "UTF8"
        )

    def start(self) -> str:
        """Start it; the address of its databases."""
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1"
        self._run(
            "pg_ctl", "-D", str(self._folder / "data"), "-w", "-o", options,
            "-l", str(self._folder / "log"), "start",
        )  # fmt: skip
        return f"postgresql://{USER}@127.0.0.1:{self.port}"

    def stop(self, mode: str = "fast") -> None:
        """Stop it; `immediate` is a crash."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", mode, "stop", check=False)

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        command = ["runuser", "-u", USER, "--", str(self._bin / program), *arguments]
        found = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            stdin=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        assert not check or found.returncode == 0, found.stdout
