"""Small user projects as text, good ones and traps, for tests to write into a folder.

`write_project(folder, model="tiny_cnn")` writes one and returns its folder. Keyword arguments
change its `sdk.toml`: a dict is merged into the section of that name, a list replaces it, None
removes it. `files={name: text}` adds or replaces files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent.tensors import write_tensors

Sections = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserProject:
    """One project that a user might have."""

    description: str
    files: Mapping[str, str]
    sections: Sections
    prepare: Callable[[Path], None] | None = None
    """Writes what is not text, such as a checkpoint."""


def write_project(
    folder: Path,
    *,
    model: str = "tiny_cnn",
    files: Mapping[str, str] | None = None,
    **overrides: Any,
) -> Path:
    """Write a project of `PROJECTS` into a folder, made if it is missing."""
    project = PROJECTS[model]
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {**project.files, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
    if project.prepare is not None:
        project.prepare(folder)
    sections = dict(project.sections)
    for key, change in overrides.items():
        merges = isinstance(change, Mapping) and isinstance(sections.get(key), Mapping)
        sections[key] = {**sections[key], **change} if merges else change
    (folder / "sdk.toml").write_text(to_toml(sections), encoding="utf-8")
    return folder


def to_toml(sections: Sections) -> str:
    """The sections as a project file; the standard library reads TOML and does not write it."""
    lines: list[str] = []
    for name, section in sections.items():
        if isinstance(section, Mapping):
            lines += [f"[{name}]", *_entries(section), ""]
        elif isinstance(section, (list, tuple)):
            for entry in section:
                lines += [f"[[{name}]]", *_entries(entry), ""]
        elif section is not None:
            # A key outside any section has to stand before the first of them.
            lines.insert(0, f"{_key(name)} = {_value(section)}")
    return "\n".join(lines)


def _entries(section: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in section.items()]


def _key(key: str) -> str:
    # Bare keys hold letters, digits, '_' and '-' only; a JSON string is a TOML string.
    return key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_entries(value)) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value)


def _inputs(**specs: tuple[str, list[int | str]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": dtype, "shape": shape} for name, (dtype, shape) in specs.items()
    ]


_TINY_SECTIONS: Sections = {
    "model": {"name": "tiny", "source": "model.py:make_model"},
    "inputs": _inputs(image=("float32", ["batch", 3, 8, 8])),
    "dims": {"batch": {"min": 1, "opt": 1, "max": 4}},
    "data": {"samples": "data.py:samples", "metric": "top1", "version": "1"},
    "limits": {"accuracy_drop": 0.05},
    "build": {"targets": ["intel"], "profiles": {"intel": ["host"]}},
}

# Random features and a head that compares them with those of each class's prototype: an untrained
# net whose answers have a margin, so that int8 keeps most of them.
_TINY_MODEL = """
    import torch
    from torch import nn
    from torch.nn import functional

    CLASSES = 4


    def prototypes():
        coarse = torch.randn(CLASSES, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        return functional.interpolate(coarse, scale_factor=2)


    class TinyCNN(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(),
                nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.ReLU(),
                nn.AvgPool2d(2), nn.Flatten(),
            )
            self.head = nn.Linear(64, CLASSES)

        def forward(self, image):
            return self.head(self.features(image))


    def make_model():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = TinyCNN()
        with torch.no_grad():
            found = model.features(prototypes())
            model.head.weight.copy_(functional.normalize(found - found.mean(0), dim=1) * 8)
            model.head.bias.copy_(-model.head.weight @ found.mean(0))
        return model
"""
_TINY_DATA = """
    import numpy as np
    import torch
    from model import CLASSES, make_model, prototypes

    SAMPLES = 400


    def samples():
        random = np.random.default_rng(0)
        model, centres = make_model().eval(), prototypes().numpy()
        for index in range(SAMPLES):
            noise = random.standard_normal((1, 3, 8, 8))
            image = (centres[index % CLASSES] + 0.5 * noise).astype(np.float32)
            with torch.inference_mode():
                label = int(model(torch.from_numpy(image)).argmax())
            yield f"sample-{index:03d}", {"image": image}, label
"""
_TINY_FILES = {"model.py": _TINY_MODEL, "data.py": _TINY_DATA}


def _tiny(
    description: str,
    *,
    prepare: Callable[[Path], None] | None = None,
    sections: Sections | None = None,
    **modules: str,
) -> UserProject:
    """The tiny CNN with some files replaced: `model_py=…`, `data_py=…`, `data=None`."""
    files = {name.replace("_py", ".py"): text for name, text in modules.items()}
    return UserProject(
        description=description,
        files={**_TINY_FILES, **files},
        sections={**_TINY_SECTIONS, **(sections or {})},
        prepare=prepare,
    )


def _bad_data(description: str, body: str) -> UserProject:
    """The tiny CNN, whose samples are the good ones sent through `body`."""
    good = textwrap.dedent(_TINY_DATA).replace("def samples", "def good_samples")
    return _tiny(description, data_py=good + "\n\n" + textwrap.dedent(body).lstrip())


def _forward(body: str, *, imports: str = "") -> str:
    """A model of one linear layer whose forward() is `body`, with `image` at hand."""
    lines = [
        "import torch",
        *textwrap.dedent(imports).strip().splitlines(),
        "",
        "",
        "CLASSES = 4",
        "",
        "",
        "def prototypes():",
        "    return torch.zeros(CLASSES, 3, 8, 8)",
        "",
        "",
        "class Net(torch.nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        "        self.head = torch.nn.Linear(192, CLASSES)",
        "",
        "    def forward(self, image):",
        *textwrap.indent(textwrap.dedent(body).strip(), " " * 8).splitlines(),
        "",
        "",
        "def make_model():",
        "    with torch.random.fork_rng():",
        "        torch.manual_seed(0)",
        "        return Net()",
    ]
    return "\n".join(lines) + "\n"


_HEAD = "return self.head(image.flatten(1))"


def _write_pickle(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / name).write_bytes(pickle.dumps(_Trap(folder / "pickle-was-run")))

    return prepare


class _Trap:
    """Makes a folder when it is unpickled, so that a test sees whether somebody did."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


def _write_weights(head: tuple[int, int]) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        weight = np.random.default_rng(0).standard_normal(head).astype(np.float32)
        bias = np.zeros(head[0], np.float32)
        path = folder / "weights.safetensors"
        write_tensors(path, [("head.bias", bias), ("head.weight", weight)])

    return prepare


def _with_checkpoint(name: str) -> Sections:
    return {"model": {**_TINY_SECTIONS["model"], "checkpoint": name}}


_TWO_INPUTS = UserProject(
    description="two inputs of different dtypes, passed by name; labels are the original's answers",
    files={
        "model.py": """
            import torch
            from torch import nn


            class Mixed(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.embed = nn.Embedding(10, 8)
                    self.mix = nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 5))

                def forward(self, categories, measurements):
                    known = self.embed(categories).flatten(1)
                    return {"scores": self.mix(torch.cat([known, measurements], dim=1))}


            def make_model():
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    return Mixed()
        """,
        "data.py": """
            import numpy as np
            import torch
            from model import make_model


            def samples():
                random, model = np.random.default_rng(0), make_model().eval()
                for index in range(400):
                    inputs = {
                        "measurements": random.standard_normal((1, 16), dtype=np.float32),
                        "categories": random.integers(0, 10, (1, 3)),
                    }
                    with torch.inference_mode():
                        tensors = {name: torch.from_numpy(a) for name, a in inputs.items()}
                        label = int(model(**tensors)["scores"].argmax())
                    yield f"row-{index}", inputs, label
        """,
    },
    sections={
        **_TINY_SECTIONS,
        "model": {"name": "two-inputs", "source": "model.py:make_model"},
        # In another order than forward() has them: inputs are passed by name.
        "inputs": _inputs(
            measurements=("float32", ["batch", 16]), categories=("int64", ["batch", 3])
        ),
        "limits": {"accuracy_drop": 0.2},  # answers of an untrained net lie close together
    },
)

_DYNAMIC_SEQUENCE = UserProject(
    description="token ids with a dynamic batch and length; no labels, so fidelity is scored",
    files={
        "model.py": """
            import torch
            from torch import nn
            from torch.nn import functional


            class Encoder(nn.Module):
                def __init__(self, width=32):
                    super().__init__()
                    self.embed = nn.Embedding(100, width)
                    self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
                    self.norm = nn.LayerNorm(width)

                def forward(self, ids):
                    states = self.embed(ids)
                    attended = functional.scaled_dot_product_attention(
                        self.query(states), self.key(states), self.value(states)
                    )
                    return {"embedding": self.norm(states + attended).mean(1)}


            def make_model():
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    return Encoder()
        """,
        "data.py": """
            import numpy as np


            def samples():
                random = np.random.default_rng(0)
                for index in range(400):
                    length = int(random.integers(4, 48))
                    yield f"text-{index}", {"ids": random.integers(0, 100, (1, length))}
        """,
    },
    sections={
        **_TINY_SECTIONS,
        "model": {"name": "sequence", "source": "model.py:make_model"},
        "inputs": _inputs(ids=("int64", ["batch", "length"])),
        "dims": {
            "batch": {"min": 1, "opt": 1, "max": 4},
            "length": {"min": 4, "opt": 16, "max": 48},
        },
        "data": {"samples": "data.py:samples", "metric": "cosine"},
    },
)

_DETECTOR = UserProject(
    description="a detector with three outputs of different shapes and scales in a dataclass",
    files={
        "model.py": """
            import dataclasses

            import torch
            from torch import nn


            @dataclasses.dataclass
            class Detections:
                boxes: torch.Tensor
                scores: torch.Tensor
                objectness: torch.Tensor


            class Detector(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.backbone = nn.Sequential(
                        nn.Conv2d(3, 16, 3, padding=1, stride=2), nn.ReLU(),
                        nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(),
                    )
                    self.boxes = nn.Conv2d(32, 4, 1)
                    self.scores = nn.Conv2d(32, 3, 1)
                    self.objectness = nn.Conv2d(32, 1, 1)

                def forward(self, image):
                    found = self.backbone(image)
                    return Detections(
                        boxes=self.boxes(found).flatten(2).transpose(1, 2) * 32,
                        scores=self.scores(found).flatten(2).transpose(1, 2).softmax(2),
                        objectness=self.objectness(found).sigmoid(),
                    )


            def make_model():
                torch.export.register_dataclass(Detections)
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    return Detector()
        """,
        "data.py": """
            import numpy as np


            def samples():
                random = np.random.default_rng(0)
                for index in range(400):
                    coarse = random.standard_normal((1, 3, 8, 8)).astype(np.float32)
                    yield f"frame-{index}", {"image": coarse.repeat(4, axis=2).repeat(4, axis=3)}
        """,
    },
    sections={
        **_TINY_SECTIONS,
        "model": {"name": "detector", "source": "model.py:make_model"},
        "inputs": _inputs(image=("float32", ["batch", 3, 32, 32])),
        "data": {"samples": "data.py:samples", "metric": "cosine"},
    },
)

PROJECTS: dict[str, UserProject] = {
    "tiny_cnn": _tiny("a small CNN; the labels are its own answers, so its top-1 is 1.0"),
    "two_inputs": _TWO_INPUTS,
    "dynamic_sequence": _DYNAMIC_SEQUENCE,
    "detector": _DETECTOR,
    "no_data": _tiny("no [data]: speed only, no static int8", sections={"data": None}),
    "with_checkpoint": _tiny(
        "a linear model whose weights come from a checkpoint that fits",
        model_py=_forward(_HEAD),
        sections={**_with_checkpoint("weights.safetensors"), "data": None},
        prepare=_write_weights((4, 192)),
    ),
    "helper_module": _tiny(
        "model.py imports a sibling, helpers.py: a change there must rebuild",
        model_py=_forward(
            "return helpers.scaled(self.head(image.flatten(1)))", imports="import helpers"
        ),
        helpers_py="SCALE = 2.0\n\n\ndef scaled(logits):\n    return logits * SCALE\n",
    ),
    "own_agent_package": UserProject(
        description="the user's own agent/ and targets/ packages, imported by model.py and data.py",
        files={
            "agent/__init__.py": '"""A reinforcement learning agent."""\n',
            "agent/layers.py": "def doubled(logits):\n    return logits * 2\n",
            "targets/__init__.py": "NAMES = ('left', 'right', 'up', 'down')\n",
            "model.py": _forward(
                "return doubled(self.head(image.flatten(1)))[:, : len(NAMES)]",
                imports="from agent.layers import doubled\nfrom targets import NAMES",
            ),
            "data.py": _TINY_DATA,
        },
        sections=_TINY_SECTIONS,
    ),
    "registered_custom_op": _tiny(
        "an operator of the user's own, registered with a fake kernel: it goes through",
        model_py=_forward(
            "return swish(self.head(image.flatten(1)))",
            imports="""
                @torch.library.custom_op("userlib::swish", mutates_args=())
                def swish(x: torch.Tensor) -> torch.Tensor:
                    return x * torch.sigmoid(x)


                @swish.register_fake
                def _(x):
                    return torch.empty_like(x)
            """,
        ),
    ),
    # From here on: traps. Each must end in a clear error, and leave nothing half-written.
    "factory_raises": _tiny(
        "make_model raises",
        model_py="def make_model():\n    raise RuntimeError('no such layer: conv9')\n",
        sections={"data": None},
    ),
    "factory_returns_string": _tiny(
        "make_model returns a string",
        model_py="def make_model():\n    return 'resnet18'\n",
        sections={"data": None},
    ),
    "pickle_checkpoint": _tiny(
        "the checkpoint is a pickle called .pt; if anybody opens it, pickle-was-run/ appears",
        sections=_with_checkpoint("weights.pt"),
        prepare=_write_pickle("weights.pt"),
    ),
    "disguised_pickle": _tiny(
        "the checkpoint is a pickle called .safetensors; pickle-was-run/ as above",
        sections=_with_checkpoint("weights.safetensors"),
        prepare=_write_pickle("weights.safetensors"),
    ),
    "weights_mismatch": _tiny(
        "the checkpoint's head has seven classes, the model's has four",
        model_py=_forward(_HEAD),
        sections=_with_checkpoint("weights.safetensors"),
        prepare=_write_weights((7, 192)),
    ),
    "weights_incomplete": _tiny(
        "the checkpoint has the head, and nothing of the features",
        sections=_with_checkpoint("weights.safetensors"),
        prepare=_write_weights((4, 64)),
    ),
    "data_dependent_control_flow": _tiny(
        "forward() branches on a tensor's value, in helpers.py line 2",
        model_py=_forward(
            "return gated(self.head(image.flatten(1)))", imports="from helpers import gated"
        ),
        helpers_py="def gated(x):\n    if x.sum() > 0:\n        return x * 2\n    return x\n",
    ),
    "unregistered_op": _tiny(
        "forward() leaves torch for numpy",
        model_py=_forward(
            "return torch.from_numpy(np.tanh(self.head(image.flatten(1)).numpy()))",
            imports="import numpy as np",
        ),
    ),
    "nan_output": _tiny(
        "forward() takes the logarithm of a negative number",
        model_py=_forward("return torch.log(-1 - self.head(image.flatten(1)).abs())"),
    ),
    "nondeterministic": _tiny(
        "dropout is on in eval mode, so two runs differ",
        model_py=_forward(
            "return torch.nn.functional.dropout(self.head(image.flatten(1)), 0.5, training=True)"
        ),
    ),
    "wrong_shape_data": _bad_data(
        "the images are 9x8, sdk.toml says 8x8",
        """
        def samples():
            for name, inputs, label in good_samples():
                taller = np.concatenate([inputs["image"], inputs["image"][:, :, :1]], axis=2)
                yield name, {"image": taller}, label
        """,
    ),
    "wrong_dtype_data": _bad_data(
        "the images are float64, sdk.toml says float32",
        """
        def samples():
            for name, inputs, label in good_samples():
                yield name, {"image": inputs["image"].astype(np.float64)}, label
        """,
    ),
    "empty_data": _bad_data("samples() yields nothing", "def samples():\n    return iter(())\n"),
    "raising_data": _bad_data(
        "samples() raises after 37 samples",
        """
        def samples():
            for count, sample in enumerate(good_samples()):
                if count == 37:
                    raise OSError("image 37 cannot be decoded")
                yield sample
        """,
    ),
    "duplicate_ids": _bad_data(
        "ids repeat after 200 samples",
        """
        def samples():
            for count, (_, inputs, label) in enumerate(good_samples()):
                yield f"sample-{count % 200}", inputs, label
        """,
    ),
    "nan_data": _bad_data(
        "one image holds NaN",
        """
        def samples():
            for count, (name, inputs, label) in enumerate(good_samples()):
                yield name, {"image": inputs["image"] * (np.nan if count == 5 else 1)}, label
        """,
    ),
}
"""Name -> project; the description says what is special about it."""
