"""What models with several outputs share: pairs, scaled weights, and gradients that no split changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steersman.lm.shared_prefix import Group
from steersman.train import loop
from steersman.train.group_reward import GroupRewardConfig, objective
from steersman.train.reward_heads import HeadsTrainer, Scale, hidden_states, open_trunk, pairs_of
from steersman.train.reward_model import Ranked
from steersman.types import Comparison

TWO = Group([1], [[2], [3]])


def test_pairs_of_rows_by_hand() -> None:
    """Three answers with a tie make two pairs of half the weight; two equally likely ones make one pair."""
    three = Ranked(Group([1], [[2], [3], [4]]), (2, 1, 2), [], weight=3.0)
    even = Ranked(TWO, (1, 1), [], certainty=0.5)
    pairs = pairs_of([three, even])
    assert pairs.better.tolist() == [1, 1, 3]
    assert pairs.worse.tolist() == [0, 2, 4]
    assert pairs.row.tolist() == [0, 0, 1]
    assert pairs.weight.tolist() == [1.5, 1.5, 1.0]
    assert pairs.label.tolist() == [1.0, 1.0, 0.5]


def test_scaled_weights_and_the_head_on_hidden_units_agree() -> None:
    hidden = 5 + 3 * torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    hidden[:, 3] = 2.0  # never moves
    scale, weights = Scale.of(hidden), torch.randn(2, 8)
    head = scale.head(weights)
    torch.testing.assert_close(head(hidden), scale.scaled(hidden) @ weights.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scale.weights(head.weight), weights, atol=1e-5, rtol=1e-4)


def test_micro_batches_change_nothing(
    tiny_base: Path, start: Path, divided: list[Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients of a step are the same however it is split, and those of the loss over all rows at once."""
    found = []
    for size in (12, 5):
        config = GroupRewardConfig(micro_batch_size=size)
        trunk = open_trunk(config, tiny_base, start, divided[:12], "reward")
        answers = [row.group for row in trunk.rows]
        scale, goal = Scale.of(hidden_states(trunk, answers, 4)), objective(["few", "many"], 1.0, 4.0)
        head = scale.head(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)))
        trainer = HeadsTrainer.prepare(config, trunk, head, scale, goal)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "optimiser_step", lambda *_: 0.0)
            measured = trainer.step(0, trunk.rows, 0.0)
        gradients = {name: p.grad.clone() for name, p in trainer.parameters.items() if p.grad is not None}
        found.append((measured["loss"], gradients))
        outputs = head(hidden_states(trunk, answers, 4))
        plain = (goal.nll(outputs, pairs_of(trunk.rows), trunk.rows) + goal.penalty(scale.weights(head.weight))) / 12
        assert measured["loss"] == pytest.approx(plain.item(), rel=1e-5)
        torch.testing.assert_close(
            gradients["head.weight"], torch.autograd.grad(plain, head.weight)[0], atol=1e-5, rtol=1e-3
        )
    assert set(found[0][1]) > {"head.weight"}
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=2e-6, rtol=1e-3)
