"""Networks of standard shapes in plain PyTorch, with seeded weights, for benchmarks and trials.

This file stands alone: `write_project` copies it beside an `sdk.toml`, as a user's own model would
be. The weights are random, so accuracy means agreement with the original; batch norms hold the
statistics of the inputs that `samples_of` yields, so activations have the usual ranges.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SAMPLES = 700  # half are final: enough to prove 2 % of a variant that drops a little itself


def mobilenet() -> nn.Module:
    """Depthwise convolutions with squeeze-excite and hard-swish, 224x224."""
    return _seeded(MobileNet, "mobilenet")


def resnet() -> nn.Module:
    """A residual net of 18 layers, 224x224."""
    return _seeded(ResNet, "resnet")


def vit_tiny() -> nn.Module:
    """A vision transformer: patches of 16, 12 layers of 192, 224x224."""
    return _seeded(VisionTransformer, "vit_tiny")


def gru() -> nn.Module:
    """Two GRU layers over 100 steps."""
    return _seeded(lambda: Recurrent(nn.GRU(64, 128, num_layers=2, batch_first=True), 128), "gru")


def lstm() -> nn.Module:
    """An LSTM in both directions over 100 steps."""
    return _seeded(
        lambda: Recurrent(nn.LSTM(64, 96, batch_first=True, bidirectional=True), 192), "lstm"
    )


def keyword() -> nn.Module:
    """Depthwise-separable convolutions over 49 frames of 10 coefficients."""
    return _seeded(KeywordNet, "keyword")


def detector() -> nn.Module:
    """Boxes and classes at three scales: six outputs, 320x320."""
    return _seeded(Detector, "detector")


def large() -> nn.Module:
    """Six transformer layers of 1024: 302 MB of weights."""
    return _seeded(lambda: nn.Sequential(*(Block(1024, 16) for _ in range(6))), "large")


def minilm_sized() -> nn.Module:
    """Six transformer layers of 384 over 128 tokens, and a matrix the size of MiniLM's table."""
    layers = (Block(384, 12) for _ in range(6))
    return _seeded(lambda: nn.Sequential(*layers, Mean(), nn.Linear(384, 30522)), "minilm_sized")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """The one input of a model, after the batch, and how many samples to give."""

    input: str
    size: tuple[int, ...]
    samples: int = SAMPLES


MODELS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "mobilenet": (mobilenet, Shape(input="image", size=(3, 224, 224))),
    "resnet": (resnet, Shape(input="image", size=(3, 224, 224))),
    "vit_tiny": (vit_tiny, Shape(input="image", size=(3, 224, 224))),
    "gru": (gru, Shape(input="frames", size=(100, 64))),
    "lstm": (lstm, Shape(input="frames", size=(100, 64))),
    "keyword": (keyword, Shape(input="spectrum", size=(1, 49, 10))),
    "detector": (detector, Shape(input="image", size=(3, 320, 320))),
    "minilm_sized": (minilm_sized, Shape(input="tokens", size=(128, 384))),
    "large": (large, Shape(input="input", size=(32, 1024), samples=64)),
}
"""Name -> factory and input. The name is also the factory's."""


