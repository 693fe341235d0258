"""Small torch models of many shapes, and the `Program` that capture would make of each.

`ZOO` is a table: every test that wants "all kinds of models" goes over it. Importing this module
imports no torch. Weights are seeded, so an entry is the same model in every process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent.manifest import Signature, TensorSpec
from agent.tensors import Array
from targets.interface import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One model with what it takes: `highest` bounds the values of integer inputs."""

    name: str
    make: Callable[[], Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...] = ("output",)
    dims: Mapping[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)
    highest: int = 2

    def module(self) -> Any:
        """The model in eager mode, taking its inputs by position and returning a flat tuple."""
        import torch

        torch.manual_seed(0)
        model = self.make().eval().requires_grad_(False)

        class Flat(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, *tensors: Any) -> Any:
                answer = self.model(*tensors)
                return tuple(answer) if isinstance(answer, (tuple, list)) else (answer,)

        return Flat().eval()

    def sizes(self) -> Iterator[dict[str, int]]:
        """Every combination of min, opt and max of the dims."""
        choices = [sorted(set(bounds)) for bounds in self.dims.values()]
        for sizes in itertools.product(*choices):
            yield dict(zip(self.dims, sizes, strict=True))

    def sample(self, seed: int = 0, sizes: Mapping[str, int] | None = None) -> dict[str, Array]:
        """One random input set; `sizes` gives the dims, by default their opt."""
        random = np.random.default_rng(seed)
        chosen = {name: bounds[1] for name, bounds in self.dims.items()} | dict(sizes or {})
        arrays: dict[str, Array] = {}
        for spec in self.inputs:
            shape = [chosen[size] if isinstance(size, str) else size for size in spec.shape]
            if spec.name == "mask":
                arrays[spec.name] = _mask(shape, spec.dtype, random)
            elif spec.dtype.startswith("float"):
                arrays[spec.name] = random.standard_normal(shape).astype(spec.dtype)
            else:
                arrays[spec.name] = random.integers(0, self.highest, shape).astype(spec.dtype)
        return arrays

    def eager(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """What torch answers."""
        import torch

        tensors = [torch.from_numpy(arrays[spec.name]) for spec in self.inputs]
        with torch.inference_mode():
            answers = self.module()(*tensors)
        return {n: t.numpy() for n, t in zip(self.outputs, answers, strict=True)}

    def calibration(self, count: int = 8) -> list[dict[str, Array]]:
        """Inputs for quantisation, none of them among the first hundred of `sample`."""
        return [self.sample(seed=100 + index) for index in range(count)]


def exported(entry: Entry, folder: Path) -> Program:
    """The entry as `folder/program.pt2`, in the form that capture gives it."""
    import torch

    sizes = {name: max(opt, 2) for name, (_, opt, _) in entry.dims.items()}
    arrays = entry.sample(sizes=sizes)
    dims = {
        name: torch.export.Dim(name, min=low, max=high)
        for name, (low, _, high) in entry.dims.items()
    }
    shapes = tuple(
        {axis: dims[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in entry.inputs
    )
    tensors = tuple(torch.from_numpy(arrays[spec.name]) for spec in entry.inputs)
    with torch.no_grad():
        program = torch.export.export(entry.module(), tensors, dynamic_shapes=(shapes,))
    path = folder / "program.pt2"
    torch.export.save(program, path)
    return _describe(entry, path, "exported", arrays, sizes)


def onnx_file(entry: Entry, folder: Path) -> Program:
    """The entry as `folder/program.onnx`, named as its signature is."""
    import torch

    from targets.lowering.export import export_onnx

    program = exported(entry, folder)
    path = folder / "program.onnx"
    export_onnx(torch.export.load(program.path), program.signature, path, opset=20)
    return dataclasses.replace(
        program, kind="onnx", path=path, digest=hashlib.sha256(path.read_bytes()).hexdigest()
    )


def _describe(
    entry: Entry, path: Path, kind: Any, arrays: Mapping[str, Array], sizes: Mapping[str, int]
) -> Program:
    # A dim shows in an output where its size does: each gets a size that nothing else has.
    answers = [entry.eager(arrays)]
    outputs = []
    other = {name: size + 1 for name, size in sizes.items()}
    answers.append(entry.eager(entry.sample(sizes=other)))
    for name in entry.outputs:
        first, second = (answer[name] for answer in answers)
        shape: list[int | str] = []
        for low, high in zip(first.shape, second.shape, strict=True):
            names = [d for d in sizes if low == sizes[d] and high == other[d]]
            shape.append(names[0] if names else low)
        outputs.append(TensorSpec(name=name, dtype=str(first.dtype), shape=tuple(shape)))
    return Program(
        kind=kind,
        path=path,
        signature=Signature(inputs=entry.inputs, outputs=tuple(outputs), dims=dict(entry.dims)),
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        costs=(),
        weight_bytes=sum(t.numel() * t.element_size() for t in entry.module().parameters()),
    )


def _mask(shape: list[int], dtype: str, random: np.random.Generator) -> Array:
    """Ones, then zeros, as a tokenizer pads; at least one token stays."""
    batch, length = shape
    lengths = random.integers(1, length + 1, (batch, 1))
    return (np.arange(length)[None] < lengths).astype(dtype)


def _input(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _cnn() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def _mobile() -> Any:
    import torch
    from torch import nn

    class SqueezeExcite(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.down = nn.Conv2d(channels, channels // 4, 1)
            self.up = nn.Conv2d(channels // 4, channels, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = nn.functional.relu(self.down(x.mean((2, 3), keepdim=True)))
            return x * nn.functional.hardsigmoid(self.up(scale))

    def block(channels: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.Hardswish(),
            SqueezeExcite(channels),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, padding=1),
        nn.Hardswish(),
        block(16, 1),
        block(16, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def _attention_block(width: int) -> Any:
    import torch
    from torch import nn

    class Block(nn.Module):
        """Pre-norm attention with 2 heads, then a perceptron."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(
                nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
            )

        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            batch, length, _ = x.shape
            split = self.qkv(self.first(x)).reshape(batch, length, 3, 2, width // 2)
            q, k, v = split.permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
            return x + self.mlp(self.second(x))

    return Block()


def _vit() -> Any:
    import torch
    from torch import nn

    class VisionTransformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 32, 8, 8)
            self.token = nn.Parameter(torch.randn(1, 1, 32))
            self.positions = nn.Parameter(torch.randn(1, 17, 32) * 0.1)
            self.blocks = nn.ModuleList(_attention_block(32) for _ in range(2))
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.patches(image).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x[:, 0]))

    return VisionTransformer()


def _encoder() -> Any:
    import torch
    from torch import nn

    class Encoder(nn.Module):
        """MiniLM's form: ids and mask of dynamic batch and length, a mean-pooled unit vector."""

        def __init__(self) -> None:
            super().__init__()
            self.words, self.positions = nn.Embedding(100, 32), nn.Embedding(64, 32)
            self.blocks = nn.ModuleList(_attention_block(32) for _ in range(2))

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            places = torch.arange(ids.shape[1], device=ids.device)
            x = self.words(ids) + self.positions(places)[None]
            allowed = mask.bool()[:, None, None, :]
            for block in self.blocks:
                x = block(x, allowed)
            weight = mask[..., None].to(x.dtype)
            return nn.functional.normalize((x * weight).sum(1) / weight.sum(1), dim=1)

    return Encoder()


def text_classifier(width: int) -> Any:
    """Ids through three attention blocks to 16 classes, in any width."""
    import torch
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(200, width)
            self.blocks = nn.ModuleList(_attention_block(width) for _ in range(3))
            self.head = nn.Linear(width, 16)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.words(ids)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1))

    return Classifier()


def _recurrent(kind: str) -> Any:
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = getattr(nn, kind)(12, 24, num_layers=2, batch_first=True)
            self.head = nn.Linear(24, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.cell(x)[0][:, -1])

    return Recurrent()


def _detector() -> Any:
    import torch
    from torch import nn

    class Detector(nn.Module):
        """Boxes, scores and classes from two scales."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU())
            self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.SiLU())
            self.heads = nn.ModuleList(nn.Conv2d(16, 8, 1) for _ in range(2))

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            near = self.stem(image)
            far = self.deep(near)
            found = torch.cat(
                [
                    head(x).flatten(2).transpose(1, 2)
                    for head, x in zip(self.heads, (near, far), strict=True)
                ],
                1,
            )
            boxes, scores = found[..., :4].exp(), found[..., 4:].sigmoid()
            best = scores.max(-1)
            return boxes, best.values, best.indices

    return Detector()


def _recommender() -> Any:
    import torch
    from torch import nn

    class Recommender(nn.Module):
        """Ids and features: two inputs of different dtypes."""

        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(50, 16)
            self.dense = nn.Linear(6, 16)
            self.head = nn.Linear(32, 1)

        def forward(self, ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
            x = torch.cat([self.items(ids).mean(1), self.dense(features).relu()], 1)
            return self.head(x).squeeze(1)

    return Recommender()


def _buffers() -> Any:
    import torch
    from torch import nn

    class Normalised(nn.Module):
        """Buffers of float and integer type, one of them not persistent."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.linspace(-1, 1, 6))
            self.register_buffer("order", torch.tensor([5, 3, 1, 0, 2, 4]))
            self.register_buffer("scale", torch.tensor(0.5), persistent=False)
            self.linear = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(((x - self.mean) * self.scale)[:, self.order])

    return Normalised()


def _two_heads() -> Any:
    import torch
    from torch import nn

    class TwoHeads(nn.Module):
        """A tuple of a value and a label; the input itself comes back as well."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 16)
            self.value, self.label = nn.Linear(16, 1), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            y = self.body(x).tanh()
            return self.value(y), self.label(y), x

    return TwoHeads()


_BATCH = {"batch": (1, 2, 5)}

ZOO: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(name="cnn", make=_cnn, inputs=(_input("image", 1, 3, 16, 16),)),
        Entry(name="mobile", make=_mobile, inputs=(_input("image", 1, 3, 32, 32),)),
        Entry(name="vit", make=_vit, inputs=(_input("image", 1, 3, 32, 32),)),
        Entry(name="gru", make=lambda: _recurrent("GRU"), inputs=(_input("x", 1, 10, 12),)),
        Entry(name="lstm", make=lambda: _recurrent("LSTM"), inputs=(_input("x", 1, 10, 12),)),
        Entry(
            name="detector",
            make=_detector,
            inputs=(_input("image", 1, 3, 32, 32),),
            outputs=("boxes", "scores", "classes"),
        ),
        Entry(
            name="recommender",
            make=_recommender,
            inputs=(_input("ids", 2, 7, dtype="int64"), _input("features", 2, 6)),
            highest=50,
        ),
        Entry(
            name="batched-cnn",
            make=_cnn,
            inputs=(_input("image", "batch", 3, 16, 16),),
            dims=_BATCH,
        ),
        Entry(
            name="encoder",
            make=_encoder,
            inputs=(
                _input("ids", "batch", "length", dtype="int64"),
                _input("mask", "batch", "length", dtype="int64"),
            ),
            outputs=("embedding",),
            dims={"batch": (1, 2, 4), "length": (3, 12, 32)},
            highest=100,
        ),
        Entry(name="buffers", make=_buffers, inputs=(_input("x", 3, 6),)),
        Entry(
            name="two-heads",
            make=_two_heads,
            inputs=(_input("x", "batch", 8),),
            outputs=("value", "label", "echo"),
            dims=_BATCH,
        ),
    )
}
