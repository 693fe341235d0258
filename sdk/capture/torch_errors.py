"""Why torch.export refused a model, in the words of its user."""

from __future__ import annotations

from pathlib import Path

from agent.errors import CaptureError
from sdk.usercode import user_error, user_line


def export_error(error: BaseException, project_root: Path) -> CaptureError:
    """Why torch.export failed, at the user's own line, with what to change there."""
    text = f"{type(error).__name__}: {error}"
    causes = [
        (cause, remedy)
        for patterns, cause, remedy in _EXPORT_CAUSES
        if any(pattern in text for pattern in patterns)
    ]
    cause, remedy = causes[0] if causes else ("", "Change that line so that torch.export takes it.")
    place = user_line(error, project_root)
    raised = user_error(
        f"The model cannot be exported{f' because of {place}' if place else ''}:",
        error,
        project_root,
        remedy=remedy,
    )
    return CaptureError(
        raised.what, cause=" ".join(part for part in (raised.cause, cause) if part), remedy=remedy
    )


_EXPORT_CAUSES = (
    (
        ("GuardOnDataDependent", "data-dependent", "Could not guard on data", "u0"),
        "It branches on a value that is known only when the model runs.",
        "Compute both sides and choose with torch.where, or use torch.cond.",
    ),
    (
        ("ConstraintViolation", "Constraints violated", "specialized"),
        "The code fixes an axis that sdk.toml declares as dynamic, or relates two dims.",
        "Make the axis a fixed size in [[inputs]], or mend the bounds in [dims].",
    ),
    (
        (
            "no fake impl",
            "register_fake",
            "Meta",
            "meta kernel",
            "FakeTensor",
            "numpy",
            "data pointer",
            "data_ptr",
        ),
        "The call leaves torch, or uses an operator that torch.export does not know.",
        "Write it with torch operators, or register it: torch.library.custom_op + register_fake.",
    ),
)
