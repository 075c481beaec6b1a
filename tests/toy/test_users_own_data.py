"""A practitioner's start: a preference CSV and an instruction-tuned model; no constitution, no demonstrations."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from steersman import load_recipe, open_run
from steersman.errors import RecipeError
from steersman.pipeline import align
from steersman.store import read_json
from steersman.types import Demonstration

RECIPE = """
name: prefs
model: tiny-random
data: {data}
columns: prompt=question,chosen=good,rejected=bad
sft: {sft}
dpo: {{epochs: 2, batch_size: 8, loss: {loss}, optimiser: {{learning_rate: 0.003}}}}
examples: {{held_out_comparisons: 0.3}}
answers: {{sampling: {{max_new_tokens: 8}}}}
capability: {{knowledge_items: 4, neutral_passages: 1}}
"""


def recipe(folder: Path, demonstrations: list[Demonstration], *, sft: str = "null", loss: str = "dpo") -> Path:
    with (folder / "prefs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["question", "good", "bad", "id"])
        table.writerows([row.prompt, row.completion, "I cannot help.", i] for i, row in enumerate(demonstrations[:60]))
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(data=folder / "prefs.csv", sft=sft, loss=loss))
    return path


@pytest.mark.slow
def test_from_a_csv_to_a_report_and_an_export(tmp_path: Path, demonstrations: list[Demonstration]) -> None:
    run = align(load_recipe(recipe(tmp_path, demonstrations)), tmp_path / "run")
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    (unseen,) = (event for event in events if event["event"] == "held_out")
    assert unseen["pairs"] > 5
    assert unseen["chosen_gained_more"] == unseen["pairs"]
    page = (run.path / "report" / "index.html").read_text()
    assert f"Of {unseen['pairs']} held-out pairs" in page
    assert "there is no pass rate to report" in page
    report = read_json(run.path / "report" / "report.json")
    assert report["counts"]["train"] == 0
    out = open_run(run.path).export(tmp_path / "merged", merged=True)
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert {"report", "dpo", "sft"} <= {path.name for path in run.path.iterdir()}


def test_fine_tuning_without_demonstrations_is_refused(tmp_path: Path, demonstrations: list[Demonstration]) -> None:
    with pytest.raises(RecipeError, match=r"has no demonstrations to train on[\s\S]*sft: null"):
        align(load_recipe(recipe(tmp_path, demonstrations, sft="{epochs: 1}")), tmp_path / "run")
