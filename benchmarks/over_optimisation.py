"""Do ensembles, and a score without style, delay over-optimisation? In the toy world, whose true reward is known.

    .venv/bin/python -m benchmarks.over_optimisation [--seeds 3]

Raters like length: a word counts as much to them as 0.3 of the true reward. Reward models learn from their votes, and
RLOO maximises each without a KL penalty for 28 steps; every 4 steps the true reward of 132 answers is taken. The
figures, with the difference to one member at each evaluation, go to benchmarks/results/over_optimisation.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from tests.toy.conftest import fine_tune

from steersman.data import toy_world as world
from steersman.data.toy_world import ToyRater
from steersman.stats import mean_estimate
from steersman.store import StageFolder, read_json, write_json
from steersman.train import reward_model
from steersman.train.loop import OptimiserConfig
from steersman.train.reward_model import ABOUT, RewardConfig
from steersman.train.rl import loop as rl
from steersman.train.rl import rloo
from steersman.train.rl.actor import RolloutConfig
from steersman.train.rl.evaluation import EvaluationConfig
from steersman.train.rl.loop import Monitors, RlData
from steersman.train.rl.rloo import RlooConfig
from steersman.types import Prompt

RESULTS = Path(__file__).resolve().parent / "results" / "over_optimisation.json"
MEMBERS = 4
ENSEMBLES = ("mean", "worst", "mean_minus_variance")


def main() -> None:
    """Train and optimise; write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    torch.set_num_threads(2)
    curves: dict[str, list[dict[str, list[float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        fine_tune(Path(folder))
        for seed in range(parser.parse_args().seeds):
            for name, model in models(Path(folder), seed).items():
                curves.setdefault(name, []).append(optimised(Path(folder), model, seed))
                print(seed, name, [round(x, 2) for x in curves[name][-1]["true"]], flush=True)
            RESULTS.write_text(json.dumps(summed_up(curves), indent=1) + "\n", encoding="utf-8")
    for name, found in summed_up(curves)["versus one member"].items():
        print(name, found)


def models(folder: Path, seed: int) -> dict[str, Path]:
    """One member, one without style, and one ensemble, asked in three ways."""
    trained = {
        "one member": learnt(folder, f"one-{seed}", seed),
        "one, without style": learnt(folder, f"style-{seed}", seed, style_control=True),
        "mean": learnt(folder, f"mean-{seed}", seed, members=MEMBERS),
    }
    for combine in ENSEMBLES[1:]:
        copy = folder / f"{combine}-{seed}"
        shutil.copytree(trained["mean"], copy)
        write_json(copy / ABOUT, {**read_json(copy / ABOUT), "combine": combine})
        trained[combine] = copy
    return trained


def learnt(folder: Path, name: str, seed: int, **settings: Any) -> Path:
    """A reward model of what 20 raters said of 150 pairs each."""
    raters = world.population(20, ToyRater(name="r", length_bias=0.3))
    votes = world.votes(raters, world.questions(20 * 150, seed=seed), each=150)
    shape: dict[str, Any] = {"epochs": 4, "batch_size": 128, "micro_batch_size": 128, "max_length": 64, "seed": seed}
    config = RewardConfig(
        optimiser=OptimiserConfig(learning_rate=5e-3), checkpoint_every_steps=1000, **shape, **settings
    )
    out = StageFolder(folder / name, "reward_model")
    out.path.mkdir()
    rows = [vote.comparison() for vote in votes]
    reward_model.run(config, folder / "sft" / "model", folder / "start", rows, [], out)
    return out.path


def optimised(folder: Path, model: Path, seed: int) -> dict[str, list[float]]:
    """Score, true reward and KL at every evaluation."""
    config = RlooConfig(
        rollouts=RolloutConfig(prompts=16, answers=8, max_new_tokens=24),
        evaluation=EvaluationConfig(every_steps=4, prompts=132, stop_at=1),
        steps=28,
        kl_coef=0.0,
        optimiser=OptimiserConfig(learning_rate=1e-3, schedule="constant", warmup_ratio=0.0),
        micro_batch_size=16,
        checkpoint_every_steps=1000,
        seed=seed,
    )
    events: list[dict[str, Any]] = []
    prompts = [Prompt(prompt=text) for text in world.PROMPTS]

    def true(prompt: Prompt, answer: str) -> float:
        return world.true_reward(str(prompt.prompt), answer)

    with tempfile.TemporaryDirectory() as scratch:
        stage = StageFolder(Path(scratch), "rl", lambda **row: events.append(row))
        base, start = folder / "sft" / "model", folder / "start"
        data = RlData(prompts, prompts * 4, [])
        rl.run(config, rloo.algorithm(config), base, start, model, data, stage, Monitors(true))
    own = [row for row in events if row["event"] == "evaluation"]
    keys = {"score": "score", "true": "gold", "kl": "kl_nats_per_answer"}
    return {name: [row[key] for row in own] for name, key in keys.items()}


def summed_up(curves: dict[str, list[dict[str, list[float]]]]) -> dict[str, Any]:
    """The curves, and by how much more of the true reward is left than with one member, over evaluations and seeds."""
    one = curves["one member"]
    versus = {}
    for name, found in curves.items():
        pairs = list(zip(found, one, strict=False))
        last = [ours["true"][-1] - theirs["true"][-1] for ours, theirs in pairs]
        whole = [sum(ours["true"]) / len(ours["true"]) - sum(t["true"]) / len(t["true"]) for ours, t in pairs]
        versus[name] = {"at the end": mean_estimate(last).json(), "mean of looks": mean_estimate(whole).json()}
    return {"curves": curves, "versus one member": versus}


if __name__ == "__main__":
    main()
