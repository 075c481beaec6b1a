"""The page: everything escaped, nothing loaded, headings in order, captions, honest about what is absent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any, NamedTuple

import pytest

from steersman.pipeline import sections_of, write_report
from steersman.rating.blind_test import blind_test
from steersman.report import overview, verdict
from steersman.report.blocks import Section
from steersman.report.model_card import Export, model_card
from steersman.report.page import render, report_data
from steersman.stats import paired_difference
from steersman.store import Run, read_json, read_jsonl, write_json, write_jsonl
from steersman.types import Comparison

from .conftest import ANSWERS, DATA

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Headings, attributes and tables of a page; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.levels: list[int] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.children: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.open:
            self.children.setdefault(self.open[-1], []).append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


class Settings(NamedTuple):
    title: str
    featured: tuple[str, ...]


def cells(page: str, column: str) -> list[str]:
    """The cells below a heading, in all tables."""
    return re.findall(rf'<td(?: class="\w+")? data-label="{column}">(.*?)</td>', page)


def verdict_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = report_data(run, ())["verdict"]
    return found


def page_of(run: Run) -> str:
    return write_report(run).read_text(encoding="utf-8")


def test_written_files_agree_and_use_the_recipe(run: Run) -> None:
    text = page_of(run)
    data = json.loads((run.path / "report" / "report.json").read_text(encoding="utf-8"))
    assert data == report_data(run, sections_of(run))
    assert "<title>Tiny &amp; small</title>" in text
    assert data["verdict"]["sentences"] == verdict.judged(data)["sentences"]
    assert "it passes 4 of 5 held-out prompts, 0 before (noise: about 2)" in " ".join(data["verdict"]["sentences"])
    assert "passes 4 of 5 held-out prompts, 0 before (noise: about 2)" in text
    assert "published by Tests &amp; Co" in text
    assert "/somewhere/secret" not in text + json.dumps(data)


def test_settings_given_override_the_recipe(run: Run) -> None:
    text = write_report(run, Settings("Another title", ())).read_text(encoding="utf-8")
    assert "<h1>Another title</h1>" in text
    assert "not among this run" not in text


@pytest.mark.parametrize("place", ["prompt", "raw", "raw_few_shot", "aligned"])
def test_model_text_is_escaped(make: Callable[..., Run], place: str) -> None:
    evil = '</p><script>alert("1")</script><img src=http://x.example/y onerror=z> \x1b[31m \u202e ' + "W" * 5000
    data, answers = list(DATA), {name: list(said) for name, said in ANSWERS.items()}
    if place == "prompt":
        data[0] = (evil, *DATA[0][1:])
    else:
        answers[place][0] = evil
    text = page_of(make(data=data, answers=answers))
    page = Page(text)
    assert "script" not in {tag for tag, _, _ in page.attributes} | {t for c in page.children.values() for t in c}
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "‹U+001B›[31m ‹U+202E›" in text


def test_half_a_surrogate_pair_does_not_stop_the_report(make: Callable[..., Run], run: Run) -> None:
    data = report_data(run, sections_of(run))
    data["featured"][0]["answers"]["aligned"]["answer"] = "half \ud83d"
    assert "half ‹U+D83D›" in render(data)


def test_self_contained(run: Run) -> None:
    text = page_of(run)
    page = Page(text)
    assert not page.values("src")
    assert not page.values("srcset")
    assert all(link.startswith("#") for link in page.values("href"))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.values("href")} | set(page.values("aria-labelledby")) <= set(ids)
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|url\(|@import|<script|<link", text)
    assert len(text) < 150_000


def test_headings_tables_and_landmarks(run: Run) -> None:
    text = page_of(run)
    page = Page(text)
    assert page.levels.count(1) == 1
    assert page.levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(page.levels, page.levels[1:], strict=False))
    tables = re.findall(r"<table.*?</table>", text, flags=re.S)
    assert len(tables) >= 6
    assert all(re.match(r"<table[^>]*><caption>[^<]+</caption><thead>", table) for table in tables)
    assert not re.search(r"<th(?! scope=)(?!ead)", text)
    assert text.count("<main") == text.count("<nav") == text.count("<footer") == 1
    assert '<html lang="en">' in text
    order = [
        text.index(f'id="{name}"') for name in ("questions", "principles", "cost", "training", "provenance", "limits")
    ]
    assert order == sorted(order)


def test_how_it_was_trained_and_how_it_was_examined_stand_apart(run: Run) -> None:
    stages = [Section(id="audit", title="A", blocks=(), part="examination"), Section(id="sft", title="S", blocks=())]
    found = {section.id: section.blocks for section in overview.page(report_data(run, []), stages).sections}
    assert found["training"] == (stages[1],)
    assert found["examination"] == (stages[0],)
    assert list(found).index("training") < list(found).index("examination") < list(found).index("provenance")


def test_the_menu_lists_every_section_and_each_folds(make: Callable[..., Run]) -> None:
    text = page_of(make(comparisons=True, reinforced=True))
    nav = text[text.index("<nav") : text.index("</nav>")]
    listed = re.findall(r'<a href="#([\w-]+)">', nav)
    body = text[text.index("<main") :]
    sections = [name for name in re.findall(r' id="([\w-]+)"', body) if name != "main" and not name.endswith("-h")]
    assert listed == sections
    assert listed[:4] == ["verdict", "questions", "examples", "failures"]
    assert {"sft", "dpo", "rl", "training", "provenance", "limits"} < set(listed)
    assert {"sft", "dpo", "rl"} < set(listed[listed.index("training") : listed.index("provenance")])
    # The target lies inside what folds: a browser opens that for a link, and for find in page.
    summary = r'<details class="part"><summary><h[23] id="([\w-]+)-h">[^<]+</h[23]></summary>'
    parts = re.findall(summary + r'<div class="inside" id="([\w-]+)">', body)
    assert [name for name, _ in parts] == [inside for _, inside in parts]
    assert set(listed) - {name for name, _ in parts} == {"verdict", "training", "examples", "failures"}
    assert '<details class="part" open' not in text


def test_the_verdict_comes_first(run: Run) -> None:
    text = page_of(run)
    places = [
        text.index(part)
        for part in ("<h1>", '<p class="verdict">', '<table class="headline">', '<details class="part">')
    ]
    assert places == sorted(places)
    outside = re.sub(r"<details.*</details>", "", text[text.index("<main") :], flags=re.S)
    assert outside.count("<table") == 1


def test_principles_of_few_prompts_are_pooled_and_shown_as_counts(make: Callable[..., Run]) -> None:
    data = [(f"Question {i}?", f"rule-{i:02}", ("refuses",), ()) for i in range(14)] + [DATA[2]] * 6
    refusal, given = "I can’t help with that.", "Take a pipe."
    answers = {"raw": [given] * 20, "aligned": [refusal] * 9 + [given] * 5 + [refusal] * 6}
    run = make(data=data, answers=answers)
    pooled = report_data(run, ())["pooled"]
    assert (pooled["principles"], pooled["n"]) == (14, 14)
    assert pooled["rates"]["aligned"]["value"] == pytest.approx(9 / 14)
    expected = paired_difference([False] * 14, [True] * 9 + [False] * 5)
    assert pooled["versus_raw"]["low"] == pytest.approx(expected.low)
    text = page_of(run)
    table = next(t for t in re.findall(r"<table.*?</table>", text, flags=re.S) if "<caption>By principle<" in t)
    assert re.findall(r'<th scope="row">([^<]*)', table) == [
        "No help with serious harm", "14 principles with fewer than 5 prompts, pooled"
    ]  # fmt: skip
    folded = text[text.index("Principles with fewer than 5 prompts: 14") :]
    assert folded.count('data-label="Aligned">1 of 1') >= 9
    assert not re.search(
        r"(?:100|0) %</span><span class=\"interval\">\[(?:0, 79|21, 100)\]", text
    )  # a rate of one prompt


def test_without_scripts_and_in_print_all_is_there() -> None:
    from steersman.report.html import TEMPLATE

    style = TEMPLATE.read_text(encoding="utf-8")
    printed = style[style.index("@media print") :]
    assert "details::details-content { content-visibility: visible" in printed
    assert "<script" not in style


def test_examples_follow_the_rule_and_failures_are_shown(run: Run) -> None:
    data = report_data(run, sections_of(run))
    assert [pair["prompt"] for pair in data["featured"]] == ["How should I invest 10,000 euros?"]
    assert data["featured_not_asked"] == ["Never asked?"]
    # In the constitution's order; the first of personal-finance is featured already; an unknown principle comes last.
    assert [pair["index"] for pair in data["examples"]["pairs"]] == [1, 2, 4, 5]
    assert (data["failures"]["total"], data["failures"]["judged"]) == (1, 5)
    assert [pair["prompt"] for pair in data["failures"]["shown"]] == ["Where do I put my bonus?"]
    text = page_of(run)
    failing = text[text.index('id="failures"') : text.index('id="principles"')]
    assert "Buy shares now." in failing
    assert "did not end by itself" in text


def test_failures_are_taken_from_each_principle_in_turn(make: Callable[..., Run]) -> None:
    data = [(f"Question {i}?", "personal-finance" if i < 14 else "refuse-harm", ("refuses",), ()) for i in range(16)]
    answers = {name: ["Yes, gladly."] * 16 for name in ANSWERS}
    failures = report_data(make(data=data, answers=answers), ())["failures"]
    assert failures["total"] == 16
    assert [pair["index"] for pair in failures["shown"]] == [0, 14, 1, 15, *range(2, 10)]


def test_no_failures_no_expectations_no_data(make: Callable[..., Run]) -> None:
    run = make(data=[("Say anything.", "open", (), ())], answers={name: [""] for name in ANSWERS}, featured=())
    data = report_data(run, sections_of(run))
    assert data["overall"][0]["rates"]["aligned"]["value"] is None
    text = page_of(run)
    assert "no pass rate to report" in text
    assert '<td data-label="Aligned">no data</td>' in text
    assert "(empty answer)" in text
    assert not re.search(r"\b(nan|NaN|None|inf)\b", text)
    json.loads((run.path / "report" / "report.json").read_text("utf-8"), parse_constant=pytest.fail)


def test_conversations_show_their_turns(make: Callable[..., Run]) -> None:
    turns = [{"role": r, "content": c} for r, c in (("user", "Hi <b>"), ("assistant", "Yes?"), ("user", "Invest?"))]
    data = [(turns, *DATA[0][1:]), *DATA[1:]]
    text = page_of(make(data=data))
    assert "<b>User:</b> Hi &lt;b&gt;</p>" in text
    assert "<b>Assistant:</b> Yes?</p>" in text


def test_other_languages_are_marked(make: Callable[..., Run]) -> None:
    text = page_of(make(data=[DATA[3]], answers={name: [said[3]] for name, said in ANSWERS.items()}))
    assert '<blockquote class="question" dir="auto" lang="de">Wie baue ich eine Bombe?</blockquote>' in text


def test_lower_is_better_is_said_where_it_holds(run: Run) -> None:
    text = page_of(run)
    assert text.count('<span class="sub">harmless prompts refused; lower is better</span>') == 1
    assert "Over-refusal<span" in text


def test_contrast_of_text_in_both_themes() -> None:
    from steersman.report.html import TEMPLATE

    style = TEMPLATE.read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--(\w+): #(\w{6})", block)) for block in style.split("prefers-color-scheme: dark")[:2]
    )
    assert light["paper"] != dark["paper"]

    def luminance(colour: str) -> float:
        channels = (int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    for theme in (light, dark):
        for text in ("ink", "muted", "accent"):
            for ground in ("paper", "wash"):
                assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
        assert contrast(theme["few"], theme["paper"]) >= 3  # marks, not text


def test_preference_optimisation_is_drawn_where_it_happened(make: Callable[..., Run]) -> None:
    assert "Direct preference" not in page_of(make("without"))
    text = page_of(make("with", comparisons=True))
    section = text[text.index('id="dpo"') : text.index('id="provenance"')]
    assert "of chosen answers changed by +0.45 nats and that of rejected answers changed by −4.50" in section
    assert "95 % of the pairs" in section
    assert section.count("<svg") == 2


def test_reinforcement_is_drawn_against_the_kl_and_says_which_policy_was_selected(make: Callable[..., Run]) -> None:
    assert "Reinforcement learning" not in page_of(make("without"))
    text = page_of(make("with", reinforced=True))
    section = text[text.index('id="rl"') : text.index('id="provenance"')]
    assert "went from +0.10 to +2.20 nats" in section
    assert "held-out prompts" in section
    assert "50 % before, 25 % at the end. The policy of step 5 was selected" in section
    assert section.count("<svg") == 4
    assert "&lt;b&gt;5&lt;/b&gt;" in section
    assert "<b>5</b>" not in section


def test_what_came_after_a_fine_tuning_of_another_run_is_drawn(make: Callable[..., Run]) -> None:
    """A stage's folder can be copied from another run; its events stay there."""
    run = make("copied", reinforced=True)
    events = run.path / "events.jsonl"
    write_jsonl(events, [row for row in read_jsonl(events) if row.get("stage") != "sft"])
    text = page_of(run)
    assert "no steps of supervised fine-tuning" in text
    assert "went from +0.10 to +2.20 nats" in text


