"""One step in one process: `python -P -m sdk.step FOLDER`.

Reads `FOLDER/request.json` {step, payload}, runs the step with `FOLDER/out` to write into, and
leaves `FOLDER/result.json` {result} or {error}. Whatever a vendor prints goes to the log. A vendor
that segfaults, hangs or eats memory takes only this process with it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent.errors import SlipwayError, ToolchainError, to_record
from agent.files import storage_error, write_atomic
from agent.processes import die_with

Result = dict[str, Any]
_FULL_DISK_BYTES = 1 << 20  # less room than this explains a vendor's strange failure


def main(folder: Path) -> int:
    """Run the step in `folder`; 0 if it left a result, 1 if it left an error or a bug."""
    faulthandler.enable()
    request = json.loads((folder / "request.json").read_bytes())
    die_with(request["parent"])
    out = folder / "out"
    answer: dict[str, Any]
    try:
        answer = {"result": _step(request["step"])(request["payload"], out)}
    except SlipwayError as error:
        traceback.print_exc()
        answer = {"error": to_record(error)}
    except OSError as error:
        traceback.print_exc()
        answer = {"error": to_record(storage_error(error, Path(str(error.filename or out))))}
    except Exception:  # noqa: BLE001  a bug of ours: the parent raises it with this traceback
        traceback.print_exc()
        answer = {"bug": traceback.format_exc()}
    if "result" not in answer and shutil.disk_usage(folder).free < _FULL_DISK_BYTES:
        full = OSError(28, "No space left on device")
        answer = {"error": to_record(storage_error(full, folder))}
    write_atomic(folder / "result.json", json.dumps(answer).encode())
    return 0 if "result" in answer else 1


def _step(name: str) -> Callable[[dict[str, Any], Path], Result]:
    if name == "capture":
        from sdk.capture import capture

        return capture
    return {
        "convert": _convert,
        "lower": _lower,
        "rank": _rank,
        "evaluate": _evaluate,
        "operators": _operators,
        "coverage": _coverage,
        "available": _available,
        "timing": _timing,
    }[name]


def _convert(payload: dict[str, Any], out: Path) -> Result:
    """Convert a program to what a toolchain's recipes begin with."""
    from agent.codec import encode
    from sdk.lowering import convert

    with _vendor_errors(payload["recipe"]["toolchain"], "could not convert the program"):
        return dict(encode(convert(payload, out)))


def _lower(payload: dict[str, Any], out: Path) -> Result:
    """Lower one program with one recipe."""
    from agent.codec import encode
    from sdk.lowering import lower

    with _vendor_errors(payload["recipe"]["toolchain"], "could not lower the program"):
        return dict(encode(lower(payload, out)))


def _rank(payload: dict[str, Any], out: Path) -> Result:
    """Tell which groups of operators lose what by being quantised."""
    del out
    from agent.codec import encode
    from sdk.lowering import rank

    with _vendor_errors(payload["recipe"]["toolchain"], "could not rank the operators"):
        return {"groups": encode(rank(payload))}


@contextlib.contextmanager
def _vendor_errors(name: str, what: str) -> Iterator[None]:
    """A vendor's exception is typed; ours, the disk's and memory's go on as they are."""
    try:
        yield
    except (SlipwayError, OSError, MemoryError):
        raise
    except Exception as error:
        traceback.print_exc()
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise ToolchainError(
            f"{name} {what}: {type(error).__name__}: {lines[0][:300] if lines else '(no message)'}",
            cause="The vendor's compiler does not take this model with these choices.",
            remedy="The log has the whole story.",
        ) from error


def _evaluate(payload: dict[str, Any], out: Path) -> Result:
    from sdk.prove import evaluate

    return evaluate(payload, out)


def _operators(payload: dict[str, Any], out: Path) -> Result:
    """Whatever a runtime's profiler does, the build goes on without it."""
    from agent.operators import profile_operators

    del out
    try:
        return {"operators": profile_operators(Path(payload["variant"]), Path(payload["inputs"]))}
    except SlipwayError:
        raise
    except Exception as error:
        traceback.print_exc()
        raise ToolchainError(
            f"the runtime could not be profiled: {type(error).__name__}: {error}",
            cause="Its profiler does not take this model, or tells it in a new form.",
            remedy="Nothing depends on it; the log has the whole story.",
        ) from error


def _coverage(payload: dict[str, Any], out: Path) -> Result:
    from sdk.calibration import find_coverage

    with _vendor_errors("onnxruntime", "could not run the model tensor by tensor"):
        return find_coverage(payload, out)


def _available(payload: dict[str, Any], out: Path) -> Result:
    """What a toolchain says of itself under another interpreter."""
    del out
    from agent.codec import encode
    from targets import toolchain

    return dict(encode(toolchain(payload["toolchain"]).available()))


def _timing(payload: dict[str, Any], out: Path) -> Result:
    """Build programs that are only there to be timed."""
    from sdk.timing_programs import build

    return build(payload, out)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
