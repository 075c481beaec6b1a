"""The guard's rows: valid, honestly apart from what is measured, and no form or language that tells the answer."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict

import pytest

from steersman.constitution import document
from steersman.data import sources
from steersman.data.check import Row, leaks, twins
from steersman.data.formats import read
from steersman.types import Comparison, Prompt, plain_text

FOLDER = sources.LIBRARY / "assistant"
AT_LEAST = {"harmful": 1000, "lookalike": 1300, "plain": 250}


@functools.cache
def requests() -> list[Prompt]:
    return read(FOLDER / "guard.jsonl", Prompt)


@functools.cache
def exchanges() -> list[Comparison]:
    return read(FOLDER / "guard_exchanges.jsonl", Comparison)


@functools.cache
def measured() -> list[Prompt]:
    return [row for file in ("evaluation", "forms", "development") for row in read(FOLDER / f"{file}.jsonl", Prompt)]


def kind(row: Prompt) -> str:
    (found,) = AT_LEAST.keys() & set(row.tags)
    return found


def tagged(row: Prompt, start: str) -> str:
    return next((tag for tag in row.tags if tag.startswith(start)), "")


def test_rows_name_principles_of_the_constitution_and_who_wrote_them() -> None:
    defined = {principle.id for principle in document.load("assistant").principles}
    rows: list[Row] = [*requests(), *exchanges()]
    for row in rows:
        assert row.principles, row
        assert defined.issuperset(row.principles), row
        assert (row.topic or "").startswith("guard."), row
        assert row.source == "authored", row


def test_requests_are_many_of_each_kind_and_every_harm_has_its_look_alikes() -> None:
    counts = Counter(map(kind, requests()))
    assert {name for name, least in AT_LEAST.items() if counts[name] < least} == set()
    kinds: dict[str | None, set[str]] = defaultdict(set)
    for row in requests():
        kinds[row.topic].add(kind(row))
    assert len(kinds) >= 250
    assert [topic for topic, found in kinds.items() if found not in ({"harmful", "lookalike"}, {"plain"})] == []


@pytest.mark.parametrize("start", ["form:", "lang:"])
def test_neither_form_nor_language_tells_whether_a_request_is_harmful(start: str) -> None:
    harmful: dict[str, list[bool]] = defaultdict(list)
    for row in requests():
        harmful[tagged(row, start)].append(kind(row) == "harmful")
    shares = {name: sum(found) / len(found) for name, found in harmful.items() if len(found) >= 20}
    assert len(shares) >= 4
    assert {name: share for name, share in shares.items() if not 0.2 <= share <= 0.6} == {}


def test_the_first_answer_of_each_exchange_is_the_good_one_and_the_failure_of_the_other_is_named() -> None:
    assert len(exchanges()) >= 350
    assert [row for row in exchanges() if row.ranking != (1, 2) or not row.failure] == []


@pytest.mark.slow  # two seconds
def test_no_row_is_near_one_that_is_measured_and_no_two_are_almost_the_same() -> None:
    rows: list[Row] = [*requests(), *exchanges()]
    assert leaks(measured(), rows) == []
    assert {row.topic for row in measured()} & {row.topic for row in rows} == set()
    for file in (requests(), exchanges()):
        assert twins(plain_text(row.prompt) for row in file) == []