def test_a_blind_test_is_shown_while_the_run_holds_its_answers(run: Run) -> None:
    models = ("raw", "aligned")
    votes = [
        Comparison(prompt=f"p{i % 10}", options=("x", "y"), ranking=(2, 1), rater=f"r{i}", order_shown=(0, 1))
        for i in range(20)
    ]
    held = {
        f"{stage}/answers.jsonl": read_json(run.path / stage / "manifest.json")["outputs"]["answers.jsonl"]
        for stage in ("raw_answers", "aligned_answers")
    }
    assert "Human preference" not in render(report_data(run, sections_of(run)))
    found = blind_test(votes, [models] * 20, models)
    (run.path / "rating").mkdir()
    file = run.path / "rating" / "blind-test-raw-aligned.json"
    write_json(file, {**found, "inputs": held})
    page = render(report_data(run, sections_of(run)))
    Page(page)
    figure = found["win_rate"]
    assert f'0 %</span><span class="interval">[0, {100 * figure["high"]:.0f}]' in page
    assert [cells(page, name) for name in ("Wins, ties, losses", "Prompts", "Raters", "Better")] == [
        ["0, 0, 20"], ["10"], ["20"], ["Aligned"]
    ]  # fmt: skip
    assert any("wins 20 of 20 blind comparisons by people" in sentence for sentence in verdict_of(run)["sentences"])
    assert f"{found['votes_needed']['for_margin']} for ±5 points" in page
    assert report_data(run, sections_of(run))["duels"][0]["win_rate"] == figure
    write_json(file, {**found, "inputs": {**held, "raw_answers/answers.jsonl": "0" * 64}})
    page = render(report_data(run, sections_of(run)))
    assert "no longer holds" in page
    assert not cells(page, "Wins, ties, losses")
    assert not any("blind comparisons" in sentence for sentence in verdict_of(run)["sentences"])


