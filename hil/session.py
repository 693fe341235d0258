"""A variant that is loaded on a rig, and run with arrays of this machine."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import SlipwayError
from agent.inputs import check_inputs
from agent.tensors import Array, read_tensors, write_tensors
from agent.variant import VariantRecord, read_record
from hil import bench
from hil.rig import Rig

LOAD_S = 300.0
RUN_S = 60.0


class RigSession:
    """A session on a rig; like `agent.sessions.CheckedSession`, with its model over there.

    A context manager: with its end the model is unloaded. A rig has one session at a time.
    """

    def __init__(
        self,
        rig: Rig,
        variant: Path,
        *,
        load_s: float = LOAD_S,
        memory_limit_mib: int | None = None,
    ) -> None:
        """Send the variant's files that are not there, and load it.

        Args:
            rig: that is leased.
            variant: its folder.
            load_s: it has so long to load.
            memory_limit_mib: for its process tree there.

        Raises:
            RunFailedError: it crashed, took too long or too much memory.
            ToolchainError: it cannot be loaded there.
            NetworkError: the line ended.
        """
        self.record: VariantRecord = read_record(variant)
        self._rig = rig
        found = rig.run(
            "open", time_limit_s=load_s, memory_limit_mib=memory_limit_mib,
            variant=bench.push_variant(rig, variant), check_as=None,
        )  # fmt: skip
        self._placement: dict[str, float] = bench.checked(rig, found)["found"]["placement"]

    def __enter__(self) -> RigSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self, inputs: Mapping[str, Any], *, limit_s: float = RUN_S, reset: bool = False
    ) -> dict[str, Array]:
        """Run it once there.

        Args:
            inputs: one array per input, of the declared dtype and shape.
            limit_s: it has so long.
            reset: begin anew, for a model that keeps state.

        Returns:
            One array per output, by name.

        Raises:
            UsageError: an input does not fit.
            RunFailedError: it crashed, took too long or too much memory; the session is over.
            NetworkError: the line ended.
        """
        arrays = check_inputs(self.record.signature, inputs)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tensors"
            write_tensors(path, arrays.items())
            end, content = self._rig.ask(path.read_bytes(), time_limit_s=limit_s, reset=reset)
            bench.checked(self._rig, end)
            path.write_bytes(content)
            return read_tensors(path)

    def placement(self) -> dict[str, float]:
        """What share of the graph runs where."""
        return self._placement

    def close(self) -> None:
        """Unload it; a second time does nothing, and where the rig is lost it has ended."""
        if self._rig.is_lost or not self._rig.is_leased:
            return
        with contextlib.suppress(SlipwayError):
            self._rig.run("shut", time_limit_s=LOAD_S)
