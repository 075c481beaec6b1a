"""What PPO, RLOO, GRPO and DPO make of the same fine-tuned model, and at what cost: one table.

    .venv/bin/python benchmarks/reinforcement.py RUN RECIPE WORK [--only rloo ppo]

RUN is a finished run of RECIPE up to its reward model and second judge; RECIPE has a section `rl` with what all
algorithms share. DPO is that of the recipe `laptop`. Each row is a copy of RUN in the folder WORK, in which the recipe
is run again with this one change: what came before is reused. Rates are on the evaluation prompts, greedy, against the
fine-tuned model on the same prompts. The table goes to benchmarks/results/reinforcement.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import steersman
from steersman.evals import capability
from steersman.report.evidence import read_recipe
from steersman.stats import paired_difference, ratio_of_perplexities
from steersman.store import Run, read_json, read_jsonl

RESULTS = Path(__file__).resolve().parent / "results" / "reinforcement.json"
NONE: dict[str, Any] = {"dpo": None, "rl": None}
DPO = {  # that of recipe `laptop` until 2026-11-29
    "beta": 1.0,
    "nll_weight": 0.3,
    "first_n_tokens": 16,
    "upsample": {"needless-refusal": 2},
    "vocabulary": "compact",
    "compact": {"extra_rows": 4096, "full_share": 0.08},
    "optimiser": {"learning_rate": 0.00003},
    "max_length": 384,
}


def rows(recipe: steersman.Recipe) -> dict[str, dict[str, Any]]:
    """What each row changes in the recipe."""
    whole = recipe.model_dump(mode="json")
    shared = {k: v for k, v in whole["rl"].items() if k not in ("algorithm", "clip", "updates")}
    ppo = {"algorithm": "ppo", "updates": 2}
    return {
        "sft": NONE,
        "dpo": NONE | {"dpo": DPO},
        "rloo": NONE | {"rl": shared | {"algorithm": "rloo"}},
        "grpo": NONE | {"rl": shared | {"algorithm": "grpo", "variant": "dr_grpo"}},
        "ppo": NONE | {"rl": shared | ppo},
    }


def main() -> None:
    """Run the rows one after another and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("recipe")
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    recipe = steersman.load_recipe(arguments.recipe)
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name, change in rows(recipe).items():
        folder = arguments.work / name
        if arguments.only and name not in arguments.only:
            continue
        if not folder.exists():
            shutil.copytree(arguments.run, folder)
        chosen = steersman.Recipe.model_validate(recipe.model_dump(mode="json") | change)
        steersman.align(chosen, folder)
        found[name] = measured(folder, arguments.work / "sft")
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(found[name]))


def measured(folder: Path, before: Path) -> dict[str, Any]:
    """The figures of one row.

    Args:
        before: the row of the fine-tuned model.
    """
    run = Run(folder)
    summary = read_json(folder / "scores" / "summary.json")
    ours, theirs = (
        [row for row in read_jsonl(path / "scores" / "scores.jsonl") if row["condition"] == "aligned"]
        for path in (folder, before)
    )
    judged = [(bool(b["kept"]), bool(a["kept"])) for a, b in zip(ours, theirs, strict=True) if a["kept"] is not None]
    tokens = [sum(row["tokens"] for row in answers) / len(answers) for answers in (theirs, ours)]
    nll, counts = capability.passages(read_jsonl(folder / "aligned_capability" / capability.CAPABILITY))
    nll_before, _ = capability.passages(read_jsonl(before / "aligned_capability" / capability.CAPABILITY))
    recipe = read_recipe(run)
    learnt = [name for name in ("revisions", "cai_sft", "feedback", "dpo", "rl") if recipe.get(name)]
    key = (run.manifest("rl") or {}).get("key")
    looks = _of_key(read_jsonl(folder / "events.jsonl"), key)
    return {
        "minutes": {name: run.manifest(name)["seconds"] / 60 for name in learnt},  # type: ignore[index]
        "overall": {row["label"]: row["rates"]["aligned"] for row in summary["overall"]},
        "kept_by_principle": {row["principle"]: row["rates"]["aligned"] for row in summary["principles"]},
        "kept_minus_sft": paired_difference(*map(list, zip(*judged, strict=True)))._asdict(),
        "tokens_ratio_to_sft": tokens[1] / tokens[0],
        "perplexity_ratio_to_sft": ratio_of_perplexities(nll_before, nll, counts)._asdict(),
        "perplexity_ratio_to_raw": summary["capability"]["perplexity"]["ratio"],
        "knowledge_minus_raw": summary["capability"]["knowledge"]["difference"],
        "looks": looks if recipe["rl"] else [],
        "config": {name: recipe[name] for name in learnt},
    }


def _of_key(events: list[dict[str, Any]], key: str | None) -> list[dict[str, Any]]:
    """The evaluations of the last training with this key; a copied run's events begin with those of the original."""
    starts = [i for i, row in enumerate(events) if row.get("stage") == "rl" and row.get("key") == key]
    return [row for row in events[starts[-1] if starts else 0 :] if row.get("event") in ("evaluation", "selected")]


if __name__ == "__main__":
    main()
