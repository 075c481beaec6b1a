"""Facts of reward models in a world whose true reward is known: they learn what raters prefer, their faults included.

Each is asserted over `SEEDS`, of the votes, the order of the batches and the new head, and where two trainings are
compared they have the same seed: one training is luck, and another processor is another training. What was measured is
in the docstrings.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from steersman.data import toy_world as world
from steersman.data.toy_world import ToyRater as Rater
from steersman.lm.reward_model import RewardModel, tokenised
from steersman.store import StageFolder, read_json
from steersman.train import reward_model
from steersman.train.loop import OptimiserConfig
from steersman.train.reward_model import RATERS, RewardConfig
from steersman.train.rl import loop as rl
from steersman.train.rl import rloo
from steersman.train.rl.actor import RolloutConfig
from steersman.train.rl.evaluation import EvaluationConfig
from steersman.train.rl.loop import Monitors, RlData
from steersman.train.rl.rloo import RlooConfig
from steersman.types import Prompt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEEDS = (0, 1, 2)
CLEAR = 0.5  # of the true reward: by so much the better answer of a pair is better
HONEST = world.population(20, Rater(name="r"))
MIXED = world.population(20, Rater(name="r"), liars=0.5, coins=0.2)


def learn(raters: Sequence[Rater], fine_tuned: Path, out: Path, seed: int, trust_raters: bool = False) -> Path:
    """Train a reward model on 100 votes of each rater, who were also asked three questions with known answers.

    132 steps. Before a model sees any order, its loss stands still for a while; how long is luck, and at a rate of 5e-3
    it was most of the training. At 1e-2 about one training in ten still ends there.
    """
    known = world.gold_questions(3, seed)
    asked = world.votes(raters, world.questions(100 * len(raters), seed), each=100, seed=seed)
    votes = [*asked, *world.votes(raters, known, each=3, seed=seed)]
    rows = [*(vote.comparison() for vote in votes), *(question.key() for question in known)]
    config = RewardConfig(
        optimiser=OptimiserConfig(learning_rate=1e-2),
        epochs=4,
        batch_size=64,
        micro_batch_size=64,
        max_length=64,
        rater_reliability=trust_raters,
        checkpoint_every_steps=1000,
        seed=seed,
    )
    out.mkdir()
    base, start = fine_tuned / "sft" / "model", fine_tuned / "start"
    reward_model.run(config, base, start, rows, [], StageFolder(out, "reward_model"))
    return out


class Accuracy(NamedTuple):
    """Shares of the held-out pairs that a reward model puts in the true order: of those that are CLEAR, and of all."""

    clear: float
    all: float


def accuracy(fine_tuned: Path, folder: Path) -> Accuracy:
    model = RewardModel.load(fine_tuned / "sft" / "model", folder)
    held_out = world.questions(1000, seed=777)
    groups = [tokenised(question.prompt, question.options, model.chat, 64) for question in held_out]
    scores = model.scores(groups).view(-1, 2)
    true = torch.tensor([[world.true_reward(q.prompt, text) for text in q.options] for q in held_out])
    difference = true[:, 0] - true[:, 1]
    right = ((scores[:, 0] - scores[:, 1]) * difference > 0).double()
    clear = difference.abs() >= CLEAR
    assert clear.sum() > 700
    return Accuracy(float(right[clear].mean()), float(right[difference.abs() > 1e-6].mean()))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_reward_model_of_honest_raters_ranks_pairs_that_it_has_not_seen(
    seed: int, fine_tuned: Path, tmp_path: Path
) -> None:
    """The raters err: P(right) = sigmoid(difference / 0.3). 82 % of the pairs are clear.

    Measured over the seeds: right in 89 to 95 % of the clear pairs and 85 to 90 % of all, with AVX2 or AVX-512.
    """
    found = accuracy(fine_tuned, learn(HONEST, fine_tuned, tmp_path / "model", seed))
    assert found.clear > 0.8
    assert found.all > 0.75


@pytest.mark.long
def test_signed_trust_saves_a_reward_model_from_liars(fine_tuned: Path, tmp_path: Path) -> None:
    """50 % liars and 20 % who toss a coin, of 20 raters: pooled, and with a trust for each, on the same votes.

    Pooled votes say the opposite of the truth, so the sign does not hang on how soon a model learns. With 30 % liars it
    did: pooled models reached 51 to 77 %, those with trust 64 to 90 %, and a pair of them differed by 3 to 35 points.

    Measured over four seeds with AVX-512 and with AVX2: pooled 27 to 49 % of all pairs, with trust 69 to 90 %, on the
    same votes 32 to 55 points more.
    """
    gains = []
    for seed in range(4):
        pooled = accuracy(fine_tuned, learn(MIXED, fine_tuned, tmp_path / f"pooled-{seed}", seed))
        signed = learn(MIXED, fine_tuned, tmp_path / f"signed-{seed}", seed, trust_raters=True)
        beliefs = read_json(signed / "member-0" / RATERS)
        trusts: dict[str, list[float]] = {"honest": [], "liar": [], "coin": []}
        for rater in MIXED:
            trusts[rater.kind].append(beliefs[rater.name]["reliability"])
        assert min(trusts["honest"]) > 0.1
        assert max(trusts["liar"]) < -0.1
        of_honest, of_liars, of_coins = (statistics.mean(map(abs, values)) for values in trusts.values())
        assert of_coins < 0.6 * min(of_honest, of_liars)
        gains.append(accuracy(fine_tuned, signed).all - pooled.all)
        assert gains[-1] > 0.1
    assert statistics.mean(gains) > 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_reward_model_of_raters_who_like_length_is_over_optimised(
    seed: int, fine_tuned: Path, tmp_path: Path
) -> None:
    """A word counts as much as 0.3 of the true reward: answers get longer, the score rises, the true reward falls.

    Measured over the seeds: answers of 7 become 13 to 15 tokens, the score rises by 1.4 to 2.5, the true reward falls
    from 0.2 to -0.4 and less (by 0.7 to 2.1).
    """
    model = learn(world.population(20, Rater(name="r", length_bias=0.3)), fine_tuned, tmp_path / "model", seed)
    config = RlooConfig(
        rollouts=RolloutConfig(prompts=16, answers=8, max_new_tokens=24),
        evaluation=EvaluationConfig(every_steps=20, prompts=132, stop_at=1),
        steps=20,
        kl_coef=0.0,
        optimiser=OptimiserConfig(learning_rate=1e-3, schedule="constant", warmup_ratio=0.0),
        micro_batch_size=16,
        checkpoint_every_steps=1000,
        seed=seed,
    )
    (tmp_path / "rl").mkdir()
    events: list[dict[str, Any]] = []
    stage = StageFolder(tmp_path / "rl", "rl", lambda **row: events.append(row))
    prompts = [Prompt(prompt=text) for text in world.PROMPTS]

    def true(prompt: Prompt, answer: str) -> float:
        return world.true_reward(prompt.prompt, answer)

    base, start = fine_tuned / "sft" / "model", fine_tuned / "start"
    rl.run(config, rloo.algorithm(config), base, start, model, RlData(prompts, prompts * 4, []), stage, Monitors(true))
    evaluations = [event for event in events if event["event"] == "evaluation"]
    first, last = evaluations[0], evaluations[-1]
    assert last["score"] > first["score"] + 0.5
    assert last["gold"] < first["gold"] - 0.3
    assert last["mean_answer_tokens"] > 1.4 * first["mean_answer_tokens"]
