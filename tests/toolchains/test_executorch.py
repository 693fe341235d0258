"""ExecuTorch: lowered programs answer as torch does, and what cannot work says why."""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.errors import ToolchainError, UsageError
from agent.manifest import TensorSpec
from agent.sessions import executorch as session
from agent.tensors import Array
from targets.interface import Lowered, Problem, Program, Recipe
from targets.toolchains import executorch
from tests.toolchains.zoo import ZOO, Entry, exported

pytestmark = [
    pytest.mark.toolchain,
    # torch.export warns of each recurrent layer, whose weights it takes out and puts back.
    pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning"),
    # torch, torchao and coremltools deprecate parts of each other that ExecuTorch still calls.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore::UserWarning:executorch"),
]


def _gru() -> Any:
    from torch import nn

    class Gru(nn.Module):
        """Its first state is a tensor made from the batch's size."""

        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRU(4, 8, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.cell(x)[0][:, -1]

    return Gru()


def _pooled() -> Any:
    from torch import nn

    class Pooled(nn.Module):
        """Unsqueezes weights whose two dims are dynamic; takes ids and floats."""

        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

        def forward(self, ids: Any, weights: Any) -> Any:
            return self.head((self.words(ids) * (weights * 2).unsqueeze(-1)).mean(1))

    return Pooled()


def _one_operator(name: str, *arguments: Any) -> Any:
    import torch
    from torch import nn

    class One(nn.Module):
        def forward(self, x: Any) -> Any:
            answer = getattr(torch, name)(x, *arguments)
            return answer if isinstance(answer, torch.Tensor) else answer[0]

    return One()


def _attention() -> Any:
    from torch import nn

    class Attention(nn.Module):
        """Decomposed, it compares with minus infinity."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Any) -> Any:
            return nn.functional.scaled_dot_product_attention(self.linear(x), x, x)

    return Attention()


def _counter() -> Any:
    import torch
    from torch import nn

    class Counter(nn.Module):
        """Has state: the n-th call adds n."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Any) -> Any:
            self.calls.add_(1)
            return x + self.calls

    return Counter()


def _input(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


MODELS = {
    "cnn": ZOO["cnn"],
    "batched-cnn": ZOO["batched-cnn"],
    "two-heads": ZOO["two-heads"],
    "encoder": ZOO["encoder"],
    "gru": Entry(
        name="gru", make=_gru, inputs=(_input("x", "batch", 3, 4),), dims={"batch": (1, 2, 5)}
    ),
    "pooled": Entry(
        name="pooled",
        make=_pooled,
        inputs=(
            _input("ids", "batch", "length", dtype="int64"),
            _input("weights", "batch", "length"),
        ),
        dims={"batch": (1, 2, 4), "length": (3, 6, 9)},
        highest=20,
    ),
    "attention": Entry(name="attention", make=_attention, inputs=(_input("x", 1, 2, 4, 8),)),
    "counter": Entry(name="counter", make=_counter, inputs=(_input("x", 2),)),
    "remainder": Entry(
        name="remainder",
        make=lambda: _one_operator("remainder", 0.3),
        inputs=(_input("x", 3, 5),),
    ),
    "sorted": Entry(
        name="sorted", make=lambda: _one_operator("sort", -1), inputs=(_input("x", 3, 5),)
    ),
}


def _recipe(backend: str = "xnnpack", precision: str = "f32", **changes: Any) -> Recipe:
    base = Recipe(toolchain="executorch", format="executorch", precision=precision, backend=backend)
    return dataclasses.replace(base, **changes)


F32 = _recipe()
PT2E = _recipe(precision="int8", quantisation={"method": "pt2e", "samples": 8})
DYNAMIC = _recipe(precision="int8", quantisation={"method": "dynamic"})
NNCF = _recipe(precision="int8", quantisation={"method": "nncf-pt2e", "samples": 8})
VULKAN = _recipe("vulkan", "f16")
COREML = _recipe("coreml", "f16", options={"minimum_deployment_target": "iOS17"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """A model, its program, and what the toolchain made of it."""

    entry: Entry
    program: Program
    lowered: Lowered
    path: Path

    def load(self, options: Mapping[str, Any] | None = None) -> Any:
        return session.load(self.path, options or {}, self.program.signature)


Build = Callable[[str, Recipe], Built]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Program]:
    made: dict[str, Program] = {}

    def capture(name: str) -> Program:
        if name not in made:
            made[name] = exported(MODELS[name], tmp_path_factory.mktemp(name))
        return made[name]

    return capture


@pytest.fixture(scope="module")
def build(program: Callable[[str], Program], tmp_path_factory: pytest.TempPathFactory) -> Build:
    made: dict[tuple[str, str], Built] = {}

    def lower(name: str, recipe: Recipe) -> Built:
        key = (name, recipe.digest)
        if key not in made:
            entry, source, out = MODELS[name], program(name), tmp_path_factory.mktemp(name)
            assert executorch.supports(source, recipe) == []
            lowered = executorch.lower(source, recipe, entry.calibration(), out)
            path = out / lowered.files[0]
            made[key] = Built(entry=entry, program=source, lowered=lowered, path=path)
        return made[key]

    return lower


def _cosine(left: Array, right: Array) -> float:
    a, b = left.astype(float).ravel(), right.astype(float).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("name", ["batched-cnn", "two-heads", "gru", "pooled"])
def test_f32_answers_as_torch_does_at_every_bound_of_the_dims(build: Build, name: str) -> None:
    built = build(name, F32)
    loaded = built.load()
    for sizes in built.entry.sizes():
        inputs = built.entry.sample(sizes=sizes)
        answers = loaded.run(inputs)
        for output, expected in built.entry.eager(inputs).items():
            assert answers[output].dtype == expected.dtype
            np.testing.assert_allclose(answers[output], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", [PT2E, NNCF], ids=["pt2e", "nncf-pt2e"])
def test_int8_stays_dynamic_and_close_to_torch(build: Build, recipe: Recipe) -> None:
    built = build("batched-cnn", recipe)
    assert built.lowered.placement["xnnpack"] > 0.8
    loaded = built.load()
    for sizes in built.entry.sizes():
        inputs = built.entry.sample(sizes=sizes)
        assert _cosine(loaded.run(inputs)["output"], built.entry.eager(inputs)["output"]) > 0.995


def test_int8_of_two_dynamic_dims_and_integer_inputs(build: Build) -> None:
    built = build("pooled", PT2E)
    loaded = built.load()
    for sizes in built.entry.sizes():
        inputs = built.entry.sample(sizes=sizes)
        assert _cosine(loaded.run(inputs)["output"], built.entry.eager(inputs)["output"]) > 0.99


def test_dynamic_int8_takes_no_data_and_narrows_the_linear_layers(
    program: Callable[[str], Program], build: Build, tmp_path: Path
) -> None:
    name, entry = "encoder", MODELS["encoder"]
    assert executorch.supports(program(name), DYNAMIC) == []
    lowered = executorch.lower(program(name), DYNAMIC, None, tmp_path)
    path, plain = tmp_path / lowered.files[0], build(name, F32)
    assert path.stat().st_size < 0.7 * plain.path.stat().st_size
    assert lowered.placement["xnnpack"] >= plain.lowered.placement["xnnpack"] - 0.1
    loaded = session.load(path, {}, program(name).signature)
    for sizes in entry.sizes():
        inputs = entry.sample(sizes=sizes)
        for output, expected in entry.eager(inputs).items():
            if expected.dtype.kind == "f":
                assert _cosine(loaded.run(inputs)[output], expected) > 0.998


def test_weights_of_4_bits_take_half_of_what_8_take(
    program: Callable[[str], Program], build: Build, tmp_path: Path
) -> None:
    from torch import nn

    name, entry = "encoder", MODELS["encoder"]
    narrow = dataclasses.replace(DYNAMIC, precision="int4")
    assert executorch.supports(program(name), narrow) == []
    lowered = executorch.lower(program(name), narrow, None, tmp_path)
    path, wide = tmp_path / lowered.files[0], build(name, DYNAMIC).path
    linear = [m for m in entry.module().modules() if isinstance(m, nn.Linear)]
    half = sum(layer.weight.numel() for layer in linear) / 2
    assert wide.stat().st_size - path.stat().st_size == pytest.approx(half, rel=0.2)
    loaded = session.load(path, {}, program(name).signature)
    inputs = entry.sample(sizes=next(iter(entry.sizes())))
    for output, expected in entry.eager(inputs).items():
        if expected.dtype.kind == "f":
            assert _cosine(loaded.run(inputs)[output], expected) > 0.95


def test_4_bits_are_for_weights_alone(program: Callable[[str], Program]) -> None:
    static = dataclasses.replace(PT2E, precision="int4")
    (problem,) = executorch.supports(program("cnn"), static)
    assert "only weights go to 4 bits" in problem.what


def test_int8_without_samples_is_refused(program: Callable[[str], Program], tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="needs real inputs"):
        executorch.lower(program("cnn"), PT2E, None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fewer_samples_than_asked_for_are_noted(build: Build) -> None:
    greedy = dataclasses.replace(PT2E, quantisation={"method": "pt2e", "samples": 100})
    assert "8 samples, 100" in build("cnn", greedy).lowered.notes[0]


@pytest.mark.parametrize(
    ("recipe", "delegate", "mark"),
    [(VULKAN, "VulkanBackend", b"VH00"), (COREML, "CoreMLBackend", b"inputNames")],
    ids=["vulkan", "coreml"],
)
def test_phone_gpu_files_call_their_delegate_and_are_refused_by_this_host(
    build: Build, recipe: Recipe, delegate: str, mark: bytes
) -> None:
    built = build("cnn", recipe)
    content = built.path.read_bytes()
    assert content[4:8] == b"ET12"
    assert delegate.encode() in content
    assert mark in content
    assert built.lowered.placement[str(recipe.backend)] > 0.9
    with pytest.raises(ToolchainError, match="needs a backend that this runtime lacks"):
        built.load()
    # coremltools leaves temporary folders to the collector, of which Python warns: here, not later.
    gc.collect()


def test_a_program_that_vulkan_cannot_take_at_all_fails(build: Build) -> None:
    with pytest.raises(ToolchainError, match="delegated none"):
        build("remainder", VULKAN)


@pytest.mark.long
def test_vulkan_takes_attention_but_for_its_infinities(build: Build) -> None:
    share = build("attention", VULKAN).lowered.placement["vulkan"]
    assert 0.5 < share < 1


def test_an_operator_without_any_kernel_fails(build: Build) -> None:
    with pytest.raises(ToolchainError, match=r"no kernel for aten::sort\.values"):
        build("sorted", F32)


def test_a_program_that_xnnpack_cannot_take_runs_on_portable_kernels_and_says_so(
    build: Build,
) -> None:
    built = build("remainder", F32)
    assert built.lowered.placement == {"xnnpack": 0.0, "portable": 1.0}
    assert "portable" in built.lowered.notes[0]
    inputs = built.entry.sample()
    expected = built.entry.eager(inputs)["output"]
    np.testing.assert_allclose(built.load().run(inputs)["output"], expected, atol=1e-6)


def test_the_runtime_s_bounds_follow_the_builder_s_version(build: Build) -> None:
    runtime = build("cnn", VULKAN).lowered.runtime
    version = importlib.metadata.version("executorch")
    major, minor, *_ = version.split(".")
    assert (runtime.format, runtime.at_least) == (session.FORMAT, version)
    assert runtime.below == f"{major}.{int(minor) + 2}"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(build: Build, tmp_path: Path, share: float) -> None:
    built = build("batched-cnn", F32)
    content = built.path.read_bytes()
    path = tmp_path / "program.pte"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ToolchainError, match=r"cannot load program\.pte"):
        session.load(path, {}, built.program.signature)


def test_a_file_of_another_model_is_refused(build: Build) -> None:
    with pytest.raises(ToolchainError, match="1 inputs and 1 outputs, its record says 2 and 1"):
        session.load(build("gru", F32).path, {}, build("pooled", F32).program.signature)


def test_a_missing_file_is_refused(build: Build, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=r"cannot load absent\.pte"):
        session.load(tmp_path / "absent.pte", {}, build("gru", F32).program.signature)


def test_sizes_beyond_the_dims_are_an_error_and_not_a_crash(build: Build) -> None:
    built = build("gru", F32)
    loaded = built.load()
    with pytest.raises(ToolchainError, match="failed while running"):
        loaded.run(built.entry.sample(sizes={"batch": 6}))
    assert loaded.run(built.entry.sample(sizes={"batch": 5}))["output"].shape == (5, 8)


def test_answers_outlive_the_session_and_read_only_inputs_are_taken(build: Build) -> None:
    built = build("two-heads", F32)
    inputs = built.entry.sample()
    inputs["x"].flags.writeable = False
    loaded = built.load()
    answers = loaded.run(inputs)
    loaded.close()
    np.testing.assert_array_equal(answers["echo"], inputs["x"])


def test_reset_forgets_the_state(build: Build) -> None:
    loaded = build("counter", F32).load()
    zeros = {"x": np.zeros(2, np.float32)}
    assert [loaded.run(zeros)["output"][0].item() for _ in range(3)] == [1, 2, 3]
    loaded.reset()
    assert loaded.run(zeros)["output"][0].item() == 1


@pytest.mark.parametrize("threads", [0, -1, "two", True])
def test_a_number_of_threads_that_is_none_is_refused(build: Build, threads: object) -> None:
    with pytest.raises(UsageError, match="threads"):
        build("gru", F32).load({"threads": threads})


def test_a_number_of_threads_is_taken(build: Build) -> None:
    built = build("gru", F32)
    inputs = built.entry.sample()
    one, two = (built.load({"threads": n}).run(inputs)["output"] for n in (1, 2))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


_INT8 = {"method": "pt2e", "samples": 8}


@pytest.mark.parametrize(
    ("changes", "recipe", "where", "what"),
    [
        pytest.param({"kind": "onnx"}, F32, "model.source", "not ONNX", id="onnx"),
        pytest.param(
            {"custom_ops": ("mylib::swish",)},
            F32,
            "mylib::swish",
            "no kernel",
            id="custom operator",
        ),
        pytest.param({}, _recipe("qnn"), "backend", "xnnpack, vulkan, coreml", id="backend"),
        pytest.param({}, _recipe(precision="bf16"), "precision", "not bf16", id="precision"),
        pytest.param(
            {}, _recipe("vulkan", "int8", quantisation=_INT8), "precision", "f16", id="v8"
        ),
        pytest.param({}, _recipe(precision="int8"), "quantisation", "how", id="no method"),
        pytest.param({}, _recipe(quantisation=_INT8), "quantisation", "only they", id="f32 method"),
        pytest.param(
            {},
            _recipe(precision="int8", quantisation={**_INT8, "method": "gptq"}),
            "quantisation",
            "pt2e, nncf-pt2e",
            id="unknown method",
        ),
        pytest.param(
            {},
            _recipe(precision="int8", quantisation={**_INT8, "samples": 0}),
            "quantisation",
            "samples",
            id="no samples",
        ),
        pytest.param(
            {},
            _recipe(precision="int8", quantisation={**_INT8, "bits": 4}),
            "bits",
            "unknown setting",
            id="unknown setting",
        ),
        pytest.param(
            {}, _recipe(options={"turbo": True}), "turbo", "unknown option", id="unknown option"
        ),
        pytest.param(
            {},
            _recipe("coreml", "f16", options={"minimum_deployment_target": "iOS3"}),
            "minimum_deployment_target",
            "iOS17",
            id="deployment target",
        ),
    ],
)
def test_what_it_cannot_take_is_a_problem(
    program: Callable[[str], Program],
    changes: Mapping[str, Any],
    recipe: Recipe,
    where: str,
    what: str,
) -> None:
    changed = dataclasses.replace(program("cnn"), **changes)
    assert [
        problem.where for problem in executorch.supports(changed, recipe) if what in problem.what
    ] == [where]


def test_a_dtype_without_kernels_is_a_problem(program: Callable[[str], Program]) -> None:
    source = program("cnn")
    inputs = (dataclasses.replace(source.signature.inputs[0], dtype="bfloat16"),)
    signature = dataclasses.replace(source.signature, inputs=inputs)
    problems = executorch.supports(dataclasses.replace(source, signature=signature), F32)
    assert [type(problem) for problem in problems] == [Problem]
    assert "bfloat16" in problems[0].what


def test_it_is_available_with_the_versions_that_shape_a_file() -> None:
    found = executorch.available()
    assert found.ok
    assert {"executorch", "torch", "torchao", "coremltools"} <= set(found.versions)
