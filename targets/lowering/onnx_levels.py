"""Which opset and IR version of ONNX a runtime reads, by its release. Pure tables."""

from __future__ import annotations

from typing import Any

from agent.versions import version_key

_ONNXRUNTIME = (
    ("1.14", 18, 8),
    ("1.16", 19, 9),
    ("1.17", 20, 9),
    ("1.18", 21, 10),
    ("1.21", 22, 10),
    ("1.23", 23, 11),
    ("1.24", 25, 13),
    ("1.27", 26, 13),
)
"""(release, greatest opset, greatest IR): up to 1.20 from docs/reference/compatibility.md of
microsoft/onnxruntime at 109c0baa; from there on what sessions of the wheels were seen to accept."""

_TENSORRT = (
    ("7.1", 11),
    ("7.2", 13),
    ("8.4", 17),
    ("9.0", 19),
    ("10.0", 20),
    ("10.15", 24),
    ("11.4", 25),
)
"""(release, greatest opset): docs/operators.md of onnx/onnx-tensorrt, per release. Between 10.1 and
10.15 it was raised at a time that no source tells, so 20 stands until 10.15."""

TENSORRT_IR = 10
"""IR 10 came with ONNX 1.16, before the parser of TensorRT 10.3; the files need nothing newer."""


def onnxruntime_reads(release: str) -> tuple[int, int]:
    """The greatest opset and IR version of this ONNX Runtime.

    >>> onnxruntime_reads("1.23.2")
    (23, 11)
    """
    _, opset, ir_version = _last(_ONNXRUNTIME, release)
    return opset, ir_version


def onnxruntime_for(opset: int, ir_version: int) -> str:
    """The first ONNX Runtime that reads both; the newest known if none is known to.

    >>> onnxruntime_for(20, 10)
    '1.18'
    """
    fits = [name for name, most, most_ir in _ONNXRUNTIME if opset <= most and ir_version <= most_ir]
    return fits[0] if fits else _ONNXRUNTIME[-1][0]


def tensorrt_reads(release: str) -> int:
    """The greatest opset of this TensorRT's ONNX parser.

    >>> tensorrt_reads("10.3.0"), tensorrt_reads("8.6.1")
    (20, 17)
    """
    return int(_last(_TENSORRT, release)[1])


def tensorrt_for(opset: int) -> str:
    """The first TensorRT that reads the opset and builds engines here; the newest known if none.

    >>> tensorrt_for(17), tensorrt_for(20)
    ('8.6', '10.0')
    """
    served = ("8.6", *(name for name, _ in _TENSORRT if name.startswith(("10", "11"))))
    return next((name for name in served if opset <= tensorrt_reads(name)), served[-1])


def _last(table: tuple[tuple[Any, ...], ...], release: str) -> Any:
    wanted = version_key(release)
    known = [row for row in table if (version_key(str(row[0])) or ()) <= (wanted or ())]
    return known[-1] if known else table[0]
