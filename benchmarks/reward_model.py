"""A reward model on comparisons of people, from a run's fine-tuned policy: its card on a part that it did not see.

    .venv/bin/python benchmarks/reward_model.py RUN COMPARISONS.jsonl[.gz] NAME [--rows 900] [--set key=value ...]

RUN is a finished run (`make align`); COMPARISONS any file that `steersman data convert` reads. A fifth of the topics
(or prompts) is held out. The card goes to benchmarks/results/reward_model.json under NAME, with settings and minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from steersman.data.formats import read, sort_out
from steersman.data.sources import split_by_topic, spread
from steersman.evals import reward_card
from steersman.lm.reward_model import RewardModel
from steersman.runs import open_run
from steersman.store import StageFolder
from steersman.train import reward_model
from steersman.train.reward_model import RewardConfig
from steersman.types import Comparison, Demonstration
from steersman.yaml_lines import parse

RESULTS = Path(__file__).resolve().parent / "results" / "reward_model.json"


def main() -> None:
    """Train, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("comparisons", type=Path)
    parser.add_argument("name")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--set", nargs="*", default=[], help="settings of the reward model")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    values = {key: parse(value) for key, _, value in (word.partition("=") for word in arguments.set)}
    config = RewardConfig.model_validate(values)
    usable, faults = sort_out(arguments.comparisons, Comparison)
    print(f"{len(faults)} rows cannot be used, {len(usable)} can")
    rows = spread(usable, arguments.rows)
    train, held_out = split_by_topic(rows, 0.2)
    demonstrations = read(arguments.run / "data" / "train.jsonl", Demonstration)
    base, start = open_run(arguments.run).base, arguments.run / "sft"
    with TemporaryDirectory() as folder:
        before = time.perf_counter()
        out = StageFolder(Path(folder), "reward_model", lambda **row: print({k: row[k] for k in row if k != "key"}))
        reward_model.run(config, base, start, train, demonstrations, out)
        minutes = (time.perf_counter() - before) / 60
        card = reward_card.card(RewardModel.load(base, Path(folder)).score, held_out, demonstrations)
    counts = {"train": len(train), "held_out": len(held_out)}
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    found[arguments.name] = {"config": config.model_dump(mode="json"), "rows": counts, "minutes": minutes, "card": card}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
