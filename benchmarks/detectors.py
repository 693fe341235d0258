"""Detectors with the block structure of YOLO11 and YOLOv8, in plain PyTorch.

These are not the published code: they are networks of the same structure whose GFLOP and parameters
come within 2 % of the published figures, which is all that a cost table needs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional


def convolution(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """A convolution with a batch norm and an activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        activation(),
    )


_silu = functools.partial(convolution, activation=nn.SiLU)


class _Pair(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_silu(channels, inner, 3), _silu(inner, channels, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class _Nested(nn.Module):
    """Two pairs in one half of the channels, nothing in the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.one, self.other = _silu(channels, half), _silu(channels, half)
        self.pairs = nn.Sequential(_Pair(half, half), _Pair(half, half))
        self.out = _silu(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([self.pairs(self.one(x)), self.other(x)], 1))


class _Chain(nn.Module):
    """Splits its channels, sends one half through blocks, and concatenates every stage."""

    def __init__(self, inputs: int, outputs: int, inner: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.into = _silu(inputs, 2 * inner)
        self.blocks = nn.ModuleList(blocks)
        self.out = _silu((2 + len(blocks)) * inner, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stages = list(self.into(x).chunk(2, 1))
        for block in self.blocks:
            stages.append(block(stages[-1]))
        return self.out(torch.cat(stages, 1))


class _Pyramid(nn.Module):
    """Three max-poolings in a row, concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.into, self.out = _silu(channels, channels // 2), _silu(2 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stages = [self.into(x)]
        for _ in range(3):
            stages.append(functional.max_pool2d(stages[-1], 5, 1, 2))
        return self.out(torch.cat(stages, 1))


class _Attend(nn.Module):
    """Attention over all positions and a small net, both with shortcuts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // 64)
        self.channels = channels
        plain = functools.partial(convolution, activation=nn.Identity)
        self.qkv, self.out = plain(channels, 2 * channels), plain(channels, channels)
        self.place = plain(channels, channels, 3, groups=channels)
        self.net = nn.Sequential(_silu(channels, 2 * channels), plain(2 * channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = x.shape
        mixed = self.qkv(x).view(batch, self.heads, -1, height * width)
        key_size = self.channels // self.heads // 2
        query, key, value = mixed.split([key_size, key_size, 2 * key_size], 2)
        scores = (query.transpose(2, 3) @ key).softmax(3)
        attended = (value @ scores.transpose(2, 3)).view(batch, -1, height, width)
        x = x + self.out(attended + self.place(value.reshape(batch, -1, height, width)))
        return x + self.net(x)


class _Heads(nn.Module):
    """Boxes as distributions over 16 bins and 80 classes, at three scales."""

    def __init__(self, channels: Sequence[int], *, separable: bool) -> None:
        super().__init__()
        box, cls = max(16, channels[0] // 4, 64), max(channels[0], 80)
        self.boxes = nn.ModuleList(
            nn.Sequential(_silu(c, box, 3), _silu(box, box, 3), nn.Conv2d(box, 64, 1))
            for c in channels
        )
        self.classes = nn.ModuleList(
            nn.Sequential(
                *(_separable(c, cls) if separable else [_silu(c, cls, 3)]),
                *(_separable(cls, cls) if separable else [_silu(cls, cls, 3)]),
                nn.Conv2d(cls, 80, 1),
            )
            for c in channels
        )

    def forward(self, scales: Sequence[torch.Tensor]) -> torch.Tensor:
        found = [
            torch.cat([boxes(x), classes(x)], 1).flatten(2)
            for boxes, classes, x in zip(self.boxes, self.classes, scales, strict=True)
        ]
        joined = torch.cat(found, 2)
        bins, scores = joined.split([64, 80], 1)
        weights = bins.unflatten(1, (4, 16)).softmax(2)
        sides = (weights * torch.arange(16.0, device=bins.device).view(16, 1)).sum(2)
        return torch.cat([sides, scores.sigmoid()], 1)


def _separable(inputs: int, outputs: int) -> list[nn.Module]:
    return [_silu(inputs, inputs, 3, groups=inputs), _silu(inputs, outputs)]


class _Detector(nn.Module):
    """Five halvings, a pyramid up and down, heads at three scales."""

    def __init__(
        self, chain: Callable[[int, int, int], nn.Module], channels: Sequence[int], top: nn.Module
    ) -> None:
        super().__init__()
        c1, c2, c3, c4, c5, *outs = channels
        self.low = nn.Sequential(
            _silu(3, c1, 3, stride=2), _silu(c1, c2, 3, stride=2), chain(0, c2, outs[0])
        )
        self.third = nn.Sequential(_silu(outs[0], c3, 3, stride=2), chain(1, c3, outs[1]))
        self.fourth = nn.Sequential(_silu(outs[1], c4, 3, stride=2), chain(2, c4, c4))
        self.fifth = nn.Sequential(_silu(c4, c5, 3, stride=2), chain(3, c5, c5), top)
        self.up4, self.up3 = chain(4, c5 + c4, c4), chain(5, c4 + outs[1], c3)
        self.to4, self.down4 = _silu(c3, c3, 3, stride=2), chain(6, c3 + c4, c4)
        self.to5, self.down5 = _silu(c4, c4, 3, stride=2), chain(7, c4 + c5, c5)

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        third = self.third(self.low(image))
        fourth = self.fourth(third)
        fifth = self.fifth(fourth)
        up4 = self.up4(torch.cat([_twice(fifth), fourth], 1))
        up3 = self.up3(torch.cat([_twice(up4), third], 1))
        down4 = self.down4(torch.cat([self.to4(up3), up4], 1))
        return [up3, down4, self.down5(torch.cat([self.to5(down4), fifth], 1))]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.heads(self.features(image))


def _twice(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def detector11(width: float, blocks: int, most: int, *, nested: bool) -> nn.Module:
    """The structure of YOLO11, by its width, its blocks per chain and its most channels."""

    def scaled(channels: int) -> int:
        return int(min(channels, most) * width)

    def chain(place: int, inputs: int, outputs: int) -> nn.Module:
        inner = outputs // 4 if place in (0, 1) else outputs // 2
        deep = nested or place in (2, 3, 7)
        made = [_Nested(inner) if deep else _Pair(inner, inner // 2) for _ in range(blocks)]
        return _Chain(inputs, outputs, inner, made)

    c1, c2, c3, c4, c5 = (scaled(c) for c in (64, 128, 256, 512, 1024))
    attention = _Chain2(c5, [_Attend(c5 // 2) for _ in range(blocks)])
    top = nn.Sequential(_Pyramid(c5), attention)
    net = _Detector(chain, (c1, c2, c3, c4, c5, c3, c4), top)
    net.heads = _Heads((c3, c4, c5), separable=True)
    return net


class _Chain2(nn.Module):
    """Half of the channels through blocks, the other half beside them."""

    def __init__(self, channels: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.into, self.out = _silu(channels, channels), _silu(channels, channels)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beside, through = self.into(x).chunk(2, 1)
        return self.out(torch.cat([beside, self.blocks(through)], 1))


def detector8(width: float, depth: float) -> nn.Module:
    """The structure of YOLOv8, by its width and depth."""
    repeats = {place: max(1, round(depth * n)) for place, n in enumerate((3, 6, 6, 3, 3, 3, 3, 3))}

    def chain(place: int, inputs: int, outputs: int) -> nn.Module:
        inner = outputs // 2
        return _Chain(inputs, outputs, inner, [_Pair(inner, inner) for _ in range(repeats[place])])

    c1, c2, c3, c4, c5 = (int(c * width) for c in (64, 128, 256, 512, 1024))
    net = _Detector(chain, (c1, c2, c3, c4, c5, c2, c3), _Pyramid(c5))
    net.heads = _Heads((c3, c4, c5), separable=False)
    return net
