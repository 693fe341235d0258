"""A generated case as a torch module: each layer's word becomes a module of standard PyTorch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

from sdk.microbenchmarks.case import Case, Layer


def example_of(case: Case, seed: int = 0) -> Any:
    """An input of a case, with seeded noise."""
    import torch

    made = torch.Generator().manual_seed(zlib.crc32(case.name.encode()) + seed)
    if case.integers:
        return torch.randint(0, _vocabulary(case.layers), case.shape, generator=made)
    return torch.randn(case.shape, generator=made)


def module_of(case: Case) -> Any:
    """The module of a case, in evaluation mode, with seeded weights."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(zlib.crc32(case.name.encode()))
        found, _ = _sequence(case.layers, example_of(case))
    return found.eval()


def _vocabulary(layers: Sequence[Layer]) -> int:
    return next((int(layer[1]) for layer in layers if layer[0] == "embedding"), 2)


def _sequence(layers: Sequence[Layer], x: Any) -> tuple[Any, Any]:
    """The layers in order, and what they make of x: each one's sizes follow from its input's."""
    from torch import nn

    modules = []
    for layer in layers:
        module = _layer(layer, x).eval()
        x = module(x)
        modules.append(module)
    return nn.Sequential(*modules), x


def _layer(layer: Layer, x: Any) -> Any:
    word, *sizes = layer
    if word in ("residual", "concat", "se"):
        return _branches(word, sizes, x)
    return _OWN[word](x, *sizes) if word in _OWN else _standard(word, x, sizes)


def _branches(word: str, sizes: Sequence[Any], x: Any) -> Any:
    import torch
    from torch import nn

    if word == "se":
        inner, gate = sizes
        channels = x.shape[1]
        gates = (("pool_to_one",), ("conv", inner, 1, 1, 1), ("act", "relu"))
        parts = [(*gates, ("conv", channels, 1, 1, 1), ("act", gate))]
    else:
        parts = [tuple(part) for part in sizes]

    class Branches(nn.Module):  # type: ignore[misc]  # torch is untyped here
        """Several ways from one input, met again."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(_sequence(part, x)[0] for part in parts)

        def forward(self, x: Any) -> Any:
            if word == "residual":
                return x + self.parts[0](x)
            if word == "se":
                return x * self.parts[0](x)
            return torch.cat([part(x) for part in self.parts], 1)

    return Branches()


def _conv(x: Any, outputs: int, kernel: int, stride: int, groups: int) -> Any:
    from torch import nn

    patches = stride == kernel and kernel > 7  # a vision transformer's
    padding = 0 if patches else kernel // 2
    return nn.Conv2d(x.shape[1], outputs, kernel, stride, padding, groups=groups)


def _depthwise(x: Any, kernel: int, stride: int) -> Any:
    from torch import nn

    channels = x.shape[1]
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)


def _conv1d(x: Any, outputs: int, kernel: int, stride: int) -> Any:
    from torch import nn

    return nn.Conv1d(x.shape[1], outputs, kernel, stride, kernel // 2)


def _activation(x: Any, name: str) -> Any:
    from torch import nn

    del x
    kinds = {
        "relu": nn.ReLU,
        "relu6": nn.ReLU6,
        "hardswish": nn.Hardswish,
        "silu": nn.SiLU,
        "gelu": nn.GELU,
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "hardsigmoid": nn.Hardsigmoid,
    }
    return kinds[name]()


def _attention(x: Any, heads: int) -> Any:
    from torch import nn
    from torch.nn import functional

    width = x.shape[-1]

    class Attention(nn.Module):  # type: ignore[misc]  # torch is untyped here
        """Self-attention with one product for queries, keys and values."""

        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

        def forward(self, x: Any) -> Any:
            split = self.qkv(x).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            found = functional.scaled_dot_product_attention(split[0], split[1], split[2])
            return self.out(found.transpose(1, 2).flatten(2))

    return Attention()


def _cell(kind: str) -> Callable[..., Any]:
    def make(x: Any, hidden: int, layers: int, both: Any) -> Any:
        from torch import nn

        class Cell(nn.Module):  # type: ignore[misc]  # torch is untyped here
            """A recurrent layer's answers, without its state."""

            def __init__(self) -> None:
                super().__init__()
                make_cell = nn.GRU if kind == "gru" else nn.LSTM
                self.cell = make_cell(
                    x.shape[-1], hidden, layers, batch_first=True, bidirectional=both
                )

            def forward(self, x: Any) -> Any:
                return self.cell(x)[0]

        return Cell()

    return make


def _standard(word: str, x: Any, sizes: Sequence[Any]) -> Any:
    """A layer of torch.nn for this input."""
    from torch import nn

    makers: dict[str, Callable[[], Any]] = {
        "bn": lambda: nn.BatchNorm2d(x.shape[1]),
        "linear": lambda: nn.Linear(x.shape[-1], *sizes),
        "norm": lambda: nn.LayerNorm(x.shape[-1]),
        "groupnorm": lambda: nn.GroupNorm(sizes[0], x.shape[1]),
        "softmax": lambda: nn.Softmax(-1),
        "maxpool": lambda: nn.MaxPool2d(3, 2, 1),
        "avgpool": lambda: nn.AvgPool2d(2),
        "upsample": lambda: nn.Upsample(scale_factor=2),
        "pool_to_one": lambda: nn.AdaptiveAvgPool2d(1),
        "embedding": lambda: nn.Embedding(*sizes),
        "flatten": nn.Flatten,
    }
    return makers[word]()


def _called(function: Callable[[Any], Any]) -> Callable[..., Any]:
    def made(x: Any) -> Any:
        from torch import nn

        del x

        class Call(nn.Module):  # type: ignore[misc]  # torch is untyped here
            def forward(self, x: Any) -> Any:
                return function(x)

        return Call()

    return made


_OWN: dict[str, Callable[..., Any]] = {
    "conv": _conv,
    "dw": _depthwise,
    "conv1d": _conv1d,
    "act": _activation,
    "attention": _attention,
    "gru": _cell("gru"),
    "lstm": _cell("lstm"),
    "mean": _called(lambda x: x.mean((2, 3))),
    "mean_tokens": _called(lambda x: x.mean(1)),
    "last": _called(lambda x: x[:, -1]),
    "tokens": _called(lambda x: x.flatten(2).transpose(1, 2)),
}
"""A layer's word -> what makes its module from the input it will meet and its sizes."""
