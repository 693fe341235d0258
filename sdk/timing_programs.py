"""Programs that are built only to be timed: exported and lowered, many in one process.

A build of a user's model takes a process for each step; three hundred small programs in some
toolchains' recipes each would spend most of their time on imports. Nothing runs here but
compilers; what they leave is measured elsewhere, by `agent.series`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.codec import decode, encode
from agent.errors import ToolchainError
from agent.files import sha256_of
from agent.manifest import File, Signature, TensorSpec
from agent.tensors import Array, write_tensors
from agent.variant import RECORD_NAME, VariantRecord, record_bytes
from sdk.capture.torch_model import described_program
from sdk.microbenchmarks import Case
from targets import toolchain
from targets.interface import Program, Recipe
from targets.lowering.export import dynamic_shapes

INPUTS = "inputs.safetensors"
_CALIBRATION = 4
"""Inputs that int8 is calibrated with: ranges do not decide how long a kernel takes."""
_LARGEST_BATCH = 4
_MOST_STEPS = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """One program and what became of each recipe; folders are relative to the step's."""

    name: str
    program: Program
    variants: dict[str, str]
    """Recipe's name -> folder of its variant."""
    failures: dict[str, str]
    """Recipe's name -> what the compiler said."""


def build(payload: dict[str, Any], out: Path) -> dict[str, Any]:
    """The step: build generated cases.

    Args:
        payload: {cases[], recipes[]}.
        out: gets one folder for each case.

    Returns:
        {built: what was built, failed: case -> why it has no program}.
    """
    from sdk.microbenchmarks.modules import example_of, module_of

    recipes = [decode(Recipe, recipe) for recipe in payload["recipes"]]
    built, failed = [], {}
    for case in (decode(Case, entry) for entry in payload["cases"]):
        examples = [example_of(case, seed).numpy() for seed in range(_CALIBRATION)]
        try:
            found = build_program(
                case.name,
                module_of(case),
                examples,
                recipes_for(case, recipes),
                out / case.name,
                dynamic=case.dynamic,
            )
        except ToolchainError as error:
            failed[case.name] = error.what
            continue
        built.append(encode(found) | {"program": _relative(found.program)})
    return {"built": built, "failed": failed}


def recipes_for(case: Case, recipes: Sequence[Recipe]) -> list[Recipe]:
    """All but ExecuTorch's, which takes seconds for each program, for most of the cases.

    It gets about every other network and every fourth of the rest; and of the recurrent ones, which
    it unrolls, none with many steps.
    """
    number = zlib.crc32(case.name.encode())
    cells = any(layer[0] in ("gru", "lstm") for layer in case.layers)
    wanted = number % (2 if case.is_net else 4) == 0 and (not cells or case.shape[1] <= _MOST_STEPS)
    return [recipe for recipe in recipes if recipe.toolchain != "executorch" or wanted]


def build_program(
    name: str,
    module: Any,
    examples: Sequence[Array],
    recipes: Sequence[Recipe],
    out: Path,
    *,
    dynamic: bool = False,
) -> Built:
    """Export a module of one input and lower it with each recipe.

    Raises:
        ToolchainError: it cannot be exported; what a recipe meets is in the answer.
    """
    import torch

    out.mkdir(parents=True, exist_ok=True)
    first = examples[0]
    dims = {"batch": (1, 1, _LARGEST_BATCH)} if dynamic else {}
    shape = ("batch", *first.shape[1:]) if dynamic else first.shape
    spec = TensorSpec(name="input", dtype=str(first.dtype), shape=shape)
    given = Signature(inputs=(spec,), outputs=(), dims=dims)
    example = torch.from_numpy(first.repeat(_LARGEST_BATCH, 0) if dynamic else first)
    with torch.no_grad(), _refusals(f"torch cannot export {name}"):
        flat = _flat(module)
        exported = torch.export.export(
            flat, (example,), dynamic_shapes=dynamic_shapes(given) if dynamic else None
        )
        count = len(flat(example))
    path = out / "program.pt2"
    torch.export.save(exported, path)
    names = [f"output_{index}" for index in range(count)]
    program = described_program(exported, path, given, names)
    write_tensors(out / INPUTS, ((f"{i:05d}/in/input", array) for i, array in enumerate(examples)))
    variants, failures = {}, {}
    for recipe in recipes:
        try:
            _lower(program, recipe, _Samples(examples), out / recipe.name)
            variants[recipe.name] = f"{name}/{recipe.name}"
        except ToolchainError as error:
            failures[recipe.name] = error.what
    path.unlink()  # the largest file, and nothing reads it again
    return Built(name=name, program=program, variants=variants, failures=failures)


def _lower(program: Program, recipe: Recipe, samples: _Samples, out: Path) -> None:
    chosen = toolchain(recipe.toolchain)
    problems = chosen.supports(program, recipe)
    if problems:
        raise ToolchainError("; ".join(f"{p.what} ({p.where})" for p in problems))
    out.mkdir(exist_ok=True)
    with _refusals(f"{recipe.toolchain} cannot lower {program.path.parent.name}"):
        lowered = chosen.lower(program, recipe, samples, out)
    files = tuple(
        File(path=name, sha256=sha256_of(out / name), length=(out / name).stat().st_size)
        for name in lowered.files
    )
    record = VariantRecord(
        version=1,
        id=f"{program.path.parent.name}/any/{recipe.name}",
        model=program.path.parent.name,
        target="any",
        profile="any",
        runtime=lowered.runtime,
        options=dict(recipe.options),
        signature=program.signature,
        files=files,
        provenance={"recipe": encode(recipe), "program": program.digest},
    )
    (out / RECORD_NAME).write_bytes(record_bytes(record))


@contextlib.contextmanager
def _refusals(what: str) -> Iterator[None]:
    """A vendor may raise anything; one program of many is not worth the others."""
    try:
        yield
    except (ToolchainError, OSError, MemoryError):
        raise
    except Exception as error:
        traceback.print_exc()
        raise ToolchainError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from error


def _flat(module: Any) -> Any:
    """Takes a tensor, returns a tuple of tensors, whatever the module returns."""
    import torch

    class Flat(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, x: Any) -> Any:
            found = self.model(x)
            if isinstance(found, Mapping):
                return tuple(found.values())
            return tuple(found) if isinstance(found, (tuple, list)) else (found,)

    return Flat().eval()


def _relative(program: Program) -> dict[str, Any]:
    return {**encode(program), "path": f"{program.path.parent.name}/{program.path.name}"}


class _Samples:
    """Calibration inputs, iterable again and again."""

    def __init__(self, examples: Sequence[Array]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return iter({"input": example} for example in self._examples)
