"""AOTInductor: an exported program compiled by torch itself, for the CPU or the NVIDIA GPU here.

The package holds machine code for this very kind of machine: its instruction set or its GPU. So the
toolchain serves builds on such a machine, and refuses where there is no GPU to compile for.
Recipes: `backend` CPU or CUDA, precision f32, f16 or bf16; inputs and outputs keep their dtypes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import ToolchainError
from agent.manifest import Runtime, Signature
from targets.interface import Availability, Calibration, Lowered, Problem, Program, Recipe
from targets.lowering.export import dynamic_shapes, is_recurrent, load_exported
from targets.lowering.vendor import availability, vendor_errors, version_of

NAME = "aotinductor"
EXTRA = "server-gpu"
FORMAT = "aotinductor"

_FILE = "model.pt2"
_PRECISIONS = ("f32", "f16", "bf16")
_BACKENDS = ("CPU", "CUDA")
_RECURRENT = "recurrent cells stay in f32"
"""The states that they begin with were exported as f32: casting the weights leaves those alone."""
_CPU_SETTINGS = {"freezing": True}
"""Weights as constants, laid out at compile time for oneDNN's kernels: without it a small ViT took
2.8 times as long, a keyword net 1.4 times (2-core x86 with AVX-512)."""
_DRIVER = Path("/proc/driver/nvidia/version")
_COMPILERS = ("g++", "clang++")


def available() -> Availability:
    """torch, and the C++ compiler that it calls."""
    found = availability(("torch",), (), EXTRA)
    if found.ok and not any(map(shutil.which, (os.environ.get("CXX", ""), *_COMPILERS))):
        return Availability(
            ok=False,
            versions=found.versions,
            missing=("a C++ compiler",),
            remedy="apt-get install g++",
        )
    return found


def supports(program: Program, recipe: Recipe) -> list[Problem]:
    """What speaks against compiling this program with this recipe on this machine."""
    if program.kind != "exported":
        return [Problem(what="AOTInductor takes exported programs, not ONNX", where="model.source")]
    problems = [
        Problem(what="AOTInductor's packages hold no kernel of a custom operator", where=name)
        for name in program.custom_ops
    ]
    if recipe.backend not in _BACKENDS:
        problems.append(Problem(what=f"known are {_BACKENDS}", where=f"backend {recipe.backend!r}"))
    if recipe.precision not in _PRECISIONS:
        problems.append(Problem(what=f"known precisions are {_PRECISIONS}", where=recipe.precision))
    elif recipe.precision != "f32" and any(cost.kind == "recurrent" for cost in program.costs):
        problems.append(Problem(what=_RECURRENT, where=recipe.precision))
    if recipe.quantisation is not None:
        problems.append(Problem(what="nothing is quantised here", where="quantisation"))
    if recipe.backend == "CUDA" and not _DRIVER.is_file():
        problems.append(
            Problem(what="it compiles for the NVIDIA GPU of the build machine, which has none")
        )
    return problems


def lower(program: Program, recipe: Recipe, calibration: Calibration | None, out: Path) -> Lowered:
    """Compile to `model.pt2`.

    Raises:
        ToolchainError: the compiler refuses the program, or a recurrent one is to be narrowed.
    """
    del calibration
    exported = load_exported(program)
    if recipe.precision != "f32" and is_recurrent(exported):
        raise ToolchainError(
            f"AOTInductor cannot compile the program in {recipe.precision}: {_RECURRENT}.",
            cause="It holds a GRU, LSTM or RNN.",
            remedy="Use the f32 recipe.",
        )
    with (
        _scratch(out),
        vendor_errors(
            "AOTInductor cannot compile the program",
            cause="An operator has no code generator at these sizes or in this precision, or the "
            "C++ compiler failed.",
            remedy="Read the log beside the candidate, or leave this recipe out.",
        ),
    ):
        import torch

        if recipe.precision != "f32":
            exported = _narrowed(exported, program.signature, recipe.precision)
        if recipe.backend == "CUDA":
            exported = torch.export.passes.move_to_device_pass(exported, "cuda")
        torch._inductor.aoti_compile_and_package(  # noqa: SLF001  its documented home
            exported,
            package_path=str(out / _FILE),
            inductor_configs=_CPU_SETTINGS if recipe.backend == "CPU" else None,
        )
    release = str(version_of("torch")).partition("+")[0]
    return Lowered(
        files=(_FILE,),
        # The code calls into libtorch, whose binary interface changes with every release.
        runtime=Runtime(format=FORMAT, at_least=release, below=_next_minor(release)),
        placement={},
    )


def _narrowed(exported: Any, signature: Signature, precision: str) -> Any:
    """The program computing in f16 or bf16, with its inputs and outputs as they were."""
    import torch

    dtype = {"f16": torch.float16, "bf16": torch.bfloat16}[precision]
    module = exported.module().to(dtype)
    (example, _) = exported.example_inputs

    class Narrowed(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """Casts at the border."""

        def __init__(self) -> None:
            super().__init__()
            self.program = module

        def forward(self, *tensors: Any) -> Any:
            narrow = [t.to(dtype) if t.dtype == torch.float32 else t for t in tensors]
            answers = self.program(*narrow)
            wanted = [getattr(torch, spec.dtype) for spec in signature.outputs]
            return tuple(t.to(d) for t, d in zip(answers, wanted, strict=True))

    shapes = (dynamic_shapes(signature),)
    with torch.no_grad():
        return torch.export.export(Narrowed(), example, dynamic_shapes=shapes)


@contextlib.contextmanager
def _scratch(out: Path) -> Iterator[None]:
    """Keep the compiler's cache with the step: a shared one in /tmp would outlive the build."""
    with tempfile.TemporaryDirectory(prefix=".inductor-", dir=out) as folder:
        before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["TORCHINDUCTOR_CACHE_DIR"]
            else:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def _next_minor(release: str) -> str:
    major, minor, *_ = release.split(".")
    return f"{major}.{int(minor) + 1}"
