"""Does a reward model that reads principles judge by one that it never read? Some are left out of its training.

    .venv/bin/python benchmarks/left_out_principles.py RUN WORK health admit-uncertainty fairness no-flattery

RUN is a finished run with held-out comparisons. A reward model is trained in the folder WORK, from RUN's fine-tuned
policy, on the comparisons that are about none of the named principles (a model that is there is used again). It is
asked about all comparisons of the named ones, with their text, and without any, as a control: a text that adds nothing
was not understood. The figures go to benchmarks/results/left_out_principles.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from steersman.constitution import judge_card
from steersman.constitution.judges import ScoringJudge
from steersman.data.formats import read
from steersman.lm.reward_model import RewardModel
from steersman.runs import open_run
from steersman.store import StageFolder
from steersman.train import reward_model
from steersman.train.loop import OptimiserConfig
from steersman.train.reward_model import RewardConfig
from steersman.types import Comparison, Demonstration

RESULTS = Path(__file__).resolve().parent / "results" / "left_out_principles.json"
CONFIG = RewardConfig(by_principle=True, optimiser=OptimiserConfig(learning_rate=3e-4))


def main() -> None:
    """Train if needed, ask, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("principles", nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    run = open_run(arguments.run)
    constitution, base = run.constitution, run.base
    rows, held_out = (
        read(run.path / f"data/{name}.jsonl", Comparison) for name in ("comparisons", "held_out_comparisons")
    )
    left_out = set(arguments.principles)
    texts = {id: text for id, text in constitution.texts.items() if id not in left_out}
    train = CONFIG.rows([row for row in rows if not left_out & set(row.principles)], texts)
    start = time.perf_counter()
    if not (arguments.work / reward_model.ABOUT).exists():
        arguments.work.mkdir(parents=True, exist_ok=True)
        out = StageFolder(arguments.work, "reward_model", lambda **row: print(row))
        demonstrations = read(run.path / "data" / "train.jsonl", Demonstration)
        reward_model.run(CONFIG, base, run.path / "sft", train, demonstrations, out)
    minutes = (time.perf_counter() - start) / 60
    judge = ScoringJudge(RewardModel.load(base, arguments.work).score)
    about = [row for row in [*rows, *held_out] if left_out & set(row.principles)]
    plain = [row.model_copy(update={"principles": ()}) for row in about]
    seen = [row for row in held_out if not left_out & set(row.principles)]
    sets = {"left out, with their text": about, "left out, without it": plain, "learnt, held out": seen}
    found = {
        "left_out": sorted(left_out),
        "rows": len(train),
        "minutes": round(minutes, 1),
        **{name: judge_card.card(judge, judge_card.questions_of(some, constitution)) for name, some in sets.items()},
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print({name: found[name]["accuracy"] for name in sets})  # type: ignore[index]


if __name__ == "__main__":
    main()
