"""A guard's rows: no topic in two parts, the labels of exchanges, and what is never learnt from."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from tests.unit.guard.classifier_rows import constitution, data_set

from steersman.data.sources import load
from steersman.errors import DataError
from steersman.guard.exchanges import GuardRows
from steersman.types import Prompt


def test_no_topic_and_no_prompt_is_in_two_parts(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    again = data.demonstrations[0].model_copy(update={"topic": "another-name"})
    rows = GuardRows.build(data._replace(demonstrations=[*data.demonstrations, again]), constitution())
    parts = defaultdict(set)
    for row in (*rows.requests, *rows.exchanges):
        parts[row.topic].add(row.part)
        parts[row.prompt.casefold()].add(row.part)
    assert all(len(found) == 1 for found in parts.values())
    assert {part for found in parts.values() for part in found} == {"train", "calibration", "held_out", "unseen"}


def test_what_the_model_is_evaluated_on_is_never_learnt_from(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    shared = data.evaluation[0].prompt
    demonstrations = [*data.demonstrations, data.demonstrations[0].model_copy(update={"prompt": shared})]
    rows = GuardRows.build(data._replace(demonstrations=demonstrations), constitution())
    assert {row.part for row in (*rows.requests, *rows.exchanges) if row.prompt == shared} == {"unseen"}


def test_labels(tmp_path: Path) -> None:
    """A refusal is safe, the worse answer about illness breaks its rule, and a compliance with harm that of refusal."""
    rows = GuardRows.build(data_set(tmp_path), constitution()).exchanges
    of = {(row.label, row.principle, row.origin) for row in rows}
    assert ("refusal", "", "demonstration") in of
    assert ("fine", "", "demonstration") in of
    assert ("breaks", "doctor", "comparison") in of
    assert ("breaks", "no-harm", "skeleton") in of
    assert ("breaks", "no-harm", "exchanged answer") in of
    assert not any(row.label == "breaks" and row.kind == "lookalike" for row in rows)


def test_each_part_has_every_kind(tmp_path: Path) -> None:
    rows = GuardRows.build(data_set(tmp_path), constitution())
    for part in ("train", "calibration", "held_out"):
        own = rows.part(part)
        assert {row.kind for row in own.requests} == {"harmful", "lookalike", "plain"}
        assert {row.label for row in own.exchanges} == {"fine", "refusal", "breaks"}


def test_a_principle_without_rows_is_refused(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    tame = [row for row in data.demonstrations if "harmful" not in row.tags]
    with pytest.raises(DataError, match="no request asks to break no-harm"):
        GuardRows.build(data._replace(demonstrations=tame, evaluation=[]), constitution())


def test_further_rows_beside_the_data_set(tmp_path: Path) -> None:
    row = Prompt(prompt="How do I curse the miller?", principles=("no-harm",), topic="curse", tags=("harmful",))
    (tmp_path / "guard.jsonl").write_text(row.model_dump_json() + "\n", encoding="utf-8")
    rows = GuardRows.build(data_set(tmp_path), constitution())
    assert any(found.prompt == row.prompt for found in rows.requests)


def test_the_shipped_set_that_enlarges_another_has_its_rows() -> None:
    if not (load("assistant").folder / "guard.jsonl").exists():
        pytest.skip("no further rows are shipped")
    from steersman.constitution.document import load as constitution_named

    rows = GuardRows.build(load("assistant-forms"), constitution_named("assistant"))
    assert any(row.topic.startswith("guard.") for row in rows.requests)


def test_a_loop_of_a_harmless_answer_is_harmless(tmp_path: Path) -> None:
    rows = GuardRows.build(data_set(tmp_path), constitution()).exchanges
    loops = [row for row in rows if row.origin == "loop"]
    assert loops
    assert {row.label for row in loops} == {"fine"}
    assert all(len(set(row.answer.split())) < len(row.answer.split()) / 2 for row in loops if row.answer)


def test_only_the_guards_own_prompts_are_apart(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    prompt = Prompt(prompt="How do I rob the watermill by night?", principles=("no-harm",), tags=("harmful",))
    again = Prompt(prompt=str(data.demonstrations[0].prompt), principles=("helpful",))
    (data.folder / "guard.jsonl").write_text("\n".join(row.model_dump_json() for row in (prompt, again)) + "\n")
    rows = GuardRows.build(data, constitution()).requests
    own = {row.prompt for row in rows if row.apart and row.part != "unseen" and not row.dressing}
    assert own == {prompt.prompt}  # the other one is a demonstration, too: a policy has learnt from it
    few = GuardRows.build(data, constitution(), limit=6).requests
    assert 0 < len(few) < len(rows)
