"""What a project file says, checked: the nouns of docs/reference/project-file.md."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from agent.manifest import TensorSpec

FILE_NAME = "sdk.toml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionSource:
    """`file.py:function`, the file relative to the project."""

    file: str
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.function}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the model comes from."""

    name: str
    kind: Literal["factory", "pt2", "onnx"]
    factory: FunctionSource | None
    file: str | None
    """The `.pt2` or `.onnx` file, relative to the project."""
    checkpoint: str | None
    """A safetensors file, relative to the project."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where real samples come from, and how an answer is scored."""

    samples: FunctionSource
    metric: str | None
    score: FunctionSource | None
    higher_is_better: bool
    version: str
    labels_may_leave: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToolchainSettings:
    """Limits of one toolchain's subprocesses, and another interpreter where pins conflict."""

    python: str | None = None
    time_limit_s: int = 1800
    memory_limit_mib: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Project:
    """A project file, checked."""

    root: Path
    model: ModelSource
    inputs: tuple[TensorSpec, ...]
    dims: dict[str, tuple[int, int, int]]
    data: DataSource | None
    limits: dict[str, dict[str, float]]
    """Scope ("" for all, else a target's or profile's name) -> limit -> value."""
    targets: tuple[str, ...]
    profiles: dict[str, tuple[str, ...]]
    toolchains: dict[str, ToolchainSettings]

    def limits_for(self, target: str, profile: str) -> dict[str, float]:
        """The limits that hold for one profile: the narrower scope wins, limit by limit."""
        host = {"host": self.limits.get("host", {})} if profile == f"{target}-host" else {}
        scopes = [self.limits.get(""), self.limits.get(target), *host.values()]
        merged: dict[str, float] = {}
        for scope in [*scopes, self.limits.get(profile)]:
            merged.update(scope or {})
        return merged

    def settings_for(self, toolchain: str) -> ToolchainSettings:
        """The settings of one toolchain; the defaults where the file says nothing."""
        return self.toolchains.get(toolchain, ToolchainSettings())


def profile_folders(root: Path) -> tuple[Path, ...]:
    """Where profiles are looked up before the package's own: the project, then the user."""
    from agent.folders import config_folder

    return (root / "profiles", config_folder() / "profiles")
