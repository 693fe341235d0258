"""Olive on an ONNX file: static int8 by its own workflow. Run by the Python of Olive's environment.

`python olive_passes.py MODEL.onnx SAMPLES COUNT OUT` imports nothing of this project: its pins of
torch, numpy and others need not be ours. The samples are the project's `.npy` files; nothing is
fetched from anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

CPU = {
    "type": "LocalSystem",
    "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
}


class Given:
    """The first samples, as Olive's calibration takes them: (inputs, label)."""

    def __init__(self, folder: Path, count: int) -> None:
        names = json.loads((folder / "inputs.json").read_text())
        self._arrays = {name: np.load(folder / f"input-{name}.npy", "r")[:count] for name in names}

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], int]:
        if index >= len(self):
            raise IndexError(index)
        return {n: as_input(a[index : index + 1]) for n, a in self._arrays.items()}, 0


def as_input(array: np.ndarray) -> np.ndarray:
    """As the project's own data.py has it."""
    if array.dtype == np.uint8:
        return (array.astype(np.float32) / np.float32(127.5)) - np.float32(1)
    return np.array(array[0] if array.ndim == 5 else array)


def main(model: str, samples: str, count: str, out: str) -> None:
    """Optimise, quantise, and leave `olive.onnx` in a folder."""
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    from olive.data.registry import Registry
    from olive.workflows import run

    @Registry.register_dataset("given_samples")
    def given(**_: Any) -> Given:
        return Given(Path(samples), int(count))

    @Registry.register_pre_process("as_it_is")
    def as_it_is(dataset: Given, **_: Any) -> Given:
        return dataset

    @Registry.register_dataloader("one_by_one")
    def one_by_one(dataset: Given, **_: Any) -> Given:
        return dataset

    folder = Path(out)
    run(
        {
            "input_model": {"type": "ONNXModel", "model_path": model},
            "systems": {"local": CPU},
            "data_configs": [
                {
                    "name": "calibration",
                    "type": "DataContainer",
                    "load_dataset_config": {"type": "given_samples"},
                    "pre_process_data_config": {"type": "as_it_is"},
                    "dataloader_config": {"type": "one_by_one"},
                }
            ],
            "passes": {
                "peephole": {"type": "OnnxPeepholeOptimizer"},
                "static": {"type": "OnnxStaticQuantization", "data_config": "calibration"},
            },
            "host": "local",
            "target": "local",
            "cache_dir": str(folder / "cache"),
            "output_dir": str(folder / "made"),
        }
    )
    found = sorted((folder / "made").rglob("*.onnx"))
    if not found:
        raise SystemExit("Olive ended without a model")
    shutil.copyfile(found[0], folder / "olive.onnx")


if __name__ == "__main__":
    main(*sys.argv[1:])
