"""How a run on a rig ended, in one word: what a script decides by, and what is told first."""

from __future__ import annotations

from typing import Literal

from agent.errors import NetworkError, VerificationError
from agent.processes import Kind

Outcome = Literal[
    "ok",
    "wrong_answer",
    "out_of_memory",
    "timeout",
    "crashed",
    "error",
    "hang",
    "link_lost",
    "rig_reset",
]
MEANING: dict[Outcome, str] = {
    "ok": "it answered",
    "wrong_answer": "it answered, and not what it should",
    "out_of_memory": "it used more memory than its limit, or than there is",
    "timeout": "it took longer than its limit, and was ended; the rig goes on",
    "crashed": "its process ended by itself, by a signal or an exit status",
    "error": "its runtime refused, and said why",
    "hang": "it cannot be ended, or the rig answers nobody any more",
    "link_lost": "the line ended; the rig is still up, and ended the run by itself",
    "rig_reset": "the rig was started anew in the middle of it",
}
"""Every outcome, for a person. The documentation's table comes from here."""
FAILED_AS: dict[Outcome, Kind] = {
    "timeout": "hung",
    "hang": "hung",
    "rig_reset": "crashed",
    "crashed": "crashed",
    "out_of_memory": "out_of_memory",
}
"""What a variant can bring about -> what the same is called where it ran on this machine."""


class LinkLostError(NetworkError):
    """The line to a rig ended, or the rig does not answer."""

    outcome: Outcome = "link_lost"


class WrongAnswerError(VerificationError):
    """A variant answers, and not what it should."""

    outcome: Outcome = "wrong_answer"
