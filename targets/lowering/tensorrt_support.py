"""What TensorRT takes, by release: operators, types, and what its DLA takes. Tables and their use.

Operators are those that docs/operators.md of onnx/onnx-tensorrt marks as supported: at the branches
8.6-GA and 10.1-GA, and in the copy that speaks of 10.15; the releases in between and 11.0 are from
CHANGELOG.md of NVIDIA/TensorRT. An operator that none of them lists counts as not supported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.engine_plan import dla_in
from agent.versions import version_key
from targets.interface import Problem, Program, Recipe

_IN_8_6 = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast
    Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
    DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather
    GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
    GridSample GroupNormalization HardSigmoid HardSwish Identity If ImageScaler
    InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod
    Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad ParametricSoftplus Pow QuantizeLinear
    RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round ScaledTanh Scan Scatter
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
    Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose
    Trilu Unsqueeze Upsample Where Xor
    """.split()  # noqa: SIM905  as a list, ten pages
)
_SINCE = (
    ("10.0", ("CastLike", "Gelu", "Hardmax", "Mish")),
    ("10.1", ("DeformConv",)),
    ("10.4", ("BlackmanWindow", "HammingWindow", "HannWindow")),
    ("10.5", ("STFT",)),
    ("10.14", ("Attention",)),
    ("10.15", ("RMSNormalization", "RotaryEmbedding", "TensorScatter")),
    ("11.0", ("Swish",)),
)

_ATEN = {
    "bernoulli": "Bernoulli",
    "bitwise_left_shift": "BitShift",
    "bitwise_right_shift": "BitShift",
    "col2im": "Col2Im",
    "_fft_": "DFT",
    "linalg_det": "Det",
    "multinomial": "Multinomial",
    "unique": "Unique",
    "_unique2": "Unique",
}
"""torch's operators whose ONNX form no release takes, by the start of their name."""

_DTYPES = ("float32", "float16", "int64", "int32", "uint8", "bool")
"""What inputs and outputs may be: no f64 (it would become f32), and int8 only between Q and DQ."""

_LEAST_SM = {"fp8": "8.9", "fp4": "10.0"}
"""Ada and Blackwell: TensorRT's support matrix, hardware and precision."""

DLA_QDQ = "11.4.1"
"""Before it, a DLA got its int8 ranges from calibrators, which no graph holds."""

_CONVOLUTIONS = ("conv",)


def operators(release: str) -> frozenset[str]:
    """The ONNX operators that this TensorRT's parser takes.

    >>> "Gelu" in operators("8.6.1"), "Gelu" in operators("10.3.0")
    (False, True)
    """
    added = [names for since, names in _SINCE if _at_least(release, since)]
    return _IN_8_6.union(*added)


def operator_problems(found: Iterable[tuple[str, str]], release: str) -> Iterator[Problem]:
    """One for each (domain, operator) of a graph that this TensorRT does not take."""
    known = operators(release)
    for domain, name in sorted(set(found)):
        if domain not in ("", "ai.onnx") or name not in known:
            what = f"TensorRT {release} has no such operator without a plugin"
            yield Problem(what=what, where=f"{domain}::{name}" if domain else name)


def program_problems(program: Program, release: str) -> Iterator[Problem]:
    """What the program's facts tell before it is an ONNX graph."""
    for name in program.custom_ops:
        yield Problem(what="TensorRT has no such operator without a plugin", where=name)
    if program.kind == "onnx":
        yield from operator_problems((("", cost.op) for cost in program.costs), release)
    else:
        for cost in program.costs:
            name = cost.op.removeprefix("aten.")
            form = next((form for start, form in _ATEN.items() if name.startswith(start)), None)
            if form is not None:
                what = f"TensorRT takes no {form}, which is its form in ONNX"
                yield Problem(what=what, where=cost.op)
    for spec in (*program.signature.inputs, *program.signature.outputs):
        if spec.dtype not in _DTYPES:
            what = f"TensorRT takes inputs and outputs of {', '.join(_DTYPES)}"
            yield Problem(what=what, where=f"{spec.name} {spec.dtype}")


def precision_problems(recipe: Recipe) -> Iterator[Problem]:
    """What the GPU cannot compute in."""
    least, sm = _LEAST_SM.get(recipe.precision), recipe.options.get("sm")
    if least is not None and sm is not None and not _at_least(str(sm), least):
        what = f"{recipe.precision} came with compute capability {least}, the GPU has {sm}"
        yield Problem(what=what, where=recipe.precision)


def dla_problems(program: Program, recipe: Recipe, release: str) -> Iterator[Problem]:
    """What a DLA cannot take.

    Source: TensorRT's documentation, Working with DLA, and DLA Supported Layers and Restrictions.
    What it lists as unsupported layer by layer runs on the GPU: the recipes allow that.
    """
    if recipe.precision not in ("f16", "int8"):
        yield Problem(what="a DLA computes in f16 and int8", where=recipe.precision)
    if not dla_in(release):
        what = "TensorRT has no DLA from 10.8 to below 11.4.1"
        yield Problem(what=what, where=f"TensorRT {release}")
    elif recipe.precision == "int8" and not _at_least(release, DLA_QDQ):
        what = (
            f"before TensorRT {DLA_QDQ} a DLA takes its int8 ranges from a calibration cache, not "
            "from Q/DQ pairs, and nothing here writes one yet"
        )
        yield Problem(what=what, where=f"TensorRT {release}")
    for name, (low, _, high) in program.signature.dims.items():
        if low < high:
            yield Problem(what="a DLA takes fixed shapes only", where=name)
    if program.costs and not any(cost.kind in _CONVOLUTIONS for cost in program.costs):
        yield Problem(what="a DLA is for convolutions, and there are none", where="DLA")


def _at_least(release: str, bound: str) -> bool:
    return (version_key(release) or ()) >= (version_key(bound) or ())
