"""A file that whoever opens it waits for, in the kernel: no signal ends that, as with a driver."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

_IN = struct.Struct("=IIQQIIII")
"""Length, opcode, unique, node, uid, gid, pid, padding (linux/fuse.h)."""
_OUT = struct.Struct("=IiQ")
_INIT = 26
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_VERSION = (7, 31)
_FORCE, _DETACH = 1, 2


@contextlib.contextmanager
def stuck_file(folder: Path) -> Iterator[Path]:
    """A path in a file system of this process, which answers nothing but that it is there.

    A request that was read and is never answered cannot be interrupted, not even by SIGKILL. With
    the end of the block all that wait are let go.
    """
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("a process that cannot be ended takes root and /dev/fuse")
    folder.mkdir(exist_ok=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"slipway", bytes(folder), b"fuse", 0, options.encode()):
        os.close(device)
        pytest.skip(f"FUSE cannot be mounted here: {os.strerror(ctypes.get_errno())}")
    threading.Thread(target=_serve, args=(device,), daemon=True).start()
    try:
        yield folder / "stuck"
    finally:
        libc.umount2(bytes(folder), _FORCE)  # what waits is answered with an error
        libc.umount2(bytes(folder), _DETACH)
        os.close(device)


def _serve(device: int) -> None:
    """Begin the file system; take every other request, and leave it."""
    with contextlib.suppress(OSError):
        while True:
            asked = os.read(device, 1 << 17)
            _, opcode, unique, *_ = _IN.unpack_from(asked)
            if opcode == _INIT:
                told = _INIT_OUT.pack(*_VERSION, 0, 0, 12, 9, 4096, 1, 1, 0, 0)
                os.write(device, _OUT.pack(_OUT.size + len(told), 0, unique) + told)
