"""ONNX Runtime: a program becomes an `.onnx` file, plain or quantised by the runtime's own tools.

`int8` has two methods. `static` puts Q/DQ pairs around the operators, with ranges from calibration
data. `dynamic` quantises weights now and activations at run time, for matrix products and
recurrent cells; it needs no data.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.errors import ToolchainError
from agent.manifest import Runtime, Signature
from agent.tensors import Array
from targets.interface import Availability, Calibration, Lowered, Problem, Program, Recipe
from targets.lowering.vendor import availability, vendor_errors, version_of

NAME = "onnxruntime"
EXTRA = "intel"
FORMAT = "onnxruntime"

_DEFAULT_OPSET = 20
_MAX_IR = 11
"""What ONNX Runtime 1.23 reads, the newest for Python 3.10."""
_RUNTIME_OF_OPSET = {18: "1.14", 19: "1.16", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.23"}
_RUNTIME_OF_IR = {9: "1.15", 10: "1.18", 11: "1.23"}
_METHODS = ("static", "dynamic")
_CALIBRATION_METHODS = ("minmax", "entropy", "percentile")
_DYNAMIC_OPERATORS = ("MatMul", "Gemm", "LSTM", "GRU")


def available() -> Availability:
    """The installed packages; torch is needed only for programs that come from it."""
    return availability(("onnxruntime", "onnx", "numpy"), ("torch", "onnxscript", "onnx-ir"), EXTRA)
