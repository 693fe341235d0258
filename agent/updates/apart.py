"""What a preflight's process does first: it leaves the network.

A model that runs before anybody knows what it does has nobody to talk to. On Linux a process can
have a network of its own with nothing in it: root's, and anybody's where user namespaces are
allowed. Nothing of size is imported before, since who has threads may not change that namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # sched.h; os.unshare came with Python 3.12


def main(parent: str, questions: str, answers: str) -> None:
    """Leave the network, and serve; see `agent.updates.preflight`."""
    refused = leave_network()
    from agent.updates.preflight import main as serve

    serve(parent, questions, answers, refused)


def leave_network() -> str:
    """Leave every network for good, with all children to come; why it was refused, else "".

    Nothing else changes: the user, its files and its devices stay what they are.
    """
    if sys.platform != "linux":
        return f"{sys.platform} has no network namespaces"
    refused = _unshared(_NEW_NETWORK)
    if not refused:
        return ""
    user, group = os.geteuid(), os.getegid()
    refused = _unshared(_NEW_USER | _NEW_NETWORK)
    if not refused:
        # Under its own number, not as nobody: what asks who it is, is told the truth.
        for name, content in (
            ("uid_map", f"{user} {user} 1"),
            ("setgroups", "deny"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with contextlib.suppress(OSError):
                Path("/proc/self", name).write_text(content)
    return refused


def _unshared(flags: int) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) == 0:
        return ""
    return os.strerror(ctypes.get_errno())
