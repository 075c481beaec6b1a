"""Facts of reward models in a world whose true reward is known: they learn what raters prefer, their faults included.

Measured numbers are in the docstrings; margins are wide, seeds fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.data import toy_world as world
from steersman.data.toy_world import Rater
from steersman.store import StageFolder, read_json
from steersman.train import reward_model
from steersman.train.loop import OptimiserConfig
from steersman.train.reward_model import RATERS, RewardConfig, RewardModel, tokenised
from steersman.train.rl import loop as rl
from steersman.train.rl.actor import RolloutConfig
from steersman.train.rl.evaluation import WatchConfig
from steersman.train.rl.loop import Judges, Rows
from steersman.train.rl.rloo import Rloo, RlooConfig
from steersman.types import Comparison, Prompt

pytestmark = pytest.mark.slow

CLEAR = 0.5  # of the true reward: by so much the better answer of a pair is better


def learn(
    raters: Sequence[Rater], votes_each: int, batch_size: int, fine_tuned: Path, out: Path, trust_raters: bool = False
) -> None:
    """Train a reward model on the votes of some raters, who were also asked three questions with known answers."""
    known = world.gold_questions(3)
    votes = world.votes(raters, world.questions(len(raters) * votes_each), each=votes_each)
    rows = [vote.comparison() for vote in [*votes, *world.votes(raters, known, each=3)]]
    for question in known:
        ranking = (1, 2) if question.right == 0 else (2, 1)
        rows.append(Comparison(prompt=question.prompt, options=question.options, ranking=ranking, gold=True))
    config = RewardConfig(
        optimiser=OptimiserConfig(learning_rate=5e-3),
        epochs=4,
        batch_size=batch_size,
        micro_batch_size=batch_size,
        max_length=64,
        trust_raters=trust_raters,
        checkpoint_every_steps=1000,
    )
    out.mkdir()
    reward_model.run(
        config, fine_tuned / "sft" / "model", fine_tuned / "start", rows, [], StageFolder(out, "reward_model")
    )


def right(fine_tuned: Path, folder: Path) -> tuple[float, float]:
    """Shares of the pairs that a reward model puts in the true order: of those that are CLEAR, and of all."""
    model = RewardModel.load(fine_tuned / "sft" / "model", folder)
    held_out = world.questions(1000, seed=777)
    groups = [tokenised(question.prompt, question.options, model.chat, 64) for question in held_out]
    scores = model.scores(groups).view(-1, 2)
    true = torch.tensor([[world.true_reward(q.prompt, text) for text in q.options] for q in held_out])
    difference = true[:, 0] - true[:, 1]
    found = ((scores[:, 0] - scores[:, 1]) * difference > 0).double()
    clear = difference.abs() >= CLEAR
    assert clear.sum() > 700
    return float(found[clear].mean()), float(found[difference.abs() > 1e-6].mean())


def test_a_reward_model_of_honest_raters_ranks_pairs_that_it_has_not_seen(fine_tuned: Path, tmp_path: Path) -> None:
    """The raters err: P(right) = sigmoid(difference / 0.3).

    Measured: right in 95.5 % of the pairs whose true rewards differ by CLEAR or more, which are 82 %; 89.8 % of all.
    """
    learn(world.population(20, Rater(name="r")), 200, 64, fine_tuned, tmp_path / "model")
    of_clear, of_all = right(fine_tuned, tmp_path / "model")
    assert of_clear > 0.9
    assert of_all > 0.83


def test_signed_trust_saves_a_reward_model_from_liars(fine_tuned: Path, tmp_path: Path) -> None:
    """30 % liars and 20 % who toss a coin, of 20 raters.

    Measured: 61 % of all pairs pooled, 85 % with a trust for each (62 and 76 % on a processor without AVX-512). With
    twice the votes 64 % and 95.3 % of the clear pairs, where honest raters have 95.5 %.
    """
    mixed = world.population(20, Rater(name="r"), liars=0.3, coins=0.2)
    found = {}
    for trust in (False, True):
        learn(mixed, 100, 64, fine_tuned, tmp_path / str(trust), trust)
        _, found[trust] = right(fine_tuned, tmp_path / str(trust))
    beliefs = read_json(tmp_path / "True" / "member-0" / RATERS)
    trusts = {kind: [beliefs[r.name]["trust"] for r in mixed if r.kind == kind] for kind in ("honest", "liar", "coin")}
    # Honest raters came to 1.6 and more, liars to -1.6 and less, coins to between 0.2 and 0.5.
    assert min(trusts["honest"]) > 1
    assert max(trusts["liar"]) < -1
    assert max(map(abs, trusts["coin"])) < 1
    assert found[True] > found[False] + 0.08


def test_a_reward_model_of_raters_who_like_length_is_over_optimised(fine_tuned: Path, tmp_path: Path) -> None:
    """A word counts as much as 0.3 of the true reward: answers get longer, the score rises, the true reward falls.

    Measured: answers 7 -> 14.7 tokens, score -0.4 -> 1.4, true reward 0.27 -> -0.75, KL 4.7 nats an answer.
    """
    learn(world.population(20, Rater(name="r", length_bias=0.3)), 150, 128, fine_tuned, tmp_path / "model")
    config = RlooConfig(
        rollouts=RolloutConfig(prompts=16, answers=8, max_new_tokens=24),
        watch=WatchConfig(every_steps=10, prompts=132, stop_at=1),
        steps=20,
        kl_coefficient=0.0,
        optimiser=OptimiserConfig(learning_rate=1e-3, schedule="constant", warmup_ratio=0.0),
        micro_batch_size=16,
        checkpoint_every_steps=1000,
    )
    (tmp_path / "rl").mkdir()
    events: list[dict[str, Any]] = []
    stage = StageFolder(tmp_path / "rl", "rl", lambda **row: events.append(row))
    prompts = [Prompt(prompt=text) for text in world.PROMPTS]

    def true(prompt: Prompt, answer: str) -> float:
        return world.true_reward(prompt.prompt, answer)

    base, start = fine_tuned / "sft" / "model", fine_tuned / "start"
    rows = Rows(prompts, prompts * 4, [])
    rl.run(config, Rloo(config), base, start, tmp_path / "model", rows, stage, Judges(true))
    looks = [event for event in events if event["event"] == "watch"]
    first, last = looks[0], looks[-1]
    assert last["score"] > first["score"] + 0.5
    assert last["gold"] < first["gold"] - 0.3
    assert last["mean_answer_tokens"] > 1.4 * first["mean_answer_tokens"]
