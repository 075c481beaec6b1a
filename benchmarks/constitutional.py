"""What constitutional AI makes of a fine-tuned model, against learning from people's comparisons alone: one table.

    .venv/bin/python benchmarks/constitutional.py RUN PEOPLE

RUN is a finished run of the recipe `constitutional`. PEOPLE is a run from the same fine-tuned model whose `dpo` learnt
from people's comparisons alone: a row of benchmarks/reinforcement.py. Rates are on the evaluation prompts, greedy,
each against the fine-tuned model on the same prompts; knowledge and perplexity against the raw one. The table goes to
benchmarks/results/constitutional.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from steersman.data.formats import read
from steersman.evals import capability, scores
from steersman.evals.answers import ANSWERS
from steersman.evals.conditions import ALIGNED
from steersman.recipe import load_recipe
from steersman.runs import open_run
from steersman.store import Run, StageFolder, read_json, read_jsonl
from steersman.types import Prompt

RESULTS = Path(__file__).resolve().parent / "results" / "constitutional.json"
NAMES = {"sft": "SFT", "cai_sft": "SFT + SL-CAI", "dpo": "SFT + SL-CAI + RL-CAI (DPO)"}
STAGES = ("reward_model", "judge_card", "revisions", "cai_sft", "feedback", "dpo")
PEOPLE = "SFT + RLHF from people's comparisons (DPO)"


def main() -> None:
    """Read, measure knowledge and perplexity where the runs have not, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("people", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    run, people = Run(arguments.run), Run(arguments.people)
    if run.manifest("sft")["outputs"] != people.manifest("sft")["outputs"]:  # type: ignore[index]
        raise SystemExit("the two runs have different fine-tuned models")
    earlier = {NAMES[stage]: scored(run, stage) for stage in ("sft", "cai_sft")}
    rows = scores.ablation({**earlier, NAMES["dpo"]: aligned(run), PEOPLE: aligned(people)})
    costs = {
        NAMES["dpo"]: run.path / "aligned_capability",
        PEOPLE: people.path / "aligned_capability",
        **{NAMES[stage]: measured(run, stage) for stage in ("sft", "cai_sft")},
    }
    for row in rows:
        row["cost"] = scores.alignment_tax(run.path / "raw_capability", costs[row["stage"]])
    events = [row for row in read_jsonl(run.path / "events.jsonl") if row.get("event") == "revisions"]
    found = {
        "rows": rows,
        "minutes": {name: (run.manifest(name) or {})["seconds"] / 60 for name in STAGES},
        "judge": read_json(run.path / "judge_card" / "judge_card.json"),
        "revisions": events[-1],
        "feedback": read_json(run.path / "feedback" / "feedback.json"),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(row["stage"], f"{row['mean_answer_tokens']:.1f} tokens")
        for label, rate in row["rates"].items():
            since = rate["versus_first"]
            change = f"{since['value']:+.3f} [{since['low']:.3f}, {since['high']:.3f}]"
            print(f"  {label}: {rate['value']:.3f}, since SFT {change}")


def scored(run: Run, stage: str) -> list[dict[str, Any]]:
    """The scored answers of an earlier policy."""
    prompts = read(run.path / "data" / "evaluation.jsonl", Prompt)
    answers = read_jsonl(run.path / "ablation" / stage / ANSWERS)
    return [scores.score(prompts[row["index"]], row) for row in answers]


def aligned(run: Run) -> list[dict[str, Any]]:
    """The scored answers of the last policy."""
    rows = read_jsonl(run.path / "scores" / "scores.jsonl")
    return [row for row in rows if row["condition"] == ALIGNED]


def measured(run: Run, stage: str) -> Path:
    """The folder with knowledge and perplexity of the policy that a stage left."""
    folder = run.path / "benchmark" / stage
    if not (folder / capability.CAPABILITY).exists():
        folder.mkdir(parents=True, exist_ok=True)
        config = load_recipe(run.path / "recipe.yaml").capability
        capability.run(
            config, open_run(run.path).base, run.path / stage, StageFolder(folder, "capability", lambda **_: None)
        )
    return folder


if __name__ == "__main__":
    main()
