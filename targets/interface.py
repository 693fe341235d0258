"""The seam between the SDK and the vendors: Program, Recipe, Request, and two protocols.

A target says which recipes are worth trying on a profile. A toolchain says whether it can take a
program (statically, without a device) and lowers it. Both are modules; the protocols apply to
modules, where `self` is ignored (PEP 544).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from agent.codec import canonical
from agent.manifest import Runtime, Signature
from agent.tensors import Array
from profiles import Profile

PRECISIONS = ("f32", "f16", "bf16", "int8", "fp8", "fp4", "int4")
"""The precisions a recipe may name: that of the bulk of the arithmetic, or of the weights where
they are stored more narrowly. `int4` is for weights alone."""


def plain_name(op: str) -> str:
    """`aten.add_.Tensor` and `Add` are both `add`."""
    return op.removeprefix("aten.").split(".")[0].lower().removesuffix("_")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpCost:
    """One operator of the program at the dims' `opt` values."""

    op: str
    """The operator's name as the program has it: `aten.linear.default`, `Conv`."""
    kind: Literal["matmul", "conv", "recurrent", "other"]
    flops: int
    """2 x multiply-accumulates for matmul, conv and recurrent; one per output element otherwise."""
    bytes: int
    """Inputs, weights and outputs; 4 for each element, whatever its type."""
    weight_bytes: int = 0
    """Of `bytes`, those of weights and other constants."""
    output_bytes: int = 0
    """Of `bytes`, those that are written."""
    depthwise: bool = False
    """A convolution in which every channel is on its own: much memory, little arithmetic."""
    fused: bool = False
    """Compilers leave no kernel of its own: a view, a constant, or an element-wise operator that
    is computed where its input is made (sdk/capture/graph.py has the rule)."""
    rows: int = 0
    """As `groups` matrix products of (rows x depth) by (depth x columns): of a convolution the
    places of the output, of a recurrent layer the steps. 0: it is no product."""
    columns: int = 0
    """Of one group: output channels, features, the keys of attention."""
    depth: int = 0
    """Of one group: what one result is summed over, a filter's taps among it."""
    groups: int = 1
    """How many such products: a convolution's groups, a batch of products, attention's heads; of a
    recurrent layer the cells that run one after another, one for each layer and direction."""
    taps: int = 1
    """Of a convolution: the places of the input that one filter covers, 9 for 3x3."""
    name: str = ""
    """What it makes is called so in the program; a recipe's `ignored` may name it."""

    @property
    def input_bytes(self) -> int:
        """Of `bytes`, those that other operators made."""
        return self.bytes - self.weight_bytes - self.output_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What capture hands over. The files it names live in the capture step's folder."""

    kind: Literal["exported", "onnx", "openvino"]
    path: Path
    """`program.pt2`, `program.onnx`, or `program.xml` with its weights beside it."""
    signature: Signature
    """Inputs and outputs are positional in this order, whatever names the vendor's file gives."""
    digest: str
    costs: tuple[OpCost, ...]
    weight_bytes: int
    """Of the weights that the graph uses, each once, in the precision they were given in."""
    activation_bytes: int = 0
    """The most that is alive at one time between operators at the dims' `opt`, 4 bytes an element,
    if buffers are reused as soon as nobody reads them any more. 0: not known."""
    activation_bytes_at_max: int = 0
    """The same at the dims' `max`."""
    custom_ops: tuple[str, ...] = ()
    """Operators outside the standard sets, such as `mylib::swish`."""
    source: str | None = None
    """The user's Python file, to be imported before a program with custom operators is loaded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a program is converted to, in floats: once, for all recipes that begin with it."""

    kind: Literal["onnx", "openvino"]
    opset: int | None = None
    """Of an ONNX graph."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The typed, serialisable and fully resolved choices of one candidate."""

    toolchain: str
    format: str
    """The runtime format that this makes; names the session."""
    precision: str
    tag: str | None = None
    """A word in the name, where a sibling has the same toolchain, engine and precision."""
    quantisation: Mapping[str, Any] | None = None
    """{method, preset, samples, …}; null where nothing is quantised. `samples` > 0 needs data."""
    backend: str | None = None
    """The toolchain's word for what runs it: `CPU`, `GPU`, `NPU`, `xnnpack`, `vulkan`, `CUDA`."""
    engine: str = "cpu"
    """The profile's word for what runs it: `cpu`, `gpu`, `npu`, `dla`."""
    check: str | None = None
    """A format whose session can run the same files on any CPU, where the engine is not at hand."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the session passes to the runtime at load."""
    opset: int | None = None
    """Of the ONNX file, where the recipe makes one."""
    ir_version: int | None = None
    """The newest that the device's runtime reads, where the recipe makes an ONNX file."""
    needs_isa: tuple[str, ...] = ()
    """Any one of these flags suffices; with none the recipe is slow or wrong, so it is refused."""

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over all choices, hex."""
        return hashlib.sha256(canonical(self)).hexdigest()

    @property
    def name(self) -> str:
        """`<toolchain>[-<backend>]-<precision>[-<tag>]-<digest>`: the tail of an identifier."""
        engine = None if self.backend in (None, "CPU") else str(self.backend).lower()
        parts = (self.toolchain, engine, self.precision, self.tag, self.digest[:8])
        return "-".join(part for part in parts if part)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a target sees when it proposes recipes."""

    profile: Profile
    program: Program | None
    """None while nothing has been captured yet (`--dry-run`)."""
    has_data: bool
    """Real samples are at hand, so calibration is possible."""
    must_be_small: bool = False
    """Size or memory is limited, or is what is to be least."""
    searches: bool = False
    """There is a budget to search within: what seldom wins and compiles slowly is welcome."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Availability:
    """Can this toolchain run here?"""

    ok: bool
    versions: dict[str, str]
    """Distribution -> version, of all that shapes the result."""
    missing: tuple[str, ...] = ()
    remedy: str = ""
    """The command that installs what is missing."""
    note: str = ""
    """What it cannot do here although it lowers: for a person who asks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a toolchain cannot take a program with a recipe."""

    what: str
    where: str = ""
    """The operator, input or option it is about."""


class Calibration(Protocol):
    """Real inputs for quantisation: iterable more than once, each item one array per input."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Mapping[str, Array]]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What quantising a group of operators costs and gains."""

    operators: tuple[str, ...]
    """Their names, as the recipe's `quantisation.ignored` takes them."""
    error: float
    """By how much the error of the outputs falls if they alone stay in floating point: squared
    error over squared signal, of the worst output. Negative where it grows."""
    work: float
    """Their share of the multiply-accumulates of all that was quantised, 0 to 1."""


