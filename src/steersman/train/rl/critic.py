"""PPO's critic: an adapter and a linear head on the policy's base model, initialised from the reward model."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from steersman.lm.adapters import ADAPTER, load_adapter, trainable, using
from steersman.lm.frozen_trunk import FrozenStates
from steersman.lm.reward_model import HEAD, scalar
from steersman.lm.shared_prefix import SharedPrefixBatch, shared_prefix_hidden
from steersman.train.rl.actor import Actor

CRITIC = "critic"


class Critic:
    """Starts as the first member of the reward model in ``reward``; its bias makes demonstrations average 0."""

    def __init__(self, actor: Actor, reward: Path) -> None:
        assert actor.reward_model is not None  # PPO needs one
        self.actor = actor
        first = reward / "member-0"
        load_adapter(actor.policy, actor.base, first / ADAPTER, CRITIC)
        saved = load_file(first / HEAD)
        self.head = nn.Linear(saved["weight"].shape[1], 1).to(actor.model.device)
        with torch.no_grad():
            self.head.weight.copy_(saved["weight"])
            self.head.bias.copy_(saved["bias"] - actor.reward_model.centre[0])

    def parameters(self) -> dict[str, Tensor]:
        """Those of the adapter and of the head, by name."""
        with self.active():
            own = {f"critic.{key}": parameter for key, parameter in trainable(self.actor.policy).items()}
        return {**own, **{f"critic.head.{key}": parameter for key, parameter in self.head.named_parameters()}}

    def active(self) -> AbstractContextManager[None]:
        """Within it the critic's adapter is in use, and a backward pass reaches its parameters."""
        return using(self.actor.policy, CRITIC)

    def values(self, batch: SharedPrefixBatch, lower: FrozenStates | None) -> Tensor:
        """[N] of the states in which the answers' tokens were sampled."""
        with self.active():
            return scalar(self.head, shared_prefix_hidden(self.actor.model, batch, batch.source, lower))
