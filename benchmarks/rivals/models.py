"""The models of the comparison with rivals: what each is, what it is given, what its limit is.

`prepare(name, folder)` trains or settles one and writes all that everybody starts from: the
program, the weights, the project, the samples given and the samples held out.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from agent.manifest import Signature, TensorSpec
from agent.tensors import TensorWriter
from benchmarks import architectures, models
from benchmarks.rivals import nets
from benchmarks.rivals.data import (
    PLACES,
    Samples,
    as_input,
    digits,
    load_samples,
    minilm_weights,
    sentences,
    steps,
    text_bytes,
    textures,
)

Metric = Literal["top1", "cosine"]
LIMITS: dict[Metric, float] = {"top1": 0.01, "cosine": 0.005}
"""How much of the original's mean score may be lost: 1 % of the top-1 accuracy where there is a
task; else the mean cosine to the original is to be at least 0.995."""
CENTRING = 64
_IMAGE = (1, 8, 8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One model."""

    make: Callable[[], nn.Module]
    """The network, without its weights."""
    weights: Callable[[nn.Module], None]
    """Trains it, loads its weights or settles it."""
    given: Callable[[nn.Module], Samples]
    """What a project and every rival calibrate and choose with."""
    held_out: Callable[[nn.Module], Samples]
    """What everybody is judged on."""
    metric: Metric
    told: str
    """What it is, in a few words, for the table."""
    trap: bool = False
    transformer: bool = False
    """NNCF's documentation asks for the model type of a transformer."""


def _trained(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    told: str,
    *,
    epochs: int = 12,
    afterwards: Callable[[nn.Module], None] | None = None,
    trap: bool = False,
) -> Case:
    def weights(net: nn.Module) -> None:
        training = digits(shape, part="training", copies=3)
        (array,) = training.inputs.values()
        assert training.labels is not None
        nets.fit(
            net, torch.from_numpy(as_input(array)), torch.from_numpy(training.labels), epochs=epochs
        )
        if afterwards is not None:
            afterwards(net)

    return Case(
        make=make,
        weights=weights,
        given=lambda _: digits(shape, part="given", copies=5),
        held_out=lambda _: digits(shape, part="held out", copies=2),
        metric="top1",
        told=told,
        trap=trap,
    )


def _seeded(
    name: str,
    make: Callable[[], nn.Module],
    told: str,
    *,
    size: int = 224,
    transformer: bool = False,
) -> Case:
    def weights(net: nn.Module) -> None:
        (array,) = textures(name, CENTRING, size, part="centring").inputs.values()
        nets.settle(net, torch.from_numpy(as_input(array)))

    return Case(
        make=make,
        weights=weights,
        # Below what proves the limit even of equal answers (597 final samples), or far above it
        # would do. Between the two f32 is proven and nothing else is.
        given=lambda _: textures(name, 1000, size, part="given"),
        held_out=lambda _: textures(name, 200, size, part="held out"),
        metric="cosine",
        told=told,
        transformer=transformer,
    )


def _decoder(net: nn.Module) -> None:
    assert isinstance(net, nets.Decoder)
    text = text_bytes(part="training")
    nets.fit_decoder(net, text, steps=240)
    with torch.no_grad():  # all logits share how frequent the bytes are, which hides every error
        logits, _, _ = net.whole(text[: 20 * PLACES].reshape(20, PLACES))
        net.head.bias -= logits.mean((0, 1))


def _steps(net: nn.Module, *, count: int, part: str) -> Samples:
    assert isinstance(net, nets.Decoder)
    return steps(net, count, part=part)


def _outliers(net: nn.Module) -> None:
    """Three channels of each layer a hundred times as large as the others."""
    random = torch.Generator().manual_seed(1)
    factors = []
    for layer in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        factor = torch.ones(layer.num_features)
        factor[torch.randperm(layer.num_features, generator=random)[:3]] = 100.0
        factors.append(factor)
    nets.spread(net, factors[:-1])


def _ranges(net: nn.Module) -> None:
    """Channels' ranges spread over three orders of magnitude, before and after each depthwise."""
    random = torch.Generator().manual_seed(2)
    factors = [
        torch.randn(layer.num_features, generator=random).mul(1.5).clamp(-3.5, 3.5).exp()
        for layer in net.modules()
        if isinstance(layer, nn.BatchNorm2d)
    ]
    nets.spread(net, factors[:-1])


