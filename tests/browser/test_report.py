"""The report in Chromium: its first screen at three widths, folds, links into them, the menu, and print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.report.conftest import build, repeated

from steersman.pipeline import write_report

pytestmark = pytest.mark.slow

WIDTHS = {390: 844, 820: 1180, 1280: 800}
LONG = "A long answer that goes on. " * 60


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    data, answers = repeated(8)
    answers["raw"] = [f"{text} {LONG}" for text in answers["raw"]]
    run = build(
        tmp_path_factory.mktemp("report") / "run", data=data, answers=answers, comparisons=True, reinforced=True
    )
    return write_report(run).resolve().as_uri()


@pytest.fixture
def opened(chromium: Any, address: str) -> Iterator[Any]:
    """``opened(width)``: the page with scripts of its own forbidden, as they always are."""
    contexts = []

    def page(width: int, **more: Any) -> Any:
        contexts.append(chromium.new_context(viewport={"width": width, "height": WIDTHS[width]}, **more))
        found = contexts[-1].new_page()
        found.goto(address)
        return found

    yield page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_screen_has_the_verdict_and_nothing_is_cut_off(opened: Any, width: int, scheme: str) -> None:
    page = opened(width, color_scheme=scheme, is_mobile=width == 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollHeight") <= 3 * WIDTHS[width]
    place = "e => { const b = e.getBoundingClientRect(); return [b.left, b.right, b.bottom] }"
    for sentence in page.query_selector_all("p.verdict"):
        assert sentence.evaluate(place)[2] <= WIDTHS[width]
    cells = page.query_selector_all(".headline tbody :is(th, td)")
    assert len(cells) > 10
    for cell in cells:
        left, right, bottom = cell.evaluate(place)
        assert left >= 0
        assert right <= width
        if width > 390:
            assert bottom <= WIDTHS[width]
    tight = "[...document.querySelectorAll('.headline td')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert page.evaluate(tight) == 0


def test_on_a_phone_all_numbers_of_all_tables_are_on_the_page(opened: Any) -> None:
    page = opened(390, is_mobile=True)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert page.evaluate(wide) == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_a_link_of_the_menu_opens_its_fold_and_is_marked(opened: Any, width: int) -> None:
    page = opened(width, reduced_motion="reduce")
    for name in page.eval_on_selector_all("#contents a", "links => links.map(a => a.hash)"):
        if width < 1024:
            assert not page.is_visible("#contents")
            before = page.evaluate("scrollY")
            page.click("nav .unfold")
            assert page.evaluate("scrollY") == before
        page.click(f'#contents a[href="{name}"]')
        page.wait_for_timeout(50)
        assert page.is_visible(name)
        top = page.evaluate("name => document.querySelector(name).getBoundingClientRect().top", name)
        assert -1 <= top < WIDTHS[width]
    assert page.is_visible("#contents") == (width >= 1024)
    if width < 1024:
        page.click("nav .unfold")
    assert page.eval_on_selector_all("#contents a:target-current", "links => links.length") == 1


def test_a_deep_link_opens_what_it_points_into(chromium: Any, address: str) -> None:
    page = chromium.new_page()
    page.goto(f"{address}#failures")
    assert page.is_visible("#failures")
    assert not page.is_visible("#provenance")
    page.close()


def test_print_shows_what_is_folded(opened: Any) -> None:
    page = opened(820)
    folded = page.evaluate("document.documentElement.scrollHeight")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollHeight") > 5 * folded
    assert not page.is_visible("nav")
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) > 5


def test_nothing_is_loaded_and_no_error_is_logged(chromium: Any, address: str) -> None:
    page = chromium.new_page()
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.goto(address)
    assert [Path(url).name for url in seen] == ["index.html"]
    page.close()
