"""The runner as a program that a device has already: `python -m agent.rig`. It is sent no code.

What an executable runner in another language does first is this module, and then
`agent.rig.serve`; docs/reference/protocol/rig.md has both in words.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from agent.rig.bootstrap import HELLO
from agent.rig.serve import serve


def main() -> None:
    """Answer the line that names the rig's folder, and go on as `agent.rig.serve`."""
    asked = json.loads(sys.stdin.buffer.readline())
    home = Path(asked["folder"]).expanduser()
    told: dict[str, object] = {HELLO: 1, "have": True, "folder": str(home)}
    try:
        home.mkdir(parents=True, exist_ok=True)
        told["free_bytes"] = shutil.disk_usage(home).free
    except OSError as error:
        told |= {"refused": "folder", "why": str(error)}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    if "refused" not in told:
        serve(str(home))


if __name__ == "__main__":
    main()
