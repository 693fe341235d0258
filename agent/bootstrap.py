"""Start a module of this package in a process of its own, whichever Python runs it.

The child finds the package by its place. So any Python will do, whether Slipway is installed in it
or not; an `agent/` in the current folder or on the path does not get in the way; and nothing that
lies beside us, in a `site-packages` of another Python, comes into reach.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_CODE = """\
import importlib, importlib.util, sys
sys.path[:] = [entry for entry in sys.path if entry]
spec = importlib.util.spec_from_file_location(
    "agent", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["agent"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["agent"])
importlib.import_module(sys.argv[2]).main(*sys.argv[3:])
"""


def own_command(module: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """The command that calls `module.main(<our process>, *arguments)`, all of them strings."""
    folder = str(Path(__file__).parent)
    return [python, "-c", _CODE, folder, module, str(os.getpid()), *arguments]
