"""Profiles drawn for a person: one in full, many in a table. Pure: builds what rich prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from profiles import Engine, Fitted, PowerMode, Profile
from profiles.reader import PRECISIONS
from sdk.profile_diff import Difference
from sdk.report.learnt import described
from sdk.report.predicates import in_words, size

_CLOCKS = ("cores", "cpu_mhz", "gpu_mhz", "memory_mhz", "watts")


def drawing(profile: Profile) -> RenderableType:
    """The whole profile; every figure has the number of its source, which is at the end."""
    notes = _Notes()
    facts = ", ".join((profile.name, f"target {profile.target}", profile.platform, profile.arch))
    parts: list[RenderableType] = [
        Text(profile.title, style="bold"),
        Text(facts + ("" if profile.origin == "package" else f", from {profile.origin}")),
        *_section("", _facts(profile, notes)),
        *_section("engines, dense peak rates", _engines(profile, notes)),
        *_section("software", _software(profile, notes)),
        *_section("power modes", _power_modes(profile, notes)),
        *_section("a device is of this type if", _lines(in_words(profile.match))),
        *_section("what was ever done on it", _status(profile)),
        *_section("fitted for estimates (sdk fit)", _lines(fitted_lines(profile.fitted))),
        *_section(
            "learnt from reports (sdk fit --reports)", _lines(map(described, profile.scales))
        ),
        *_section("sources", notes.table()),
    ]
    return Group(*parts)


def listing(profiles: Iterable[Profile]) -> Table:
    """One line for each profile."""
    table = _grid("target", "name", "title", "memory", "what was done on it", header=True)
    for profile in profiles:
        table.add_row(
            *map(Text, (profile.target, profile.name, profile.title)),
            Text(size(profile.memory_bytes)),
            Text(evidence(profile)),
        )
    return table


def side_by_side(left: str, right: str, found: Iterable[Difference]) -> Table:
    """Where two profiles differ: what each says there, or nothing."""
    table = _grid("", left, right, header=True)
    for entry in found:
        table.add_row(Text(entry.path), Text(entry.left or "-"), Text(entry.right or "-"))
    return table


def rate(precision: str, gflop_s: float) -> str:
    """A rate in the unit that a person reads.

    >>> rate("f16", 16712), rate("int8", 33500), rate("f32", 120)
    ('16.7 TFLOP/s', '33.5 TOPS', '120 GFLOP/s')
    """
    integers = precision.startswith("int")
    if gflop_s < 1000:
        return f"{_three(gflop_s)} {'GOPS' if integers else 'GFLOP/s'}"
    return f"{_three(gflop_s / 1000)} {'TOPS' if integers else 'TFLOP/s'}"


def evidence(profile: Profile) -> str:
    """What was ever done on such a device, with what the profile says about it."""
    done = [f"{key}: {text}" for key, text in profile.status.items() if text != "not tried"]
    return "; ".join(done) or "nothing"


def fitted_lines(fitted: Iterable[Fitted]) -> list[str]:
    """What was learnt of each toolchain, from what, and how far off it is.

    >>> fitted_lines([Fitted(toolchain="openvino", engine="cpu", ms={"request": 0.01},
    ...     kinds=("f32 plain",), rows=900, held_out=90, error=0.1, low=0.8, high=1.25,
    ...     date="2026-11-21", device="ab12", tools={"openvino": "2026.4.1"})])
    ['openvino on cpu: off by 10 % on 90 held-out measurements, nine in ten between 0.8 and \
1.25 of the estimate; 900 rows of 2026-11-21, openvino 2026.4.1']
    """
    lines = []
    for entry in fitted:
        tool = entry.tools.get(entry.toolchain)
        lines.append(
            f"{entry.toolchain} on {entry.engine}: off by {100 * entry.error:.0f} % on "
            f"{entry.held_out} held-out measurements, nine in ten between {_three(entry.low)} and "
            f"{_three(entry.high)} of the estimate; {entry.rows} rows of {entry.date}"
            + (f", {entry.toolchain} {tool}" if tool else "")
        )
    return lines


class _Notes:
    """Sources, numbered in the order of their first use."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, text: str, source: str | None) -> Text:
        """The text with its source's number; as it is where there is none."""
        found = Text(text)
        if source:
            number = self._numbers.setdefault(source, len(self._numbers) + 1)
            found.append(f" [{number}]", style="dim")
        return found

    def table(self) -> Table:
        table = _grid()
        for source, number in self._numbers.items():
            table.add_row(Text(f"[{number}]", style="dim"), Text(source, style="dim"))
        return table


