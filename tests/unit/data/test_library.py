"""The data that Steersman ships: enough of it, tagged, honestly split, and in one voice."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from steersman.constitution import document
from steersman.constitution.lint import lint
from steersman.data import sources
from steersman.data.check import DataReport, check, exact_overlap
from steersman.data.forms import form_of
from steersman.data.sources import DataSet
from steersman.evals.forms import kind_of
from steersman.types import Comparison, Demonstration, Prompt

NAMES = ("assistant", "assistant-forms", "code-of-conduct")
CONSTITUTIONS = {"assistant-forms": "assistant"}  # of data sets with another name
AT_LEAST = {
    "assistant": {"demonstrations": 400, "comparisons": 400, "prompts": 600, "evaluation": 240},
    "assistant-forms": {"demonstrations": 4000, "comparisons": 400, "prompts": 600, "evaluation": 240},
    "code-of-conduct": {"demonstrations": 120, "comparisons": 120, "prompts": 160, "evaluation": 60},
}
# Principles that are kept by refusing some requests and by not refusing others.
REFUSAL = {
    "assistant": {"refuse-harm", "no-needless-refusal", "privacy", "fairness", "disinformation"},
    "code-of-conduct": {"confidentiality", "records", "no-help-to-bypass"},
}
LANGUAGES = {"lang:de", "lang:fr", "lang:es"}
TOKENS_PER_WORD = 1.35

pytestmark = pytest.mark.parametrize("name", NAMES)


def constitution_of(name: str) -> str:
    return CONSTITUTIONS.get(name, name)


@functools.cache
def shipped(name: str) -> DataSet:
    return sources.load(name)


@functools.cache
def report(name: str) -> DataReport:
    return check(*shipped(name).rows)


def rows(name: str) -> list[Demonstration | Comparison | Prompt]:
    return [row for file in shipped(name).rows for row in file]


def answers(name: str) -> list[str]:
    data = shipped(name)
    return [row.completion for row in data.demonstrations] + [row.options[0] for row in data.comparisons]


def test_there_are_enough_rows_of_each_kind(name: str) -> None:
    assert {kind: n for kind, n in report(name).counts.items() if n < AT_LEAST[name].get(kind, 0)} == {}


def test_every_row_has_a_topic_and_principles_that_the_constitution_defines(name: str) -> None:
    defined = {principle.id for principle in document.load(constitution_of(name)).principles}
    assert [row for row in rows(name) if not row.principles or not defined.issuperset(row.principles)] == []
    assert [row for row in rows(name) if row.topic is None] == []


def test_every_principle_is_taught_compared_prompted_and_measured(name: str) -> None:
    covered = {row.principle for row in report(name).coverage if min(row[1:5]) >= 5}
    assert covered == {principle.id for principle in document.load(constitution_of(name)).principles}


def test_the_lint_finds_nothing_to_remark_on(name: str) -> None:
    data = shipped(name)
    findings = lint(
        document.load(constitution_of(name)),
        demonstrations=data.demonstrations,
        comparisons=data.comparisons,
        prompts=data.prompts,
        evaluation=data.measured_on,
    )
    assert [finding for finding in findings if finding.severity != "note"] == []


# ── training and evaluation ──────────────────────────────────────────────────────────────────────────────────────────
def test_no_topic_is_trained_on_and_evaluated(name: str) -> None:
    assert report(name).shared_topics == []


def test_no_evaluation_prompt_is_a_near_duplicate_of_anything_trained_on(name: str) -> None:
    data = shipped(name)
    assert report(name).leaks == []
    assert exact_overlap(data.measured_on, [*data.demonstrations, *data.comparisons, *data.prompts]) == []


def test_no_file_holds_two_prompts_that_are_almost_the_same(name: str) -> None:
    assert {file: pairs for file, pairs in report(name).twins.items() if pairs} == {}


def test_evaluation_prompts_say_what_they_expect_and_the_others_are_for_training(name: str) -> None:
    data = shipped(name)
    assert [row for row in data.measured_on if not row.expect or row.split != "evaluation"] == []
    assert [row for row in data.prompts if row.split != "train"] == []


# ── harmful requests and their look-alikes ───────────────────────────────────────────────────────────────────────────
def test_harmful_prompts_never_expect_compliance_nor_look_alikes_a_refusal(name: str) -> None:
    harmful = [row for row in shipped(name).measured_on if "harmful" in row.tags]
    lookalikes = [row for row in shipped(name).measured_on if "lookalike" in row.tags]
    assert len(harmful) >= 8
    assert len(lookalikes) >= 8
    assert [row for row in harmful if "complies" in row.expect or "refuses" not in row.expect] == []
    assert [row for row in lookalikes if "refuses" in row.expect] == []


def test_only_refusal_principles_lead_harmful_rows_and_no_row_is_both(name: str) -> None:
    leading = {row.principles[0] for row in rows(name) if "harmful" in row.tags}
    assert leading == REFUSAL[constitution_of(name)] - {"no-needless-refusal"}
    assert [row for row in rows(name) if {"harmful", "lookalike"} <= set(row.tags)] == []


def test_a_third_of_the_prompts_on_refusal_principles_are_look_alikes(name: str) -> None:
    for prompts in (shipped(name).prompts, shipped(name).evaluation):
        on_refusal = [row for row in prompts if row.principles[0] in REFUSAL[constitution_of(name)]]
        assert sum("lookalike" in row.tags for row in on_refusal) >= len(on_refusal) / 3


# ── the grids of forms ───────────────────────────────────────────────────────────────────────────────────────────────
FORMS = {"question", "command", "wish", "story", "conversation", "terse", "polite", "misspelt", "de", "fr", "es"}
EXPECTED = {"harmful": ("refuses",), "lookalike": ("complies",), "plain": ("complies",)}


def contents(grid: Sequence[Prompt]) -> dict[str, list[Prompt]]:
    found: dict[str, list[Prompt]] = {}
    for row in grid:
        found.setdefault(row.topic or "", []).append(row)
    return found


def test_grids_hold_every_content_in_every_form_and_as_many_of_each_kind(name: str) -> None:
    grids = [shipped(name).forms, shipped(name).development]
    assert [bool(grid) for grid in grids] == [name != "code-of-conduct"] * 2
    for grid in filter(None, grids):
        kinds = Counter[str]()
        for rows in contents(grid).values():
            assert Counter(form_of(row.prompt, row.tags) for row in rows) == dict.fromkeys(FORMS, 1), rows[0].topic
            (kind,) = {kind_of(row.tags) for row in rows}
            assert {row.expect for row in rows} == {EXPECTED[kind]}, rows[0].topic
            kinds[kind] += 1
        assert len(kinds) == 3
        assert len(set(kinds.values())) == 1
        assert min(kinds.values()) >= 10


def test_no_content_is_measured_twice(name: str) -> None:
    data = shipped(name)
    topics = [topic for grid in (data.forms, data.development) for topic in contents(grid)]
    assert len(topics) == len(set(topics))
    assert not set(topics) & {row.topic for row in data.evaluation}
    assert exact_overlap(data.forms, [*data.development, *data.evaluation]) == []
    assert exact_overlap(data.development, data.evaluation) == []


# ── comparisons ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_at_most_half_of_the_comparisons_reuse_a_demonstration(name: str) -> None:
    data = shipped(name)
    prompts = {row.prompt for row in data.demonstrations}
    completions = {row.completion for row in data.demonstrations}
    reused = [row for row in data.comparisons if row.prompt in prompts or row.options[0] in completions]
    assert len(reused) <= len(data.comparisons) / 2


def test_the_worse_answer_names_its_failure_and_length_does_not_give_it_away(name: str) -> None:
    comparisons = shipped(name).comparisons
    assert [row for row in comparisons if not row.failure or row.ranking != (1, 2)] == []
    assert len({row.failure for row in comparisons}) >= 8
    longer = sum(len(row.options[1]) > len(row.options[0]) for row in comparisons)
    assert 0.35 <= longer / len(comparisons) <= 0.65


def test_comparisons_expect_what_prompts_of_their_kind_do(name: str) -> None:
    """So that rules judge both alike: on the card of a judge, and in feedback."""
    expected: dict[Any, set[Any]] = {}
    for row in shipped(name).prompts:
        expected.setdefault(_kind(row), set()).add(row.expect)
    assert [row for row in shipped(name).comparisons if {row.expect} != expected[_kind(row)]] == []


def _kind(row: Prompt | Comparison) -> tuple[str, ...]:
    return (row.principles[0], *sorted({"harmful", "lookalike"} & set(row.tags)))


# ── voice ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_most_completions_are_under_90_tokens(name: str) -> None:
    short = [text for text in answers(name) if len(text.split()) * TOKENS_PER_WORD < 90]
    assert len(short) >= 0.95 * len(answers(name))


def test_three_other_languages_are_present_and_a_small_share(name: str) -> None:
    tagged = [tag for row in shipped(name).demonstrations for tag in row.tags if tag.startswith("lang:")]
    assert set(tagged) == LANGUAGES
    assert 0.02 <= len(tagged) / len(shipped(name).demonstrations) <= 0.12


def test_punctuation_is_ascii(name: str) -> None:
    def foreign(text: str) -> set[str]:
        return {c for c in text if not (c.isascii() or c.isalpha() or c in "¿¡")}

    assert [
        (row, found) for row in rows(name) if (found := foreign("".join(map(str, row.model_dump().values()))))
    ] == []


def test_no_opening_of_three_words_dominates(name: str) -> None:
    openings = Counter(" ".join(row.completion.lower().split()[:3]) for row in shipped(name).demonstrations)
    opening, count = openings.most_common(1)[0]
    assert count <= 0.06 * len(shipped(name).demonstrations), opening
