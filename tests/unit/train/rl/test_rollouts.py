"""Reinforcement learning: rollouts, what their policy and sampler agree on, and what is learnt from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import pretend_vllm
from steersman.errors import RecipeError
from steersman.lm.compact_vocabulary import CompactConfig
from steersman.train import loop
from steersman.train.rl import actor as actor_module
from steersman.train.rl import grpo, ppo
from steersman.train.rl import loop as rl
from steersman.train.rl.actor import Actor, PolicyBatch, Rollouts
from steersman.train.rl.grpo import GrpoConfig
from steersman.train.rl.loop import ConstraintConfig, RlConfig, RlTrainer
from steersman.train.rl.ppo import PpoConfig
from steersman.train.rl.rloo import RlooConfig
from steersman.types import Demonstration, Prompt

from .conftest import COMPACT, RLOO, SMALL, VLLM, actor, long


def forward(own: Actor, rollouts: Rollouts) -> list[PolicyBatch]:
    """All micro-batches, read by the policy."""
    return [own.forward(batch) for batch in own.iter_minibatches(rollouts, rollouts.scores, 0)]


def test_policy_reference_and_sampler_agree_at_the_start(
    tiny_base: Path, trained: Path, demonstrations: list[Demonstration], prompts: list[Prompt]
) -> None:
    """The sampler's log-probs are those of the first forward pass: the ratio of the first update is 1."""
    own = actor(RlooConfig(**SMALL), tiny_base, trained, demonstrations)
    texts = [prompt.prompt for prompt in prompts[:4]]
    rollouts = own.sample_rollouts(texts, 1)
    assert rollouts.scores.shape == rollouts.terminated.shape == (4, 3)
    batches = forward(own, rollouts)
    assert [batch.rewards.shape for batch in batches] == [(2, 3), (2, 3)]
    old = torch.cat([batch.old_logprobs for batch in batches])
    torch.testing.assert_close(old, torch.cat(rollouts.sampler_logprobs), atol=1e-4, rtol=0)
    assert all(torch.equal(batch.old_logprobs, batch.reference_logprobs) for batch in batches)
    again, other = own.sample_rollouts(texts, 1), own.sample_rollouts(texts, 2)
    assert again.groups == rollouts.groups
    assert other.groups != rollouts.groups


def test_the_policy_is_the_one_at_the_temperature(
    tiny_base: Path, trained: Path, demonstrations: list[Demonstration], prompts: list[Prompt]
) -> None:
    """A compact vocabulary with all rows samples from what is read, at another temperature than 1."""
    limits = SMALL["rollouts"].model_copy(update={"temperature": 0.5})
    whole = {"vocabulary": "compact", "compact": CompactConfig(extra_rows=10**6, full_share=1.0)}
    own = actor(RlooConfig(**SMALL | {"rollouts": limits} | whole), tiny_base, trained, demonstrations)
    texts = [prompt.prompt for prompt in prompts[:4]]
    rollouts = own.sample_rollouts(texts, 1)
    old = torch.cat([batch.old_logprobs for batch in forward(own, rollouts)])
    torch.testing.assert_close(old, torch.cat(rollouts.sampler_logprobs), atol=1e-4, rtol=0)
    plain = actor(RlooConfig(**SMALL), tiny_base, trained, demonstrations)
    other = torch.cat([batch.old_logprobs for batch in forward(plain, rollouts)])
    assert float(old.std()) > 1.5 * float(other.std())  # a colder policy is sharper


def test_sampler_log_probs_are_kept_where_the_sampler_is_not_the_policy(
    tiny_base: Path, trained: Path, demonstrations: list[Demonstration], prompts: list[Prompt]
) -> None:
    settings = SMALL | {"rollouts": SMALL["rollouts"].model_copy(update={"int8": True})}
    own = actor(RlooConfig(**settings), tiny_base, trained, demonstrations)
    rollouts = own.sample_rollouts([prompt.prompt for prompt in prompts[:4]], 1)
    batch = forward(own, rollouts)[0]
    assert batch.sampler_logprobs is not None
    assert 0 < float((batch.sampler_logprobs - batch.old_logprobs).abs().max()) < 1
    compact = actor(GrpoConfig(**SMALL, **COMPACT), tiny_base, trained, demonstrations)
    rollouts = compact.sample_rollouts([prompt.prompt for prompt in prompts[:4]], 1)
    batch = forward(compact, rollouts)[0]
    assert torch.equal(batch.old_logprobs, batch.reference_logprobs)  # estimated at the same positions
    assert batch.sampler_logprobs is not None


