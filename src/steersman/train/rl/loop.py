"""What PPO, RLOO and GRPO share: the loop, the KL controller, the constraint, resuming.

A step (`RlTrainer.step`):

    1) sample rollouts     G answers to each of P prompts, scored by the reward model     actor.py
    2) score               rewards: scores, less the constraint's cost and penalties
    3) advantages          what each answer, or token, is better than                     ppo.py, rloo.py, grpo.py
    4) update              ``updates`` optimiser steps on the algorithm's loss
    5) evaluate            held-out prompts; the gold labels select a checkpoint          evaluation.py

An algorithm is a file with a `RlConfig` of its own and an `Algorithm`: two plain functions. This file knows none of
them. Constrained: with ``constraint``, a cost (1 for an answer that violates a rule) is taken off the reward, weighted
by a Lagrange multiplier (safe-RLHF, Dai et al. 2023, arXiv:2310.12773):

    reward = (score - multiplier * cost) / (1 + multiplier)
    multiplier <- multiplier * exp(rate * (mean cost of the last answers - at_most))

Their step in log multiplier is once more multiplied by the multiplier, which makes it grow without bounds in a few
steps where a violation cannot be unlearnt at once.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from steersman.errors import DataError, RecipeError, TrainingFailed
from steersman.lm import pretrained
from steersman.lm.adapters import save_policy, trainable
from steersman.lm.limits import shortened
from steersman.store import StageFolder
from steersman.terminal import Progress, console
from steersman.train import distributed, loop
from steersman.train.rl.actor import POLICY, Actor, ActorConfig, PolicyBatch, RolloutBatch, Rollouts, Scorer
from steersman.train.rl.critic import Critic
from steersman.train.rl.evaluation import EvaluationConfig, Evaluator, People
from steersman.train.rl.reward_function import reward_function
from steersman.types import Behaviour, Demonstration, Prompt, Record, transport

VERSION = 3
COLLAPSED = 5  # consecutive steps with equal rewards in every group


class ConstraintConfig(Record):
    """A limit on the share of answers that violate a rule: lack a behaviour, or cost too much."""

    behaviours: tuple[Behaviour, ...] = Field(default=(), description="Violated if expected and not shown.")
    costs_below: float | None = Field(
        default=None, description="An answer violates if the cost model scores it lower; demonstrations average 0."
    )
    at_most: float = Field(default=0.02, ge=0, le=1, description="Target: the largest share of violations.")
    multiplier: float = Field(default=1.0, gt=0, description="Initial Lagrange multiplier, the price of a violation.")
    learning_rate: float = Field(default=0.1, gt=0, description="Step size of the multiplier's logarithm.")
    window: int = Field(default=128, ge=1, description="Recent answers whose mean cost moves the multiplier.")

    @model_validator(mode="after")
    def _names_a_violation(self) -> ConstraintConfig:
        if not self.behaviours and self.costs_below is None:
            raise ValueError("a constraint needs behaviours: [...], or costs_below for a cost_model")
        return self


class RlConfig(ActorConfig):
    """What all algorithms have in common.

    ``top_prompts_by_reward_std`` is a cheap kin of DAPO's dynamic sampling (Yu et al. 2025, arXiv:2503.14476), which
    drops groups with equal rewards: learning from a group costs more than sampling it. ``ptx_coef`` is PPO-ptx
    (InstructGPT), with demonstrations for pre-training text.
    """

    reward: str | None = Field(
        default=None, description="A Python function, file.py:name, added to the reward model's score, or alone."
    )
    reward_weight: float = Field(default=1.0, gt=0, description="Factor of that function's numbers.")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="Evaluation on held-out prompts.")
    steps: int = Field(default=40, ge=1, description="Batches of rollouts.")
    top_prompts_by_reward_std: int | None = Field(
        default=None, ge=1, description="Learn from this many of a step's prompts, by reward deviation; null: all."
    )
    updates: int = Field(default=1, ge=1, description="Optimiser steps per batch of rollouts.")
    kl_coef: float = Field(default=0.05, ge=0, description="beta, the initial weight of the KL penalty.")
    kl_target_nats: float | None = Field(
        default=None, gt=0, description="Adapt beta until answers have this KL to the reference; null: constant beta."
    )
    constraint: ConstraintConfig | None = Field(default=None, description="Limit on violations; null: none.")
    ptx_coef: float = Field(default=0.0, ge=0, description="Weight of the demonstrations' NLL, added to every loss.")
    optimiser: loop.OptimiserConfig = Field(
        default=loop.OptimiserConfig(learning_rate=1e-5, schedule="constant"), description="AdamW and its schedule."
    )
    checkpoint_every_steps: int = transport(5, ge=1, description="Steps between checkpoints for resuming.")


# ── an algorithm ─────────────────────────────────────────────────────────────────────────────────────────────────────
class Totals(NamedTuple):
    """Of the whole step, however it is split into micro-batches and processes."""

    tokens: int
    answers: int


class Targets(NamedTuple):
    """Of a micro-batch: ``advantages``, [P * G] of answers or [N] of tokens; with a critic the rest, [N] each."""

    advantages: Tensor
    returns: Tensor | None = None
    old_values: Tensor | None = None


class Losses(NamedTuple):
    """A micro-batch's shares of the step's losses, scalars; ``metrics`` are sums over tokens."""

    policy: Tensor
    value: Tensor | None = None
    metrics: Mapping[str, float] = {}


class Algorithm(NamedTuple):
    """``advantages``: of some micro-batches, given beta. ``loss``: of one, given its targets, the totals and beta.

    With ``critic``, advantages are taken once for all micro-batches of a step, before the first update; without, of
    each one in every update. ``metrics`` are the names in `Losses`.
    """

    advantages: Callable[[Sequence[PolicyBatch], float], list[Targets]]
    loss: Callable[[PolicyBatch, Targets, Totals, float], Losses]
    metrics: tuple[str, ...] = ()
    critic: bool = False


# ── controllers ──────────────────────────────────────────────────────────────────────────────────────────────────────
class KlController:
    """Beta, constant or adapted to a target KL per answer: Ziegler et al. 2019, arXiv:1909.08593.

    beta <- beta * (1 + 0.1 * clip(KL / target - 1, -0.2, 0.2))
    """

    def __init__(self, config: RlConfig) -> None:
        self.beta, self.target = config.kl_coef, config.kl_target_nats

    def update(self, kl_nats: float) -> None:
        """After a step, with the mean KL of its answers."""
        if self.target is not None:
            self.beta *= 1 + 0.1 * min(0.2, max(-0.2, kl_nats / self.target - 1))


class Constraint:
    """The Lagrange multiplier, 0 without a constraint."""

    def __init__(self, config: ConstraintConfig | None) -> None:
        self.config = config
        self.multiplier = config.multiplier if config else 0.0
        self.costs: deque[float] = deque(maxlen=config.window if config else 1)

    def rewards(self, scores: Tensor, costs: Tensor) -> Tensor:
        """[P, G] of scores and costs."""
        return (scores - self.multiplier * costs) / (1 + self.multiplier)

    def update(self, costs: Tensor) -> None:
        """After a step, with the costs of its answers."""
        if self.config is not None:
            self.costs.extend(costs.flatten().tolist())
            self.multiplier *= math.exp(self.config.learning_rate * (fmean(self.costs) - self.config.at_most))


class CollapseDetector:
    """Counts consecutive steps in which every group had equal rewards."""

    def __init__(self) -> None:
        self.steps = 0

    def update(self, frac_reward_zero_std: float, step: int) -> None:
        """After a step, with the share of groups whose rewards are all equal."""
        self.steps = self.steps + 1 if frac_reward_zero_std == 1.0 else 0
        if self.steps == COLLAPSED:
            raise TrainingFailed(
                f"for {COLLAPSED} consecutive steps, all answers to a prompt scored the same (step {step})",
                expected="answers that differ, so that some can be better",
                do="the last checkpoint is kept; raise kl_coef, lower the learning rate, or look at the "
                "answers: a policy that always says the same has collapsed",
            )


# ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class RlData(NamedTuple):
    """``prompts`` to learn from, ``held_out`` to evaluate on; ``demonstrations`` are those of fine-tuning."""

    prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    demonstrations: Sequence[Demonstration]


class Monitors(NamedTuple):
    """What scores answers beside the reward model.

    ``gold`` labels answers to held-out prompts and selects the checkpoint. ``cost`` is 1 for an answer that violates
    the constraint; ``cost_model`` is the reward model of ``costs_below``. ``metrics`` and ``holdout_reward_model``,
    trained on other data, are reported and optimise nothing.
    """

    gold: Scorer | People | None = None
    cost: Scorer | None = None
    metrics: Mapping[str, Scorer] = {}
    holdout_reward_model: Path | None = None
    cost_model: Path | None = None


def run(
    config: RlConfig,
    algorithm: Algorithm,
    base: Path,
    start: Path,
    reward: Path | None,
    data: RlData,
    out: StageFolder,
    monitors: Monitors,
) -> None:
    """Improve the policy in ``start`` by the score of the model in ``reward``; leaves ``adapter/`` in ``out``.

    The function of `RlConfig.reward` is added to the score, or takes its place where there is no model. Resumes from
    its checkpoint, to the bit. Under torchrun every process calls this with the same arguments.

    Raises:
        DataError: no prompts. TrainingFailed: a loss or gradient that is not finite, or a policy that collapsed.
        ModelError: policy or reward model belong to another base model.
    """
    if not data.prompts or not data.held_out:
        raise DataError("no prompts to answer", do="add rows to prompts.jsonl")
    torch.manual_seed(config.seed)
    models = monitors.holdout_reward_model, monitors.cost_model
    function = reward_function(config.reward) if config.reward else None
    with Actor.load(config, base, start, reward, data.demonstrations, *models) as loaded:
        actor = replace(loaded, reward_function=function, reward_weight=config.reward_weight)
        _run(RlTrainer(config, algorithm, actor, reward, monitors.cost), data, out, monitors)


def _run(trainer: RlTrainer, data: RlData, out: StageFolder, monitors: Monitors) -> None:
    config, actor = trainer.config, trainer.actor
    evaluator = Evaluator(actor, config.evaluation, data.held_out, monitors.gold, monitors.metrics, out.path)
    state = loop.load_checkpoint(out.path, trainer.parameters, trainer.optimiser)
    first = state["step"] if state else 0
    if state:
        trainer.resume(state)
    evaluator.resume(state["evaluations"] if state else [], first)
    distributed.barrier()
    counts = {"prompts": len(data.prompts), "held_out_prompts": len(evaluator.prompts), "steps": config.steps}
    _, cut = actor.starts([row.prompt for row in (*data.prompts, *evaluator.prompts)])
    if cut and distributed.rank() == 0:
        console.print(shortened(cut, len(data.prompts) + len(evaluator.prompts)), markup=False, soft_wrap=True)
    out.emit(event="setup", **counts, truncated_prompts=cut, resumed_at_step=first)

    def checkpoint(step: int) -> None:
        if distributed.rank() == 0:
            kept = trainer.state() | {"evaluations": evaluator.evaluations}
            loop.save_checkpoint(out.path, step, trainer.parameters, trainer.optimiser, kept)

    turns, ptx_turns = turns_of(config, data.prompts), turns_of(config, data.demonstrations, 1)
    with Progress("rl", config.steps, done=first) as progress:
        for step in range(first, config.steps + 1):
            # 5) Evaluate: before the first step, every ``every_steps``, and after the last one; stop if it got worse.
            if step % config.evaluation.every_steps == 0 or step == config.steps:
                if isinstance(monitors.gold, People):  # the run may stop here, to go on when people have labelled
                    checkpoint(step)
                out.emit(event="evaluation", step=step, **evaluator.evaluate(step))
            if step == config.steps or evaluator.should_stop():
                break
            demonstrations = [data.demonstrations[i] for i in ptx_turns[step]]
            measured = trainer.step(step, [data.prompts[i] for i in turns[step]], demonstrations)
            out.emit(event="train", step=step, **measured)
            progress.advance(loss=measured["loss"])
            if (step + 1) % config.checkpoint_every_steps == 0:
                checkpoint(step + 1)
    if distributed.rank() == 0:
        out.emit(event="selected", **(evaluator.restore_selected() or {"step": step}))
        save_policy(actor.policy, out.path, actor.chat.tokenizer, pretrained.digest(actor.base), POLICY)
        loop.drop_checkpoint(out.path)
        evaluator.remove_snapshots()


def turns_of(config: RlConfig, rows: Sequence[Prompt | Demonstration], stream: int = 0) -> list[list[int]]:
    """The indices of the rows of every step, as many as it has prompts, each step mixed like all rows.

    Steps that by chance are mostly harmful requests, or mostly harmless ones, move the line between the two about.
    """
    passes = config.steps * config.rollouts.prompts / max(1, len(rows))
    kinds = [(row.expect if isinstance(row, Prompt) else (), row.tags) for row in rows]
    return loop.turns(len(rows), passes, config.steps, config.seed + stream, kinds)


def top_prompts_by_reward_std(rewards: Tensor, count: int | None) -> list[int]:
    """The ``count`` rows of [P, G] rewards with the largest standard deviation, None for all; in their own order."""
    if count is None or count >= len(rewards):
        return list(range(len(rewards)))
    return sorted(rewards.std(1).argsort(descending=True, stable=True)[:count].tolist())


class RlTrainer:
    """Models, controllers and optimiser of a training."""

    def __init__(
        self, config: RlConfig, algorithm: Algorithm, actor: Actor, reward: Path | None, cost: Scorer | None = None
    ) -> None:
        self.config, self.algorithm, self.actor, self.cost = config, algorithm, actor, cost
        costs_below = config.constraint.costs_below if config.constraint else None
        if (costs_below is None) != (actor.cost_model is None):
            raise RecipeError(
                "a cost model and the constraint's costs_below need each other", do="give both, or neither"
            )
        self.costs_below = 0.0 if costs_below is None else costs_below
        self.kl_controller, self.collapse_detector = KlController(config), CollapseDetector()
        self.constraint = Constraint(config.constraint)
        own = trainable(actor.policy)
        self.critic = Critic(actor, reward) if algorithm.critic and reward else None
        critics = self.critic.parameters() if self.critic else {}
        self.parameters: dict[str, Tensor] = {**own, **critics}
        self.optimiser = loop.adamw(own, config.optimiser)
        if critics:
            self.optimiser.add_param_group({"params": list(critics.values())})

    def state(self) -> dict[str, Any]:
        """The controllers' state, for a checkpoint."""
        return {
            "beta": self.kl_controller.beta,
            "zero_std_steps": self.collapse_detector.steps,
            "multiplier": self.constraint.multiplier,
            "costs": list(self.constraint.costs),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Restore `state`."""
        self.kl_controller.beta, self.collapse_detector.steps = state["beta"], state["zero_std_steps"]
        self.constraint.multiplier = state["multiplier"]
        self.constraint.costs.extend(state["costs"])

    def step(self, step: int, prompts: Sequence[Prompt], demonstrations: Sequence[Demonstration]) -> dict[str, Any]:
        """1) to 4): one batch of rollouts and the updates on it. Returns metrics over all processes."""
        config, actor, start = self.config, self.actor, time.perf_counter()
        # 1) Sample rollouts: G answers to each prompt, with the reward model's scores.
        rollouts = actor.sample_rollouts([prompt.prompt for prompt in prompts], step)
        sampled = time.perf_counter()

        # 2) Score: the reward that is maximised; keep the prompts with the most to learn from.
        costs, rewards = self.score(prompts, rollouts)
        kept = top_prompts_by_reward_std(rewards, config.top_prompts_by_reward_std)
        learnt = rollouts.of(kept)
        totals = Totals(learnt.tokens, rewards[kept].numel())
        batches = list(actor.iter_minibatches(learnt, rewards[kept], step))

        # 3) Advantages: a critic's are whitened over the step, so all its micro-batches are read first. RLOO and GRPO
        #    compare the answers of a group: they take theirs from the first forward pass of the update.
        targets = self.critic_targets(batches) if self.critic else None

        # 4) Update: a loss is divided by the step's totals, so micro-batches and processes do not change it.
        rate = loop.learning_rate_at(step, config.steps, config.optimiser)
        measured = dict.fromkeys(self.algorithm.metrics, 0.0)
        loss = norm = kl = 0.0
        for number in range(config.updates):
            value, k1 = self.update(batches, targets, totals, step, demonstrations, measured)
            kl = k1 if number == 0 else kl
            loss += value / config.updates
            norm = loop.optimiser_step(self.optimiser, self.parameters, value, rate, config.optimiser.max_grad_norm)
        self.kl_controller.update(kl / totals.answers)
        self.constraint.update(costs)
        frac_reward_zero_std = float((rewards.std(1) < 1e-6).float().mean())
        self.collapse_detector.update(frac_reward_zero_std, step)
        sums = distributed.all_reduce((), *measured.values())
        return {
            "learning_rate": rate,
            "loss": loss,
            "score": float(rollouts.scores.mean()),
            "reward": float(rewards.mean()),
            **({"cost": float(costs.mean()), "multiplier": self.constraint.multiplier} if config.constraint else {}),
            "terminated": float(rollouts.terminated.float().mean()),
            "mean_answer_tokens": rollouts.tokens / rewards.numel(),
            "k1_nats_per_answer": kl / totals.answers,
            "frac_reward_zero_std": frac_reward_zero_std,
            "beta": self.kl_controller.beta,
            "gradient_norm": norm,
            **{name: total / (totals.tokens * config.updates) for name, total in zip(measured, sums, strict=True)},
            "rollout_seconds": sampled - start,
            "update_seconds": time.perf_counter() - sampled,
        }

    def score(self, prompts: Sequence[Prompt], rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """Costs and rewards, [P, G] each."""
        costs = torch.zeros_like(rollouts.scores)
        if self.cost is not None:
            answered = zip(prompts, rollouts.answers, strict=True)
            costs = torch.tensor([[self.cost(prompt, answer) for answer in answers] for prompt, answers in answered])
        if self.actor.cost_model is not None:
            scores = self.actor.cost_model.scores(rollouts.groups, rollouts.below).view_as(costs)
            costs = torch.maximum(costs, (scores < self.costs_below).float())
        penalties = self.config.rollouts.missing_eos_penalty * (~rollouts.terminated).float()
        return costs, self.constraint.rewards(rollouts.scores, costs) - penalties

    def forward(self, batch: RolloutBatch) -> PolicyBatch:
        """The policy's log-probs and, with a critic, its values."""
        policy = self.actor.forward(batch)
        return policy._replace(values=self.critic.values(batch.tree, batch.lower)) if self.critic else policy

    def critic_targets(self, batches: Sequence[RolloutBatch]) -> list[Targets]:
        """Advantages and returns of a step's micro-batches; sets their old log-probs."""
        with torch.no_grad():
            return self.algorithm.advantages([self.forward(batch) for batch in batches], self.kl_controller.beta)

    def update(
        self,
        batches: Sequence[RolloutBatch],
        targets: Sequence[Targets] | None,
        totals: Totals,
        step: int,
        demonstrations: Sequence[Demonstration],
        measured: dict[str, float],
    ) -> tuple[float, float]:
        """Accumulate the gradients of one update, and its metrics in ``measured``.

        Returns loss and the sum of k1, over all processes.
        """
        beta, sums = self.kl_controller.beta, torch.zeros(2, dtype=torch.float64)
        for number, rollout_batch in enumerate(batches):
            batch = self.forward(rollout_batch)
            target = targets[number] if targets else self.algorithm.advantages([batch], beta)[0]
            losses = self.algorithm.loss(batch, target, totals, beta)
            total = losses.policy.detach()
            if self.critic and losses.value is not None:
                with self.critic.active():
                    losses.value.backward()  # type: ignore[no-untyped-call]
                total = total + losses.value.detach()
            losses.policy.backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([total.double().cpu(), batch.k1_per_answer().sum().double().cpu()])
            for name, value in losses.metrics.items():
                measured[name] += value
        for ptx_loss in self.actor.ptx_losses(demonstrations if self.config.ptx_coef else [], step):
            weighted = self.config.ptx_coef * ptx_loss
            weighted.backward()  # type: ignore[no-untyped-call]
            sums[0] += weighted.detach().double().cpu()
        loss, k1 = distributed.all_reduce(list(self.parameters.values()), *sums.tolist())
        return loss, k1
