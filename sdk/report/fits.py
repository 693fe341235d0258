"""What became of new fits, in sentences. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sdk.fit import COVERAGE, FEWEST_HELD_OUT, FEWEST_ROWS
from sdk.fit_judgement import Judged, Rival

_NAMES: dict[Rival, str] = {
    "data sheet": "the data sheet's estimate",
    "earlier fit": "the one it would replace",
}
_KEPT: dict[Rival, str] = {
    "data sheet": "estimates go on by the data sheet",
    "earlier fit": "kept the old one",
}
_BUSY = "The machine was busy or throttled while it measured"


def accepted(judged: Judged) -> str:
    """Why a fit is used.

    >>> accepted(Judged(toolchain="openvino", engine="cpu", used=True, reason="better", rows=900,
    ...     held_out=90, error=0.12, errors_before={"data sheet": 0.54}))
    "openvino on cpu: the new fit is off by 12 %, the data sheet's estimate by 54 %: used"
    """
    return f"{_against(judged)}: used"


def refusal(judged: Judged, again: str) -> tuple[str, str, str]:
    """Why a fit is not used, the usual cause, and what to do.

    Args:
        judged: a fit that is not used.
        again: the command that measures anew.

    >>> refused = Judged(toolchain="openvino", engine="cpu", used=False, reason="no better",
    ...     rows=900, held_out=90, error=0.31, error_before=0.24, before="earlier fit",
    ...     errors_before={"earlier fit": 0.24}, kept="earlier fit")
    >>> refusal(refused, "sdk fit --fresh")[0].partition(", ")[2]
    'the one it would replace by 24 %: kept the old one'
    """
    where, kept = _where(judged), _KEPT[judged.kept]
    idle = f"Run it again on an idle machine: {again}"
    if judged.reason == "too few":
        what = (
            f"{where}: {judged.rows} measurements, {judged.held_out} of them to judge it by, and "
            f"it takes {FEWEST_ROWS}, {FEWEST_HELD_OUT} and two networks or more: {kept}"
        )
        cause = "Programs could not be built or measured, or too few were asked for."
        return what, cause, f"Read what failed above; measure more, without --quick: {again}"
    if judged.reason == "not finite":
        what = f"{where}: the constants that were found are not finite: {kept}"
        return what, "A measured time is close to 0, or far beyond the others.", idle
    if judged.reason == "interval" and judged.coverage is not None:
        held = judged.coverage
        what = (
            f"{where}: the interval holds {held.share:.0%} of what it has not seen; it claims "
            f"{COVERAGE:.0%}, and below {held.least:.0%} is no chance: {kept}"
        ).replace("%", " %")
        return what, f"{_BUSY} some of the programs, and not the others.", idle
    if judged.before == "earlier fit":
        return f"{_against(judged)}: {kept}", f"{_BUSY}, or nothing has changed since.", idle
    if judged.kept == "earlier fit":
        idle += "; or forget the old one, which is off by more than the data sheet"
    return f"{_against(judged)}: {kept}", f"{_BUSY}.", idle


def _against(judged: Judged) -> str:
    if judged.error is None or not judged.errors_before:
        return f"{_where(judged)}: nothing else estimates here"
    rivals = sorted(judged.errors_before, key=lambda name: judged.errors_before[name])
    new, *others = _percents([judged.error, *(judged.errors_before[name] for name in rivals)])
    told = ", ".join(
        f"{_NAMES[name]} by {percent}" for name, percent in zip(rivals, others, strict=True)
    )
    return f"{_where(judged)}: the new fit is off by {new}, {told}"


def _where(judged: Judged) -> str:
    return f"{judged.toolchain} on {judged.engine}"


def _percents(values: Sequence[float]) -> list[str]:
    """With as few decimals as tell the first from the second."""
    for decimals in range(5):
        texts = [f"{100 * value:.{decimals}f} %" for value in values]
        if texts[0] != texts[1]:
            break
    return texts
