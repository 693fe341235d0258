"""Train scikit-learn's MLP on the digits and write it as digits-mlp.onnx.

    python make_model.py

scikit-learn has no ONNX export of its own. A scaler and an MLP are a handful of operators, so they
are written down by hand here, with nothing but numpy and onnx.
"""

from pathlib import Path

import numpy as np
import onnx
from data import digits, split
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).resolve().parent
# Old enough for every runtime in use on devices; nothing in here needs newer ones.
OPSET, IR_VERSION = 17, 8


def main() -> None:
    pixels, labels = digits()
    training, unseen = split()
    pipeline = train(pixels[training], labels[training])
    model = as_onnx(pipeline)
    onnx.checker.check_model(model, full_check=True)
    # Beside first, then moved into place, so that an interrupted run leaves no broken file.
    beside = HERE / "digits-mlp.partial"
    beside.write_bytes(model.SerializeToString())
    beside.replace(HERE / "digits-mlp.onnx")
    right = pipeline.score(pixels[unseen], labels[unseen])
    print(f"{right:.2%} of {len(unseen)} unseen digits are right. Wrote digits-mlp.onnx.")


def train(pixels: np.ndarray, labels: np.ndarray) -> Pipeline:
    mlp = MLPClassifier((256, 128), alpha=1.0, max_iter=500, tol=1e-3, random_state=0)
    return make_pipeline(StandardScaler(), mlp).fit(pixels, labels)


def as_onnx(pipeline: Pipeline) -> onnx.ModelProto:
    """(pixels - mean) / scale, then Gemm and Relu for each layer, and Softmax at the end."""
    scaler, mlp = (step for _, step in pipeline.steps)
    # A pixel that is always the same has no spread; scikit-learn then divides by 1, and so do we.
    weights = {"mean": scaler.mean_, "scale": scaler.scale_}
    nodes = [
        helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["layer_0"]),
    ]
    layers = list(zip(mlp.coefs_, mlp.intercepts_, strict=True))
    for number, (matrix, bias) in enumerate(layers):
        weights |= {f"matrix_{number}": matrix, f"bias_{number}": bias}
        gemm = [f"layer_{number}", f"matrix_{number}", f"bias_{number}"]
        nodes.append(helper.make_node("Gemm", gemm, [f"sum_{number}"]))
        if number < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [f"sum_{number}"], [f"layer_{number + 1}"]))
    nodes.append(helper.make_node("Softmax", [f"sum_{len(layers) - 1}"], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "digits-mlp",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(np.float32(array), name) for name, array in weights.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)


if __name__ == "__main__":
    main()
