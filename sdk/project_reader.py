"""`sdk.toml` -> Project. Strict: an unknown key is an error with a did-you-mean.

Every message names the file and the key's path, and what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from agent.errors import UsageError
from agent.manifest import TensorSpec
from agent.tensors import DTYPES
from profiles import all_profiles
from profiles.toml_text import read_toml
from sdk.limits import check_limit
from sdk.project import (
    FILE_NAME,
    DataSource,
    FunctionSource,
    ModelSource,
    Project,
    ToolchainSettings,
    profile_folders,
)
from targets import target_names, toolchain_names

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FUNCTION = re.compile(r"(?P<file>[^:]+\.py):(?P<function>[A-Za-z_]\w*)")


def load_project(path: Path) -> Project:
    """Read the project in a folder, or the project file itself.

    Raises:
        UsageError: missing, not TOML, or not of the form; the message names file and key.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        content = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no project file {file}.",
            cause="The command was run in another folder, or the project is new.",
            remedy="Name the project's folder, or make one: sdk init FOLDER",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file} cannot be read: {error}.",
            cause="It is not a text file in UTF-8, or belongs to somebody else.",
            remedy="Check the file.",
        ) from error
    return _Reader(file).project(read_toml(content, str(file)))


class _Reader:
    """One project file being read; keeps its name for messages."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def project(self, document: dict[str, Any]) -> Project:
        sections = ("model", "inputs", "dims", "data", "limits", "build", "toolchain")
        self._only(document, sections, "")
        model = self._model(self._table(document, "model"))
        dims = self._dims(self._table(document, "dims"))
        inputs = self._inputs(document.get("inputs", []), dims)
        if model.kind == "factory" and not inputs:
            raise self._error(
                "inputs",
                "is missing",
                cause="A model made by a function does not tell its inputs.",
                remedy='Add, per input: [[inputs]] name = "x", dtype = "float32", shape = [1, 3]',
            )
        targets, profiles = self._build(self._table(document, "build"))
        return Project(
            root=self._file.parent.resolve(),
            model=model,
            inputs=inputs,
            dims=dims,
            data=self._data(document["data"]) if "data" in document else None,
            limits=self._limits(self._table(document, "limits")),
            targets=targets,
            profiles=profiles,
            toolchains=self._toolchains(self._table(document, "toolchain")),
        )

    def _model(self, table: dict[str, Any]) -> ModelSource:
        self._only(table, ("name", "source", "checkpoint"), "model")
        name = self._string(table, "model.name", required=True)
        if not _NAME.fullmatch(name):
            raise self._error(
                "model.name",
                f"is {name!r}",
                cause="It becomes part of file names and identifiers.",
                remedy="Use lower-case letters, digits, '.', '_' and '-', at most 64.",
            )
        source = self._string(table, "model.source", required=True)
        checkpoint = self._string(table, "model.checkpoint")
        suffix = Path(source).suffix
        if suffix in (".pt2", ".onnx"):
            if checkpoint:
                raise self._error(
                    "model.checkpoint",
                    f"is {checkpoint!r}, but the source is {source!r}",
                    cause=f"A {suffix} file carries its own weights.",
                    remedy="Remove the checkpoint.",
                )
            self._must_exist("model.source", source)
            return ModelSource(
                name=name, kind=_KINDS[suffix], factory=None, file=source, checkpoint=None
            )
        factory = self._function("model.source", source)
        if checkpoint:
            self._check_checkpoint(checkpoint)
        return ModelSource(
            name=name, kind="factory", factory=factory, file=None, checkpoint=checkpoint or None
        )

    def _check_checkpoint(self, checkpoint: str) -> None:
        if Path(checkpoint).suffix != ".safetensors":
            raise self._error(
                "model.checkpoint",
                f"is {checkpoint!r}, which is not a .safetensors file",
                cause="Pickled checkpoints (.pt, .pth, .bin, .ckpt) run code when they are read.",
                remedy="Convert it once: safetensors.torch.save_file(model.state_dict(), FILE)",
            )
        self._must_exist("model.checkpoint", checkpoint)

    def _inputs(
        self, entries: Any, dims: Mapping[str, tuple[int, int, int]]
    ) -> tuple[TensorSpec, ...]:
        if not isinstance(entries, list):
            raise self._wrong("inputs", "a list of tables: [[inputs]]", entries)
        specs: list[TensorSpec] = []
        for index, entry in enumerate(entries):
            path = f"inputs[{index}]"
            if not isinstance(entry, dict):
                raise self._wrong(path, "a table", entry)
            self._only(entry, ("name", "dtype", "shape"), path)
            name = self._string(entry, f"{path}.name", required=True)
            dtype = self._string(entry, f"{path}.dtype", required=True)
            self._one_of(f"{path}.dtype", dtype, DTYPES)
            if name in {spec.name for spec in specs}:
                raise self._error(
                    f"{path}.name",
                    f"{name!r} is there twice",
                    cause="Inputs are passed by name.",
                    remedy="Rename one.",
                )
            shape = entry.get("shape")
            if not isinstance(shape, list):
                raise self._wrong(f"{path}.shape", "a list of integers and dim names", shape)
            for axis, size in enumerate(shape):
                self._check_size(f"{path}.shape[{axis}]", size, dims)
            specs.append(TensorSpec(name=name, dtype=dtype, shape=tuple(shape)))
        return tuple(specs)

    def _check_size(self, path: str, size: Any, dims: Mapping[str, Any]) -> None:
        if isinstance(size, str):
            if size not in dims:
                self._one_of(path, size, tuple(dims) or ("(none: add [dims])",))
        elif isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise self._wrong(path, "a positive integer or the name of a dim", size)

    def _dims(self, table: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
        dims: dict[str, tuple[int, int, int]] = {}
        for name, bounds in table.items():
            path = f"dims.{name}"
            if not name.isidentifier():
                raise self._wrong(path, "a name of letters, digits and '_'", name)
            if not isinstance(bounds, dict):
                raise self._wrong(path, "a table {min, opt, max}", bounds)
            self._only(bounds, ("min", "opt", "max"), path)
            low, opt, high = (self._integer(bounds, f"{path}.{key}") for key in _BOUNDS)
            if not 1 <= low <= opt <= high:
                raise self._error(
                    path,
                    f"has min {low}, opt {opt}, max {high}",
                    cause="They must rise: 1 <= min <= opt <= max.",
                    remedy="Correct the order.",
                )
            dims[name] = (low, opt, high)
        return dims

    def _data(self, table: Any) -> DataSource:
        if not isinstance(table, dict):
            raise self._wrong("data", "a table", table)
        keys = ("samples", "metric", "score", "higher_is_better", "version", "labels_may_leave")
        self._only(table, keys, "data")
        samples = self._function("data.samples", self._string(table, "data.samples", required=True))
        metric = self._string(table, "data.metric") or None
        score = self._string(table, "data.score") or None
        if metric and score:
            raise self._error(
                "data.score",
                "stands beside data.metric",
                cause="Only one of them can decide.",
                remedy="Keep one.",
            )
        if metric:
            from agent.metrics import metric as find_metric

            try:
                higher = find_metric(metric).higher_is_better
            except UsageError as error:
                raise self._error(
                    "data.metric",
                    f"is wrong: {error.what[:1].lower()}{error.what[1:].rstrip('.')}",
                    cause=error.cause,
                    remedy=error.remedy,
                ) from error
        else:
            higher = True
        stated = table.get("higher_is_better", higher)
        if not isinstance(stated, bool):
            raise self._wrong("data.higher_is_better", "true or false", stated)
        if metric and stated != higher:
            raise self._error(
                "data.higher_is_better",
                f"is {str(stated).lower()}, but {metric} has {str(higher).lower()}",
                cause="A metric by name knows its direction.",
                remedy="Remove the key.",
            )
        leave = table.get("labels_may_leave", False)
        if not isinstance(leave, bool):
            raise self._wrong("data.labels_may_leave", "true or false", leave)
        version = table.get("version", "")
        if isinstance(version, bool) or not isinstance(version, (str, int)):
            raise self._wrong("data.version", "a string", version)
        return DataSource(
            samples=samples,
            metric=metric,
            score=self._function("data.score", score) if score else None,
            higher_is_better=stated,
            version=str(version),
            labels_may_leave=leave,
        )

    def _limits(self, table: dict[str, Any]) -> dict[str, dict[str, float]]:
        limits: dict[str, dict[str, float]] = {"": {}}
        for key, value in table.items():
            if isinstance(value, dict):
                self._check_scope(key)
                limits[key] = {
                    name: check_limit(name, entry, f"{self._file}: limits.{key}.{name}")
                    for name, entry in value.items()
                }
            else:
                limits[""][key] = check_limit(key, value, f"{self._file}: limits.{key}")
        return limits

    def _check_scope(self, scope: str) -> None:
        names = target_names()
        known = (*names, "host", *(f"{name}-host" for name in names))
        if scope not in known:
            shipped = all_profiles(profile_folders(self._file.parent))
            self._one_of(f"limits.{scope}", scope, (*known, *shipped))

    def _build(self, table: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
        self._only(table, ("targets", "profiles"), "build")
        targets = self._strings("build.targets", table.get("targets", []))
        for index, name in enumerate(targets):
            self._one_of(f"build.targets[{index}]", name, target_names())
        profiles = table.get("profiles", {})
        if not isinstance(profiles, dict):
            raise self._wrong("build.profiles", "a table: target = [names]", profiles)
        self._only(profiles, target_names(), "build.profiles")
        return targets, {
            target: self._strings(f"build.profiles.{target}", names)
            for target, names in profiles.items()
        }

    def _toolchains(self, table: dict[str, Any]) -> dict[str, ToolchainSettings]:
        self._only(table, toolchain_names(), "toolchain")
        settings = {}
        for name, entry in table.items():
            path = f"toolchain.{name}"
            if not isinstance(entry, dict):
                raise self._wrong(path, "a table", entry)
            self._only(entry, ("python", "time_limit_s", "memory_limit_mib"), path)
            default = ToolchainSettings()
            memory = entry.get("memory_limit_mib")
            settings[name] = ToolchainSettings(
                python=self._string(entry, f"{path}.python") or None,
                time_limit_s=self._integer(
                    {"time_limit_s": default.time_limit_s, **entry}, f"{path}.time_limit_s"
                ),
                memory_limit_mib=None
                if memory is None
                else self._integer(entry, f"{path}.memory_limit_mib"),
            )
        return settings

    def _table(self, document: dict[str, Any], key: str) -> dict[str, Any]:
        table = document.get(key, {})
        if not isinstance(table, dict):
            raise self._wrong(key, "a table", table)
        return table

    def _string(self, table: Mapping[str, Any], path: str, *, required: bool = False) -> str:
        key = path.rsplit(".", 1)[-1]
        if key not in table:
            if required:
                raise self._error(
                    path, "is missing", cause="It has no default.", remedy=f'Add {key} = "…"'
                )
            return ""
        value = table[key]
        if not isinstance(value, str) or not value:
            raise self._wrong(path, "a string that is not empty", value)
        return value

    def _integer(self, table: Mapping[str, Any], path: str) -> int:
        value = table.get(path.rsplit(".", 1)[-1])
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(path, "a positive integer", value)
        return value

    def _strings(self, path: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(path, "a list of strings", value)
        return tuple(dict.fromkeys(value))

    def _function(self, path: str, value: str) -> FunctionSource:
        found = _FUNCTION.fullmatch(value)
        if not found:
            raise self._wrong(path, "'file.py:function', a .pt2 or an .onnx file", value)
        self._must_exist(path, found["file"])
        return FunctionSource(file=found["file"], function=found["function"])

    def _must_exist(self, path: str, file: str) -> None:
        if not (self._file.parent / file).is_file():
            raise self._error(
                path,
                f"names {file!r}, which is not there",
                cause=f"Files are looked up beside {FILE_NAME}.",
                remedy="Correct the name, or make the file first.",
            )

    def _only(self, table: Mapping[str, Any], known: Iterable[str], path: str) -> None:
        for key in table:
            self._one_of(f"{path}.{key}" if path else key, key, tuple(known), noun="key")

    def _one_of(
        self, path: str, value: str, known: tuple[str, ...], *, noun: str = "value"
    ) -> None:
        if value in known:
            return
        close = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
        raise self._error(
            path,
            f"{noun} {value!r} is not known; known are {', '.join(known)}",
            cause=f"Did you mean {close[0]!r}?" if close else "The name is misspelt.",
            remedy="Correct it.",
        )

    def _wrong(self, path: str, expected: str, value: Any) -> UsageError:
        return self._error(
            path,
            f"should be {expected}, but is {value!r}",
            cause="The value has another type or form.",
            remedy="Correct it.",
        )

    def _error(self, path: str, what: str, *, cause: str, remedy: str) -> UsageError:
        return UsageError(f"{self._file}: {path} {what}.", cause=cause, remedy=remedy)


_KINDS: dict[str, Literal["pt2", "onnx"]] = {".pt2": "pt2", ".onnx": "onnx"}
_BOUNDS = ("min", "opt", "max")