class Target(Protocol):
    """A module in `targets/`.

    It may also have `EXTRA`: the extra of `slipway-sdk` that installs all that it lowers with.
    """

    NAME: str
    TITLE: str
    DEFAULT_PROFILE: str
    HOST_ARCH: str | None
    """The architecture of build machines that can be such a device; None if none can."""

    def recipes(self, request: Request) -> Iterable[Recipe]: ...


class Toolchain(Protocol):
    """A module in `targets/toolchains/`."""

    NAME: str
    EXTRA: str
    """The extra of `slipway-sdk` that installs it."""

    def available(self) -> Availability: ...
    def supports(self, program: Program, recipe: Recipe) -> list[Problem]: ...
    def lower(
        self, program: Program, recipe: Recipe, calibration: Calibration | None, out: Path
    ) -> Lowered: ...


@runtime_checkable
class Converting(Protocol):
    """A toolchain that lowers from a conversion, which it would otherwise make for each recipe."""

    def conversion(self, program: Program, recipe: Recipe) -> Conversion | None:
        """What the recipe begins with; None where the program already is that."""
        ...


@runtime_checkable
class Ranking(Protocol):
    """A toolchain that can also tell which operators lose what by being quantised."""

    def sensitivities(
        self, program: Program, recipe: Recipe, calibration: Calibration
    ) -> tuple[Sensitivity, ...]:
        """Of all groups of operators that can be left out of the quantisation together."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lowered:
    """What `lower` left in its folder."""

    files: tuple[str, ...]
    """Relative to the folder; the first is the one a session opens."""
    runtime: Runtime
    placement: dict[str, float]
    """Engine -> share of operators, as far as the compiler knows it; empty if it does not."""
    notes: tuple[str, ...] = ()
