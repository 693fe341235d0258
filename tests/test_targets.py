"""Which recipes each target proposes, and which of them a profile's flags refuse."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from agent.engine_plan import settings_of
from agent.errors import UsageError
from agent.manifest import Signature
from profiles import Engine, Profile, Stack, all_profiles, find
from sdk.plan import Planned, plan
from targets import intel, jetson, linux_arm, mobile, server_gpu, target, target_names, toolchain
from targets.interface import PRECISIONS, Availability, OpCost, Program, Recipe, Request
from targets.lowering import vendor
from targets.recipes import tensorrt


def _program(costs: list[tuple[str, Any, int]], kind: Any = "exported") -> Program:
    return Program(
        kind=kind,
        path=Path("program"),
        signature=Signature(inputs=(), outputs=(), dims={}),
        digest="0" * 64,
        costs=tuple(OpCost(op=op, kind=k, flops=flops, bytes=4) for op, k, flops in costs),
        weight_bytes=4,
    )


CNN = _program([("aten.conv2d.default", "conv", 900), ("aten.linear.default", "matmul", 100)])
TRANSFORMER = _program(
    [
        ("aten.linear.default", "matmul", 900),
        ("aten.layer_norm.default", "other", 10),
        ("aten.scaled_dot_product_attention.default", "matmul", 90),
    ]
)
ONNX_TRANSFORMER = _program(
    [("MatMul", "matmul", 900), ("LayerNormalization", "other", 10), ("Softmax", "other", 10)],
    kind="onnx",
)
GRU = _program([("aten.gru.input", "recurrent", 900), ("aten.linear.default", "matmul", 50)])
MLP = _program([("aten.linear.default", "matmul", 900), ("aten.relu.default", "other", 9)])


def _cpu(*isa: str) -> Profile:
    cpu = Engine(name="cpu", title="a CPU", peak={})
    return dataclasses.replace(find("core-ultra-155h", ()), isa=isa, engines={"cpu": cpu})


AVX2 = _cpu("avx2", "fma")
VNNI = _cpu("avx2", "fma", "avx_vnni")
AMX = _cpu("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def _recipes(module: Any, profile: Profile, program: Program | None = CNN) -> list[Recipe]:
    return list(module.recipes(Request(profile=profile, program=program, has_data=True)))


def _plain(recipes: list[Recipe]) -> list[str]:
    return [recipe.name.rsplit("-", 1)[0] for recipe in recipes]


@pytest.mark.parametrize(
    ("module", "profile", "program", "expected"),
    [
        pytest.param(
            intel,
            AMX,
            CNN,
            [
                *("openvino-f32", "openvino-bf16", "openvino-f16", "openvino-int8"),
                *("onnxruntime-f32", "onnxruntime-int8"),
                *("executorch-xnnpack-f32", "executorch-xnnpack-int8"),
            ],
            id="a CNN on a CPU",
        ),
        pytest.param(
            intel,
            find("core-ultra-155h", ()),
            TRANSFORMER,
            [
                *("openvino-f32", "openvino-bf16", "openvino-f16", "openvino-int8"),
                *("onnxruntime-f32", "onnxruntime-int8", "onnxruntime-int8-dynamic"),
                *("executorch-xnnpack-f32", "executorch-xnnpack-int8"),
                "executorch-xnnpack-int8-dynamic",
                *("openvino-gpu-f16", "openvino-gpu-int8", "openvino-npu-f16", "openvino-npu-int8"),
            ],
            id="a transformer on three engines",
        ),
        pytest.param(
            mobile,
            find("snapdragon-8-gen-3", ()),
            CNN,
            ["executorch-xnnpack-f32", "executorch-xnnpack-int8", "executorch-vulkan-f16"],
            id="Android",
        ),
        pytest.param(
            mobile,
            find("a17-pro", ()),
            CNN,
            ["executorch-xnnpack-f32", "executorch-xnnpack-int8", "executorch-coreml-f16"],
            id="iOS",
        ),
    ],
)
def test_a_target_proposes_its_recipes_in_order(
    module: Any, profile: Profile, program: Program, expected: list[str]
) -> None:
    assert _plain(_recipes(module, profile, program)) == expected


def test_what_a_gpu_or_an_npu_will_answer_is_checked_on_the_cpu_of_the_build_machine() -> None:
    found = _recipes(intel, find("core-ultra-155h", ()), CNN)
    checks = {
        (r.engine, r.check, r.options["check"]["device"])
        for r in found
        if r.toolchain == "openvino" and r.engine != "cpu"
    }
    assert checks == {("gpu", "openvino", "CPU"), ("npu", "openvino", "CPU")}


def _nvidia(sm: str, *releases: str, engines: tuple[str, ...] = ("cpu", "gpu")) -> Profile:
    """A profile of a device with such a GPU and these TensorRTs."""
    stacks = {
        release: Stack(name=release, python=None, runtimes={"tensorrt": release}, source="a test")
        for release in releases
    }
    return dataclasses.replace(
        find("core-ultra-155h", ()),
        sm=sm,
        arch="aarch64",
        memory_bytes=8 << 30,
        software=stacks,
        engines={name: Engine(name=name, title=name, peak={}) for name in engines},
    )


TORCH = ("aotinductor-cuda-f32", "aotinductor-cuda-f16")
GPU = [
    *("tensorrt-gpu-f32", "tensorrt-gpu-f32-tf32", "tensorrt-gpu-f16", "tensorrt-gpu-int8"),
    *("tensorrt-gpu-int8-f16", "tensorrt-gpu-fp8", "tensorrt-gpu-fp4"),
]


@pytest.mark.parametrize(
    ("module", "profile", "expected"),
    [
        pytest.param(
            jetson,
            _nvidia("8.7", "10.3.0", engines=("cpu", "gpu", "dla")),
            [*GPU, "tensorrt-dla-f16", "tensorrt-dla-int8", "onnxruntime-f32", "onnxruntime-int8"],
            id="a Jetson with a DLA",
        ),
        pytest.param(
            jetson,
            _nvidia("11.0", "10.13"),
            [*GPU, "onnxruntime-f32", "onnxruntime-int8"],
            id="a Jetson without",
        ),
        pytest.param(
            server_gpu,
            _nvidia("8.9"),
            [*GPU, "onnxruntime-cuda-f32", "onnxruntime-cuda-f32-tf32", *TORCH],
            id="a server",
        ),
        pytest.param(
            server_gpu,
            _nvidia("7.5"),
            [*(name for name in GPU if "tf32" not in name), "onnxruntime-cuda-f32", *TORCH],
            id="a GPU without TF32",
        ),
    ],
)
def test_nvidia_targets_propose_every_precision(
    module: Any, profile: Profile, expected: list[str]
) -> None:
    assert _plain(_recipes(module, profile, TRANSFORMER)) == expected


@pytest.mark.parametrize(
    ("releases", "release", "opset", "dla"),
    [
        ((), "10.0", 20, "10.0"),
        (("10.3.0", "10.16.2.10"), "10.3.0", 20, "10.3.0"),
        (("8.5.2", "10.3.0"), "10.3.0", 20, "10.3.0"),  # 8.5 cannot run what is built here
        (("8.6.2", "10.3.0"), "8.6.2", 17, "8.6.2"),
        (("10.16.2.10", "11.4.1"), "10.16.2.10", 20, "11.4.1"),
        (("10.16.2.10",), "10.16.2.10", 20, "10.16.2.10"),  # refused by the toolchain
    ],
)
def test_tensorrt_files_are_for_the_oldest_release_of_the_profile(
    releases: tuple[str, ...], release: str, opset: int, dla: str
) -> None:
    profile = _nvidia("8.7", *releases)
    recipe = tensorrt(profile, "f16")
    assert (recipe.options["release"], recipe.opset, recipe.ir_version) == (release, opset, 10)
    assert tensorrt(profile, "f16", engine="dla").options["release"] == dla


def test_a_recipe_resolves_what_the_builder_is_told() -> None:
    profile = _nvidia("8.7", "10.3.0", engines=("cpu", "gpu", "dla"))
    found = {r.name.rsplit("-", 1)[0]: r for r in _recipes(jetson, profile)}
    told = {
        name: settings_of(recipe.options)
        for name, recipe in found.items()
        if recipe.toolchain == "tensorrt"
    }
    assert all(settings.workspace_mib == 2048 for settings in told.values())
    assert [name for name, settings in told.items() if not settings.tf32] == ["tensorrt-gpu-f32"]
    assert {name: settings.types for name, settings in told.items()} == {
        "tensorrt-gpu-f32": (),
        "tensorrt-gpu-f32-tf32": (),
        "tensorrt-gpu-f16": ("f16",),
        "tensorrt-gpu-int8": ("int8",),
        "tensorrt-gpu-int8-f16": ("f16", "int8"),
        "tensorrt-gpu-fp8": ("f16", "fp8"),
        "tensorrt-gpu-fp4": ("f16",),
        "tensorrt-dla-f16": ("f16",),
        "tensorrt-dla-int8": ("f16", "int8"),
    }
    on_dla = [name for name, settings in told.items() if settings.dla_core is not None]
    assert on_dla == ["tensorrt-dla-f16", "tensorrt-dla-int8"]
    assert all(told[name].gpu_fallback for name in on_dla)


@pytest.mark.parametrize(
    ("sm", "precisions", "telling"),
    [
        ("8.7", ("f32", "f16", "int8"), "computes in f32, f16, int8, not in fp8"),
        ("8.7", (), "fp8 came with compute capability 8.9, the GPU has 8.7"),
        ("8.9", (), None),
        ("11.0", ("f32", "f16", "int8", "fp8", "fp4"), None),
    ],
)
def test_fp8_is_refused_with_the_reason_where_the_gpu_has_none(
    sm: str, precisions: tuple[str, ...], telling: str | None
) -> None:
    profile = _nvidia(sm, "10.13")
    gpu = dataclasses.replace(profile.engines["gpu"], precisions=precisions)
    profile = dataclasses.replace(profile, target="jetson", engines={**profile.engines, "gpu": gpu})
    names = ("tensorrt", "onnxruntime")
    planned = plan(
        "model",
        jetson,
        Request(profile=profile, program=CNN, has_data=True),
        {name: toolchain(name) for name in names},
        {name: Availability(ok=True, versions={}) for name in names},
    )
    reasons = _refusals(planned)
    if telling is None:
        assert "tensorrt-gpu-fp8" not in reasons
    else:
        assert telling in reasons["tensorrt-gpu-fp8"]
    assert "tensorrt-gpu-fp4" in reasons  # nothing writes it yet
    assert "tensorrt-gpu-f16" not in reasons


@pytest.mark.parametrize(
    ("name", "isa", "halved"),
    [
        ("core-ultra-155h", ("avx2", "avx_vnni"), False),
        ("core-ultra-155h", ("avx2", "avx512f"), True),
        ("core-ultra-155h", None, True),  # its list is not complete, and names none
        ("xeon-sapphire-rapids", None, False),
        ("raspberry-pi-5", None, False),
    ],
)
def test_weights_take_half_their_range_where_sums_of_products_saturate(
    name: str, isa: tuple[str, ...] | None, halved: bool
) -> None:
    profile = find(name, ())
    if isa is not None:
        profile = dataclasses.replace(profile, isa=isa)
    found = _recipes(target(profile.target), profile, CNN)
    by_nncf = next(r for r in found if r.name.startswith("openvino-int8"))
    static = next(r for r in found if r.name.startswith("onnxruntime-int8"))
    assert by_nncf.quantisation is not None
    assert static.quantisation is not None
    assert (by_nncf.quantisation.get("overflow_fix") == "enable") == halved
    assert static.quantisation["reduce_range"] == halved


@pytest.mark.parametrize("name", ["intel", "linux-arm"])
def test_narrow_weights_are_tried_only_where_size_or_memory_counts(name: str) -> None:
    profile = find(target(name).DEFAULT_PROFILE, ())
    plain = Request(profile=profile, program=TRANSFORMER, has_data=False)
    small = dataclasses.replace(plain, must_be_small=True)
    methods = [
        {(r.quantisation or {}).get("method") for r in target(name).recipes(request)}
        for request in (plain, small)
    ]
    assert "weights" not in methods[0]
    assert "weights" in methods[1]


@pytest.mark.parametrize("name", ["intel", "linux-arm", "mobile"])
@pytest.mark.parametrize("program", [TRANSFORMER, CNN], ids=["transformer", "cnn"])
def test_linear_layers_of_4_bits_are_tried_where_size_counts_and_they_matter(
    name: str, program: Program
) -> None:
    profile = find(target(name).DEFAULT_PROFILE, ())
    plain = Request(profile=profile, program=program, has_data=False)
    small = dataclasses.replace(plain, must_be_small=True)
    found = [
        any(r.toolchain == "executorch" and r.precision == "int4" for r in found)
        for found in (target(name).recipes(plain), target(name).recipes(small))
    ]
    assert found == [False, program is TRANSFORMER]


@pytest.mark.parametrize("name", target_names())
@pytest.mark.parametrize("program", [None, CNN, TRANSFORMER, GRU], ids=lambda p: p and "program")
def test_recipes_are_distinct_and_resolved_and_begin_with_f32(
    name: str, program: Program | None
) -> None:
    module = target(name)
    found = _recipes(module, find(module.DEFAULT_PROFILE, ()), program)
    assert len({recipe.digest for recipe in found}) == len(found)
    assert found[0].precision == "f32"
    for recipe in found:
        assert recipe.precision in PRECISIONS
        quantised = recipe.precision in ("int8", "fp8", "fp4")
        method = (recipe.quantisation or {}).get("method", "ranges")  # which looks at values only
        assert (method != "ranges") is quantised
        assert recipe == next(r for r in _recipes(module, find(module.DEFAULT_PROFILE, ()), program)
                              if r.digest == recipe.digest)  # fmt: skip


def _openvino_hints(profile: Profile) -> dict[str, str]:
    return {
        recipe.precision: recipe.options["INFERENCE_PRECISION_HINT"]
        for recipe in _recipes(intel, profile)
        if recipe.toolchain == "openvino" and recipe.backend == "CPU"
    }


@pytest.mark.parametrize(
    ("profile", "hints"),
    [
        (AVX2, {"f32": "f32", "bf16": "bf16", "f16": "f32", "int8": "f32"}),
        (AMX, {"f32": "f32", "bf16": "bf16", "f16": "f32", "int8": "bf16"}),
        (_cpu("avx512_fp16"), {"f32": "f32", "bf16": "bf16", "f16": "f16", "int8": "f32"}),
    ],
)
def test_openvino_is_told_the_precision_that_the_cpu_has(
    profile: Profile, hints: dict[str, str]
) -> None:
    assert _openvino_hints(profile) == hints


@pytest.mark.parametrize(("profile", "reduced"), [(AVX2, True), (VNNI, False), (AMX, False)])
def test_onnxruntime_int8_keeps_to_7_bits_without_vnni(profile: Profile, reduced: bool) -> None:
    found = [
        recipe.quantisation["reduce_range"]
        for recipe in _recipes(intel, profile, TRANSFORMER)
        if recipe.toolchain == "onnxruntime" and recipe.quantisation
    ]
    assert found == [reduced, reduced]


@pytest.mark.parametrize(
    ("program", "dynamic"), [(CNN, False), (TRANSFORMER, True), (GRU, True), (MLP, True)]
)
def test_dynamic_int8_is_tried_where_matmuls_or_recurrence_dominate(
    program: Program, dynamic: bool
) -> None:
    methods = [
        recipe.quantisation["method"]
        for recipe in _recipes(intel, VNNI, program)
        if recipe.toolchain == "onnxruntime" and recipe.quantisation
    ]
    assert methods == ["static", *(["dynamic"] if dynamic else [])]


@pytest.mark.parametrize(
    ("program", "model_type"),
    [
        (CNN, None),
        (GRU, None),
        (MLP, None),
        (TRANSFORMER, "transformer"),
        (ONNX_TRANSFORMER, "transformer"),
    ],
)
def test_nncf_is_told_of_transformers(program: Program, model_type: str | None) -> None:
    found = [
        recipe.quantisation["model_type"]
        for recipe in _recipes(intel, VNNI, program)
        if recipe.toolchain == "openvino" and recipe.quantisation
    ]
    assert found == [model_type]


def test_an_onnx_file_keeps_its_own_opset() -> None:
    def opsets(program: Program) -> set[int | None]:
        return {r.opset for r in _recipes(intel, VNNI, program) if r.toolchain == "onnxruntime"}

    assert opsets(ONNX_TRANSFORMER) == {None}
    assert opsets(TRANSFORMER) == {20}


def test_gpu_and_npu_recipes_name_their_device() -> None:
    for recipe in _recipes(intel, find("core-ultra-155h", ())):
        if recipe.toolchain == "openvino":
            assert recipe.options["device"] == recipe.backend


@pytest.mark.parametrize("profile", all_profiles(()).values(), ids=lambda profile: profile.name)
@pytest.mark.parametrize("program", [CNN, TRANSFORMER, GRU], ids=["cnn", "transformer", "gru"])
def test_the_real_toolchains_know_every_choice_of_every_recipe(
    profile: Profile, program: Program
) -> None:
    for recipe in _recipes(target(profile.target), profile, program):
        problems = toolchain(recipe.toolchain).supports(program, recipe)
        assert [p.what for p in problems if not p.what.startswith(HONEST)] == []


HONEST = (
    # what targets propose everywhere, so that the table gives the reason
    *("it compiles for the NVIDIA GPU", "recurrent cells stay in f32"),
    *("nothing here writes FP4", "fp8 came with", "fp4 came with"),
    *("before TensorRT 11.4.1 a DLA takes", "a DLA is for convolutions"),
)


class _Anything:
    """A toolchain that takes everything: what is left is what the plan itself refuses."""

    def supports(self, program: Program, recipe: Recipe) -> list[Any]:  # noqa: ARG002  the seam
        return []


def _plan(profile: Profile, *, has_data: bool = True) -> tuple[Planned, ...]:
    names = ("openvino", "onnxruntime", "executorch", "tensorrt")
    return plan(
        "model",
        target(profile.target),
        Request(profile=profile, program=TRANSFORMER, has_data=has_data),
        {name: _Anything() for name in names},  # type: ignore[misc]
        {name: Availability(ok=True, versions={}) for name in names},
    )


def _refusals(planned: tuple[Planned, ...]) -> dict[str, str]:
    return {
        entry.candidate.recipe.name.rsplit("-", 1)[0]: entry.refusal
        for entry in planned
        if entry.refusal
    }


def test_bf16_is_refused_where_no_flag_gives_it() -> None:
    assert _refusals(_plan(AMX)) == {}
    assert _refusals(_plan(find("xeon-sapphire-rapids", ()))) == {}
    reason = _refusals(_plan(find("core-ultra-155h", ())))["openvino-bf16"]
    assert "none of avx512_bf16, amx_bf16" in reason


def test_without_data_only_dynamic_int8_is_left() -> None:
    planned = _plan(AMX, has_data=False)
    left = [entry.candidate.recipe for entry in planned if not entry.refusal]
    assert {r.toolchain: r.quantisation["method"] for r in left if r.quantisation} == {
        "onnxruntime": "dynamic",
        "executorch": "dynamic",
    }


def test_a_profile_of_another_target_is_refused() -> None:
    with pytest.raises(UsageError, match="belongs to mobile"):
        plan("m", target("intel"), Request(profile=find("a17-pro", ()), program=None,
             has_data=False), {}, {})  # fmt: skip


def test_an_unknown_target_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        target("inteI")
    assert "intel" in caught.value.cause
    assert "mobile" in caught.value.what


def test_targets_import_no_vendor_and_no_torch() -> None:
    code = (
        "import sys, targets.intel, targets.mobile, profiles, sdk.estimate, sdk.detect;"
        "profiles.all_profiles(());"
        "heavy = {'torch', 'openvino', 'onnx', 'onnxruntime', 'executorch', 'nncf', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() in ("[]", "['numpy']"), "targets.interface names numpy's arrays"


SHIPPED = (intel, jetson, linux_arm, mobile, server_gpu)
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.mark.parametrize("module", SHIPPED, ids=lambda module: module.NAME)
def test_what_is_missing_is_installed_by_the_extra_of_the_users_target(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = find(module.DEFAULT_PROFILE, ())
    profile = dataclasses.replace(profile, isa=("fp16", "avx_vnni"))
    for lib in (vendor, toolchain("aotinductor"), toolchain("tensorrt")):
        monkeypatch.setattr(lib, "version_of", lambda _name: None)
    toolchains = {
        recipe.toolchain: toolchain(recipe.toolchain) for recipe in _recipes(module, profile)
    }
    missing = {name: found.available() for name, found in toolchains.items()}
    request = Request(profile=profile, program=None, has_data=True)
    refusals = [entry.refusal for entry in plan("net", module, request, toolchains, missing)]
    told = [refusal for refusal in refusals if refusal and "is not installed" in refusal]
    assert told
    assert all(refusal.endswith(f"'slipway-sdk[{module.EXTRA}]'") for refusal in told)
    assert "missing" in told[0]
    brought = _requirements(module.EXTRA)
    assert {name for found in missing.values() for name in found.missing} <= brought


def _requirements(extra: str) -> set[str]:
    """All distributions that an extra brings, through the extras that it names."""
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    found: set[str] = set()
    for entry in extras[extra]:
        inner = re.fullmatch(r"slipway-sdk\[(.*)\]", entry)
        if inner:
            found |= set().union(*(_requirements(name) for name in inner[1].split(",")))
        else:
            found.add(re.split(r"[^\w-]", entry)[0])
    return found


def test_tensorrt_says_that_it_only_lowers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    module = toolchain("tensorrt")
    monkeypatch.setattr(module, "version_of", lambda name: None if name == "tensorrt" else "1")
    assert "built and run on a device" in module.available().note
    monkeypatch.setattr(module, "version_of", lambda _name: "10.3.0")
    assert module.available().note == ""
