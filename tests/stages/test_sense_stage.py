"""The stage's estimate, its settings and its section."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steersman.cost.work import Workload, assumed_lengths
from steersman.evals import answers, capability, facts
from steersman.evals import sense as method
from steersman.evals.conditions import ALIGNED, FEW_SHOT
from steersman.lm import head as head_module
from steersman.lm import sampling
from steersman.recipe import load_recipe
from steersman.report import terminal
from steersman.report.blocks import Paragraph, Table
from steersman.report.evidence import StageRecord
from steersman.stages import sense
from steersman.store import StageFolder, write_json
from steersman.train import sft
from steersman.types import Demonstration
from workloads import changed, estimate, small_workload


@pytest.fixture
def workload(tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path) -> Workload:
    return small_workload(tiny_base, demonstrations, tmp_path)


class Counting:
    """Counts tokens that pass through the trunk, positions that pass through the head, and tokens that are drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts = Counter[str]()
        draw, scored = sampling.draw, capability.token_logprobs

        def trunk(model: Any) -> Callable[..., Any]:
            def forward(**inputs: Any) -> Any:
                ids = inputs["input_ids"]
                self.counts["read_tokens"] += ids.numel() if ids.shape[1] > 1 else 0
                return head_module.trunk(model)(**inputs)

            return forward

        def drawn(hidden: Any, *rest: Any, **named: Any) -> Any:
            self.counts["decode_rows"] += len(hidden)
            self.counts["decode_steps"] += 1
            return draw(hidden, *rest, **named)

        def logprobs(hidden: Any, *rest: Any) -> Any:
            self.counts["scored_tokens"] += len(hidden)
            return scored(hidden, *rest)

        for module, name, function in (
            (capability, "trunk", trunk),
            (sampling, "trunk", trunk),
            (sampling, "draw", drawn),
            (capability, "token_logprobs", logprobs),
        ):
            monkeypatch.setattr(module, name, function)


def test_work_of_sense_is_what_sense_does(
    workload: Workload, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers have the lengths that are assumed, and those to facts their full length."""
    monkeypatch.setattr("steersman.lm.fast_paths._agrees", lambda model, trial: True)  # tried tokens are in no estimate
    s = changed(workload, "sense.batch_size=3", "sense.sampling.max_new_tokens=2", "sense.facts=5")
    config = sense.settings(s.recipe)
    assert config is not None
    for name in ("sft", "out"):
        (tmp_path / name).mkdir()
    sft.run(s.recipe.sft, tiny_base, "tiny", s.train, [], StageFolder(tmp_path / "sft", "sft"))
    monkeypatch.setattr(Workload, "answer_tokens", lambda self, stage, condition: 3.0)
    chosen = list(method.prompts_of(config, s.evaluation))
    words = ["rice", "rice rice", "rice rice rice"]
    by_tokens = {len(method.answer_ids(s.chat, text)): text for text in words}
    lengths = [by_tokens[n] for n in assumed_lengths(3.0, 3, len(chosen))]
    said = [{"index": i, "answer": text, "finish_reason": "stop"} for i, text in zip(chosen, lengths, strict=True)]
    data = method.SenseData(
        s.evaluation,
        {name: {row["index"]: {**row, "condition": name} for row in said} for name in (FEW_SHOT, ALIGNED)},
        method.human_written(s.validation, s.held_out, config.human_written),
        facts.chosen(facts.load(), config.facts),
        answers.few_shot_preamble(s.constitution.persona, s.train, config.few_shot_examples),
    )
    counting = Counting(monkeypatch)
    method.run(config, tiny_base, tmp_path / "sft", data, StageFolder(tmp_path / "out", "sense"))
    found = estimate("sense", s).counts
    read = counting.counts.pop("read_tokens")
    assert {name: getattr(found, name) for name in counting.counts} == counting.counts
    # A few-shot prompt shares some tokens more with its questions than `generation_work` assumes.
    assert read <= found.read_tokens <= 1.02 * read
    assert found.loads == 2


def test_the_few_shot_prompt_is_that_of_the_raw_answers() -> None:
    found = sense.settings(load_recipe("smoke", ["answers.few_shot_examples=4"]))
    assert found is not None
    assert found.few_shot_examples == 4
    assert sense.settings(load_recipe("smoke", ["sense=null"])) is None


def row(condition: str, index: int, makes: bool) -> dict[str, Any]:
    facts = {"on_question": makes, "loop": False, "garbled": False, "ended": True, "makes_sense": makes}
    return {"condition": condition, "index": index, "nats_per_token": -2.0 - index, "kept": True, **facts}


def test_the_section_has_rates_errors_facts_and_fluency(tmp_path: Path) -> None:
    config = method.SenseConfig()
    rows = [row(FEW_SHOT, i, makes=True) for i in range(4)] + [row(ALIGNED, i, makes=i > 1) for i in range(4)]
    written = [{"on_question": i > 0, "exchanged_on_question": i == 0, "loop": False} for i in range(4)]
    asked = [
        {"condition": c, "form": "question", "right": c == FEW_SHOT, "declined": c == ALIGNED}
        for c in (FEW_SHOT, ALIGNED)
    ]
    summary = method.summarise(config, rows, written, asked, -5.0)
    write_json(tmp_path / method.SUMMARY, {"left_out": 3, **summary})
    found = sense.section(StageRecord("sense", tmp_path, {}, (), {}, {}))
    tables = {block.caption: block for block in found.blocks if isinstance(block, Table)}
    cells = {
        caption: {each[0]: [terminal.plain(cell) for cell in each[1:]] for each in table.rows}
        for caption, table in tables.items()
    }
    assert found.title == "Do the answers make sense?"
    assert cells["What the answers are"]["Makes sense (at most)"] == [
        "4 of 4",
        "2 of 4",
        "-50 [-85, 10]",
        "4",
    ]
    errors = cells["How far the test of relevance can be trusted"]
    assert [errors[key][0] for key in list(errors)[:2]] == ["3 of 4", "1 of 4"]
    assert cells["Known facts"]["... asked as commands"][0] == "no data"
    assert cells["Known facts"]["Declined"][1] == "1 of 1"
    assert cells["Log-probability under the raw model"]["Aligned"][0].startswith("-3.50 [")
    text = " ".join(str(part) for block in found.blocks if isinstance(block, Paragraph) for part in block.parts)
    assert "3 prompts were left out" in text
    assert "Fewer than 30" in text
    assert "below -5.00 nats per token" in text
    assert "passes in 25 % of cases" in text
    assert found.limits
