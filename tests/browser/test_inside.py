"""The page of `steersman inspect` in Chromium: nothing is cut off, nothing is fetched, the lens's last column stays."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fixtures.prompt_readings import guess, model_reading, prompt_reading

from steersman.report import html, inside

pytestmark = pytest.mark.slow

EVIL = "<img src=http://127.0.0.1:9/x onerror=alert(1)>"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with 40 tokens, of which one is hostile and one very long."""
    reading = prompt_reading()
    tokens = tuple(reading.tokens[i % 4].model_copy(update={"text": f" word{i}"}) for i in range(40))
    tokens = (
        tokens[0].model_copy(update={"text": EVIL}),
        tokens[1].model_copy(update={"text": "W" * 300}),
        *tokens[2:],
    )
    models = tuple(
        model_reading(
            name,
            projection=tuple(i / 40 for i in range(40)),
            lens=tuple(tuple((guess(f" layer{layer}"),) for _ in tokens) for layer in range(3)),
        )
        for name in ("raw", "aligned")
    )
    page = tmp_path_factory.mktemp("inside") / "page.html"
    reading = reading.model_copy(update={"tokens": tokens, "models": models})
    page.write_text(html.render(inside.page(reading, "0")), encoding="utf-8")
    return page.as_uri()


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_and_nothing_is_fetched(chromium: Any, address: str, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, fetched, said = context.new_page(), list[str](), list[str]()
    page.on("request", lambda request: fetched.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert fetched == [address]
    assert said == []
    last = page.locator("table.pinned tbody tr:first-child td:last-child").first.bounding_box()
    assert 0 < last["x"] < last["x"] + last["width"] <= width
    for chosen in ("table.bars i.for", "table.grid-map td.for"):
        shade = page.locator(chosen).first
        assert shade.bounding_box()["width"] > 0
        assert shade.evaluate("e => getComputedStyle(e).backgroundColor") != "rgba(0, 0, 0, 0)"
    context.close()
