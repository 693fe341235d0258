"""The command line: `sdk VERB`. Results go to stdout, talk to stderr.

One file per group of verbs. Errors become their exit code in one place, here; a traceback is shown
only with `--debug`, and a bug's is kept in a file.
"""

from __future__ import annotations

import sys

MINIMUM_PYTHON = (3, 11)
OURS = ("sdk", "targets", "agent", "profiles", "hil")


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.version_info < MINIMUM_PYTHON:  # the agent runs on 3.10, this command does not
        have = ".".join(map(str, sys.version_info[:2]))
        sys.stderr.write(f"error: sdk needs Python 3.11 or newer, this is {have}.\n")
        sys.exit(2)
    try:
        from sdk.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OURS:
            raise
        sys.stderr.write(
            f"error: sdk needs the package {error.name}, which is not installed here.\n"
            "       This is what a device has: sdk-agent, and a runtime at most.\n"
            "       To build, name what for: pip install 'slipway-sdk[intel]'. sdk-agent works.\n"
        )
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))
