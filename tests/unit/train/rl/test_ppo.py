"""PPO: advantages and losses worked out by hand, and a critic that begins as the reward model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from steersman.lm.shared_prefix import Group, shared_prefix_batch, shared_prefix_hidden
from steersman.train.rl import ppo
from steersman.train.rl.actor import Actor, PolicyBatch
from steersman.train.rl.critic import Critic
from steersman.train.rl.loop import Targets, Totals
from steersman.train.rl.ppo import PpoConfig
from steersman.types import Demonstration, Prompt

from .conftest import SMALL

OLD = torch.tensor([-1.0, -2.0, -0.5, -1.5, -0.7])
REFERENCE = torch.tensor([-1.1, -1.8, -0.5, -2.0, -0.4])
VALUES = torch.tensor([0.3, -0.2, 0.5, 0.1, 0.4])


def some_batch(logprobs: Tensor, values: Tensor = VALUES) -> PolicyBatch:
    """Two prompts, one with answers of 2 and 1 tokens, the other with two of 1 token each."""
    batch = shared_prefix_batch([Group([5, 6], [[1, 2], [3]]), Group([7], [[4], [8]])], 0)
    return PolicyBatch(
        tree=batch,
        lower=None,
        rewards=torch.tensor([[1.0, -1.0], [0.5, 0.0]]),
        reference_logprobs=REFERENCE,
        sampler_logprobs=None,
        old_logprobs=OLD,
        logprobs=logprobs,
        values=values,
    )


def test_advantages_and_returns_by_hand() -> None:
    """The score stands on the last token; before it, only the KL counts."""
    beta, gamma, lam = 0.5, 0.9, 0.8
    found = ppo.estimated(PpoConfig(gamma=gamma, gae_lambda=lam), some_batch(OLD), beta)
    k1 = (OLD - REFERENCE).tolist()
    v = VALUES.tolist()
    last = 1.0 - beta * k1[1] - v[1]
    first = (-beta * k1[0] + gamma * v[1] - v[0]) + gamma * lam * last
    alone = [score - beta * k1[i] - v[i] for i, score in ((2, -1.0), (3, 0.5), (4, 0.0))]
    torch.testing.assert_close(found.advantages, torch.tensor([first, last, *alone]))
    torch.testing.assert_close(found.returns, found.advantages + VALUES)


def some_targets() -> Targets:
    """Those of a step of one micro-batch."""
    (targets,) = ppo.algorithm(PpoConfig()).advantages([some_batch(OLD)], 0.5)
    return targets


def test_advantages_are_whitened_over_the_step() -> None:
    advantages = some_targets().advantages
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-6)
    assert float(advantages.std()) == pytest.approx(1, abs=1e-6)


def test_the_losses_by_hand() -> None:
    """Ratios beyond the clip teach nothing if the advantage would push them further; values are clipped as well."""
    logprobs = (OLD + torch.tensor([0.5, -0.5, 0.05, 0.0, -0.5])).requires_grad_()
    moved = (VALUES + torch.tensor([0.5, -0.1, 0.0, 0.1, -0.5])).requires_grad_()
    targets = some_targets()
    assert targets.returns is not None
    losses = ppo.algorithm(PpoConfig()).loss(some_batch(logprobs, moved), targets, Totals(tokens=10, answers=8), 0.5)
    assert losses.value is not None
    (losses.policy + losses.value).backward()  # type: ignore[no-untyped-call]
    advantages, ratio = targets.advantages, torch.exp(logprobs.detach() - OLD)
    stopped = ((ratio > 1.2) & (advantages > 0)) | ((ratio < 0.8) & (advantages < 0))
    assert 0 < stopped.sum() < 5
    torch.testing.assert_close(logprobs.grad, torch.where(stopped, 0.0, -ratio * advantages / 10))
    near = moved.detach().clamp(VALUES - 0.2, VALUES + 0.2)
    errors = torch.maximum((moved.detach() - targets.returns) ** 2, (near - targets.returns) ** 2) / 2
    surrogate = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    assert losses.policy.item() == pytest.approx(float(surrogate.sum()) / 10, rel=1e-5)
    assert losses.value.item() == pytest.approx(float(0.1 * errors.sum()) / 10, rel=1e-5)
    assert moved.grad is not None
    assert losses.metrics == {"value_loss": pytest.approx(float(errors.sum()), rel=1e-5), "clipfrac": 3}


def test_a_loss_has_no_side_effects() -> None:
    """It is a function of its arguments: no gradient is collected before the trainer's backward passes."""
    logprobs, values = OLD.clone().requires_grad_(), VALUES.clone().requires_grad_()
    algorithm, targets = ppo.algorithm(PpoConfig()), some_targets()
    first, again = (algorithm.loss(some_batch(logprobs, values), targets, Totals(10, 8), 0.5) for _ in range(2))
    assert logprobs.grad is None
    assert values.grad is None
    assert first.metrics == again.metrics
    assert (first.policy.item(), first.value and first.value.item()) == (
        again.policy.item(),
        again.value and again.value.item(),
    )


def test_the_critic_begins_as_the_reward_model(
    tiny_base: Path, trained: Path, demonstrations: list[Demonstration], prompts: list[Prompt]
) -> None:
    own = Actor.load(PpoConfig(**SMALL), tiny_base, trained / "sft", trained / "reward", demonstrations)
    critic = Critic(own, trained / "reward")
    parameters = critic.parameters()
    groups = own.sample_rollouts([prompt.prompt for prompt in prompts[:3]], 0).groups
    batch = shared_prefix_batch(groups, own.pad_id)
    with torch.no_grad(), critic.active():
        found = critic.head(shared_prefix_hidden(own.model, batch, batch.last))[:, 0]
    torch.testing.assert_close(found, own.reward_model.scores(groups), atol=1e-5, rtol=1e-5)
    assert len(parameters) > 2
    assert all(name.startswith("critic.") for name in parameters)
