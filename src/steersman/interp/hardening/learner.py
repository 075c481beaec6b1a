"""What the methods that train on tokens share: a policy that goes on learning in its own shape, and its batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from steersman.lm import pretrained
from steersman.lm.adapters import load_trainable, save_policy, trainable
from steersman.lm.chat_format import ChatFormat, Example, chat_format, pad
from steersman.lm.compact_vocabulary import CompactConfig, choose_vocabulary
from steersman.lm.head import head_in_use, head_of
from steersman.train import loop
from steersman.train.sft import PrefixConfig, TokenLoss, sft_loss
from steersman.types import Record, Seed


class TrainingConfig(Record):
    """A short training of a policy on two kinds of rows, half of each batch each."""

    steps: int = Field(default=200, ge=1, description="Optimiser steps.")
    rows: int = Field(default=400, ge=1, description="Rows of each kind, at most; drawn.")
    batch_size: int = Field(default=8, ge=1, description="Rows of each kind in an optimiser step.")
    answer_tokens: int = Field(default=24, ge=1, description="Answers are cut off after so many tokens.")
    max_length: int = Field(default=256, ge=16, description="Tokens of a row, at most.")
    vocabulary: Literal["full", "compact"] = Field(
        default="compact", description="`compact` estimates the same loss without bias, faster on a CPU."
    )
    compact: CompactConfig = Field(default=CompactConfig(full_share=0.08), description="The compact vocabulary.")
    prefix: PrefixConfig = Field(default=PrefixConfig(weight=8.0), description="Weight of answers' first tokens.")
    optimiser: loop.OptimiserConfig = Field(default=loop.OptimiserConfig(), description="AdamW and its schedule.")
    seed: Seed = Field(default=0, description="Seed of rows, batches and interventions.")


@dataclass(frozen=True)
class Learner:
    """A policy that learns.

    Attributes:
        policy: with its adapter, if it has one; model: the plain model in it, on which hooks are set.
    """

    policy: Any
    model: Any
    chat: ChatFormat
    token_loss: TokenLoss
    parameters: Mapping[str, Tensor]
    optimiser: torch.optim.Optimizer

    @classmethod
    def of(cls, config: TrainingConfig, policy: Any, chat: ChatFormat, rows: Sequence[Example]) -> Learner:
        """Choose the vocabulary by the rows, and prepare the optimiser."""
        model = policy.get_base_model() if hasattr(policy, "peft_config") else policy
        head, vocabulary = head_in_use(head_of(model), model), None
        if config.vocabulary == "compact" and not head.weight.requires_grad:
            vocabulary = choose_vocabulary(config.compact, model, head, rows)
        policy.train()
        parameters = trainable(policy)
        token_loss = TokenLoss(head, vocabulary, config.prefix)
        return cls(policy, model, chat, token_loss, parameters, loop.adamw(parameters, config.optimiser))

    @property
    def pad_id(self) -> int:
        """The token that fills rows up."""
        return self.chat.tokenizer.pad_token_id or 0

    def loss(self, rows: Sequence[Example], generator: torch.Generator) -> Tensor:
        """Mean negative log-likelihood in nats of the rows' answers, a scalar; hooks that are set act on it."""
        batch = pad(rows, self.pad_id, self.model.device)
        weight = float(self.token_loss.weights(batch).sum())
        return sft_loss(self.model, self.token_loss, batch, weight, generator)


def load(base: Path, trained: Path) -> tuple[Any, ChatFormat]:
    """A policy that `save_policy` wrote, to be trained on in its own shape, and its chat format."""
    model, policy = load_trainable(base, trained)
    return policy, chat_format(pretrained.load_tokenizer(base), model.generation_config)


def save(policy: Any, chat: ChatFormat, folder: Path, base: Path) -> None:
    """Leave the policy in ``folder`` as `save_policy` does."""
    save_policy(policy, folder, chat.tokenizer, pretrained.digest(base))


def turn(rows: Sequence[Example], step: int, size: int, seed: int) -> list[Example]:
    """The rows of a step: all once, in an order of their own, before any comes again."""
    found = []
    for place in range(step * size, (step + 1) * size):
        epoch, index = divmod(place, len(rows))
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed * 7919 + epoch))
        found.append(rows[int(order[index])])
    return found