def _recurrent() -> nn.Module:
    return models.Recurrent(nn.GRU(64, 128, num_layers=2, batch_first=True), 128)


CASES: dict[str, Case] = {
    "minilm": Case(
        make=functools.partial(nets.example, "minilm"),
        weights=lambda net: net.load_state_dict(minilm_weights()) and None,
        given=lambda _: sentences(part="given"),
        held_out=lambda _: sentences(part="held out"),
        metric="cosine",
        told="all-MiniLM-L6-v2, 128 tokens, published weights",
        transformer=True,
    ),
    "digits": _trained(
        functools.partial(nets.example, "digits"), _IMAGE, "the example's CNN, 8x8, trained",
        epochs=24,
    ),
    "keyword": _trained(
        models.KeywordNet, (1, 49, 10), "depthwise keyword net, 49x10, trained", epochs=16
    ),
    "gru": _trained(_recurrent, (100, 64), "two GRU layers, 100 steps, trained", epochs=8),
    "resnet18": _seeded("resnet18", models.ResNet, "ResNet-18, 224x224"),
    "resnet50": _seeded("resnet50", architectures.resnet50, "ResNet-50, 224x224"),
    "mobilenet_v2": _seeded("mobilenet_v2", architectures.mobilenet_v2, "MobileNetV2, 224x224"),
    "mobilenet_v3_small": _seeded(
        "mobilenet_v3_small",
        architectures.ARCHITECTURES["mobilenet_v3_small"][0],
        "MobileNetV3-small: squeeze-excite, hard-swish",
    ),
    "efficientnet_b0": _seeded(
        "efficientnet_b0", architectures.efficientnet_b0, "EfficientNet-B0, 224x224"
    ),
    "vit_tiny": _seeded(
        "vit_tiny", models.VisionTransformer, "ViT-tiny, 224x224", transformer=True
    ),
    "detector": _seeded(
        "detector", nets.RawDetector, "detector, three scales, 320x320", size=320
    ),
    "decoder": Case(
        make=nets.Decoder,
        weights=_decoder,
        given=functools.partial(_steps, count=1000, part="given"),
        held_out=functools.partial(_steps, count=300, part="held out"),
        metric="cosine",
        told="decoder of 4 layers, one step with a cache of 128, trained",
        transformer=True,
    ),
    "trap_outliers": _trained(
        nets.Plain, (1, 32, 32), "CNN with outlier channels, trained",
        afterwards=_outliers, trap=True, epochs=4,
    ),
    "trap_ranges": _trained(
        nets.Separable, (1, 64, 64), "depthwise net with wide ranges, trained",
        afterwards=_ranges, trap=True, epochs=6,
    ),
    "trap_thin": _trained(
        nets.Thin, (1, 64, 64), "hardly any products: int8 is slower, trained",
        trap=True, epochs=10,
    ),
}  # fmt: skip
"""Name -> model."""


def prepare(name: str, folder: Path) -> None:
    """Write everything that all contestants start from; nothing if it is there.

    `weights.safetensors`, `project/`, `held_out/` and `inputs.safetensors`, which speed is measured
    with, lie in the folder afterwards.
    """
    if (folder / "ready").exists():
        return
    from safetensors.torch import save_file

    case = CASES[name]
    torch.set_num_threads(1)  # sums in one order: the same weights on any number of cores
    torch.manual_seed(0)
    net = case.make()
    case.weights(net)
    net.eval().requires_grad_(requires_grad=False)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), folder / "weights.safetensors")
    held_out, given = case.held_out(net), case.given(net)
    held_out.save(folder / "held_out")
    _write_answers(net, held_out, folder)
    _write_project(name, net, given, folder / "project")
    (folder / "ready").touch()


def network(name: str, folder: Path) -> nn.Module:
    """The prepared network, in eval mode."""
    from safetensors.torch import load_file

    net = CASES[name].make()
    net.load_state_dict(load_file(folder / "weights.safetensors"))
    return net.eval().requires_grad_(requires_grad=False)


