"""What was built when, from which model, with which result: one SQLite file per user."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
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
