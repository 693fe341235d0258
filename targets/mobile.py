"""Android and iOS phones, by ExecuTorch: the CPU everywhere, the GPU on Android, Core ML on Apple.

XNNPACK comes first: it is the f32 lowering that the others are held against, and the one that also
runs on the build machine. Which phone has which backend follows from the profile's platform.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from targets.interface import Recipe, Request

NAME = "mobile"
TITLE = "Android and iOS phones, by ExecuTorch"
DEFAULT_PROFILE = "snapdragon-8-gen-3"

PT2E_SAMPLES = 100  # as for Intel's CPUs: the same quantiser


def recipes(request: Request) -> Iterator[Recipe]:
    """What is worth trying on this phone."""
    profile = request.profile
    yield _executorch("xnnpack", "f32")
    yield _executorch("xnnpack", "int8", {"method": "pt2e", "samples": PT2E_SAMPLES})
    if profile.platform == "android" and "gpu" in profile.engines:
        yield _executorch("vulkan", "f16")
    if profile.platform in ("ios", "macos"):
        yield _executorch("coreml", "f16")


def _executorch(
    backend: str, precision: str, quantisation: Mapping[str, Any] | None = None
) -> Recipe:
    return Recipe(
        toolchain="executorch",
        format="executorch",
        precision=precision,
        quantisation=quantisation,
        backend=backend,
    )
