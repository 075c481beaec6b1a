"""What constitutional AI makes of a fine-tuned model, against learning from people's comparisons: one table.

    .venv/bin/python benchmarks/constitutional.py RUN RECIPE WORK [--only sl_cai rl_cai rlhf]

RUN is a finished run of RECIPE, whose data, fine-tuning, reward model and judge are reused. Each row is a copy of it in
the folder WORK with one change. Rates are on the evaluation prompts, greedy, against the fine-tuned model on the same
prompts. The table goes to benchmarks/results/constitutional.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from reinforcement import measured

import steersman

RESULTS = Path(__file__).resolve().parent / "results" / "constitutional.json"
PEOPLE: dict[str, Any] = {"revisions": None, "cai_sft": None, "feedback": None, "judge": None, "ablation": False}
ROWS: dict[str, dict[str, Any]] = {
    "sft": PEOPLE | {"dpo": None},
    "rl_cai": {},  # revisions, then people's comparisons and the judge's
    "sl_cai": {"feedback": None, "dpo": None, "ablation": False},  # revisions alone
    "rlhf": PEOPLE,  # people's comparisons alone
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
    for name, change in ROWS.items():
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


if __name__ == "__main__":
    main()
