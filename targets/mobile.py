"""Android and iOS phones, by ExecuTorch: the CPU everywhere, the GPU on Android, Core ML on Apple.

XNNPACK comes first: it is the f32 lowering that the others are held against, and the one that also
runs on the build machine. Which phone has which backend follows from the profile's platform.
"""

from __future__ import annotations

from collections.abc import Iterator

from targets.interface import Recipe, Request
from targets.recipes import executorch, executorch_cpu

NAME = "mobile"
TITLE = "Android and iOS phones, by ExecuTorch"
DEFAULT_PROFILE = "snapdragon-8-gen-3"
HOST_ARCH = None
EXTRA = "mobile"


def recipes(request: Request) -> Iterator[Recipe]:
    """What is worth trying on this phone."""
    profile = request.profile
    yield from executorch_cpu(request)
    if profile.platform == "android" and "gpu" in profile.engines:
        yield executorch("vulkan", "f16", engine="gpu")
    if profile.platform in ("ios", "macos"):
        # Core ML decides between neural engine, GPU and CPU; a profile knows the first as npu.
        yield executorch("coreml", "f16", engine="npu")
