"""The agent's footprint, and what a release costs to publish and to send.

Memory and processor time are of a real `sdk-agent run` that polls a folder, a release installed.
Deltas are of checkpoints that are trained here, since noise would not compress and zeros would.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.processes import memory
from agent.updates.home import Home
from agent.updates.install import confirm_now
from agent.updates.run import once
from sdk.release.deltas import patch, planes
from tests.updates.fleet import MODEL, Fleet, passing, silent, write_build

if TYPE_CHECKING:
    from benchmarks.run import Row

POLLS, POLL_S = 20, 1.0
PUBLISHED_BYTES = 300 << 20
_RUN = [sys.executable, "-P", "-m", "agent", "run"]
_AGENT = "import agent.cli, agent.updates.run"
_FIRST_POLL = f"{_AGENT}, tuf.ngclient, securesystemslib.dsse, urllib3"


def footprint(folder: Path) -> Iterator[Row]:
    """What the agent takes between updates."""
    from benchmarks.run import Row

    fleet = Fleet(folder / "idle")
    fleet.release("1.0.0")
    config = fleet.device()
    with Home(config) as home:
        once(home, silent, passing)
        confirm_now(home, MODEL)
    settings = f'repository = "{fleet.repo}"\ngroup = "{config.group}"\npoll_s = {POLL_S}\n'
    (config.state / "agent.toml").write_text(settings)
    with subprocess.Popen([*_RUN, "--state", str(config.state)]) as running:
        try:
            time.sleep(5 * POLL_S + 2)
            before = _cpu_s(running.pid)
            time.sleep(POLLS * POLL_S)
            each = (_cpu_s(running.pid) - before) / POLLS
            resident = (memory(running.pid) or 0) / 1e6
            maps = Path(f"/proc/{running.pid}/maps").read_text()
            if running.poll() is not None:
                raise RuntimeError(f"the agent ended with {running.returncode}")
        finally:
            running.terminate()
    yield Row(name="agent, idle: resident", value=resident, bound=45.0, unit="MB")
    share = 100 * each / 60
    yield Row(name="agent, idle: of one core, a poll a minute", value=share, bound=0.1, unit="%")
    heavy = sum(name in maps for name in ("numpy", "onnxruntime", "openvino", "libtorch"))
    yield Row(name="agent, idle: numpy or runtimes loaded", value=heavy, bound=0.0, unit="")
    bare = _python_s("pass")
    ours, both = (1e3 * (_python_s(code) - bare) for code in (_AGENT, _FIRST_POLL))
    yield Row(name="agent: imports", value=ours, bound=150.0, unit="ms")
    name = "the same and python-tuf, at the first poll"
    yield Row(name=name, value=both, bound=math.inf, unit="ms")


def publishing(folder: Path) -> Iterator[Row]:
    """Publishing 300 MB beside hashing and copying the same bytes, then with deltas."""
    from benchmarks.run import Row

    fleet = Fleet(folder / "large")
    weights = _noisy(PUBLISHED_BYTES)
    build = write_build(folder / "large" / "build-1", {"best": weights})
    source = next(build.rglob("model.bin"))
    began = time.perf_counter()
    hashlib.sha256(source.read_bytes()).hexdigest()
    shutil.copyfile(source, folder / "large" / "copy")
    plain = time.perf_counter() - began
    began = time.perf_counter()
    fleet.publish("1.0.0", build)
    first = time.perf_counter() - began
    yield Row(
        name="publish 300 MB, beyond hash and copy", value=first - plain, bound=10.0, unit="s"
    )
    changed = bytearray(weights)
    changed[-(1 << 20) :] = _noisy(1 << 20)
    build = write_build(folder / "large" / "build-2", {"best": bytes(changed)})
    began = time.perf_counter()
    found = fleet.publish("1.1.0", build)
    assert found.deltas
    took = time.perf_counter() - began
    yield Row(
        name="the same, next release, with its delta", value=took, bound=float("inf"), unit="s"
    )


def deltas(folder: Path) -> Iterator[Row]:
    """What a changed checkpoint costs to send, of its size."""
    del folder
    from benchmarks.run import Row

    base, head, full = checkpoints()
    for name, new, dtype, bound in (
        ("head only, f32", head, "float32", 3.0),
        ("head only, f16", head, "float16", 3.0),
        ("full fine-tune, f16", full, "float16", 75.0),
        ("full fine-tune, f32", full, "float32", float("inf")),
    ):
        old_bytes, new_bytes = (_stored(weights, dtype) for weights in (base, new))
        least = min(len(planes(old_bytes, new_bytes)), len(patch(old_bytes, new_bytes)))
        share = 100 * least / len(new_bytes)
        yield Row(name=f"delta, {name}, of the file", value=share, bound=bound, unit="%")


@functools.lru_cache(maxsize=1)
def checkpoints() -> tuple[Any, Any, Any]:
    """Three state dicts of one network: trained, with a new head, and trained on as a whole.

    A network of 1.2 million weights on the handwritten digits that come with scikit-learn: trained
    on one half of them, then on the other half.
    """
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    bunch = load_digits()
    images = torch.tensor(bunch.data / 16, dtype=torch.float32)
    labels = torch.tensor(bunch.target)
    net = nn.Sequential(
        *(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU()), nn.Linear(1024, 10)
    )

    def train(parameters: Any, rows: slice, rate: float, epochs: int) -> None:
        optimizer = torch.optim.AdamW(parameters, lr=rate)
        for _ in range(epochs):
            for batch in torch.randperm(len(labels[rows])).split(32):
                loss = nn.functional.cross_entropy(net(images[rows][batch]), labels[rows][batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def state() -> dict[str, torch.Tensor]:
        return {name: weights.clone() for name, weights in net.state_dict().items()}

    half = len(labels) // 2
    train(net.parameters(), slice(0, half), 1e-3, 20)
    base = state()
    train(net[4].parameters(), slice(half, None), 1e-3, 5)
    head = state()
    net.load_state_dict(base)
    train(net.parameters(), slice(half, None), 1e-5, 5)
    return base, head, state()


def _stored(weights: Any, dtype: str) -> bytes:
    import torch
    from safetensors.torch import save

    kind = getattr(torch, dtype)
    return bytes(save({name: tensor.to(kind) for name, tensor in weights.items()}))


def _noisy(count: int) -> bytes:
    """Bytes like weights': normal float32."""
    import numpy as np

    generator = np.random.default_rng(0)
    return generator.standard_normal(count // 4, dtype=np.float32).tobytes()


def _cpu_s(pid: int) -> float:
    """Processor seconds that a process has used, in user and kernel mode (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _python_s(code: str) -> float:
    times = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-P", "-c", code], check=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)