def answers(net: nn.Module, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the original says."""
    with torch.inference_mode():
        found = net(*(torch.from_numpy(array) for array in inputs.values()))
    named = found if isinstance(found, dict) else {"output": found}
    return {key: tensor.numpy() for key, tensor in named.items()}


def signature(folder: Path) -> Signature:
    """Names, types and shapes, as every rival's files are to have them."""
    told = json.loads((folder / "signature.json").read_text())
    return Signature(
        inputs=tuple(_spec(*entry) for entry in told["inputs"]),
        outputs=tuple(_spec(*entry) for entry in told["outputs"]),
        dims={},
    )


def _spec(name: str, dtype: str, shape: list[int]) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=tuple(shape))


def _write_answers(net: nn.Module, samples: Samples, folder: Path) -> None:
    """The original's answers to the held-out samples, and how alike those answers are."""
    first: dict[str, np.ndarray] = {}
    rows: list[np.ndarray] = []
    with (
        TensorWriter(folder / "answers.safetensors") as writer,
        TensorWriter(folder / "inputs.safetensors") as measured,
    ):
        for index, inputs in enumerate(samples):
            found = answers(net, inputs)
            for key, array in found.items():
                writer.add(f"{index:05d}/{key}", array)
            if index < 32:
                for key, array in inputs.items():
                    measured.add(f"{index:05d}/in/{key}", array)
            if index == 0:
                # The outputs' own names may be operators' names too, which torch.onnx stumbles on.
                numbered = {f"answer_{at}": array for at, array in enumerate(found.values())}
                entries = {
                    side: [[key, str(array.dtype), list(array.shape)] for key, array in own.items()]
                    for side, own in (("inputs", inputs), ("outputs", numbered))
                }
                (folder / "signature.json").write_text(json.dumps(entries))
            first = first or found
            rows.append(found[next(iter(found))].ravel())
    told = {"alike": _alike(np.stack(rows[:100])), "samples": len(samples)}
    (folder / "answers.json").write_text(json.dumps(told))


def _alike(rows: np.ndarray) -> float:
    """The mean cosine between answers to different inputs: near 1, agreement would mean nothing."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    products = unit @ unit.T
    count = len(rows)
    return float((products.sum() - np.trace(products)) / (count * (count - 1)))


_DATA = '''"""The samples given, in their order."""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def samples():
    names = json.loads((HERE / "inputs.json").read_text())
    arrays = {name: np.load(HERE / f"input-{name}.npy", "r") for name in names}
    labels = np.load(HERE / "labels.npy") if (HERE / "labels.npy").exists() else None
    for index in range(len(next(iter(arrays.values())))):
        inputs = {name: as_input(array[index : index + 1]) for name, array in arrays.items()}
        own = f"sample-{index:05d}"
        yield (own, inputs) if labels is None else (own, inputs, int(labels[index]))


def as_input(array):
    if array.dtype == np.uint8:
        return (array.astype(np.float32) / np.float32(127.5)) - np.float32(1)
    return np.array(array[0] if array.ndim == 5 else array)
'''


def _write_project(name: str, net: nn.Module, given: Samples, folder: Path) -> None:
    given.save(folder)
    (folder / "data.py").write_text(_DATA)
    net.eval()
    torch.export.save(export(net, given), folder / "model.pt2")
    case = CASES[name]
    inputs = "".join(
        f'[[inputs]]\nname = "{key}"\ndtype = "{array.dtype}"\nshape = {list(array.shape)}\n\n'
        for key, array in next(iter(given)).items()
    )
    (folder / "sdk.toml").write_text(
        f'[model]\nname = "{name.replace("_", "-")}"\nsource = "model.pt2"\n\n{inputs}'
        f'[data]\nsamples = "data.py:samples"\nmetric = "{case.metric}"\n\n'
        f"[limits]\naccuracy_drop = {LIMITS[case.metric]}\n\n"
        '[build]\ntargets = ["intel"]\nprofiles = { intel = ["host"] }\n'
    )


def export(net: nn.Module, given: Samples) -> torch.export.ExportedProgram:
    """The network for a batch of one."""
    example = tuple(torch.from_numpy(array) for array in next(iter(given)).values())
    return torch.export.export(net, example)


def given_samples(folder: Path) -> Samples:
    """What the project got: rivals calibrate and validate with it, too."""
    return load_samples(folder / "project")
