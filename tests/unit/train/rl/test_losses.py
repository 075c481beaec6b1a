"""Reinforcement learning: losses by hand, the controller of the KL, and the multiplier of a constraint."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from steersman.lm.shared_prefix import Group, shared_prefix_batch
from steersman.train.rl import grpo
from steersman.train.rl.actor import PolicyBatch, RolloutConfig
from steersman.train.rl.grpo import GrpoConfig
from steersman.train.rl.loop import Algorithm, Constraint, KlController, RlConfig, Totals

from .conftest import CONSTRAINT, RLOO


def some_batch(off_policy: bool = False) -> PolicyBatch:
    """Two prompts with two answers of 1 to 3 tokens each."""
    batch = shared_prefix_batch([Group([5, 6], [[1], [2, 3]]), Group([7], [[4, 5, 6], [7]])], 0)
    generator = torch.Generator().manual_seed(3)
    old = -torch.rand(7, generator=generator)
    return PolicyBatch(
        tree=batch,
        lower=None,
        rewards=torch.tensor([[1.0, 0.0], [0.5, 2.0]]),
        reference_logprobs=old + torch.tensor([0.1, -0.2, 0.3, 0.0, 0.2, -0.1, 0.4]),
        sampler_logprobs=old + 0.5 if off_policy else None,
        old_logprobs=old,
        logprobs=old.clone().requires_grad_(),
    )


def gradient(algorithm: Algorithm, batch: PolicyBatch, totals: Totals, beta: float) -> Tensor:
    """[N] of the policy's loss with respect to the log-probs."""
    (targets,) = algorithm.advantages([batch], beta)
    losses = algorithm.loss(batch, targets, totals, beta)
    assert losses.value is None
    losses.policy.backward()  # type: ignore[no-untyped-call]
    assert batch.logprobs.grad is not None
    return batch.logprobs.grad


def test_rloo_by_hand() -> None:
    batch, beta = some_batch(), 0.5
    k1 = torch.tensor([[-0.1, 0.2 - 0.3], [-(0.0 + 0.2 - 0.1), -0.4]])
    torch.testing.assert_close(batch.k1_per_answer(), k1)
    rewards = batch.rewards - beta * k1
    advantages = [rewards[0, 0] - rewards[0, 1], rewards[0, 1] - rewards[0, 0]]
    advantages += [rewards[1, 0] - rewards[1, 1], rewards[1, 1] - rewards[1, 0]]
    per_token = torch.stack([advantages[i] for i in (0, 1, 1, 2, 2, 2, 3)])
    torch.testing.assert_close(gradient(RLOO, batch, Totals(tokens=7, answers=4), beta), -per_token / 4)


def test_rloo_weighs_tokens_that_another_distribution_sampled() -> None:
    plain, other = (gradient(RLOO, some_batch(off_policy), Totals(7, 4), 0.0) for off_policy in (False, True))
    torch.testing.assert_close(other, plain * math.exp(-0.5))


@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("kl", ["reward", "k2", "k3"])
def test_grpo_by_hand(variant: Any, kl: Any) -> None:
    config = GrpoConfig(variant=variant, kl=kl, rollouts=RolloutConfig(max_new_tokens=8))
    batch, beta = some_batch(off_policy=True), 0.3
    found = gradient(grpo.algorithm(config), batch, Totals(tokens=7, answers=4), beta)
    rewards = batch.rewards - beta * batch.k1_per_answer() if kl == "reward" else batch.rewards
    centred = rewards - rewards.mean(1, keepdim=True)
    advantages = centred if variant == "dr_grpo" else centred / (rewards.std(1, keepdim=True) + 1e-4)
    answer = torch.tensor([0, 1, 1, 2, 2, 2, 3])
    expected = -advantages.flatten()[answer] * math.exp(-0.5)  # at the start the ratio is 1, and so is its derivative
    k1 = batch.old_logprobs - batch.reference_logprobs
    if kl == "k2":
        expected = expected + beta * k1
    if kl == "k3":
        expected = expected + beta * (1 - torch.exp(-k1))
    lengths = torch.tensor([1.0, 2, 2, 3, 3, 3, 1])
    per_token = {"grpo": 1 / (4 * lengths), "dr_grpo": torch.tensor(1 / 32), "dapo": torch.tensor(1 / 7)}[variant]
    torch.testing.assert_close(found, expected * per_token)


def test_the_kl_controller_adapts_beta_to_its_target() -> None:
    controller = KlController(RlConfig(kl_coef=0.1, kl_target_nats=2.0))
    controller.update(2.2)
    assert controller.beta == pytest.approx(0.1 * 1.01)
    controller.update(100.0)
    assert controller.beta == pytest.approx(0.1 * 1.01 * 1.02)
    controller.update(0.0)
    assert controller.beta == pytest.approx(0.1 * 1.01 * 1.02 * 0.98)
    constant = KlController(RlConfig(kl_coef=0.1))
    constant.update(100.0)
    assert constant.beta == 0.1


def test_the_multiplier_follows_the_violations() -> None:
    config = CONSTRAINT.model_copy(update={"window": 4})
    constraint = Constraint(config)
    scores, costs = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(constraint.rewards(scores, costs), torch.tensor([[0.5, 0.5]]))
    constraint.update(costs)
    assert constraint.multiplier == pytest.approx(math.exp(0.5 * (0.5 - 0.1)))
    before = constraint.multiplier
    constraint.update(torch.zeros(2, 2))  # the window holds these four alone
    assert constraint.multiplier == pytest.approx(before * math.exp(-0.5 * 0.1))
    free = Constraint(None)
    free.update(costs)
    assert torch.equal(free.rewards(scores, costs), scores)
