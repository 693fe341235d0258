"""`ignored` of a recipe's `quantisation`: operators that stay in floating point, by their names."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from agent.errors import ToolchainError
from targets.interface import Problem


def ignored_problems(chosen: Mapping[str, Any]) -> Iterator[Problem]:
    """What speaks against the form of `ignored`; whether the names exist is known later."""
    ignored = chosen.get("ignored", ())
    if not isinstance(ignored, (list, tuple)) or not all(
        isinstance(name, str) and name for name in ignored
    ):
        yield Problem(what="it takes a list of operators' names", where=f"ignored {ignored!r}")


def ignored_names(chosen: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """The names that a recipe ignores.

    Args:
        chosen: the recipe's `quantisation`.
        names: of all of the model's operators.

    Raises:
        ToolchainError: the model has no operator of such a name.
    """
    ignored = list(chosen.get("ignored", ()))
    for name in ignored:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
            raise ToolchainError(
                f"`ignored` names {name!r}, and none of the model's {len(names)} operators is "
                "called so.",
                cause="The name is of another model, or of another converter's release.",
                remedy=f"Close to it are {', '.join(near)}." if near else "Look at its names.",
            )
    return ignored
