"""What a rig costs: a run beside the bare remote command, a first push beside `scp`.

As root, with Debian's openssh-server and iproute2: a real server on this machine, bare and in a
network namespace whose link is shaped to 200 Mbit/s.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent.files import sha256_of
from hil import bench
from hil.inventory import RigEntry, parse_inventory
from hil.link import open_line
from hil.rig import Rig
from tests.hil.variants import tiny_onnx

if TYPE_CHECKING:
    from benchmarks.run import Row

SCRIPT = Path(__file__).parents[1] / "hil" / "rigs" / "loopback.sh"
RUNS = 7
BARE_BYTES, SHAPED_BYTES = 256 << 20, 50 << 20
NAMESPACE, OURS, THEIRS = "slipway-bench", "10.213.7.1", "10.213.7.2"
_LOOK = "import sys; sys.path.insert(0, sys.argv[1]); from agent.rig.job import look; look()"


class Served:
    """A server in a folder of its own; in a namespace, where one is named."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", namespace: str = "") -> None:
        folder.mkdir(parents=True)
        for above in (folder, *folder.parents):
            with contextlib.suppress(PermissionError):
                above.chmod(above.stat().st_mode | 0o011)
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        told = subprocess.run(
            [*inside, "bash", str(SCRIPT), "up", str(folder), "--address", address], check=True,
            capture_output=True, text=True,
        ).stdout  # fmt: skip
        self._folder = folder
        self._inventory = parse_inventory(told, folder / "hil.toml")
        self.entry: RigEntry = self._inventory.rig("loopback")

    def open(self) -> Rig:
        line = open_line(self.entry, self._inventory, self._folder / "known_hosts")
        rig = Rig(self.entry.name, line, self.entry.folder)
        rig.lease("a benchmark", lambda _: None, wait_s=30)
        return rig

    def ssh(self, program: str) -> list[str]:
        """The words that `ssh` and `scp` share."""
        port = ["-P" if program == "scp" else "-p", str(self.entry.port)]
        return [
            program, "-q", *port, "-i", str(self.entry.key),
            "-o", f"UserKnownHostsFile={self._folder / 'known_hosts'}",
            "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-F", "none",
        ]  # fmt: skip

    @property
    def host(self) -> str:
        return f"{self.entry.user}@{self.entry.host}"

    def close(self) -> None:
        subprocess.run(["bash", str(SCRIPT), "down", str(self._folder)], check=True)


def overhead(folder: Path) -> Iterator[Row]:
    """A run with nothing to push, beside the same work as a bare remote command."""
    from benchmarks.run import Row

    with contextlib.closing(Served(folder / "overhead")) as served:
        (folder / "variant").mkdir()
        variant = tiny_onnx(folder / "variant")
        with served.open() as rig:
            bench.push_variant(rig, variant)
            code = Path(served.entry.folder) / "code"
        place = str(next(code.iterdir()))
        command = [*served.ssh("ssh"), served.host, f"python3 -c '{_LOOK}' {place}"]
        ours, bare = [], []
        for _ in range(RUNS):
            began = time.perf_counter()
            with served.open() as rig:
                bench.push_variant(rig, variant)
                bench.look(rig)
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            bare.append(time.perf_counter() - began)
        print(f"ours {_told(ours)}, bare {_told(bare)} s")
        yield Row(
            name="a run on a rig beyond the bare remote command",
            value=statistics.median(ours) - statistics.median(bare), bound=1.5, unit="s",
        )  # fmt: skip


def pushes(folder: Path) -> Iterator[Row]:
    """A first push beside `scp`, bare and over 200 Mbit/s."""
    from benchmarks.run import Row

    with contextlib.closing(Served(folder / "bare")) as served:
        ratio = _push(served, folder, BARE_BYTES)
        yield Row(name="a first push / scp, bare loopback", value=ratio, bound=2.0, unit="x")
    with _shaped(), contextlib.closing(Served(folder / "shaped", THEIRS, NAMESPACE)) as served:
        ratio = _push(served, folder, SHAPED_BYTES)
        yield Row(name="a first push / scp, 200 Mbit/s", value=ratio, bound=1.3, unit="x")


def _push(served: Served, folder: Path, length: int) -> float:
    """The median over turns, connections included."""
    ours, theirs = [], []
    for turn in range(3):
        path = folder / f"content-{turn}"
        path.write_bytes(os.urandom(length))
        began = time.perf_counter()
        with served.open() as rig:
            rig.push({sha256_of(path): path})
        ours.append(time.perf_counter() - began)
        target = f"{served.host}:{served.entry.folder}/copy-{turn}"
        began = time.perf_counter()
        subprocess.run([*served.ssh("scp"), str(path), target], check=True)
        theirs.append(time.perf_counter() - began)
        path.unlink()
    print(f"{length >> 20} MiB: ours {_told(ours)}, scp {_told(theirs)} s")
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


@contextlib.contextmanager
def _shaped() -> Iterator[None]:
    """A link to a namespace, shaped on both sides."""
    shape = ["root", "tbf", "rate", "200mbit", "burst", "256kb", "latency", "50ms"]
    inside = ["ip", "netns", "exec", NAMESPACE]
    subprocess.run(["ip", "netns", "del", NAMESPACE], check=False, capture_output=True)
    try:
        for command in (
            ["ip", "netns", "add", NAMESPACE],
            ["ip", "link", "add", "sw-bench", "type", "veth", "peer", "name", "sw-rig"],
            ["ip", "link", "set", "sw-rig", "netns", NAMESPACE],
            ["ip", "addr", "add", f"{OURS}/24", "dev", "sw-bench"],
            ["ip", "link", "set", "sw-bench", "up"],
            [*inside, "ip", "addr", "add", f"{THEIRS}/24", "dev", "sw-rig"],
            [*inside, "ip", "link", "set", "sw-rig", "up"],
            [*inside, "ip", "link", "set", "lo", "up"],
            ["tc", "qdisc", "add", "dev", "sw-bench", *shape],
            [*inside, "tc", "qdisc", "add", "dev", "sw-rig", *shape],
        ):
            subprocess.run(command, check=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=False)


def _told(times: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in times)
