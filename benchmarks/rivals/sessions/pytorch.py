"""Run a network of this folder's neighbours in PyTorch itself, as it is or compiled.

Option: `compile`. A session for this benchmark only: the agent's formats are those that devices
run. `benchmarks.rivals.contestant` puts this folder beside the agent's own session modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.manifest import Signature
from agent.tensors import Array

FORMAT = "pytorch"
PACKAGE = "torch"


def import_runtime() -> None:
    """Import torch."""
    import torch  # noqa: F401  imported for the time and the memory it takes


def load(path: Path, options: Mapping[str, Any], signature: Signature) -> _Session:
    """Load the network that a `model.json` names, with the weights beside it."""
    import json

    import torch

    from benchmarks.rivals.models import network

    net: Any = network(json.loads(path.read_text())["model"], path.parent)
    if options.get("compile"):
        net = torch.compile(net)
    return _Session(torch, net, [spec.name for spec in signature.outputs])


class _Session:
    def __init__(self, torch: Any, net: Any, outputs: list[str]) -> None:
        self._torch, self._net, self._outputs = torch, net, outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with self._torch.inference_mode():
            found = self._net(*map(self._torch.from_numpy, inputs.values()))
        tensors = found.values() if isinstance(found, dict) else (found,)
        return {name: tensor.numpy() for name, tensor in zip(self._outputs, tensors, strict=True)}

    def reset(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        self._net = None

    def placement(self) -> dict[str, float]:
        return {"torch": 1.0}
