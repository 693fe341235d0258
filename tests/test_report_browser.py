"""The report in a real Chromium: it draws, asks for nothing, and can be read by all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdk.report.page import render
from tests.browser import Browser, browser, missing
from tests.summaries import ALL

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        bool(missing()),
        reason=f"Debian's {' and '.join(missing())} not installed: run tests/install-browser.sh",
    ),
]

PHONE, DESK = (390, 844), (1280, 900)
PAPER = (718, 1047)  # what a browser prints on, of an A4 sheet at 96 pixels an inch


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name.replace(' ', '-')}.html" for name in ALL}
    for name, path in found.items():
        path.write_text(render(ALL[name]))
    return found


def colours(window: Browser) -> dict[str, str]:
    found: dict[str, str] = window.run(
        "const of = (s, p) => { const e = document.querySelector(s);"
        " return e ? getComputedStyle(e)[p] : ''; };"
        "return {paper: of('body', 'backgroundColor'), ink: of('body', 'color'),"
        " median: of('.plot .median', 'stroke'), box: of('.plot .box', 'fill')};"
    )
    return found


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_every_page_fits_its_screen_logs_nothing_and_asks_for_nothing(
    name: str, size: tuple[int, int], window: Browser, pages: dict[str, Path]
) -> None:
    window.requests()
    window.console()
    window.device(*size)
    window.open(pages[name])
    assert window.run("return document.documentElement.scrollWidth") <= size[0]
    assert window.run("return document.title").startswith("net")
    assert window.console() == []
    asked = [url for url in window.requests() if not url.startswith("data:")]
    assert asked == [pages[name].as_uri()]


def test_all_plots_are_drawn_and_nothing_of_them_lies_off_the_screen(
    window: Browser, pages: dict[str, Path]
) -> None:
    for size in (PHONE, DESK):
        window.device(*size)
        window.open(pages["proven"])
        plots: list[dict[str, Any]] = window.run(
            "return [...document.querySelectorAll('figure')].map(f => ({"
            " title: f.querySelector('h3').textContent,"
            " height: f.querySelector('svg.plot').getBoundingClientRect().height,"
            " drawn: f.querySelectorAll('svg.plot circle, svg.plot rect, svg.plot path').length,"
            " right: Math.max(...[...f.querySelectorAll('svg.plot *')]"
            "   .filter(e => e.getBBox).map(e => e.getBoundingClientRect().right)),"
            " left: Math.min(...[...f.querySelectorAll('svg.plot text')]"
            "   .map(e => e.getBoundingClientRect().left)) }))"
        )
        titles = [plot["title"] for plot in plots]
        assert titles == [
            "Latency against accuracy drop", "Latency distributions", "Peak memory", "Size",
        ]  # fmt: skip
        for plot in plots:
            assert plot["height"] > 100
            assert plot["drawn"] >= 4
            assert plot["left"] >= 0
            assert plot["right"] <= size[0]


@pytest.mark.parametrize("name", ["proven", "many", "five profiles"])
def test_no_text_of_a_plot_is_cut_off_by_the_edge_of_the_paper(
    name: str, window: Browser, pages: dict[str, Path]
) -> None:
    window.device(*PAPER, media="print")
    window.open(pages[name])
    ends = window.run(
        "return [...document.querySelectorAll('svg.plot text')].map(e => [e.textContent,"
        " e.getBoundingClientRect().left, e.getBoundingClientRect().right])"
    )
    window.device(*DESK)
    assert ends
    assert [text for text, left, right in ends if left < 0 or right > PAPER[0]] == []


def test_text_keeps_its_size_on_a_phone(window: Browser, pages: dict[str, Path]) -> None:
    heights = []
    for size in (PHONE, DESK):
        window.device(*size)
        window.open(pages["proven"])
        heights.append(
            window.run(
                "return document.querySelector('.plot .tick').getBoundingClientRect().height"
            )
        )
    assert heights[0] == pytest.approx(heights[1], abs=0.5)
    assert heights[0] > 10


def test_the_dark_has_other_colours_and_both_can_be_read(
    window: Browser, pages: dict[str, Path]
) -> None:
    found = []
    for dark in (False, True):
        window.device(*DESK, dark=dark)
        window.open(pages["five profiles"])
        found.append(colours(window))
        contrasts: dict[str, float] = window.run(_CONTRASTS)
        assert contrasts
        assert min(contrasts.values()) >= 4.5, contrasts  # WCAG 2.2, AA for text
    light, dark_colours = found
    for what, colour in light.items():
        assert colour
        assert dark_colours[what] != colour


_CONTRASTS = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const lum = ([r, g, b]) => [r, g, b].map((v) => { v /= 255;
  return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; })
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (e) => { for (; e; e = e.parentElement) {
  const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
const found = {};
for (const s of ['p', '.soft', 'caption', 'td small', 'th', '.verdict.met', '.verdict.unmet', '.verdict.unproven', '.proof p',
                 '.plot .tick', '.plot .limit-label', '.plot text.chosen', 'figcaption']) {
  for (const e of document.querySelectorAll(s)) {
    const style = getComputedStyle(e);
    const front = rgb(e instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [lum(front), lum(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    found[s] = Math.min(found[s] ?? 99, ratio);
  }
}
return found;
"""


def test_a_screen_reader_is_told_of_the_tables_and_the_plots(
    window: Browser, pages: dict[str, Path]
) -> None:
    window.device(*DESK)
    window.open(pages["proven"])
    nodes = window.accessibility_tree()
    names: dict[str, list[str]] = {}
    for node in nodes:
        role = node["role"]["value"]
        names.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert names["heading"][0] == "net"
    assert all(names["image"] + names.get("img", []))
    assert any("Latency against accuracy drop" in name for name in names["image"])
    assert len(names["table"]) == window.run("return document.querySelectorAll('table').length")
    assert all(names["table"]), "every table has its caption as its name"
    assert "candidate" in " ".join(names["columnheader"])
    assert any("openvino-int8" in name for name in names["rowheader"])
    assert names["main"]
    assert not [name for name in names["region"] if not name]


def test_the_table_of_reasons_sorts_by_its_figures(window: Browser, pages: dict[str, Path]) -> None:
    window.device(*DESK)
    window.open(pages["proven"])
    rows = (
        "return [...document.querySelectorAll('table.reasons tbody tr')]"
        ".map(row => row.cells[0].dataset.value)"
    )
    click = (
        "[...document.querySelectorAll('table.reasons thead button')]"
        ".find(b => b.textContent.trim() === 'median ms').click();"
    )
    assert window.run(rows) == ["1", "2", "3", "4", "5"]
    window.run(click)
    assert window.run(rows) == ["4", "2", "1", "3", "5"], "what was not measured comes last"
    window.run(click)
    assert window.run(rows) == ["3", "1", "2", "4", "5"]
    sorts = "return document.querySelectorAll('th[aria-sort=descending]').length"
    assert window.run(sorts) == 1


def test_its_content_needs_no_script(window: Browser, pages: dict[str, Path]) -> None:
    page = pages["five profiles"]
    bare = page.with_name("bare.html")
    text = page.read_text()
    start, end = text.index("<script>"), text.index("</script>")
    bare.write_text(text[:start] + text[end + len("</script>") :])
    words = []
    for path in (page, bare):
        window.open(path)
        words.append(window.run("return document.querySelector('main').innerText"))
    assert words[0].split() == words[1].split()