def test_vllm_samples_from_the_policy_that_is_read(
    tiny_base: Path,
    trained: Path,
    demonstrations: list[Demonstration],
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_vllm.installed(monkeypatch)
    with actor(RlooConfig(**SMALL | VLLM), tiny_base, trained, demonstrations) as own:
        rollouts = own.sample_rollouts([prompt.prompt for prompt in prompts[:4]], 1)
        batches = forward(own, rollouts)
    sampler = torch.cat([batch.sampler_logprobs for batch in batches if batch.sampler_logprobs is not None])
    torch.testing.assert_close(sampler, torch.cat([batch.old_logprobs for batch in batches]), atol=1e-5, rtol=0)
    for change in ({"vocabulary": "compact"}, {"rollouts": VLLM["rollouts"].model_copy(update={"int8": True})}):
        with pytest.raises(ValidationError, match="samples from the full vocabulary"):
            RlooConfig(**SMALL | VLLM | change)


def gradients_of_steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """A list that every optimiser step, which is not made, adds its gradients to."""
    found: list[dict[str, Tensor]] = []

    def keep(_: Any, parameters: dict[str, Tensor], *__: Any) -> float:
        found.append({name: p.grad.clone() for name, p in parameters.items() if p.grad is not None})
        return 0.0

    monkeypatch.setattr(loop, "optimiser_step", keep)
    return found


@pytest.mark.parametrize("kind", ["full", "compact", "ppo"])
@pytest.mark.slow
def test_micro_batches_change_nothing(
    kind: str,
    tiny_base: Path,
    trained: Path,
    demonstrations: list[Demonstration],
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = gradients_of_steps(monkeypatch)
    for size in (4, 3, 1):
        settings = SMALL | {"micro_batch_size": size, "ptx_coef": 0.5}
        config: RlConfig = GrpoConfig(**settings, **(COMPACT if kind == "compact" else {}), variant="dapo", kl="k2")
        algorithm = grpo.algorithm(config)  # type: ignore[arg-type]
        if kind == "ppo":
            config = PpoConfig(**settings, updates=1)
            algorithm = ppo.algorithm(config)
        own = actor(config, tiny_base, trained, demonstrations)
        RlTrainer(config, algorithm, own, trained / "reward").step(0, prompts[:4], demonstrations[:5])
        assert len(found[-1]) == len(rl.trainable(own.policy)) * (2 if kind == "ppo" else 1) + 2 * (kind == "ppo")
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value, atol=2e-6, rtol=1e-4)


def test_what_lies_below_the_adapters_is_read_once_for_all(
    tiny_base: Path, trained: Path, demonstrations: list[Demonstration], prompts: list[Prompt]
) -> None:
    """Scores of rollouts, and of some of them, are those of readings from the first layer."""
    own = actor(RlooConfig(**SMALL), tiny_base, trained, demonstrations)
    rollouts = own.sample_rollouts([row.prompt for row in prompts[:5]], 0)
    some = rollouts.of([4, 1])
    assert rollouts.below is not None
    assert some.below is not None
    torch.testing.assert_close(rollouts.scores.flatten(), own.reward_model.scores(rollouts.groups))
    torch.testing.assert_close(own.reward_model.scores(some.groups, some.below), some.scores.flatten())
    assert float(rollouts.scores.std()) > 1e-4
    assert some.answers == [rollouts.answers[4], rollouts.answers[1]]
    assert some.tokens == sum(len(ids) for group in some.groups for ids in group.completions)


def test_a_cost_model_says_what_violates(
    tiny_base: Path, trained: Path, demonstrations: list[Demonstration], prompts: list[Prompt]
) -> None:
    """Half the answers are scored below their median; a rule's violations are counted beside them, and once."""
    asked = prompts[:4]
    own = Actor.load(
        RlooConfig(**SMALL),
        tiny_base,
        trained / "sft",
        trained / "reward",
        demonstrations,
        cost_model=trained / "reward",
    )
    rollouts = own.sample_rollouts([row.prompt for row in asked], 0)
    below = float(rollouts.scores.median()) + 1e-6
    config = RlooConfig(**SMALL, constraint=ConstraintConfig(costs_below=below, multiplier=3.0))
    costs, rewards = RlTrainer(config, RLOO, own, trained / "reward").score(asked, rollouts)
    expected = (rollouts.scores < below).float()
    assert expected.mean() == pytest.approx(0.5)
    assert torch.equal(costs, expected)
    penalties = (~rollouts.terminated).float()
    torch.testing.assert_close(rewards, (rollouts.scores - 3 * expected) / 4 - penalties)
    both, _ = RlTrainer(config, RLOO, own, trained / "reward", cost=long).score(asked, rollouts)
    ruled = torch.tensor(
        [[long(row, text) for text in texts] for row, texts in zip(asked, rollouts.answers, strict=True)]
    )
    assert torch.equal(both, torch.maximum(expected, ruled))
    assert not torch.equal(both, expected)


def test_a_constraint_without_violations_is_refused(
    tiny_base: Path, trained: Path, demonstrations: list[Demonstration]
) -> None:
    with pytest.raises(ValidationError, match="a constraint needs behaviours"):
        ConstraintConfig()
    config = RlooConfig(**SMALL, constraint=ConstraintConfig(costs_below=-1.0))
    with pytest.raises(RecipeError, match="need each other"):
        RlTrainer(config, RLOO, actor(config, tiny_base, trained, demonstrations), trained / "reward")


def test_only_the_top_prompts_by_reward_std_are_learnt_from(
    tiny_base: Path,
    trained: Path,
    demonstrations: list[Demonstration],
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step that samples four prompts and learns from two is a step on these two."""
    spreads = torch.tensor([[0.0, 0.1, 0.2], [3.0, 0.0, 1.0], [5.0, 5.0, 5.0], [-1.0, 1.0, -2.0]])
    assert rl.top_prompts_by_reward_std(spreads, 2) == [1, 3]
    assert rl.top_prompts_by_reward_std(spreads, 3) == [0, 1, 3]
    assert rl.top_prompts_by_reward_std(spreads, None) == rl.top_prompts_by_reward_std(spreads, 4) == [0, 1, 2, 3]
    config = RlooConfig(**SMALL, top_prompts_by_reward_std=2)
    rollouts = actor(config, tiny_base, trained, demonstrations).sample_rollouts([row.prompt for row in prompts[:4]], 0)
    rollouts = rollouts._replace(scores=spreads, below=None)  # that of another actor's model
    measured, gradients = [], gradients_of_steps(monkeypatch)
    for given in (rollouts, rollouts.of([1, 3])):
        monkeypatch.setattr(Actor, "sample_rollouts", lambda *_, given=given: given)
        own = actor(config, tiny_base, trained, demonstrations)
        measured.append(RlTrainer(config, RLOO, own, trained / "reward").step(0, prompts[: len(given.groups)], []))
    assert measured[0]["score"] == pytest.approx(float(spreads.mean()))
    assert measured[0]["frac_reward_zero_std"] == 0.25
    assert max(float(gradient.abs().max()) for gradient in gradients[1].values()) > 1e-3
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, atol=1e-7, rtol=1e-5)


@pytest.mark.slow
def test_the_exact_kl_is_what_samples_estimate(
    tiny_base: Path,
    trained: Path,
    demonstrations: list[Demonstration],
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = actor(RlooConfig(**SMALL), tiny_base, trained, demonstrations)
    groups = own.sample_rollouts([prompt.prompt for prompt in prompts[:4]], 1).groups
    assert own.divergence(groups)[0] == pytest.approx(0, abs=1e-5)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in rl.trainable(own.policy).values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    rollouts = own.sample_rollouts([prompt.prompt for prompt in prompts], 2)
    many = [own.sample_rollouts([prompt.prompt for prompt in prompts], 3 + i) for i in range(20)]
    sampled = torch.cat([batch.k1_per_answer().flatten() for r in many for batch in forward(own, r)])
    tokens = [sum(len(ids) for group in r.groups for ids in group.completions) for r in many]
    exact = sum(own.divergence(r.groups, r.below)[0] * n for r, n in zip(many, tokens, strict=True)) / len(sampled)
    monkeypatch.setattr(actor_module, "KL_POSITIONS", 30)  # of about a hundred
    some = sum(own.divergence(r.groups)[0] * n for r, n in zip(many, tokens, strict=True)) / len(sampled)
    assert some != exact
    assert some == pytest.approx(exact, rel=0.1)
    assert exact > 0.05
    assert float(sampled.mean()) == pytest.approx(exact, abs=4 * float(sampled.std()) / len(sampled) ** 0.5)
    assert own.divergence(rollouts.groups)[0] > 0
