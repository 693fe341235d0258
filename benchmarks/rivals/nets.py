"""Networks for the comparison with rivals that benchmarks/models.py does not have.

The small ones are trained on data that libraries bundle; the traps are trained and then rescaled,
channel by channel, by factors that leave the function as it is and ruin a plain quantisation.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from benchmarks.models import Detector, SqueezeExcite

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
VOCABULARY, PLACES = 256, 129
"""Bytes, and a context of 128 of them with one more to predict from."""


def example(name: str) -> nn.Module:
    """The network of one of the examples, without its weights."""
    found = importlib.util.spec_from_file_location(name, EXAMPLES / name / "model.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    made: nn.Module = module.make_model()
    return made


class RawDetector(Detector):
    """The detector without its last activations: sigmoids would hide every error."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Six outputs."""
        return self.raw(image)


class _Attention(nn.Module):
    """One layer of the decoder, which takes keys and values of earlier bytes and gives its own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.net = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, causal: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        normed = self.norms[0](x)
        key, value = self.split(self.key(normed)), self.split(self.value(normed))
        attended = functional.scaled_dot_product_attention(
            self.split(self.query(normed)),
            torch.cat([keys, key], 2),
            torch.cat([values, value], 2),
            is_causal=causal,
        )
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.net(self.norms[1](x)), key, value


class Decoder(nn.Module):
    """A language model of bytes: one step, with the keys and values of 128 earlier bytes."""

    def __init__(self, width: int = 192, heads: int = 6, layers: int = 4) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.words, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(PLACES, width)
        self.layers = nn.ModuleList(_Attention(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)

    def forward(
        self, token: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Of [1, 1] bytes and caches [layers, heads, 128, width] the logits and new entries."""
        x = self.words(token) + self.places.weight[PLACES - 1]
        made: list[tuple[torch.Tensor, torch.Tensor]] = []
        for index, layer in enumerate(self.layers):
            x, key, value = layer(
                x, keys[index : index + 1], values[index : index + 1], causal=False
            )
            made.append((key, value))
        return {
            "logits": self.head(self.norm(x))[:, 0],
            "key": torch.cat([key for key, _ in made]),
            "value": torch.cat([value for _, value in made]),
        }

    def whole(self, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits, keys and values of whole texts of [batch, up to 129] bytes."""
        x = self.words(text) + self.places.weight[: text.shape[1]]
        none = x.new_zeros(len(text), self.heads, 0, self.width // self.heads)
        made = []
        for layer in self.layers:
            x, key, value = layer(x, none, none, causal=True)
            made.append((key, value))
        keys, values = (torch.stack(side) for side in zip(*made, strict=True))
        return self.head(self.norm(x)), keys, values


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class Plain(nn.Module):
    """Six convolutions on 32x32, in a row, so that a channel's scale can be moved along."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv(1, 48), *_conv(48, 96, stride=2), *_conv(96, 96), *_conv(96, 96),
            *_conv(96, 192, stride=2), *_conv(192, 192),
        )  # fmt: skip
        self.head = nn.Linear(192, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Ten logits."""
        return self.head(self.features(image).mean((2, 3)))


class Separable(nn.Module):
    """Eight depthwise-separable convolutions on 64x64, ReLU throughout."""

    def __init__(self) -> None:
        super().__init__()
        layers, channels = _conv(1, 32, stride=2), 32
        for outputs, stride in ((64, 1), (96, 2), (96, 1), (128, 1), (192, 2), (192, 1), (192, 1)):
            layers += _conv(channels, channels, 3, stride, groups=channels)
            layers += _conv(channels, outputs, 1)
            channels = outputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Ten logits."""
        return self.head(self.features(image).mean((2, 3)))


class Thin(nn.Module):
    """Few channels on 64x64 with gates: hardly any products, so int8 has nothing to win."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, 1, 1, groups=width),
                nn.BatchNorm2d(width),
                nn.Hardswish(),
                SqueezeExcite(width),
                nn.Conv2d(width, width, 1),
            )
            for _ in range(6)
        )
        self.head = nn.Linear(16 * width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Ten logits."""
        x = self.stem(image)
        for block in self.blocks:
            x = x + block(x)
        return self.head(functional.adaptive_avg_pool2d(x, 4).flatten(1))


def fit(
    net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, *, epochs: int, batch: int = 50
) -> nn.Module:
    """Train a classifier; the rest of it is in eval mode afterwards."""
    torch.manual_seed(0)
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    steps = epochs * math.ceil(len(inputs) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    for _ in range(epochs):
        for chosen in torch.randperm(len(inputs)).split(batch):
            optimizer.zero_grad()
            loss_of(net(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def fit_decoder(net: Decoder, text: torch.Tensor, *, steps: int, batch: int = 12) -> Decoder:
    """Train it to tell the next byte of a text of bytes."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(steps):
        starts = torch.randint(0, len(text) - PLACES - 1, (batch,))
        chosen = torch.stack([text[start : start + PLACES + 1] for start in starts.tolist()])
        logits, _, _ = net.whole(chosen[:, :-1])
        optimizer.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1), chosen[:, 1:].flatten()).backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def settle(net: nn.Module, inputs: torch.Tensor) -> None:
    """Batch norms take the statistics of these inputs, and every output is centred on its mean.

    Without the second step all outputs of a net of random weights are nearly one vector, and any
    variant would agree with the original.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = None  # None averages all batches alike
        net.train()
        for chosen in inputs.split(16):
            net(chosen)
    net.eval()
    for layer in _last_layers(net):
        seen: list[torch.Tensor] = []
        hook = layer.register_forward_hook(lambda _m, _i, answer, seen=seen: seen.append(answer))
        for chosen in inputs.split(16):
            net(chosen)
        hook.remove()
        together = torch.cat(seen)
        layer.bias -= together.mean([axis for axis in range(together.ndim) if axis != 1])


def _last_layers(net: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    if isinstance(net, Detector):
        return [*net.boxes, *net.classes]
    return [module for module in net.modules() if isinstance(module, nn.Linear)][-1:]


@torch.no_grad()
def spread(net: nn.Module, factors: Sequence[torch.Tensor]) -> None:
    """Multiply channels after their batch norm, and divide the weights that read them.

    ReLU and depthwise convolutions pass a positive factor on, so the net computes what it did.

    Args:
        net: with `features` of convolution, batch norm and ReLU in turn, and a linear `head`.
        factors: one vector for each batch norm but the last.
    """
    layers = list(net.features)
    norms = [index for index, layer in enumerate(layers) if isinstance(layer, nn.BatchNorm2d)]
    for index, factor in zip(norms, factors, strict=False):
        reader = layers[index + 2]
        layers[index].weight *= factor
        layers[index].bias *= factor
        by_input = factor[:, None, None, None] if reader.groups > 1 else factor[None, :, None, None]
        reader.weight /= by_input
