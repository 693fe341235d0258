"""A vendor's message, cut to the line that tells a user what to change."""

from __future__ import annotations

import itertools

import pytest

from targets.lowering.vendor import summary

TORCH_ONNX = (
    "Failed to convert the exported program to an ONNX model. "
    "\x1b[96mThis is step 3/3\x1b[0m of exporting the model to ONNX. Next steps:\n- Modify it."
)
OPENVINO = """Check 'false' failed at src/frontends/common_translators/src/unconverted_ops_report.cpp:151:
FrontEnd API failed with OpConversionFailure:
Model wasn't fully converted.
Summary:
-- No conversion rule found for operations: aten._linalg_eigh.default
"""
NO_FUNCTION = "No ONNX function found for <OpOverload(op='aten._linalg_eigh', overload='default')>."


def _chained(*messages: str) -> BaseException:
    """Errors of these messages, each the cause of the one before."""
    errors = [RuntimeError(message) for message in messages]
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(
            RuntimeError(OPENVINO),
            "No conversion rule found for operations: aten._linalg_eigh.default",
            id="OpenVINO names the operator last",
        ),
        pytest.param(
            _chained(TORCH_ONNX, "Error when translating node %x", NO_FUNCTION),
            NO_FUNCTION,
            id="torch.onnx names the operator in the first cause",
        ),
        pytest.param(
            RuntimeError(TORCH_ONNX),
            "Failed to convert the exported program to an ONNX model. "
            "This is step 3/3 of exporting the model to ONNX. Next steps:",
            id="colours are left out",
        ),
        pytest.param(
            RuntimeError("Exception from src/x.cpp:1:\n  the device is gone\n"),
            "the device is gone",
            id="places in sources are left out",
        ),
        pytest.param(KeyError(), "KeyError", id="no words at all"),
    ],
)
def test_the_telling_line_of_a_vendors_message(error: BaseException, expected: str) -> None:
    assert summary(error) == expected
