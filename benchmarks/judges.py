"""What judges are worth: on a run's held-out comparisons, and on what people preferred elsewhere.

    .venv/bin/python benchmarks/judges.py RUN [--preferences FOLDER] [--questions 150] [--kinds rules reward model]

RUN is a finished run whose reward model reads principles. FOLDER is shared/data/preferences, whose files `HUMAN` names;
their rows name no principle, so that the judge compares the answers as a whole. The cards go to
benchmarks/results/judges.json. For the reward model it also asks which principle a worse answer breaks: how often its
lowest score is that of a principle that the pair is about, beside the same question about the better answer, which
breaks none, so that only the prompt gives it away.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from steersman.cli import constitution as judging
from steersman.constitution import judge_card
from steersman.constitution.judges import JudgeConfig, likely_violations
from steersman.data.formats import sort_out
from steersman.data.sources import spread
from steersman.lm.reward_model import RewardModel
from steersman.runs import open_run
from steersman.stats import wilson
from steersman.types import Comparison

RESULTS = Path(__file__).resolve().parent / "results" / "judges.json"
ASKED_WHICH = 40  # held-out pairs of which the broken principle is asked


def pair(prompt: Any, first: str, second: str, first_is_better: bool) -> Comparison:
    return Comparison(prompt=prompt, options=(first, second), ranking=(1, 2) if first_is_better else (2, 1))


def tulu(row: dict[str, Any]) -> Comparison | None:
    side = str(row["preference"])[0]  # a-is-better, b-is-slightly-better, tie
    return pair(row["prompt"], row["completion_a"], row["completion_b"], side == "a") if side in "ab" else None


def pandalm(row: dict[str, Any]) -> Comparison | None:
    """The majority of three raters; 0 is a tie."""
    votes = [row[f"annotator{i}"] for i in (1, 2, 3)]
    side = max((1, 2), key=votes.count)
    prompt = "\n".join(filter(None, (row["instruction"], row["input"])))
    return pair(prompt, row["response1"], row["response2"], side == 1) if votes.count(side) >= 2 else None


def oasst(row: dict[str, Any]) -> Comparison:
    roles = {"prompter": "user", "assistant": "assistant"}
    prompt = [{"role": roles[turn["role"]], "content": turn["text"]} for turn in row["history"]]
    return pair(prompt, row["chosen"], row["rejected"], True)


def llmbar(row: dict[str, Any]) -> Comparison:
    return pair(row["input"], row["output_1"], row["output_2"], str(row["label"]) == "1")


# Files of people's preferences; None are columns that Steersman reads.
HUMAN: dict[str, Callable[[dict[str, Any]], Comparison | None] | None] = {
    "hh_harmless_base": None,
    "open_instruct_human_pairs": tulu,
    "pandalm_human_3raters": pandalm,
    "oasst_en_ranked_pairs": oasst,
    "llmbar_processed_faireval_llmeval2": llmbar,
}


def preferences(path: Path) -> list[Comparison]:
    """The pairs of a file that can be read; others (ties, equal or empty answers) are left out."""
    reader = HUMAN[path.name.removesuffix(".jsonl.gz")]
    if reader is None:
        return [row for row in sort_out(path, Comparison)[0] if row.pairs()]
    found = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            with contextlib.suppress(ValidationError):
                row = reader(json.loads(line))
                if row is not None:
                    found.append(row)
    return found


def main() -> None:
    """Measure, print, write after each card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--preferences", type=Path)
    parser.add_argument("--questions", type=int, default=150)
    parser.add_argument("--kinds", nargs="*", default=["rules", "reward", "model"])
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    run = open_run(arguments.run)
    constitution = run.constitution
    sets = {"held out": judging.comparisons_of(run, None)}
    for name in HUMAN if arguments.preferences else ():
        usable = preferences(arguments.preferences / f"{name}.jsonl.gz")
        print(f"{name}: {len(usable)} pairs")
        sets[name] = spread(usable, arguments.questions)
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for kind in arguments.kinds:
        judge = run.judge(JudgeConfig(kinds=(kind,)))
        for name, rows in sets.items():
            if kind != "reward" and name != "held out":
                continue  # rules need to know what a prompt expects; the raw model is asked where it has examples
            start = time.perf_counter()
            card = judge_card.card(judge, judge_card.questions_of(rows, constitution, arguments.questions))
            found[f"{kind}: {name}"] = {**card, "seconds": round(time.perf_counter() - start, 1)}
            print(kind, name, card["accuracy"], "place bias", card["place_bias"]["value"])
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if "reward" in arguments.kinds:
        found["which principle"] = which(run.path, sets["held out"], constitution)
        print("which principle", found["which principle"])
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def which(run: Path, rows: list[Comparison], constitution: Any) -> dict[str, Any]:
    """How often the principle with the lowest score is one that the pair is about, for worse and better answers."""
    scores = RewardModel.load(open_run(run).base, run / "reward_model").score
    right = {"worse": 0, "better": 0}
    some = spread([row for row in rows if row.pairs() and row.principles], ASKED_WHICH)
    for row in some:
        (pair,) = row.pairs()[:1]
        for name, answer in (("worse", pair.worse), ("better", pair.better)):
            (lowest, _), *_ = likely_violations(scores, row.prompt, answer, constitution.principles)
            right[name] += lowest.id in row.principles
    found: dict[str, Any] = {name: wilson(count, len(some))._asdict() for name, count in right.items()}
    return found | {"chance": 1 / len(constitution.principles)}


if __name__ == "__main__":
    main()
