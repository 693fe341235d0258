"""The networks behind published latencies, in plain PyTorch: shapes only, weights do not matter.

`cost_table(NAME)` exports one without allocating its weights and returns the program that the
estimate would see. Each is written from its paper, the detectors from the published structure of
their blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from agent.manifest import Signature
from benchmarks.detectors import convolution, detector8, detector11
from sdk.capture.graph import activation_bytes, costs, exported_graph
from targets.interface import Program

PUBLISHED_COST = {
    "yolo11n": (6.5, 2.6),
    "yolo11s": (21.5, 9.4),
    "yolo11m": (68.0, 20.1),
    "yolo11x": (194.9, 56.9),
    "yolov8n": (8.7, 3.18),
    "resnet50": (8.2, 25.5),
    "mobilenet_v2": (0.6, 3.49),
    "mobilenet_v3_large": (0.44, 5.47),
    "efficientnet_b0": (0.8, 5.27),
    "bert_base": (71.0, 110.0),
    "vit_b16": (35.1, 86.6),
}
"""Name -> GFLOP and million parameters as published; the sources stand in published.py."""


@functools.cache
def cost_table(name: str) -> Program:
    """The program of a network as capture would hand it over, without its files."""
    make, shape, dtype = ARCHITECTURES[name]
    with torch.device("meta"):
        model = make().eval()
        example = torch.zeros(shape, dtype=dtype)
    exported = torch.export.export(model, (example,))
    graph = exported_graph(exported, {})
    return Program(
        kind="exported",
        path=Path(f"{name}.pt2"),
        signature=Signature(inputs=(), outputs=(), dims={}),
        digest="",
        costs=costs(graph),
        weight_bytes=sum(t.numel() * t.element_size() for t in model.state_dict().values()),
        activation_bytes=activation_bytes(graph),
        activation_bytes_at_max=activation_bytes(graph),
    )


class _Pooled(nn.Module):
    """The mean over the image, then a classifier."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class _Bottleneck(nn.Module):
    """ResNet-50's block, the stride in its 3x3 convolution."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            convolution(inputs, width),
            convolution(width, width, 3, stride=stride),
            convolution(width, outputs, activation=nn.Identity),
        )
        self.shortcut = (
            nn.Identity()
            if inputs == outputs and stride == 1
            else convolution(inputs, outputs, stride=stride, activation=nn.Identity)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    """He et al. 2015, table 1, in the variant that benchmarks use."""
    layers: list[nn.Module] = [convolution(3, 64, 7, stride=2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(blocks):
            layers.append(_Bottleneck(channels, width, stride if index == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, _Pooled(nn.Linear(2048, 1000)))


class _Excite(nn.Module):
    """Scales each channel by what all channels say on average."""

    def __init__(
        self, channels: int, inner: int, inside: type[nn.Module], gate: type[nn.Module]
    ) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            inside(),
            nn.Conv2d(inner, channels, 1),
            gate(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


class _Inverted(nn.Module):
    """Wide inside, narrow outside, depthwise in the middle; squeeze-excite where asked."""

    def __init__(
        self,
        inputs: int,
        wide: int,
        outputs: int,
        kernel: int,
        stride: int,
        activation: Callable[[], nn.Module],
        excite: nn.Module | None,
    ) -> None:
        super().__init__()
        layers = [convolution(inputs, wide, activation=activation)] if wide != inputs else []
        layers.append(
            convolution(wide, wide, kernel, stride=stride, groups=wide, activation=activation)
        )
        if excite is not None:
            layers.append(excite)
        layers.append(convolution(wide, outputs, activation=nn.Identity))
        self.body = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def mobilenet_v2() -> nn.Module:
    """Sandler et al. 2018, table 2: rows of (expansion, outputs, repeats, stride)."""
    rows = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
        (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    )  # fmt: skip
    layers: list[nn.Module] = [convolution(3, 32, 3, stride=2, activation=nn.ReLU6)]
    channels = 32
    for expansion, outputs, repeats, stride in rows:
        for index in range(repeats):
            first = stride if index == 0 else 1
            wide = expansion * channels
            layers.append(_Inverted(channels, wide, outputs, 3, first, nn.ReLU6, None))
            channels = outputs
    layers.append(convolution(320, 1280, activation=nn.ReLU6))
    return nn.Sequential(*layers, _Pooled(nn.Linear(1280, 1000)))


def mobilenet_v3(
    rows: Sequence[tuple[int, int, int, int, bool, bool]], last: int, head: int
) -> nn.Module:
    """Howard et al. 2019: rows of (wide, outputs, kernel, stride, squeeze-excite, hard-swish)."""
    layers: list[nn.Module] = [convolution(3, 16, 3, stride=2, activation=nn.Hardswish)]
    channels = 16
    for wide, outputs, kernel, stride, excites, hard in rows:
        activation = nn.Hardswish if hard else nn.ReLU
        inner = max(8, (wide // 4 + 4) // 8 * 8)
        excite = _Excite(wide, inner, nn.ReLU, nn.Hardsigmoid) if excites else None
        layers.append(_Inverted(channels, wide, outputs, kernel, stride, activation, excite))
        channels = outputs
    layers.append(convolution(channels, last, activation=nn.Hardswish))
    classifier = _Pooled(nn.Linear(last, head), nn.Hardswish(), nn.Linear(head, 1000))
    return nn.Sequential(*layers, classifier)


_LARGE = (
    (16, 16, 3, 1, False, False), (64, 24, 3, 2, False, False), (72, 24, 3, 1, False, False),
    (72, 40, 5, 2, True, False), (120, 40, 5, 1, True, False), (120, 40, 5, 1, True, False),
    (240, 80, 3, 2, False, True), (200, 80, 3, 1, False, True), (184, 80, 3, 1, False, True),
    (184, 80, 3, 1, False, True), (480, 112, 3, 1, True, True), (672, 112, 3, 1, True, True),
    (672, 160, 5, 2, True, True), (960, 160, 5, 1, True, True), (960, 160, 5, 1, True, True),
)  # fmt: skip
_SMALL = (
    (16, 16, 3, 2, True, False), (72, 24, 3, 2, False, False), (88, 24, 3, 1, False, False),
    (96, 40, 5, 2, True, True), (240, 40, 5, 1, True, True), (240, 40, 5, 1, True, True),
    (120, 48, 5, 1, True, True), (144, 48, 5, 1, True, True), (288, 96, 5, 2, True, True),
    (576, 96, 5, 1, True, True), (576, 96, 5, 1, True, True),
)  # fmt: skip


def efficientnet_b0() -> nn.Module:
    """Tan and Le 2019, table 1: rows of (expansion, kernel, outputs, repeats, stride)."""
    rows = (
        (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2),
        (6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1),
    )  # fmt: skip
    layers: list[nn.Module] = [convolution(3, 32, 3, stride=2, activation=nn.SiLU)]
    channels = 32
    for expansion, kernel, outputs, repeats, stride in rows:
        for index in range(repeats):
            wide = expansion * channels
            excite = _Excite(wide, channels // 4, nn.SiLU, nn.Sigmoid)
            first = stride if index == 0 else 1
            layers.append(_Inverted(channels, wide, outputs, kernel, first, nn.SiLU, excite))
            channels = outputs
    layers.append(convolution(320, 1280, activation=nn.SiLU))
    return nn.Sequential(*layers, _Pooled(nn.Linear(1280, 1000)))


class _Layer(nn.Module):
    """A transformer layer; the norm comes first in ViT and last in BERT, at the same cost."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.products = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norms[0](x)
        query, key, value = (
            product(normed).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for product in self.products[:3]
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.products[3](attended.transpose(1, 2).flatten(2))
        return x + self.narrow(functional.gelu(self.wide(self.norms[1](x))))


class _Bert(nn.Module):
    """Devlin et al. 2018, with the two outputs of question answering."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30522, width), nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(*(_Layer(width, heads) for _ in range(layers)))
        self.head = nn.Linear(width, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids) + self.places.weight[: ids.shape[1]]
        return self.head(self.layers(self.norm(x)))


class _ViT(nn.Module):
    """Dosovitskiy et al. 2020, ViT-B/16: 197 tokens."""

    def __init__(self, width: int = 768) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, 197, width))
        self.layers = nn.Sequential(*(_Layer(width, 12) for _ in range(12)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token, patches], 1) + self.places
        return self.head(self.norm(self.layers(tokens))[:, 0])


_IMAGE, _LARGE_IMAGE = (1, 3, 224, 224), (1, 3, 640, 640)
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], torch.dtype]] = {
    "resnet50": (resnet50, _IMAGE, torch.float32),
    "mobilenet_v2": (mobilenet_v2, _IMAGE, torch.float32),
    "mobilenet_v3_large": (lambda: mobilenet_v3(_LARGE, 960, 1280), _IMAGE, torch.float32),
    "mobilenet_v3_small": (lambda: mobilenet_v3(_SMALL, 576, 1024), _IMAGE, torch.float32),
    "efficientnet_b0": (efficientnet_b0, _IMAGE, torch.float32),
    "bert_base": (lambda: _Bert(768, 12, 12), (1, 384), torch.int64),
    "bert_base_124": (lambda: _Bert(768, 12, 12), (1, 124), torch.int64),
    "bert_large": (lambda: _Bert(1024, 16, 24), (1, 384), torch.int64),
    "vit_b16": (_ViT, _IMAGE, torch.float32),
    "yolo11n": (lambda: detector11(0.25, 1, 1024, nested=False), _LARGE_IMAGE, torch.float32),
    "yolo11s": (lambda: detector11(0.5, 1, 1024, nested=False), _LARGE_IMAGE, torch.float32),
    "yolo11m": (lambda: detector11(1.0, 1, 512, nested=True), _LARGE_IMAGE, torch.float32),
    "yolo11x": (lambda: detector11(1.5, 2, 512, nested=True), _LARGE_IMAGE, torch.float32),
    "yolov8n": (lambda: detector8(0.25, 1 / 3), _LARGE_IMAGE, torch.float32),
}
"""Name -> network, shape of its one input, and that input's type."""
