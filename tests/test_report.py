"""The report without a browser: axes, words, proofs, the page's structure."""

from __future__ import annotations

import dataclasses
import html.parser
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agent.codec import decode, encode
from sdk.cli.app import run
from sdk.report import figures, words
from sdk.report.frontier import Point, Span, pareto_front, points
from sdk.report.page import render
from sdk.report.proof import device_words, to_prove
from sdk.report.scales import fitting, linear
from sdk.report.scatter import place_labels
from sdk.report.terminal import print_summary
from sdk.summary import Summary
from tests import summaries
from tests.summaries import ALL, LIMITS, MIB

POSITIVE = st.floats(min_value=1e-4, max_value=1e6)


FIGURES = st.one_of(st.just(0.0), st.floats(-100, -1e-9), st.floats(1e-9, 1e6))


@given(st.lists(FIGURES, min_size=1, max_size=40))
def test_an_axis_holds_its_values_in_order_with_few_ticks(values: list[float]) -> None:
    scale = fitting(values)
    places = [scale.position(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= 100 for place in places)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 9
    assert [tick.position for tick in ticks] == sorted({tick.position for tick in ticks})
    assert len({tick.label for tick in ticks}) == len(ticks)


@given(st.lists(POSITIVE, min_size=1, max_size=20))
def test_a_linear_axis_begins_at_nothing_and_ends_above_all(values: list[float]) -> None:
    scale = linear(values)
    assert scale.low == 0
    assert scale.high >= max(values) * (1 - 1e-9)
    assert scale.ticks()[0].label == "0"


@given(st.lists(st.tuples(POSITIVE, st.floats(min_value=0, max_value=1)), min_size=1, max_size=30))
def test_nobody_beats_the_front_and_somebody_beats_the_rest(
    pairs: list[tuple[float, float]],
) -> None:
    found = [
        Point(
            row=row,
            candidate=summaries.measured("x-f32-00000000", 1.0, 0.0),
            latency_ms=Span(value=ms, low=ms, high=ms),
            drop=Span(value=drop, low=drop, high=drop),
            kind="measured",
        )
        for row, (ms, drop) in enumerate(pairs)
    ]
    front = pareto_front(found)
    for point in found:
        beaten = [
            f for f in front
            if f.latency_ms.value <= point.latency_ms.value
            and round(f.drop.value, 4) <= round(point.drop.value, 4)
        ]  # fmt: skip
        assert beaten
        assert point not in front or beaten == [point]


def test_the_front_is_of_what_breaks_no_limit() -> None:
    found = points(summaries.proven())
    assert [point.kind for point in found] == ["measured", "measured", "unmet", "unmet"]
    assert [point.row for point in pareto_front(found)] == [2, 1]
    assert {point.kind for point in pareto_front(points(summaries.all_break()))} == {"unmet"}


def test_labels_that_would_cover_each_other_go_to_different_sides() -> None:
    labels = place_labels([(50, 50), (52, 50)], ["1", "2"])
    assert labels[0] != labels[1]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.0, "0"), (0.03271, "0.0327"), (1.0, "1"), (99.96, "100"), (123456.0, "123456"),
     (0.0000004, "0"), (999.9, "1000")],
)  # fmt: skip
def test_a_figure_has_three_digits_and_no_powers_of_ten(value: float | None, shown: str) -> None:
    assert figures.number(value) == shown


@given(st.floats(min_value=0, max_value=1e9))
def test_no_figure_is_written_in_powers_of_ten(value: float) -> None:
    assert "e" not in figures.number(value)


def test_every_limit_has_words() -> None:
    assert set(figures.LIMITS) == set(figures.KINDS)


