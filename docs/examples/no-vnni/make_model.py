"""Write panel.onnx: which of four patterns does a panel of 32 double lamps show?

    python make_model.py

One matrix of 1 and -1, made here by hand: nothing is trained. It is the worst case for int8 on a
CPU without VNNI, since two neighbours are bright together and have the same large weight.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
LAMPS, PATTERNS = 32, 4
OPSET, IR_VERSION = 17, 8


def main() -> None:
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (LAMPS, PATTERNS))
    patterns = np.repeat(signs, 2, axis=0).astype(np.float32)  # each lamp has two inputs
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["brightness", "patterns"], ["scores"])],
        "panel",
        [helper.make_tensor_value_info("brightness", TensorProto.FLOAT, ["batch", 2 * LAMPS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", PATTERNS])],
        [numpy_helper.from_array(patterns, "patterns")],
    )
    model = helper.make_model(
        graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    onnx.checker.check_model(model, full_check=True)
    # Beside first, then moved into place, so that an interrupted run leaves no broken file.
    beside = HERE / "panel.partial"
    beside.write_bytes(model.SerializeToString())
    beside.replace(HERE / "panel.onnx")
    print(f"Wrote panel.onnx: {patterns.size} weights.")


if __name__ == "__main__":
    main()
