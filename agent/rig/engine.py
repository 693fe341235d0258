"""On a rig: the engine of a variant is built before it is asked for anything, and told how it goes.

What the builder times on the way is good for every machine of the same kind, so it comes with the
request and goes back with the answer.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.calls import of_runtime
from agent.files import write_atomic
from agent.identity import fingerprint
from agent.sessions import prepared_folder, session_module
from agent.variant import VariantRecord, read_record

TIMED = "timing.cache"
"""What the builder has timed, in the folder of the run."""


def standing(*, variant: str) -> dict[str, Any]:
    """Whether a variant has its engine here: {is_built, timing}.

    `timing` names what the builder has timed on machines of this kind.
    """
    place = _place(read_record(Path(variant)))
    return {"is_built": place.is_built, "timing": place.timing_cache.stem}


def prepare(
    *, tell: Callable[[Mapping[str, Any]], None], variant: str, timing: str | None, out: str
) -> dict[str, Any]:
    """Build a variant's engine, unless it is there; {seconds, bytes, has_timed}.

    Args:
        tell: is told how long it has taken, and the builder's last line.
        variant: its folder.
        timing: a file that a machine of this kind has timed, or None.
        out: a folder that gets this machine's, `TIMED`.
    """
    folder = Path(variant)
    record = read_record(folder)
    place = _place(record)
    module: Any = session_module(record.runtime.format)  # one that has `prepare`
    if timing is not None and not place.timing_cache.exists():
        place.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place.timing_cache, Path(timing).read_bytes())
    began = time.monotonic()
    engine: Path = module.prepare(
        folder / record.files[0].path, of_runtime(record.options), record.signature, fingerprint(),
        prepared_folder(record),
        on_words=lambda seconds, line: tell(
            {"event": "building", "seconds": seconds, "line": line}
        ),
    )  # fmt: skip
    has_timed = place.timing_cache.is_file()
    if has_timed:
        shutil.copyfile(place.timing_cache, Path(out) / TIMED)
    return {
        "seconds": time.monotonic() - began,
        "bytes": engine.stat().st_size,
        "has_timed": has_timed,
    }


def _place(record: VariantRecord) -> Any:
    module: Any = session_module(record.runtime.format)
    return module.place_of(
        of_runtime(record.options), record.signature, fingerprint(), prepared_folder(record)
    )
