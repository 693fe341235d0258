"""A runner that is started here, and a real OpenSSH server with a user without rights."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.rig.job import own_python
from hil.inventory import Inventory, RigEntry, parse_inventory
from hil.line import LocalLine
from hil.link import READ, open_line
from hil.rig import Rig

SCRIPT = Path(__file__).parents[2] / "hil" / "rigs" / "loopback.sh"
Started = Callable[..., Rig]
BORROW = (
    "import sys, sysconfig; path = sysconfig.get_path('purelib') + '/ours.pth';"
    "open(path, 'w').write('\\n'.join(sys.argv[1:]))"
)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Start a runner in a process of this machine, in one folder for all; ended at the end."""
    rigs: list[Rig] = []

    def start(command: list[str] | None = None, folder: Path = tmp_path / "rig") -> Rig:
        line = LocalLine(command or [sys.executable, "-u", "-c", READ])
        rigs.append(Rig("here", line, str(folder)))
        return rigs[-1]

    yield start
    for rig in rigs:
        rig.close()


class Loopback:
    """A rig on this machine, over SSH."""

    def __init__(self, folder: Path, told: str) -> None:
        self.folder = folder
        self.inventory_file = folder / "hil.toml"
        self.inventory_file.write_text(told)
        self.known_hosts = folder / "known_hosts"

    @property
    def inventory(self) -> Inventory:
        return parse_inventory(self.inventory_file.read_text(), self.inventory_file)

    @property
    def entry(self) -> RigEntry:
        return self.inventory.rig("loopback")

    def open(self, entry: RigEntry | None = None) -> Rig:
        entry = entry or self.entry
        return Rig(entry.name, open_line(entry, self.inventory, self.known_hosts), entry.folder)


@pytest.fixture(scope="session")
def loopback() -> Iterator[Loopback]:
    """One server for all tests of a worker; the user has to reach its folder."""
    with tempfile.TemporaryDirectory(prefix="slipway-rig-") as name:
        Path(name).chmod(0o755)
        found = subprocess.run(
            ["bash", str(SCRIPT), "up", name], check=False, capture_output=True, text=True
        )
        if found.returncode == 77:
            pytest.skip(f"{found.stderr.strip()} (tests/install-sshd.sh)")
        assert found.returncode == 0, found.stderr
        yield Loopback(Path(name), found.stdout)
        subprocess.run(["bash", str(SCRIPT), "down", name], check=True)


@pytest.fixture(scope="session")
def runtime(loopback: Loopback) -> Loopback:
    """The rig has numpy and ONNX Runtime: ours, where its Python can read and load them."""
    lend_runtimes(loopback.entry)
    return loopback


def lend_runtimes(entry: RigEntry) -> None:
    """Let a rig on this machine use the packages of this environment."""
    python = own_python(Path(entry.folder))
    own = [path for path in sys.path if path.endswith("site-packages")]
    commands = (
        ["/usr/bin/python3", "-m", "venv", "--without-pip", str(python.parents[1])],
        [str(python), "-c", BORROW, *own],
        [str(python), "-c", "import onnxruntime"],
    )  # fmt: skip
    for command in commands:
        found = subprocess.run(
            ["runuser", "-u", entry.user, "--", *command], check=False, capture_output=True,
            text=True, cwd="/",
        )  # fmt: skip
        if found.returncode:
            pytest.skip(f"Debian's Python cannot use this environment: {found.stderr[-300:]}")


@pytest.fixture
def reachable(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    """The same for the command line: its key is known there."""
    config = Path(os.environ["SLIPWAY_CONFIG"])
    config.mkdir(parents=True, exist_ok=True)
    (config / "known_hosts").write_bytes(loopback.known_hosts.read_bytes())
    return loopback


def file_of(folder: Path, content: bytes) -> tuple[str, Path]:
    """A file, with its hash."""
    import hashlib

    name = hashlib.sha256(content).hexdigest()
    path = folder / name[:8]
    path.write_bytes(content)
    return name, path