ANSWERS = {
    "proven": ("Meets every limit", "1.92 times as fast as the baseline openvino-f32"),
    "estimated": ("Not proven yet", "best by estimate, 0.5 to 4.5 ms"),
    "nothing built": ("Nothing could be built", "2 failed and 2 refused"),
    "nothing planned": ("Nothing could be built", "no candidate to try"),
    "all break": ("No variant meets the limits", "openvino-int8: 90th-percentile latency is 4.97 ms"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_the_answer_is_in_plain_words(name: str) -> None:
    result = ALL[name].results[0]
    answer, telling = ANSWERS[name]
    assert words.answer_of(result) == answer
    assert telling in " ".join(words.account(result))
    assert answer.lower() in words.overview(ALL[name]).lower()


def test_several_profiles_are_counted_in_one_sentence() -> None:
    assert words.overview(ALL["five profiles"]) == (
        "Of 5 device types: proven to meet every limit on 1, not proven yet on 2, "
        "no variant meets the limits on 2."
    )


def proofs_of(**changes: object) -> str:
    """What it takes to prove one measured candidate, as one text."""
    found = summaries.measured("openvino-int8-00000000", 1.6, 0.004, **changes)
    result = summaries.profile("intel-host", [found], "openvino-int8-00000000")
    return " | ".join(
        f"{[gap.missing for gap in proof.gaps]} {proof.remedy} {proof.command or ''}"
        for proof in to_prove(result)
    )


def test_what_is_proven_needs_no_proof() -> None:
    assert proofs_of() == ""


def test_bounds_on_both_sides_of_the_limit_ask_for_a_quiet_machine() -> None:
    told = proofs_of(latency_ms=summaries.latency(3.69))
    assert "3.91 to 4.06 ms" in told
    assert "--target intel --profile host --fresh" in told


def test_too_few_samples_are_told_with_the_number_it_takes() -> None:
    told = proofs_of(accuracy=summaries.accuracy(0.01, n=200, high=0.03, samples_needed=640))
    assert "200 final samples show a drop of 1 %, but leave room for 3.00 %" in told
    assert "about 1280 samples" in told
    assert "640 final ones" in told


def test_a_drop_that_no_number_of_samples_would_prove_says_so() -> None:
    told = proofs_of(accuracy=summaries.accuracy(0.019, n=200, high=0.03))
    assert "loosen the limit" in told


def test_a_device_that_is_not_here_is_named_with_the_command_to_run_there() -> None:
    found = to_prove(summaries.estimated())
    assert [gap.limits for gap in found[0].gaps] == [("90th-percentile latency",)]
    assert found[0].command == "sdk build PROJECT --target jetson --profile orin-nano"
    assert "the chip is nvidia,tegra234, JetPack is at least 6.1" in found[0].remedy


@pytest.mark.parametrize(
    ("precision", "told"),
    [("int8", "int8 differs between"), ("f32", "rounding may differ between")],
)
def test_what_another_machines_answers_leave_open_depends_on_the_precision(
    precision: str, told: str
) -> None:
    name = f"onnxruntime-{precision}-bbbbbbb9"
    seen = summaries.accuracy(0.0, evidence="host", n=4000)
    found = summaries.candidate(name, "pi", accuracy=seen, precision=precision)
    profile = summaries.profile("pi", [summaries.judged(found, {"accuracy_drop": 0.02})], name)
    assert [told in gap.missing for proof in to_prove(profile) for gap in proof.gaps] == [True]


def test_a_search_is_told_in_one_sentence() -> None:
    told = words.account(summaries.searched())[-1]
    assert told == (
        "A search of 1 min 6 s tried 26 candidates in 2 heats; its 1 min 0 s of the budget ended "
        "before all was tried, 3 candidates never begun."
    )
    found = summaries.searched()
    assert found.search is not None
    record = dataclasses.replace(found.search, heats=found.search.heats[:1], untried=0, ended=True)
    told = words.account(dataclasses.replace(found, search=record))[-1]
    assert told == "A search of 1 min 6 s tried 9 candidates in 1 heat; nothing was left to try."


def test_a_phone_cannot_run_the_build_so_no_command_is_promised() -> None:
    found = to_prove(summaries.phone())
    assert found[0].command is None
    assert "nothing on phones" in found[0].remedy


def test_nothing_selected_leaves_nothing_to_prove() -> None:
    assert to_prove(summaries.all_break()) == ()


def test_a_predicate_reads_as_a_sentence() -> None:
    told = device_words({"identity.isa": {"has": ["avx2", "fma"]}, "identity.arch": ["a", "b"]})
    assert told == "the CPU's flags include avx2, fma, the architecture is a or b"
    assert device_words(None) == ""


class Structure(html.parser.HTMLParser):
    """The page's elements, and whether they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), tuple(self.stack)))
        if tag not in {"meta", "link", "br"}:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), tuple(self.stack)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _, _ in self.elements)


def parsed(page: str) -> Structure:
    found = Structure()
    found.feed(page)
    found.close()
    assert found.stack == []
    return found


@pytest.mark.parametrize("name", ALL)
def test_every_page_is_well_formed_and_asks_for_nothing(name: str) -> None:
    page = render(ALL[name])
    found = parsed(page)
    ids = [attributes["id"] for _, attributes, _ in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes, _ in found.elements:
        for reference in (attributes.get("aria-labelledby") or "").split():
            assert reference in ids
        assert not {"src", "onclick", "onload"} & set(attributes)
        assert (attributes.get("href") or "#").startswith(("#", "data:"))
    assert not re.search(r"https?://|@import|url\(", page)
    assert found.count("h1") == 1


@pytest.mark.parametrize("name", ALL)
def test_tables_and_plots_can_be_read_without_seeing_them(name: str) -> None:
    found = parsed(render(ALL[name]))
    assert found.count("caption") == found.count("table")
    for tag, attributes, within in found.elements:
        if tag == "th":
            assert attributes["scope"] == ("col" if "thead" in within else "row")
        if tag == "svg" and attributes.get("role") == "img":
            assert attributes["aria-labelledby"]
    drawn = sum(
        tag == "svg" and attributes.get("role") == "img" for tag, attributes, _ in found.elements
    )
    assert found.count("desc") == drawn
    assert drawn == found.count("figure")


def test_the_page_of_a_proven_build_has_all_its_parts() -> None:
    page = render(ALL["proven"])
    for part in ("Latency against accuracy drop", "Latency distributions", "Peak memory", "Size",
                 "Every candidate, and why", "Where the time goes", "Placement", "Measured under",
                 "Provenance", "died of SIGSEGV", "features.0.0.conv", "up at 35.00 %",
                 "p90 at most 4", "ab" * 32, "2026.4.1", "52 \N{DEGREE SIGN}C"):  # fmt: skip
        assert part in page
    assert "What is unproven" not in page


def test_a_compiled_template_gives_the_same_page_from_our_own_folder_only(tmp_path: Path) -> None:
    page = render(ALL["proven"])
    ours, shared, none = (tmp_path / name for name in ("ours", "shared", "file"))
    shared.mkdir()
    shared.chmod(0o777)
    none.write_text("")
    for folder in (ours, ours, shared, none):
        assert render(ALL["proven"], compiled=folder) == page
    assert list(ours.iterdir())
    assert not list(shared.iterdir())


def test_an_estimate_is_never_shown_as_a_measurement() -> None:
    page = render(ALL["estimated"])
    assert "Latency distributions" not in page
    assert "~0.5 to 4.5" in page
    assert "<small>0.5 to 4.5 ms</small>" in page, "the limit shows the interval too"
    assert "estimated 40 to 480 MiB" in page
    assert '<svg class="mark estimate' in page
    assert '<svg class="mark measured' not in page


def test_what_comes_from_outside_is_escaped_everywhere() -> None:
    evil = "<script>alert(1)</script>\"'&"
    result = summaries.proven()
    candidates = tuple(
        dataclasses.replace(
            c,
            identifier=f"net/x/{evil}-{i}",
            reason=evil,
            placement={evil: 1.0},
            notes=(evil,),
            operators=None if c.operators is None
            else tuple(dataclasses.replace(o, name=evil, engine=evil) for o in c.operators),
        )
        for i, c in enumerate(result.candidates)
    )  # fmt: skip
    result = dataclasses.replace(
        result,
        candidates=candidates,
        title=evil,
        profile=evil,
        selected=candidates[1].identifier,
        baseline=candidates[0].identifier,
    )
    page = render(
        summaries.summary(result, model=evil, accuracy_note=evil, tool_versions={evil: evil})
    )
    assert page.count("<script>") == 1
    parsed(page)


def test_a_summary_of_before_is_still_shown() -> None:
    """Every optional field left out: what an older build wrote."""
    document = json.loads(json.dumps(encode(ALL["five profiles"])))
    for result in document["results"]:
        for key in ("title", "platform", "match", "limits", "baseline"):
            del result[key]
        for candidate in result["candidates"]:
            for key in ("notes", "ratio_to_baseline", "conditions", "operators"):
                del candidate[key]
            for key in ("bounds", "spread", "windows"):
                if candidate["latency_ms"]:
                    del candidate["latency_ms"][key]
    old = decode(Summary, document)
    page = render(old)
    parsed(page)
    assert "Latency distributions" in page
    print_summary(old, Console(record=True, width=160, file=io.StringIO()))


@pytest.mark.parametrize("name", ALL)
def test_the_terminal_tells_every_candidate(name: str) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    print_summary(ALL[name], console)
    text = console.export_text()
    for result in ALL[name].results:
        for candidate in result.candidates:
            assert figures.own_name(candidate.identifier)[:20] in text


def stored(folder: Path, found: Summary) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(encode(found)))
    return folder


def test_the_verb_prints_writes_and_answers_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored(tmp_path / "build" / "net", ALL["proven"])
    assert run(["report", str(folder)]) == 0
    assert "meets every limit" in capsys.readouterr().out
    assert run(["report", str(folder.parent), "--json"]) == 0
    assert decode(Summary, json.loads(capsys.readouterr().out)) == ALL["proven"]
    page = tmp_path / "page.html"
    assert run(["report", str(folder / "summary.json"), "--html", str(page)]) == 0
    assert page.read_text() == render(ALL["proven"])


def test_a_report_that_cannot_be_made_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(stored(tmp_path / "two" / "net", ALL["proven"]))
    stored(tmp_path / "two" / "other", ALL["proven"])
    (tmp_path / "cut.json").write_text('{"schema": 1, "mod')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "new.json").write_text('{"schema": 7}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "nan.json").write_text('{"schema": 1, "seconds": NaN}')
    (tmp_path / "empty").mkdir()
    other = dataclasses.replace(ALL["proven"], model="another")
    another = str(stored(tmp_path / "another", other))
    mistakes = {
        "nothing there": ([str(tmp_path / "none")], 2, "Nothing was built there"),
        "an empty folder": ([str(tmp_path / "empty")], 2, "There is no summary"),
        "several models": ([str(tmp_path / "two")], 2, "holds the builds of 2 models"),
        "cut short": ([str(tmp_path / "cut.json")], 7, "is not JSON"),
        "no object": ([str(tmp_path / "list.json")], 7, "$ should be an object"),
        "a newer form": ([str(tmp_path / "new.json")], 7, "reads up to 1"),
        "nested without end": ([str(tmp_path / "deep.json")], 7, "is not JSON"),
        "not text": ([str(tmp_path / "binary.json")], 7, "is not JSON"),
        "no number": ([str(tmp_path / "nan.json")], 7, "NaN"),
        "two without --compare": ([good, good], 2, "--compare OLD NEW"),
        "one with --compare": (["--compare", good], 2, "it takes 2"),
        "different models": (["--compare", good, another], 2, "net and another"),
        "a page of a comparison": (
            ["--compare", good, good, "--html", "x"],
            2,
            "do not go together",
        ),
    }
    for name, (arguments, code, telling) in mistakes.items():
        assert run(["report", *arguments]) == code, name
        said = capsys.readouterr().err
        assert telling in said, name
        assert "Traceback" not in said


def test_a_page_that_cannot_be_written_has_code_6(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored(tmp_path / "net", ALL["proven"])
    (tmp_path / "file").write_text("")
    assert run(["report", str(folder), "--html", str(tmp_path / "file" / "page.html")]) == 6
    assert "Traceback" not in capsys.readouterr().err


def test_the_limits_of_the_fixtures_are_what_their_tests_say() -> None:
    assert LIMITS["latency_p90_ms"] == 4.0
    assert summaries.candidate("x-00000000").size_bytes == 12 * MIB


def test_what_pruning_would_have_cost_is_told_on_the_page_and_in_the_terminal() -> None:
    note = "pruning would have dropped 3 candidates"
    summary = next(iter(ALL.values()))
    first = dataclasses.replace(summary.results[0], notes=(note,))
    noted = dataclasses.replace(summary, results=(first, *summary.results[1:]))
    console = Console(file=io.StringIO(), width=160)
    print_summary(noted, console)
    assert isinstance(console.file, io.StringIO)
    assert note in render(noted)
    assert note in console.file.getvalue()
