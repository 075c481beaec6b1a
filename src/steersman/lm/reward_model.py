"""A reward model as others use it: adapters with scalar heads on a base model, loaded from disk, that score answers.

    r(x, y) = w . h(last token of y) + b - centre

h is the hidden state of the answer's last token, its terminator; demonstrations average 0. A difference of two scores
is the log-odds that the first answer is preferred. `train/reward_model.py` trains it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from steersman.errors import ModelError
from steersman.lm import pretrained
from steersman.lm.adapters import ADAPTER, activate, load_adapter, restore, using
from steersman.lm.chat_format import ChatFormat, chat_format
from steersman.lm.shared_prefix import Group, GroupStates, shared_prefix_batch, shared_prefix_hidden
from steersman.types import Demonstration, Text

HEAD, ABOUT, WEIGHTS = "head.safetensors", "reward_model.json", "adapter_model.safetensors"
BATCH = 8  # prompts in one forward pass of scoring
CENTRING_ROWS = 128  # demonstrations whose mean score becomes 0, about

COMBINED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda scores: scores.mean(0),
    "worst": lambda scores: scores.min(0).values,
    # Coste et al.'s uncertainty-weighted optimisation with a weight of 1.
    "mean_minus_variance": lambda scores: scores.mean(0) - scores.var(0, unbiased=False),
    "weights": lambda scores: scores[0],  # the members were averaged into one model
}


def tokenised(prompt: Text, answers: Sequence[str], chat: ChatFormat, max_length: int) -> Group:
    """A prompt and its answers as a reward model reads them."""
    return fitted(prompt, answers, chat, max_length)[0]


def fitted(prompt: Text, answers: Sequence[str], chat: ChatFormat, max_length: int) -> tuple[Group, bool]:
    """`tokenised`, and whether it was too long."""
    head, tails, excess = chat.fit(prompt, [chat.completion_ids(answer, prompt) for answer in answers], max_length)
    return Group(head, tails), excess > 0


def centring_groups(demonstrations: Sequence[Demonstration], chat: ChatFormat, max_length: int) -> list[Group]:
    """About `CENTRING_ROWS` demonstrations, evenly spaced, whose mean score becomes 0."""
    sample = demonstrations[:: max(1, len(demonstrations) // CENTRING_ROWS)]
    return [tokenised(row.prompt, [row.completion], chat, max_length) for row in sample]


def scalar(head: nn.Linear, hidden: Tensor) -> Tensor:
    """The output of a one-dimensional head, [N, H] -> [N], computed in the head's own float32."""
    values: Tensor = head(hidden.float())[:, 0]
    return values


@dataclass(frozen=True)
class RewardModel:
    """One or more members, each an adapter and a head, on a base model that may hold other adapters as well."""

    model: Any
    policy: Any
    chat: ChatFormat
    heads: dict[str, nn.Linear]  # by the adapter's name
    combine: str
    centre: Tensor  # [M], the members' mean score of demonstrations
    max_length: int

    def __repr__(self) -> str:
        """The architecture and its members; not every layer."""
        return f"RewardModel({type(self.model).__name__}, members={len(self.heads)}, combine={self.combine!r})"

    @classmethod
    def load(cls, base: Path, folder: Path, onto: tuple[Any, Any] | None = None, name: str = "reward") -> RewardModel:
        """Load what `train.reward_model.run` wrote, with a base model of its own or ``onto`` a (model, policy or None).

        Args:
            name: prefix of its adapters' names.

        Raises:
            ModelError: no reward model in ``folder``, or one of another base model.
        """
        if not (folder / ABOUT).exists():
            raise ModelError("no reward model here", where=str(folder), do="train one: the stage `reward_model`")
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        model, policy = onto or (pretrained.load_model(base), None)
        active = None if policy is None else policy.active_adapter
        heads: dict[str, nn.Linear] = {}
        folders = [folder / f"member-{member}" for member in range(about["members"])]
        for group in [folders] if about["combine"] == "weights" else [[one] for one in folders]:
            own = f"{name}-{len(heads)}"
            policy = load_adapter(model if policy is None else policy, base, group[0] / ADAPTER, own)
            saved = [load_file(one / HEAD) for one in group]
            if len(group) > 1:
                restore(policy, _mean([load_file(one / ADAPTER / WEIGHTS) for one in group]), own)
            heads[own] = nn.Linear(saved[0]["weight"].shape[1], 1).to(model.device)
            heads[own].load_state_dict(_mean(saved))
            heads[own].requires_grad_(False)
        assert policy is not None
        activate(policy, active or next(iter(heads)))
        chat = chat_format(pretrained.load_tokenizer(base), model.generation_config)
        return cls(model, policy, chat, heads, about["combine"], torch.tensor(about["centre"]), about["max_length"])

    def score(self, prompt: Text, answers: Sequence[str]) -> list[float]:
        """Scores of some answers to one prompt, in nats."""
        scores: list[float] = self.scores([tokenised(prompt, answers, self.chat, self.max_length)]).tolist()
        return scores

    def scores(self, groups: Sequence[Group], below: GroupStates | None = None) -> Tensor:
        """[S] scores of tokenised answers, the members combined; see `member_scores`."""
        return COMBINED[self.combine](self.member_scores(groups, below))

    def member_scores(self, groups: Sequence[Group], below: GroupStates | None = None) -> Tensor:
        """[M, S] scores of all answers by member, in the order of the groups.

        Args:
            below: the groups' activations below all adapters, if they are known.
        """
        pad_id, scores = self.chat.tokenizer.pad_token_id or 0, []
        was_training = self.policy.training
        self.policy.eval()
        with torch.no_grad():
            for i in range(0, len(groups), BATCH):
                some = groups[i : i + BATCH]
                rows, by_member = shared_prefix_batch(some, pad_id, self.model.device), []
                lower = below and below.batch(range(i, i + len(some)))
                for name, head in self.heads.items():
                    with using(self.policy, name):
                        by_member.append(scalar(head, shared_prefix_hidden(self.model, rows, rows.last, lower)).cpu())
                scores.append(torch.stack(by_member))
        self.policy.train(was_training)
        return torch.cat(scores, 1) - self.centre[:, None]

    def mean_scores(self, demonstrations: Sequence[Demonstration]) -> list[float]:
        """Each member's mean over a sample of the demonstrations; 0 without any."""
        groups = centring_groups(demonstrations, self.chat, self.max_length)
        means: list[float] = self.member_scores(groups).mean(1).tolist() if groups else [0.0] * len(self.heads)
        return means


def _mean(weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of the same tensors from several files (WARM). Members start from one adapter, so it is one as well."""
    return {key: torch.stack([each[key] for each in weights]).mean(0) for key in weights[0]}
