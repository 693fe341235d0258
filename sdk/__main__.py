"""`python -m sdk` is `sdk`."""

import sys
from pathlib import Path

# `python -m` puts the current folder first on the path, where a user's own `agent/` may lie.
if sys.path and Path(sys.path[0] or ".").resolve() == Path.cwd():
    del sys.path[0]
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from sdk.cli import main

if __name__ == "__main__":
    main()
