"""Reward models with several outputs as others use them: one adapter and one head on a base model, loaded from disk.

    outputs(x, y) = W h(last token of y) + b

h is the hidden state of the answer's last token, its terminator, as in `lm/reward_model.py`. What the outputs mean is
written beside them: scores by group of raters (`GroupRewardModel`; `train/group_reward.py` for groups that are
recorded, `train/reward_mixture.py` for hidden ones), or a distribution of utility (`lm/distributional_reward.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from steersman.errors import DataError, ModelError, closest
from steersman.lm import pretrained
from steersman.lm.adapters import ADAPTER, activate, load_adapter, using
from steersman.lm.chat_format import ChatFormat, chat_format
from steersman.lm.reward_model import BATCH, HEAD, tokenised
from steersman.lm.shared_prefix import Group, GroupStates, shared_prefix_batch, shared_prefix_hidden
from steersman.types import Text

ABOUT = "reward_heads.json"
Question = tuple[Text, Sequence[str]]  # a prompt and answers to it
EVERYONE = "everyone"  # the score that all groups share, for raters whose group is not known


@dataclass(frozen=True)
class RewardHeads:
    """An adapter and its head of D outputs on a base model that may hold other adapters as well."""

    model: Any
    policy: Any
    chat: ChatFormat
    head: nn.Linear
    name: str  # of the adapter
    about: dict[str, Any]

    def __repr__(self) -> str:
        """The architecture and its outputs; not every layer."""
        return f"RewardHeads({type(self.model).__name__}, kind={self.about['kind']!r}, outputs={len(self.head.weight)})"

    @classmethod
    def load(
        cls, base: Path, folder: Path, kinds: Sequence[str], onto: tuple[Any, Any] | None = None, name: str = "heads"
    ) -> RewardHeads:
        """Load what a method of ``train/`` wrote, with a base model of its own or ``onto`` a (model, policy or None).

        Args:
            kinds: that the caller can use; name: of its adapter.

        Raises:
            ModelError: no such reward model in ``folder``, one of another kind, or of another base model.
        """
        if not (folder / ABOUT).exists():
            raise ModelError("no reward model of groups here", where=str(folder), expected=f"a folder with {ABOUT}")
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["kind"] not in kinds:
            raise ModelError(
                f"a reward model of the kind {about['kind']!r}", where=str(folder), expected=" or ".join(kinds)
            )
        model, policy = onto or (pretrained.load_model(base), None)
        active = None if policy is None else policy.active_adapter
        policy = load_adapter(model if policy is None else policy, base, folder / ADAPTER, name)
        saved = load_file(folder / HEAD)
        head = nn.Linear(saved["weight"].shape[1], saved["weight"].shape[0]).to(model.device)
        head.load_state_dict(saved)
        head.requires_grad_(False)
        activate(policy, active or name)
        chat = chat_format(pretrained.load_tokenizer(base), model.generation_config)
        return cls(model, policy, chat, head, name, about)

    def outputs(self, prompt: Text, answers: Sequence[str]) -> Tensor:
        """[D, A] outputs for some answers to one prompt."""
        return self.outputs_to([(prompt, answers)])[0]

    def outputs_to(self, questions: Sequence[Question]) -> list[Tensor]:
        """[D, A] outputs for the answers to each of some prompts."""
        groups = [tokenised(*question, self.chat, self.about["max_length"]) for question in questions]
        counts = [len(group.completions) for group in groups]
        return list(torch.split(self.outputs_of(groups), counts, 1)) if groups else []

    def outputs_of(self, groups: Sequence[Group], below: GroupStates | None = None) -> Tensor:
        """[D, S] outputs for all answers, in the order of the groups.

        Args:
            below: the groups' activations below all adapters, if they are known.
        """
        pad_id, found = self.chat.tokenizer.pad_token_id or 0, []
        was_training = self.policy.training
        self.policy.eval()
        with torch.no_grad(), using(self.policy, self.name):
            for i in range(0, len(groups), BATCH):
                some = groups[i : i + BATCH]
                rows = shared_prefix_batch(some, pad_id, self.model.device)
                lower = below and below.batch(range(i, i + len(some)))
                hidden = shared_prefix_hidden(self.model, rows, rows.last, lower)
                found.append(self.head(hidden.float()).T.cpu())
        self.policy.train(was_training)
        return torch.cat(found, 1)


@dataclass(frozen=True)
class GroupRewardModel:
    """Scores by group of raters, in nats: a difference of two is the log-odds that the group prefers the first answer.

    Attributes:
        heads: their outputs are the groups' scores.
        groups: names by output; recorded groups are preceded by `EVERYONE`.
    """

    heads: RewardHeads
    groups: tuple[str, ...]

    @classmethod
    def load(
        cls, base: Path, folder: Path, onto: tuple[Any, Any] | None = None, name: str = "groups"
    ) -> GroupRewardModel:
        """Load what `train.group_reward.run` or `train.reward_mixture.run` wrote; see `RewardHeads.load`."""
        heads = RewardHeads.load(base, folder, ("groups", "mixture"), onto, name)
        return cls(heads, tuple(heads.about["groups"]))

    def scores(self, prompt: Text, answers: Sequence[str]) -> Tensor:
        """[groups, answers] scores in nats; demonstrations average 0 in every group."""
        return self.scores_to([(prompt, answers)])[0]

    def scores_to(self, questions: Sequence[Question]) -> list[Tensor]:
        """`scores` of the answers to each of some prompts, read in batches."""
        centre = self._of("centre")[:, None]
        return [outputs - centre for outputs in self.heads.outputs_to(questions)]

    def standardised(self, prompt: Text, answers: Sequence[str]) -> Tensor:
        """[groups, answers] scores divided by each group's deviation over the training answers.

        A minimum over groups needs it (MaxMin-RLHF): otherwise whoever has the wider scale decides.
        """
        return self.scores(prompt, answers) / self._of("deviation")[:, None]

    def score(self, prompt: Text, answers: Sequence[str], group: str = EVERYONE) -> list[float]:
        """One group's scores in nats, for a method that takes a `Scorer`.

        Raises:
            DataError: there is no such group.
        """
        if group not in self.groups:
            raise DataError(f"the reward model has no group {group!r}", expected=closest(group, list(self.groups)))
        scores: list[float] = self.scores(prompt, answers)[self.groups.index(group)].tolist()
        return scores

    def _of(self, what: str) -> Tensor:
        return torch.tensor(self.heads.about[what])
