"""A program converted once, for all the recipes that begin with what comes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from targets.interface import Conversion, Program
from targets.lowering.export import export_onnx, load_exported
from targets.lowering.openvino_model import write_ir


def convert(program: Program, wanted: Conversion, out: Path) -> Program:
    """An exported program, converted into `out`; all else that is known of it stays.

    Raises:
        ToolchainError: the exporter or the converter refuses it.
    """
    if wanted.kind == "openvino":
        return write_ir(program, out)
    assert wanted.opset is not None
    path = out / "program.onnx"
    export_onnx(load_exported(program), program.signature, path, opset=wanted.opset)
    return dataclasses.replace(program, kind="onnx", path=path, source=None)
