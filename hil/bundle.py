"""What is pushed to a rig before anything else: the agent's measuring half, as one file.

It holds what the rig's runner and its jobs import, and nothing of updates: found by reading the
imports, so a new module is in it without a list that somebody has to keep.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import agent

_ROOT = Path(agent.__file__).parent
_BEGIN = ("agent", "agent.rig.serve", "agent.rig.job", "agent.contestant")
_LEFT_OUT = ("agent.active",)
"""For whoever asks for what is installed: with it would come all that installs."""
_THEN = (1980, 1, 1, 0, 0, 0)  # the same code gives the same bytes, whenever it was written


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A zip file, and its hash."""

    content: bytes
    sha256: str


@functools.cache
def bundle() -> Bundle:
    """The code, packed; it is the same for the same code."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in modules():
            entry = zipfile.ZipInfo(f"agent/{path.relative_to(_ROOT).as_posix()}", _THEN)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    content = packed.getvalue()
    return Bundle(content, hashlib.sha256(content).hexdigest())


@functools.cache
def bootstrap() -> bytes:
    """The first program that a rig runs, as it is sent."""
    return (_ROOT / "rig" / "bootstrap.py").read_bytes() + b"\nbegin()\n"


@functools.cache
def modules() -> tuple[Path, ...]:
    """The files that are packed, in the order of their names."""
    found: dict[str, Path] = {}
    waiting = [*_BEGIN, *(f"agent.sessions.{path.stem}" for path in _sessions())]
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        if path is None or name in found or name in _LEFT_OUT:
            continue
        found[name] = path
        waiting += [name.rpartition(".")[0], *_imports(path)]
    return tuple(sorted(found.values()))


def _sessions() -> Iterator[Path]:
    return (path for path in (_ROOT / "sessions").glob("*.py") if path.stem != "__init__")


def _file_of(name: str) -> Path | None:
    inside = _ROOT.joinpath(*name.split(".")[1:])
    for path in (inside.with_suffix(".py"), inside / "__init__.py"):
        if name.partition(".")[0] == "agent" and path.is_file():
            return path
    return None


def _imports(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
