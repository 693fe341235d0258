"""What was built when, from which model, with which result: one SQLite file per user."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import StorageError
from agent.imports import without
from sdk.summary import Summary

_FILE = "catalog.sqlite"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Build:
    """One build of one model for one profile."""

    id: int
    when: str
    """UTC, ISO 8601."""
    model: str
    program_digest: str
    project: str
    profile: str
    verdict: str
    selected: str | None
    p50_ms: float | None
    drop: float | None
    seconds: float


class Catalog:
    """The builds of this user on this machine."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE

    def record(self, summary: Summary, project: Path, out: Path) -> None:
        """Add a finished build.

        Raises:
            StorageError: the catalog cannot be written.
        """
        when = datetime.datetime.fromtimestamp(summary.started, datetime.timezone.utc).isoformat()
        with self._opened() as store:
            for result in summary.results:
                build = {
                    "when": when,
                    "model": summary.model,
                    "program_digest": summary.program_digest,
                    "project": str(project),
                    "out": str(out),
                    "profile": result.profile,
                    "verdict": result.verdict,
                    "selected": result.selected,
                    "seconds": summary.seconds,
                    "host": json.dumps(summary.host.identity),
                    "tool_versions": json.dumps(summary.tool_versions),
                }
                build_id = store["builds"].insert(build, pk="id").last_pk
                store["reports"].insert_all(
                    (
                        {
                            "build": build_id,
                            "identifier": candidate.identifier,
                            "status": candidate.status,
                            "role": candidate.role,
                            "reason": candidate.reason,
                            "size_bytes": candidate.size_bytes,
                            "p50_ms": candidate.latency_ms.p50 if candidate.latency_ms else None,
                            "drop": candidate.accuracy.drop if candidate.accuracy else None,
                            "peak_memory_bytes": candidate.peak_memory_bytes,
                        }
                        for candidate in result.candidates
                    ),
                    foreign_keys=(("build", "builds", "id"),),
                )

    def keep_reports(self, content: bytes, program: str) -> None:
        """Keep what a build measured, and the operators of its program; the same ones once.

        Args:
            content: of its `reports.json`.
            program: the digest of the program that they are of.

        Raises:
            StorageError: the catalog cannot be written.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        row = {"sha256": sha256, "program": program, "content": content}
        with self._opened() as store:
            store["report_files"].insert(row, pk="sha256", ignore=True)

    def reports(self, program: str | None = None) -> list[bytes]:
        """The kept `reports.json` of builds, the oldest first; of one program, or of all."""
        query = "select content from report_files where :p is null or program = :p order by rowid"
        return self._contents("report_files", query, {"p": program})

    def keep_release(self, content: bytes) -> None:
        """Keep the signed manifest of a release: fleets report by its hash.

        Raises:
            StorageError: the catalog cannot be written.
        """
        row = {"sha256": hashlib.sha256(content).hexdigest(), "content": content}
        with self._opened() as store:
            store["releases"].insert(row, pk="sha256", ignore=True)

    def release(self, sha256: str) -> bytes | None:
        """A release's manifest; None where it was not published from here."""
        query = "select content from releases where sha256 = :s"
        return next(iter(self._contents("releases", query, {"s": sha256})), None)

    def _contents(self, table: str, query: str, values: dict[str, str | None]) -> list[bytes]:
        if not self._path.is_file():
            return []
        with self._opened() as store:
            if not store[table].exists():
                return []
            return [row["content"] for row in store.query(query, values)]

    def builds(self, model: str | None = None, limit: int = 20) -> list[Build]:
        """The latest builds, newest first."""
        if not self._path.is_file():
            return []
        query = """
            select builds.*, reports.p50_ms, reports."drop" from builds
            left join reports
              on reports.build = builds.id and reports.identifier = builds.selected
            where :model is null or builds.model = :model
            order by builds.id desc limit :limit
        """
        names = {field.name for field in dataclasses.fields(Build)}
        with self._opened() as store:
            if not store["builds"].exists():
                return []
            rows: Iterator[dict[str, Any]] = store.query(query, {"model": model, "limit": limit})
            return [Build(**{k: v for k, v in row.items() if k in names}) for row in rows]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        with without("pandas"):  # which it offers to take: a third of a rebuild's time
            import sqlite_utils

        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=10)
            with contextlib.closing(connection), connection:
                yield sqlite_utils.Database(connection)
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"The catalog {self._path} cannot be used: {error}.",
                cause="The disk is full, the folder is read-only, or the file is damaged.",
                remedy="Mend that, or name another folder in SLIPWAY_DATA; no build is affected.",
            ) from error
