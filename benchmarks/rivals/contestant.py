"""The Python of a contestant that runs in PyTorch: the same child, with one more kind of session.

`agent.bench` lets every contestant name its own Python. The script that `write_python` writes is
such a one: it gets the same arguments, starts the same child, and lets it find the sessions of
sessions/ beside the agent's.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
_SCRIPT = """#!{python}
import sys
sys.path[:] = [{root!r}, *(entry for entry in sys.path[1:] if entry)]
from benchmarks.rivals.contestant import extend
extend()
if sys.argv[1] == "-c":
    from agent.contestant import main
    main(*map(int, sys.argv[4:]))
"""


def write_python(path: Path) -> Path:
    """Write the script; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_SCRIPT.format(python=sys.executable, root=str(HERE.parent.parent)))
    path.chmod(0o755)
    return path


def extend() -> None:
    """Let `agent.sessions` find the sessions of this benchmark."""
    from agent import sessions

    folder = str(HERE / "sessions")
    if folder not in sessions.__path__:
        sessions.__path__.append(folder)