def _facts(profile: Profile, notes: _Notes) -> Table:
    table = _grid()
    host = "any: this is a card"
    rows = {
        "cores": (host if profile.cores is None else str(profile.cores), "cores"),
        "flags": (_flags(profile), "isa"),
        "memory": (size(profile.memory_bytes), "memory_bytes"),
        "compute capability": (profile.sm or "", "sm"),
    }
    for name, (text, key) in rows.items():
        if text:
            table.add_row(Text(name), notes.mark(text, profile.sources.get(key)))
    if profile.bandwidth_gb_s is not None:
        figure = profile.bandwidth_gb_s
        table.add_row(Text("bandwidth"), notes.mark(f"{figure.value:g} GB/s", figure.source))
    return table


def _flags(profile: Profile) -> str:
    if profile.cores is None:
        return ""
    listed = ", ".join(profile.isa) or "none told"
    return listed if profile.isa_complete else f"{listed}; there may be more"


def _engines(profile: Profile, notes: _Notes) -> Table:
    """Precisions down, engines across: four engines fit a terminal, seven precisions do not."""
    table = _grid("", *profile.engines, header=True)
    engines = profile.engines.values()
    table.add_row("", *(Text(engine.title, style="dim") for engine in engines))
    for precision in PRECISIONS:
        if any(precision in {*engine.peak, *engine.precisions} for engine in engines):
            table.add_row(precision, *(_rate_cell(engine, precision, notes) for engine in engines))
    return table


def _rate_cell(engine: Engine, precision: str, notes: _Notes) -> Text:
    if precision in engine.peak:
        figure = engine.peak[precision]
        return notes.mark(rate(precision, figure.value), figure.source)
    if not engine.precisions:
        return Text("")
    if precision in engine.precisions:
        return notes.mark("yes, no rate", engine.precisions_source)
    return notes.mark("no", engine.precisions_source)


def _software(profile: Profile, notes: _Notes) -> Table:
    table = _grid("", "Python", "runtimes", header=True)
    for stack in profile.software.values():
        runtimes = ", ".join(f"{name} {version}" for name, version in stack.runtimes.items())
        table.add_row(
            notes.mark(stack.name, stack.source), Text(stack.python or ""), Text(runtimes)
        )
    return table


def _power_modes(profile: Profile, notes: _Notes) -> Table:
    table = _grid("", "cores", "CPU MHz", "GPU MHz", "memory MHz", "W", header=True)
    for column in table.columns[1:]:
        column.justify = "right"
    for mode in profile.power_modes.values():
        table.add_row(notes.mark(mode.name, mode.source), *_clocks(mode))
    return table


def _clocks(mode: PowerMode) -> Iterator[Text]:
    for key in _CLOCKS:
        value = getattr(mode, key)
        yield Text("" if value is None else f"{value:g}")


def _status(profile: Profile) -> Table:
    table = _grid()
    for key, text in profile.status.items():
        table.add_row(Text(key), Text(text))
    return table


def _section(title: str, table: Table) -> Iterator[RenderableType]:
    """A heading and its table, or nothing where the table is empty."""
    if table.row_count:
        yield Text("")
        if title:
            yield Text(title, style="bold")
        yield table


def _lines(texts: Iterable[str]) -> Table:
    table = _grid()
    for text in texts:
        table.add_row(Text(text))
    return table


def _grid(*columns: str, header: bool = False) -> Table:
    table = Table(*columns, box=None, pad_edge=False, show_header=header, padding=(0, 2, 0, 0))
    for column in table.columns:
        column.overflow = "fold"
    return table


def _three(value: float) -> str:
    """Three significant digits, and no exponent for what is above a thousand."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"
