"""Capture of an `.onnx` file, without torch: check it, name its dims, run it with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import CaptureError
from agent.manifest import Signature, TensorSpec
from agent.tensors import Array
from sdk.capture import onnx_weights
from sdk.capture.graph import activation_bytes, costs, onnx_graph
from sdk.capture.onnx_weights import check_external_data
from sdk.project import Project
from targets.interface import Program

_SINGLE_FILE_BYTES = 2_000_000_000  # protobuf's limit is 2 GiB; above it weights stay beside


class OnnxOriginal:
    """The user's ONNX file as it was given."""

    def __init__(self, project: Project) -> None:
        import onnx

        self._path = project.root / str(project.model.file)
        # Without the weights that lie beside it: they may be larger than memory.
        self._model = _structure(self._path)
        check_external_data(self._model, self._path)
        try:
            onnx.checker.check_model(str(self._path))
        except Exception as error:
            raise CaptureError(
                f"{self._path} is not a valid ONNX model: {_first_line(error)}",
                cause="It was cut short, or a converter wrote something the standard forbids.",
                remedy="Export it again; onnx.checker.check_model(FILE) tells more.",
            ) from error
        self.inputs, self.dims = self._read_inputs(project)
        self._session: Any = None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the original with ONNX Runtime on the CPU.

        Raises:
            CaptureError: ONNX Runtime cannot load or run it.
        """
        from agent.sessions.onnxruntime import import_runtime

        onnxruntime = import_runtime()

        try:
            if self._session is None:
                self._session = onnxruntime.InferenceSession(
                    str(self._path), providers=["CPUExecutionProvider"]
                )
            names = [output.name for output in self._session.get_outputs()]
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise CaptureError(
                f"ONNX Runtime cannot run {self._path.name}: {_first_line(error)}",
                cause="An operator is not known to it, or the inputs do not fit the model.",
                remedy="Check the model's operators and the shapes in [[inputs]] and [dims].",
            ) from error

    def export(self, example: Mapping[str, Array], out: Path) -> Program:
        """Copy the model to `out/program.onnx` with its dims named as the signature names them."""
        del example
        self._name_dims()
        digest = onnx_weights.digest(self._model, self._path.parent)
        at_opt, at_max = (
            onnx_graph(self._model, {name: bounds[place] for name, bounds in self.dims.items()})
            for place in (1, 2)
        )
        path = out / "program.onnx"
        self._save(path)
        used = set(_names_read(self._model.graph))
        weights = [tensor for tensor in self._model.graph.initializer if tensor.name in used]
        return Program(
            kind="onnx",
            path=path,
            signature=Signature(inputs=self.inputs, outputs=self._outputs(), dims=self.dims),
            digest=digest,
            costs=costs(at_opt),
            weight_bytes=sum(map(onnx_weights.of_bytes, weights)),
            activation_bytes=activation_bytes(at_opt),
            activation_bytes_at_max=activation_bytes(at_max),
            custom_ops=tuple(
                sorted(
                    {
                        f"{node.domain}::{node.op_type}"
                        for node in self._model.graph.node
                        if node.domain not in ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
                    }
                )
            ),
        )

    def _save(self, path: Path) -> None:
        """Write a copy; the weights go into one file beside it if they do not fit in the first."""
        import onnx

        onnx.load_external_data_for_model(self._model, str(self._path.parent))
        weights = sum(map(onnx_weights.of_bytes, self._model.graph.initializer))
        external = weights > _SINGLE_FILE_BYTES
        onnx.save(
            self._model, str(path), save_as_external_data=external, location=f"{path.name}.data"
        )

    def _graph_inputs(self) -> list[Any]:
        weights = {tensor.name for tensor in self._model.graph.initializer}
        return [value for value in self._model.graph.input if value.name not in weights]

    def _read_inputs(
        self, project: Project
    ) -> tuple[tuple[TensorSpec, ...], dict[str, tuple[int, int, int]]]:
        found = tuple(_spec(value) for value in self._graph_inputs())
        if project.inputs:
            declared = {spec.name: spec for spec in project.inputs}
            if set(declared) != {spec.name for spec in found}:
                raise CaptureError(
                    f"{self._path.name} takes {sorted(spec.name for spec in found)}, sdk.toml "
                    f"declares {sorted(declared)}.",
                    cause="The names in [[inputs]] are the graph's.",
                    remedy="Correct [[inputs]], or leave it out.",
                )
            for spec in found:
                _check_declared(spec, declared[spec.name])
            found = tuple(declared[spec.name] for spec in found)
        for spec in found:
            for axis, size in enumerate(spec.shape):
                if isinstance(size, str) and size not in project.dims:
                    raise CaptureError(
                        f"Input {spec.name} of {self._path.name} has a dynamic axis {axis} "
                        f"({size or 'without a name'}), and sdk.toml has no bounds for it.",
                        cause="The file says that the axis varies, not from where to where.",
                        remedy=f"Add to sdk.toml: [dims] {size or 'batch'} = "
                        "{min = 1, opt = 1, max = 8}"
                        + ("" if size else ", and name it in [[inputs]]."),
                    )
        used = {size for spec in found for size in spec.shape if isinstance(size, str)}
        return found, {name: project.dims[name] for name in sorted(used)}

    def _name_dims(self) -> None:
        specs = {spec.name: spec for spec in self.inputs}
        for value in self._graph_inputs():
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, specs[value.name].shape, strict=True):
                if isinstance(size, str):
                    dim.dim_param = size
                else:
                    dim.dim_value = size

    def _outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(_spec(value) for value in self._model.graph.output)


def _names_read(graph: Any) -> Iterator[str]:
    """What the operators read, those in branches and loops included."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _names_read(inner)


def _spec(value: Any) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else str(dim.dim_param)
        for dim in tensor.shape.dim
    )
    return TensorSpec(name=value.name, dtype=str(dtype), shape=shape)


def _check_declared(found: TensorSpec, declared: TensorSpec) -> None:
    fits = len(found.shape) == len(declared.shape) and all(
        isinstance(have, str) or have == want
        for have, want in zip(found.shape, declared.shape, strict=True)
    )
    if found.dtype != declared.dtype or not fits:
        raise CaptureError(
            f"Input {found.name} is {found.dtype} {list(found.shape)} in the model, sdk.toml "
            f"declares {declared.dtype} {list(declared.shape)}.",
            cause="An axis that is fixed in the file cannot vary.",
            remedy="Correct [[inputs]], or leave it out.",
        )


def _structure(path: Path) -> Any:
    import onnx

    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise CaptureError(
            f"{path} is not an ONNX file: {_first_line(error)}",
            cause="It was cut short, is empty, or is another format under this name.",
            remedy="Export it again.",
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