def samples_of(name: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Inputs with structure: coarse patches with fine noise, each of its own contrast."""
    shape = MODELS[name][1]
    random = np.random.default_rng(zlib.crc32(name.encode()))
    for index in range(shape.samples):
        *channels, rows, columns = shape.size
        coarse = random.standard_normal((*channels, -(-rows // 7), -(-columns // 7)))
        patches = coarse.repeat(7, axis=-2).repeat(7, axis=-1)[..., :rows, :columns]
        noisy = patches + 0.2 * random.standard_normal(shape.size)
        contrast = random.uniform(0.5, 1.5)
        yield f"{name}-{index:04d}", {shape.input: (contrast * noisy).astype(np.float32)[None]}


def write_project(folder: Path, name: str, *, targets: tuple[str, ...] = ("intel",)) -> Path:
    """Write a project that builds one of the models; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = MODELS[name][1]
    shutil.copyfile(__file__, folder / "models.py")
    (folder / "data.py").write_text(
        f'from models import samples_of\n\n\ndef samples():\n    return samples_of("{name}")\n'
    )
    sizes = ", ".join(str(size) for size in shape.size)
    listed = ", ".join(f'"{target}"' for target in targets)
    (folder / "sdk.toml").write_text(
        f'[model]\nname = "{name.replace("_", "-")}"\nsource = "models.py:{name}"\n\n'
        f'[[inputs]]\nname = "{shape.input}"\ndtype = "float32"\nshape = ["batch", {sizes}]\n\n'
        "[dims]\nbatch = { min = 1, opt = 1, max = 4 }\n\n"
        '[data]\nsamples = "data.py:samples"\nmetric = "cosine"\n\n'
        f"[build]\ntargets = [{listed}]\n"
        + ('profiles = { intel = ["host"] }\n' if "intel" in targets else "")
    )
    return folder


def _seeded(make: Callable[[], nn.Module], name: str) -> nn.Module:
    """The model with the same weights in every process, and batch norms that know their inputs."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(zlib.crc32(name.encode()))
        model = make()
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        if norms:
            for norm in norms:
                norm.momentum = None  # None averages all batches alike
            first = [sample[1] for sample in itertools.islice(samples_of(name), 8)]
            model.train()(torch.from_numpy(np.concatenate([*map(_only, first)])))
    return model.eval()


def _only(inputs: dict[str, np.ndarray]) -> np.ndarray:
    (array,) = inputs.values()
    return array


def _conv(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        activation(),
    )


class SqueezeExcite(nn.Module):
    """Scales each channel by what all channels say on average."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


class InvertedResidual(nn.Module):
    """Wide inside, narrow outside, depthwise in the middle."""

    def __init__(self, inputs: int, wide: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(inputs, wide, 1, activation=nn.Hardswish),
            _conv(wide, wide, kernel, stride=stride, groups=wide, activation=nn.Hardswish),
            SqueezeExcite(wide),
            _conv(wide, outputs, 1, activation=nn.Identity),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class MobileNet(nn.Module):
    """Rows are (wide, outputs, kernel, stride), about MobileNetV3's."""

    ROWS = (
        (16, 16, 3, 1), (64, 24, 3, 2), (72, 24, 3, 1), (72, 40, 5, 2), (120, 40, 5, 1),
        (240, 80, 3, 2), (184, 80, 3, 1), (480, 112, 3, 1), (672, 160, 5, 2), (960, 160, 5, 1),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 16, stride=2, activation=nn.Hardswish)]
        channels = 16
        for wide, outputs, kernel, stride in self.ROWS:
            layers.append(InvertedResidual(channels, wide, outputs, kernel, stride))
            channels = outputs
        layers.append(_conv(channels, 960, 1, activation=nn.Hardswish))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, 1000))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image).mean((2, 3)))


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(inputs, outputs, stride=stride),
            _conv(outputs, outputs, activation=nn.Identity),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if same
            else _conv(inputs, outputs, 1, stride=stride, activation=nn.Identity)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-18's shape."""

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 64, 128, 256, 512)
        stages = [
            layer
            for index, (inputs, outputs) in enumerate(itertools.pairwise(widths))
            for layer in (Residual(inputs, outputs, 1 + (index > 0)), Residual(outputs, outputs, 1))
        ]
        self.features = nn.Sequential(_conv(3, 64, 7, stride=2), nn.MaxPool2d(3, 2, 1), *stages)
        self.head = nn.Linear(512, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image).mean((2, 3)))


class Block(nn.Module):
    """One transformer layer: norm first, attention, then a net four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.net = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = self.qkv(self.norms[0](x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(split[0], split[1], split[2])
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.net(self.norms[1](x))


class Mean(nn.Module):
    """The mean over the tokens."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


class VisionTransformer(nn.Module):
    """ViT-Tiny's shape, with the mean in place of a class token."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.places = nn.Parameter(0.02 * torch.randn(1, 196, width))
        self.blocks = nn.Sequential(*(Block(width, 3) for _ in range(12)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class Recurrent(nn.Module):
    """A recurrent net that classifies by its last step."""

    def __init__(self, cell: nn.GRU | nn.LSTM, width: int) -> None:
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(width, 20)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(frames)[0][:, -1])


class KeywordNet(nn.Module):
    """DS-CNN: one convolution, four depthwise-separable ones."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        separable = [
            layer
            for _ in range(4)
            for layer in (_conv(width, width, groups=width), _conv(width, width, 1))
        ]
        self.features = nn.Sequential(_conv(1, width, 5, stride=2), *separable)
        self.head = nn.Linear(width, 12)

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(spectrum).mean((2, 3)))


class Detector(nn.Module):
    """A backbone with a pyramid on top; each scale has a head for boxes and one for classes."""

    def __init__(self, width: int = 64, classes: int = 20) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 16, stride=2), _conv(16, 32, stride=2))
        self.stages = nn.ModuleList(
            nn.Sequential(_conv(inputs, outputs, stride=2), _conv(outputs, outputs))
            for inputs, outputs in ((32, 64), (64, 128), (128, 256))
        )
        self.laterals = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in (64, 128, 256))
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4, 3, padding=1) for _ in range(3))
        self.classes = nn.ModuleList(nn.Conv2d(width, classes, 3, padding=1) for _ in range(3))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        last = {"boxes": torch.relu, "classes": torch.sigmoid}
        return {
            name: last[name.partition("_")[0]](output) for name, output in self.raw(image).items()
        }

    def raw(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the last activations are given."""
        found, x = [], self.stem(image)
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = stage(x)
            found.append(lateral(x))
        for scale in (1, 0):
            found[scale] = found[scale] + functional.interpolate(
                found[scale + 1], scale_factor=2.0, mode="nearest"
            )
        outputs = {}
        for scale in range(3):
            outputs[f"boxes_{scale}"] = self.boxes[scale](found[scale])
            outputs[f"classes_{scale}"] = self.classes[scale](found[scale])
        return outputs


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write a project for one of the benchmark models.",
        epilog="example: python benchmarks/models.py mobilenet OUT && sdk build OUT",
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", action="append", help="default: intel")
    chosen = parser.parse_args()
    folder = write_project(chosen.folder, chosen.model, targets=tuple(chosen.target or ("intel",)))
    print(f"Wrote {folder / 'sdk.toml'}.")


if __name__ == "__main__":
    main()
