"""Reinforcement learning: losses by hand, rollouts, invariance, evaluation, resuming, and what stops it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import pretend_vllm
from steersman.errors import DataError, RecipeError, RunError, TrainingFailed
from steersman.lm import pretrained
from steersman.lm.adapters import LoraConfig, load_adapter
from steersman.lm.compact_vocabulary import CompactConfig
from steersman.lm.reward_model import RewardModel
from steersman.lm.shared_prefix import Group, shared_prefix_batch
from steersman.store import StageFolder, read_jsonl, write_jsonl
from steersman.train import loop, reward_model, sft
from steersman.train.loop import OptimiserConfig
from steersman.train.reward_model import RewardConfig
from steersman.train.rl import actor as actor_module
from steersman.train.rl import grpo, ppo, rloo
from steersman.train.rl import loop as rl
from steersman.train.rl.actor import Actor, ActorConfig, PolicyBatch, RolloutConfig, Rollouts, Scorer
from steersman.train.rl.evaluation import EVAL_ANSWERS, EvaluationConfig, People
from steersman.train.rl.grpo import GrpoConfig
from steersman.train.rl.loop import (
    Algorithm,
    CollapseDetector,
    Constraint,
    ConstraintConfig,
    KlController,
    Monitors,
    RlConfig,
    RlData,
    RlTrainer,
    Totals,
)
from steersman.train.rl.ppo import PpoConfig
from steersman.train.rl.rloo import RlooConfig
from steersman.train.sft import SftConfig
from steersman.types import Comparison, Demonstration, Prompt

from ..conftest import Stopped, recorder

SMALL: dict[str, Any] = {
    "rollouts": RolloutConfig(prompts=4, answers=3, max_new_tokens=8),
    "evaluation": EvaluationConfig(every_steps=2, prompts=6),
    "steps": 6,
    "optimiser": OptimiserConfig(learning_rate=3e-3, schedule="constant", warmup_ratio=0.0),
    "micro_batch_size": 2,
    "checkpoint_every_steps": 2,
}
RLOO = rloo.algorithm(RlooConfig())
CONSTRAINT = ConstraintConfig(behaviours=("complies",), at_most=0.1, learning_rate=0.5)
COMPACT = {"vocabulary": "compact", "compact": CompactConfig(extra_rows=20, full_share=0.3)}


@pytest.fixture(scope="module")
def prompts(demonstrations: list[Demonstration]) -> list[Prompt]:
    return [Prompt(prompt=row.prompt) for row in demonstrations[:20]]


@pytest.fixture(scope="module")
def trained(tiny_base: Path, demonstrations: list[Demonstration], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fine-tuned policy, ``sft/``, and a reward model, ``reward/``, both on the upper layer."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("sft", "reward"):
        (folder / name).mkdir()
    config = SftConfig(
        lora=LoraConfig(rank=4, trainable_layers=1), epochs=1, optimiser=OptimiserConfig(learning_rate=3e-3)
    )
    sft.run(config, tiny_base, "tiny", demonstrations, [], StageFolder(folder / "sft", "sft"))
    rows = [Comparison(prompt=d.prompt, options=(d.completion, "No."), ranking=(1, 2)) for d in demonstrations[:16]]
    out = StageFolder(folder / "reward", "reward_model")
    reward_model.run(RewardConfig(batch_size=8), tiny_base, folder / "sft", rows, demonstrations, out)
    return folder


def actor(config: ActorConfig, base: Path, trained: Path, demonstrations: Sequence[Demonstration]) -> Actor:
    return Actor.load(config, base, trained / "sft", trained / "reward", demonstrations)


@pytest.mark.parametrize(
    "config", [RlooConfig, GrpoConfig, PpoConfig, RolloutConfig, EvaluationConfig, ConstraintConfig]
)
def test_every_setting_is_described(config: Any) -> None:
    assert [name for name, field in config.model_fields.items() if not field.description] == []


# ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────
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


# ── rollouts ─────────────────────────────────────────────────────────────────────────────────────────────────────────
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


VLLM = {"rollouts": SMALL["rollouts"].model_copy(update={"engine": "vllm", "temperature": 0.5})}


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


def test_vllm_gets_every_policy_and_ends_with_the_training(
    tiny_base: Path, trained: Path, prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_vllm.installed(monkeypatch)
    run(RlooConfig(**SMALL | VLLM), tiny_base, trained, prompts, tmp_path / "whole")
    with pytest.raises(Stopped):
        run(RlooConfig(**SMALL | VLLM), tiny_base, trained, prompts, tmp_path / "stopped", stop_before=1)
    whole, stopped = pretend_vllm.LLM.started
    assert whole.ended
    assert stopped.ended
    evaluations = SMALL["steps"] // SMALL["evaluation"].every_steps + 1
    assert len(whole.adapters) == SMALL["steps"] + evaluations


def gradients_of_steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """A list that every optimiser step, which is not made, adds its gradients to."""
    found: list[dict[str, Tensor]] = []

    def keep(_: Any, parameters: dict[str, Tensor], *__: Any) -> float:
        found.append({name: p.grad.clone() for name, p in parameters.items() if p.grad is not None})
        return 0.0

    monkeypatch.setattr(loop, "optimiser_step", keep)
    return found


@pytest.mark.parametrize("kind", ["full", "compact", "ppo"])
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


# ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def run(
    config: RlConfig,
    base: Path,
    trained: Path,
    prompts: Sequence[Prompt],
    folder: Path,
    gold: Scorer | People | None = None,
    stop_before: int | None = None,
    algorithm: Algorithm | None = None,
) -> list[dict[str, Any]]:
    events, emit = recorder(stop_before)
    folder.mkdir(exist_ok=True)
    out = StageFolder(folder, "rl", emit)
    data = RlData(prompts[:14], prompts[14:], [Demonstration(prompt=p.prompt, completion="some text") for p in prompts])
    rl.run(config, algorithm or RLOO, base, trained / "sft", trained / "reward", data, out, Monitors(gold, cost=long))
    return events


def timeless(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if not k.endswith("seconds")} for event in events]


def long(prompt: Prompt, answer: str) -> float:
    return float(len(answer) > 12)


@pytest.mark.parametrize("kind", ["full", "compact", "ppo"])
def test_resuming_is_exact(kind: str, tiny_base: Path, trained: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    """With every controller: beta, the multiplier, the evaluations; for PPO the critic and its moments."""
    steered: dict[str, Any] = {"kl_target_nats": 0.5, "constraint": CONSTRAINT, "ptx_coef": 0.1}
    config: RlConfig = RlooConfig(**SMALL, **steered, **(COMPACT if kind == "compact" else {}))
    if kind == "ppo":
        config = PpoConfig(**SMALL, **steered, updates=2)

    def go(name: str, stop_before: int | None = None) -> list[dict[str, Any]]:
        algorithm = ppo.algorithm(config) if isinstance(config, PpoConfig) else None
        return run(config, tiny_base, trained, prompts, tmp_path / name, long, stop_before, algorithm)

    whole = go("whole")
    with pytest.raises(Stopped):
        go("killed", stop_before=5)
    again = go("killed")
    assert whole[1]["gold"] > 0
    assert [e["multiplier"] for e in whole if e["event"] == "train"][-1] != CONSTRAINT.multiplier
    assert again[0]["resumed_at_step"] == 4
    later = [event for event in whole if event["event"] in ("train", "evaluation", "selected") and event["step"] >= 4]
    selected = [event for event in whole if event["event"] == "selected"]
    assert timeless(again[1:]) == timeless([e for e in later if e["event"] != "selected"] + selected)
    files = [{p.name: p.read_bytes() for p in (tmp_path / n / "adapter").iterdir()} for n in ("whole", "killed")]
    assert files[0] == files[1]
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"adapter", EVAL_ANSWERS}
    assert (tmp_path / "whole" / EVAL_ANSWERS).read_bytes() == (tmp_path / "killed" / EVAL_ANSWERS).read_bytes()


def test_the_checkpoint_with_the_best_gold_is_selected(
    tiny_base: Path, trained: Path, prompts: list[Prompt], tmp_path: Path
) -> None:
    """Gold that falls from the second evaluation on ends the training, and the policy of that evaluation is saved."""
    noise = [0.5, -0.5, 0.0, 0.5, -0.5]  # another one at every evaluation: 2.9 is not surely less than 3.0
    labels = iter([mean + n for i, mean in enumerate((1.0, 3.0, 2.9, -5.0)) for n in noise[i % 3 :][:3] * 2])

    def gold(prompt: Prompt, answer: str) -> float:
        return next(labels)

    config = RlooConfig(**SMALL | {"steps": 20, "evaluation": EvaluationConfig(every_steps=2, prompts=6)})
    events = run(config, tiny_base, trained, prompts, tmp_path / "out", gold)
    assert [e["gold"] for e in events if e["event"] == "evaluation"] == pytest.approx([1.0, 3.0, 2.9, -5.0])
    assert (events[-1]["event"], events[-1]["step"]) == ("selected", 2)
    assert events[-1]["gold_worse"] > 0.9
    assert [e["step"] for e in events if e["event"] == "train"] == list(range(6))
    short = config.model_copy(update={"steps": 2})
    run(short, tiny_base, trained, prompts, tmp_path / "short")
    weights = [
        load_adapter(pretrained.load_model(tiny_base), tiny_base, tmp_path / name / "adapter")
        for name in ("out", "short")
    ]
    ours, theirs = ([p for _, p in sorted(rl.trainable(w).items())] for w in weights)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_people_label_what_the_run_waits_for(
    tiny_base: Path, trained: Path, prompts: list[Prompt], tmp_path: Path
) -> None:
    """Stopped at every evaluation and resumed, it is to the bit the training that a function labels."""
    evaluation = EvaluationConfig(every_steps=2, prompts=6, labels=4, gold="people")
    config = RlooConfig(**SMALL | {"evaluation": evaluation})
    whole = run(config, tiny_base, trained, prompts, tmp_path / "function", long)
    people, stops = People(tmp_path / "labels.jsonl"), 0
    while True:
        try:
            again = run(config, tiny_base, trained, prompts, tmp_path / "people", people)
            break
        except RunError:
            rows = read_jsonl(people.file)
            answered = [{**row, "label": long(prompts[0], row["answer"])} for row in rows]
            assert stops == 0 or len(rows) > stops
            stops = len(rows)
            write_jsonl(people.file, answered)
    assert 4 < stops <= 4 * sum(event["event"] == "evaluation" for event in whole)
    assert timeless(again)[-2:] == timeless(whole)[-2:]
    files = [{p.name: p.read_bytes() for p in (tmp_path / n / "adapter").iterdir()} for n in ("function", "people")]
    assert files[0] == files[1]
    rows = [row for row in read_jsonl(tmp_path / "people" / EVAL_ANSWERS) if row["step"] == 0]
    assert sum(row["gold"] is not None for row in rows) == 4
    assert len(rows) == 6


def test_collapse_is_five_consecutive_steps_without_a_difference() -> None:
    detector = CollapseDetector()
    for share in (1.0, 1.0, 1.0, 1.0, 0.75, 1.0, 1.0, 1.0, 1.0):
        detector.update(share, 7)
    with pytest.raises(TrainingFailed, match=r"for 5 consecutive steps, .* \(step 8\)"):
        detector.update(1.0, 8)


def test_answers_that_never_differ_are_a_collapse(
    tiny_base: Path, trained: Path, prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        RewardModel,
        "scores",
        lambda self, groups, below: torch.zeros(sum(len(g.completions) for g in groups)),
    )
    config = RlooConfig(**SMALL | {"steps": 20, "rollouts": RolloutConfig(prompts=2, answers=2, max_new_tokens=1)})
    with pytest.raises(TrainingFailed, match="all answers to a prompt scored the same"):
        run(config, tiny_base, trained, prompts, tmp_path / "out")


def test_without_prompts_nothing_is_begun(tiny_base: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompts to answer"):
        run(RlooConfig(**SMALL), tiny_base, trained, [], tmp_path / "out")