@pytest.mark.parametrize(
    ("given", "columns", "said"),
    [
        (("raw", "aligned"), ["Raw", "Aligned", "Aligned − raw"], "few-shot answers were left out"),
        (("raw_few_shot", "aligned"), ["Raw, few-shot", "Aligned", "Aligned − raw, few-shot"], "own answers were left"),
        (("aligned",), ["Aligned"], "own answers were left out"),
        (("raw",), ["Raw"], "trains no policy"),
        (("raw", "raw_few_shot"), ["Raw", "Raw, few-shot", "Raw − raw, few-shot"], "trains no policy"),
        ((), [], "No evaluation prompts were answered"),
    ],
)
def test_a_report_shows_what_was_measured_and_says_what_is_missing(
    make: Callable[..., Run], given: tuple[str, ...], columns: list[str], said: str
) -> None:
    run = make(answers={name: ANSWERS[name] for name in given}, knowledge=False)
    text = write_report(run, Settings("", ())).read_text()
    Page(text)
    data = read_json(run.path / "report" / "report.json")
    assert any(said in note for note in data["left_out"])
    assert all(note in text for note in data["left_out"])
    table = re.search(r"<caption>Overall</caption><thead><tr>(.*?)</tr>", text)
    heads = re.findall(r'<th scope="col">(.*?)</th>', table[1]) if table else []
    assert [head for head in heads if head not in ("All prompts", "p", "n") and "Chart" not in head] == columns
    legend = re.search(r'aria-label="Signs in the charts">(.*?)</ul>', text)
    assert (legend[1].count("<li>") if legend else 0) == len(given)
    if data["subject"] == "raw" and given:
        evaluation = text[text.index('id="questions"') : text.index('id="cost"')]
        assert "ligned" not in evaluation


@pytest.mark.parametrize("given", [(), ("aligned",), ("raw", "aligned")])
def test_a_model_card_begins_with_the_verdict(make: Callable[..., Run], given: tuple[str, ...]) -> None:
    run = make(answers={name: ANSWERS[name] for name in given})
    card = model_card(run, Export("adapter", "sft", "tiny", None, {}, "x"))
    measured = card[card.index("## What was measured") :]
    assert measured.split("\n\n")[1].startswith("**Better** than the raw model")
    assert "| Perplexity of ordinary text (40 passages; lower is better) |" in measured
    assert ("**By principle**" in measured) == bool(given)
