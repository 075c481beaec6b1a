"""PPO with a critic: step 3 of InstructGPT (Ouyang et al. 2022, arXiv:2203.02155; Schulman et al. 2017,
arXiv:1707.06347).

    r_t    = - beta * (log pi - log reference)_t  +  the answer's reward on its last token
    A, R   = GAE(r, V, gamma, lambda)                  R = A + V;  A is whitened over all tokens of the step
    policy   mean over tokens of w_t * -min(ratio_t A_t, clip(ratio_t, 1 - clip, 1 + clip) A_t)
    critic   value_weight * mean over tokens of half the larger squared error of V and of V clipped to its old value

The critic is an adapter with a head of its own, both initialised with the reward model (its first member), as in the
paper. V_t is its output where token t is predicted. A batch of rollouts is used for ``updates`` steps. The score stands
on the last token that was generated; some implementations put it on the place after, where no value is learnt.

What differs from the paper: LoRA; the critic shares the base model's frozen layers and the optimiser with the policy;
``demonstration_weight`` mixes in demonstrations, where the paper has pre-training text; no moving average of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from steersman.functional import (
    clipped_surrogate,
    clipped_value_loss,
    generalised_advantages,
    k1_nats,
    sampler_weights,
    whiten,
)
from steersman.lm.adapters import ADAPTER, load_adapter, trainable, using
from steersman.lm.frozen_trunk import FrozenStates
from steersman.lm.shared_prefix import SharedPrefixBatch, shared_prefix_hidden
from steersman.train import distributed
from steersman.train.reward_model import HEAD, scalar
from steersman.train.rl.actor import Actor, Read, Seen
from steersman.train.rl.loop import Algorithm, RlConfig, Totals

VERSION = 1
CRITIC = "critic"


class PpoConfig(RlConfig):
    """See `RlConfig`. ``gae_lambda`` is lambda: 1 trusts the rewards, 0 the critic."""

    algorithm: Literal["ppo"] = "ppo"
    updates: int = Field(default=4, ge=1)
    clip: float = Field(default=0.2, gt=0, lt=1)
    gamma: float = Field(default=1.0, gt=0, le=1)
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    value_clip: float = Field(default=0.2, gt=0)
    value_weight: float = Field(default=0.1, gt=0)


class Targets(NamedTuple):
    """Of a micro-batch, [N] each: whitened advantages, returns, and values before the first update."""

    advantages: Tensor
    returns: Tensor
    values: Tensor


class Ppo(Algorithm):
    """The losses above; its parameters are the critic's."""

    def __init__(self, config: PpoConfig) -> None:
        self.config = config
        self.targets: dict[int, Targets] = {}
        self.measured: dict[str, float] = {}

    def begin(self, actor: Actor, reward: Path) -> dict[str, Tensor]:
        """Put the critic beside the policy."""
        self.actor = actor
        first = reward / "member-0"
        load_adapter(actor.policy, actor.base, first / ADAPTER, CRITIC)
        saved = load_file(first / HEAD)
        self.head = nn.Linear(saved["weight"].shape[1], 1).to(actor.model.device)
        with torch.no_grad():
            self.head.weight.copy_(saved["weight"])
            self.head.bias.copy_(saved["bias"] - actor.reward.centre[0])
        with using(actor.policy, CRITIC):
            own = {f"critic.{key}": parameter for key, parameter in trainable(actor.policy).items()}
        return {**own, **{f"critic.head.{key}": parameter for key, parameter in self.head.named_parameters()}}

    def prepare(self, seen: Sequence[Seen], rewards: Tensor, beta: float) -> dict[str, float]:
        """Values and old log-probs of all micro-batches, and from them the advantages of the whole step."""
        self.measured = dict.fromkeys(("value_loss", "clipped"), 0.0)
        self.targets = {}
        with torch.no_grad():
            for micro_batch in seen:
                read = self.actor.read(micro_batch, rewards)
                with using(self.actor.policy, CRITIC):
                    values = self.values(read.batch, read.lower)
                self.targets[micro_batch.number] = self.estimated(read, values, beta)
        # Whitened over the step, in whatever micro-batches and processes.
        own = [advantage for t in self.targets.values() for advantage in t.advantages.tolist()]
        every = torch.tensor(distributed.gather(own), dtype=torch.float64)
        for number, t in self.targets.items():
            mask = torch.ones_like(t.advantages, dtype=torch.bool)
            self.targets[number] = t._replace(advantages=whiten(t.advantages, mask, over=every.to(mask.device)))
        return self.measured

    def estimated(self, read: Read, values: Tensor, beta: float) -> Targets:
        """Advantages, not yet whitened, and returns.

        Args:
            values: [N] of the states in which the tokens were drawn.
        """
        lengths = read.batch.sum_per_sequence(torch.ones_like(values)).long()
        mask = torch.arange(int(lengths.max()), device=values.device) < lengths[:, None]
        per_token = -beta * k1_nats(read.old, read.reference)
        last = lengths.cumsum(0) - 1
        per_token = per_token.index_add(0, last, read.rewards.flatten().to(per_token.dtype))

        def by_answer(flat: Tensor) -> Tensor:
            return flat.new_zeros(mask.shape).masked_scatter(mask, flat)

        advantages, returns = generalised_advantages(
            by_answer(per_token), by_answer(values), mask, self.config.gamma, self.config.gae_lambda
        )
        return Targets(advantages[mask], returns[mask], values)

    def loss(self, read: Read, totals: Totals, beta: float) -> Tensor:
        """A micro-batch's share of the policy's loss; the critic's own is added to, and learnt from, on the way."""
        config, targets = self.config, self.targets[read.number]
        losses = clipped_surrogate(read.logprobs, read.old, targets.advantages, config.clip, config.clip)
        if read.drawn is not None:
            losses = losses * sampler_weights(read.old, read.drawn)
        with using(self.actor.policy, CRITIC):  # its gradients are collected while it is the adapter in use
            values = self.values(read.batch, read.lower)
            errors = clipped_value_loss(values, targets.values, targets.returns, config.value_clip)
            value_loss = config.value_weight * errors.sum() / totals.tokens
            value_loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            ratio = torch.exp(read.logprobs - read.old)
            self.measured["clipped"] += float(((ratio - 1).abs() > config.clip).sum())
            self.measured["value_loss"] += float(errors.sum())
        return losses.sum() / totals.tokens + value_loss.detach()

    def values(self, batch: SharedPrefixBatch, lower: FrozenStates | None) -> Tensor:
        """[N] of the states in which the tokens were drawn, by the adapter in use."""
        return scalar(self.head, shared_prefix_hidden(self.actor.model, batch, batch.source, lower))
