"""A program in another form, for all the recipes that begin with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from targets.interface import Form, Program
from targets.lowering.export import export_onnx, load_exported
from targets.lowering.openvino_model import write_ir


def transform(program: Program, form: Form, out: Path) -> Program:
    """An exported program in that form, written into `out`; all else that is known of it stays.

    Raises:
        ToolchainError: the exporter or the converter refuses it.
    """
    if form.kind == "openvino":
        return write_ir(program, out)
    assert form.opset is not None
    path = out / "program.onnx"
    export_onnx(load_exported(program), program.signature, path, opset=form.opset)
    return dataclasses.replace(program, kind="onnx", path=path, source=None)
