"""A reward model: a score for an answer, learnt from comparisons: step 2 of InstructGPT (Ouyang et al. 2022,
arXiv:2203.02155).

    loss = mean over pairs of -log sigmoid(r(better) - r(worse))      r = w . h(last token) + b

h is the hidden state of the answer's last token, its terminator. All pairs of one prompt are one element: they share a
row, so that the prompt is read once and no answer counts K - 1 times in a pass. Afterwards the score is moved so that
demonstrations average 0; a difference of two scores stays the log-odds that the first answer is preferred.

What differs from the paper: LoRA on the fine-tuned policy instead of all weights; optionally
- an **ensemble** of members with their own adapter, head and order of rows: mean, worst case, or mean minus variance
  (Coste et al. 2023, arXiv:2310.02743), or one model with the mean of their weights (WARM, Ramé et al. 2024,
  arXiv:2401.12187), which costs no more than one member;
- a score **without style**: what length, lists, emoji, exclamation, flattery and agreement explain of the comparisons
  is explained by them first, with a weight each, and the model learns the rest, which alone is the score. It is Clark
  et al.'s product of experts (2019, arXiv:1909.03683) with ODIN's purpose (Chen et al. 2024, arXiv:2402.07319); ODIN's
  own second head, held to the features by correlation alone, learnt content as well where we knew the truth.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from steersman.data import answer_style as style
from steersman.data import votes
from steersman.data.by_principle import of_principles, with_principles
from steersman.errors import DataError, ModelError
from steersman.functional import minimise, preference_nll, ranking_nll
from steersman.lm import pretrained
from steersman.lm.adapters import ADAPTER, load_adapter, restore, save_policy, trainable, using
from steersman.lm.chat_format import ChatFormat, chat_format
from steersman.lm.frozen_trunk import FrozenStates, FrozenTrunk
from steersman.lm.sampling import random_stream
from steersman.lm.shared_prefix import (
    Group,
    GroupStates,
    SharedPrefixBatch,
    compute_frozen_states,
    fitting,
    shared_prefix_batch,
    shared_prefix_hidden,
)
from steersman.store import StageFolder, write_json
from steersman.terminal import Progress
from steersman.train import distributed, loop, raters
from steersman.train.raters import Raters
from steersman.types import Comparison, Demonstration, Record, Seed, Slug, Text, transport

VERSION = 2
RIDGE = 1e-3  # on the weights of style
HEAD, ABOUT, WEIGHTS = "head.safetensors", "reward_model.json", "adapter_model.safetensors"
RATERS = "raters.json"


class RewardConfig(Record):
    """``members`` are trained one after another and scored as ``combine`` says. Lengths are in tokens.

    ``centre_weight`` times the mean square of the scores is added to the loss, which leaves their level free.
    ``without_style`` takes out of the score what the style of answers explains by itself. ``trust_raters`` learns how
    far each rater is to be believed, see `train/raters.py`. ``by_principle`` also learns what is said by one principle,
    from prompts that hold its text, so that one model judges by all of them or by one, see `types.judged_by`; and, with
    so many ``contrasts`` for each of those, that a principle which a pair is not about does not tell it apart. Adapters
    have the shape of the policy that they start from; activations below them are kept in up to ``trunk_cache_mb`` of
    memory.
    """

    members: int = Field(default=1, ge=1)
    combine: Literal["mean", "worst", "mean_minus_variance", "weights"] = "mean"
    centre_weight: float = Field(default=0.01, ge=0)
    without_style: bool = False
    trust_raters: bool = False
    by_principle: bool = False
    contrasts: float = Field(default=0.5, ge=0)
    optimiser: loop.OptimiserConfig = loop.OptimiserConfig(learning_rate=1e-4)
    epochs: int = Field(default=1, ge=1)
    trunk_cache_mb: int = Field(default=1024, ge=0)
    batch_size: int = Field(default=16, ge=1)
    micro_batch_size: int = Field(default=8, ge=1)
    max_length: int = Field(default=512, ge=16)
    checkpoint_every_steps: int = transport(20, ge=1)
    seed: Seed = 0

    def rows(self, comparisons: Sequence[Comparison], texts: Mapping[str, str]) -> list[Comparison]:
        """What is learnt of some comparisons.

        Args:
            texts: of the principles, by id.
        """
        rows = list(comparisons)
        return with_principles(rows, texts, self.contrasts, self.seed) if self.by_principle else rows


class CostConfig(RewardConfig):
    """A reward model of these principles alone, which a constraint of reinforcement learning asks."""

    principles: tuple[Slug, ...] = Field(min_length=1)

    def rows(self, comparisons: Sequence[Comparison], texts: Mapping[str, str]) -> list[Comparison]:
        """What is said by these principles; see `RewardConfig.rows`."""
        return super().rows(of_principles(comparisons, self.principles), texts)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Ranked(NamedTuple):
    """The tokenised answers to a prompt, their ranks (1 is best, equal ones are ties), and how they are written.

    Of two answers, ``certainty`` is the probability that the better one is better, and ``margin`` by how much.
    ``number`` is that of the row, and ``places`` are those at which its rater was shown the answers.
    """

    group: Group
    ranks: tuple[int, ...]
    style: list[Sequence[float]]
    weight: float = 1.0
    certainty: float = 1.0
    margin: float = 0.0
    number: int = 0
    rater: str = ""
    places: Sequence[float] = (0.0, 0.0)


def tokenised(prompt: Text, answers: Sequence[str], chat: ChatFormat, max_length: int) -> Group:
    """A prompt and answers as a judge reads them."""
    return fitting(chat.prompt_ids(prompt), [chat.completion_ids(answer) for answer in answers], max_length)


def ranked(rows: Sequence[Comparison], chat: ChatFormat, max_length: int) -> list[Ranked]:
    """Comparisons that order at least two answers, or say that two are equally likely to be better.

    A ranking's ties alone teach nothing.

    Raises:
        DataError: there are none.
    """
    ordered = [row for row in rows if row.pairs() or row.soft_label == 0.5]
    if not ordered:
        raise DataError("no comparisons that order two answers", do="add rows to comparisons.jsonl")
    return [
        Ranked(
            tokenised(row.prompt, row.options, chat, max_length),
            row.ranks(),
            [style.features(option) for option in row.options],
            row.weight,
            row.certainty,
            row.margin or 0.0,
            number,
            row.rater,
            votes.places(row),
        )
        for number, row in enumerate(ordered)
    ]


def level_rows(demonstrations: Sequence[Demonstration], chat: ChatFormat, max_length: int) -> list[Group]:
    """Those, from all over, whose mean score becomes 0."""
    some = demonstrations[:: max(1, len(demonstrations) // LEVEL_ROWS)]
    return [tokenised(row.prompt, [row.completion], chat, max_length) for row in some]


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def new_head(hidden: int, seed: int) -> nn.Linear:
    """One output, of standard deviation 1 / sqrt(hidden + 1) and bias 0, as in InstructGPT."""
    head = nn.Linear(hidden, 1)
    with torch.no_grad():
        head.weight.copy_(torch.randn(1, hidden, generator=random_stream(seed, hidden)) / math.sqrt(hidden + 1))
        head.bias.zero_()
    return head


def scalar(head: nn.Linear, hidden: Tensor) -> Tensor:
    """What a head with one output makes of hidden states, [N, H] -> [N], in its own float32."""
    found: Tensor = head(hidden.float())[:, 0]
    return found


def style_alone(rows: Sequence[Ranked]) -> Tensor:
    """How much each feature of style explains of the comparisons by itself, [F] nats a unit.

    A logistic regression on the differences of the features within the pairs, with a little ridge (`RIDGE`).
    """
    pairs = [
        (above, below, row.weight, row.certainty)
        for row in rows
        for (rank, above), (other, below) in itertools.permutations(zip(row.ranks, row.style, strict=True), 2)
        if rank < other
    ]
    better, worse = (torch.tensor([pair[side] for pair in pairs], dtype=torch.float64) for side in (0, 1))
    weight, certainty = torch.tensor([pair[2:] for pair in pairs], dtype=torch.float64).T
    found = torch.zeros(better.shape[1], dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        nll = preference_nll((better - worse) @ found, certainty) @ weight / weight.sum()
        return torch.add(nll, found.square().sum(), alpha=RIDGE)

    minimise([found], loss)
    return found


def run(
    config: RewardConfig,
    base: Path,
    start: Path,
    comparisons: Sequence[Comparison],
    demonstrations: Sequence[Demonstration],
    out: StageFolder,
) -> None:
    """Train every member from the adapter in ``start`` (a folder of `save_policy`); resumes from its checkpoints.

    Leaves ``member-N/adapter/`` and ``member-N/head.safetensors``, and ``reward_model.json`` with their level.

    Args:
        demonstrations: their answers average 0 afterwards.

    Raises:
        DataError: nothing to train on. ModelError: ``start`` belongs to another base model.
        TrainingFailed: a loss or gradient that is not finite.
    """
    torch.manual_seed(config.seed)
    tokenizer, model = pretrained.load_tokenizer(base), pretrained.load_model(base)
    if not (start / ADAPTER).exists():
        raise ModelError("a reward model starts from an adapter", where=str(start), do="train with sft.method: lora")
    model.requires_grad_(False)
    chat = chat_format(tokenizer, model.generation_config)
    rows = ranked(comparisons, chat, config.max_length)
    # The same batches in every epoch, in another order: what the frozen layers make of them is computed once.
    steps = loop.plan_batches([row.group.tokens for row in rows], config.batch_size, 1, config.seed)
    batches = [[rows[i] for i in step] for step in steps]
    explained = style_alone(rows) if config.without_style else torch.zeros(len(style.FEATURES))
    prior = votes.prior_trust(comparisons) if config.trust_raters else {}
    policy: Any = None
    lower: LowerStates | None = None
    for member in range(config.members):
        folder, name = out.path / f"member-{member}", f"member-{member}"
        policy = load_adapter(model if policy is None else policy, base, start / ADAPTER, name)
        policy.set_adapter(name)
        lower = lower or LowerStates(model, policy, name, config.trunk_cache_mb, tokenizer.pad_token_id or 0)
        if (folder / HEAD).exists():  # finished before a kill
            continue
        believed = Raters(rows, prior)
        trainer = Trainer.prepare(config, member, model, policy, lower, explained, believed)
        _train(trainer, member, batches, folder, out)
        if distributed.rank() == 0:
            save_policy(policy, folder, tokenizer, pretrained.digest(base), name)
            if config.trust_raters:
                write_json(folder / RATERS, {name: belief._asdict() for name, belief in believed.beliefs.items()})
            save_file({key: value.detach() for key, value in trainer.head.state_dict().items()}, folder / HEAD)
            loop.drop_checkpoint(folder)
        distributed.wait()
    if distributed.rank() == 0:
        about = {
            "combine": config.combine,
            "max_length": config.max_length,
            "members": config.members,
            "style_nats": dict(zip(style.FEATURES, explained.tolist(), strict=True)),
        }
        write_json(out.file(ABOUT), about | {"centre": [0.0] * (1 if config.combine == "weights" else config.members)})
        centre = RewardModel.load(base, out.path, onto=(model, policy)).mean_scores(demonstrations)
        write_json(out.file(ABOUT), about | {"centre": centre})


def _train(trainer: Trainer, member: int, batches: Sequence[Sequence[Ranked]], folder: Path, out: StageFolder) -> None:
    """The loop of one member."""
    config, total = trainer.config, len(batches) * trainer.config.epochs
    order = [
        int(i)
        for epoch in range(config.epochs)
        for i in torch.randperm(len(batches), generator=random_stream(config.seed, member, epoch))
    ]
    folder.mkdir(exist_ok=True)
    state = loop.load_checkpoint(folder, trainer.parameters, trainer.optimiser) or {"step": 0}
    if state["step"]:
        trainer.raters.resume(state["raters"])
    distributed.wait()
    setup = {"comparisons": sum(map(len, batches)), "steps": total, "resumed_at_step": state["step"]}
    out.emit(
        event="setup", member=member, trainable_parameters=sum(p.numel() for p in trainer.parameters.values()), **setup
    )
    with Progress(f"reward model {member}", total, done=state["step"]) as progress:
        for step in range(state["step"], total):
            rate = loop.learning_rate_at(step, total, config.optimiser)
            measured = trainer.step(order[step], batches[order[step]], rate)
            if (step + 1) % raters.EVERY == 0:
                trainer.raters.believe()
            out.emit(event="train", member=member, step=step, learning_rate=rate, **measured)
            progress.advance(loss=measured["loss"])
            if (step + 1) % config.checkpoint_every_steps == 0 and step + 1 < total and distributed.rank() == 0:
                kept = {"raters": trainer.raters.state()}
                loop.save_checkpoint(folder, step + 1, trainer.parameters, trainer.optimiser, kept)


class LowerStates:
    """The trees of all micro-batches, and what the layers below the adapters make of them: read once, then kept."""

    def __init__(self, model: Any, policy: Any, name: str, budget_mb: int, pad_id: int) -> None:
        self.model, self.pad_id, self.room = model, pad_id, budget_mb * 2**20
        self.below = FrozenTrunk.below(model, policy, name)
        self._kept: dict[tuple[int, int], FrozenStates] = {}

    def read(self, key: tuple[int, int], groups: Sequence[Group]) -> tuple[SharedPrefixBatch, FrozenStates | None]:
        """The tree of some groups, which always come under the same key, and its activations."""
        rows = shared_prefix_batch(groups, self.pad_id, self.model.device)
        if key in self._kept:
            return rows, self._kept[key]
        lower = compute_frozen_states(self.model, rows, self.below)
        if lower is not None and lower.states.nbytes <= self.room:
            self.room -= lower.states.nbytes
            self._kept[key] = lower
        return rows, lower


@dataclass(frozen=True)
class Trainer:
    """What one optimiser step of a member needs."""

    config: RewardConfig
    model: Any
    head: nn.Linear
    lower: LowerStates
    explained: Tensor  # [F], what style explains by itself
    raters: Raters
    parameters: dict[str, Tensor]
    optimiser: torch.optim.Optimizer

    @classmethod
    def prepare(
        cls,
        config: RewardConfig,
        member: int,
        model: Any,
        policy: Any,
        lower: LowerStates,
        explained: Tensor,
        believed: Raters | None = None,
    ) -> Trainer:
        """A head of its own, and the adapter that is active."""
        head = new_head(model.config.get_text_config().hidden_size, config.seed + member).to(model.device)
        policy.train()
        parameters: dict[str, Tensor] = {**trainable(policy), **{f"head.{k}": p for k, p in head.named_parameters()}}
        believed = believed or Raters([], {})
        return cls(
            config, model, head, lower, explained, believed, parameters, loop.adamw(parameters, config.optimiser)
        )

    def step(self, batch: int, rows: Sequence[Ranked], rate: float) -> dict[str, Any]:
        """One optimiser step on the batch of this number; returns what was measured, over all processes."""
        start, config = time.perf_counter(), self.config
        total, answers = sum(row.weight for row in rows), sum(len(row.ranks) for row in rows)
        sums, heard = torch.zeros(4, dtype=torch.float64), []
        for number, share in enumerate(distributed.share(rows, config.micro_batch_size)):
            if not distributed.mine(number):
                continue
            laid_out, lower = self.lower.read((batch, number), [row.group for row in share])
            quality = scalar(self.head, shared_prefix_hidden(self.model, laid_out, laid_out.last, lower))
            nll, right, pairs = self._ranking(quality, share)
            own = torch.split(quality.detach(), [len(row.ranks) for row in share])
            of_raters = [
                (row, values) for row, values in zip(share, own, strict=True) if row.rater in self.raters.prior
            ]
            heard += [(row.number, values.tolist()) for row, values in of_raters]
            loss = nll / total + config.centre_weight * quality.square().sum() / answers
            loss.backward()  # type: ignore[no-untyped-call]
            parts = (loss, nll / total, right, pairs)
            sums += torch.stack([part.detach().double().cpu() for part in parts])
        loss_sum, nll_sum, right_sum, pairs_sum = distributed.add_up(self.parameters.values(), *sums.tolist())
        norm = loop.optimiser_step(self.optimiser, self.parameters, loss_sum, rate, config.optimiser.max_grad_norm)
        if self.raters.prior:
            self.raters.hear(dict(distributed.gather(heard)))
        tokens = sum(row.group.tokens for row in rows)
        return {
            "loss": loss_sum,
            "nll_nats_per_prompt": nll_sum,
            "accuracy": right_sum / pairs_sum if pairs_sum else None,
            "gradient_norm": norm,
            "tokens_per_second": round(tokens / (time.perf_counter() - start), 1),
        }

    def _ranking(self, quality: Tensor, rows: Sequence[Ranked]) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted sum of the rows' losses; pairs that quality puts in order, and all pairs."""
        counts = [len(row.ranks) for row in rows]

        def by_prompt(values: Tensor) -> Tensor:
            return nn.utils.rnn.pad_sequence(list(torch.split(values, counts)), batch_first=True)

        ranks = by_prompt(torch.tensor([rank for row in rows for rank in row.ranks], device=quality.device))
        weight, certainty, margin = quality.new_tensor([(r.weight, r.certainty, r.margin) for r in rows]).T
        written = quality.new_tensor([values for row in rows for values in row.style])
        believed = [self.raters.of(row.rater) for row in rows for _ in row.ranks]
        trust, bias = quality.new_tensor(believed).T
        places = quality.new_tensor([place for row in rows for place in row.places])
        scores = by_prompt(trust * (quality + written @ self.explained.to(written)) + bias * places)
        difference = torch.where(ranks[:, 0] < ranks[:, 1], 1, -1) * (scores[:, 0] - scores[:, 1])
        of_two = preference_nll(difference - margin, certainty)
        two = torch.tensor([count == 2 for count in counts], device=quality.device)
        nll = (torch.where(two, of_two, ranking_nll(scores, ranks)) * weight).sum()
        own = by_prompt(quality.detach())
        better = (ranks[:, :, None] < ranks[:, None, :]) & (ranks > 0)[:, :, None]
        return nll, (better & (own[:, :, None] > own[:, None, :])).sum(), better.sum()


# ── scoring ──────────────────────────────────────────────────────────────────────────────────────────────────────────
COMBINED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda scores: scores.mean(0),
    "worst": lambda scores: scores.min(0).values,
    # Coste et al.'s uncertainty-weighted optimisation with a weight of 1.
    "mean_minus_variance": lambda scores: scores.mean(0) - scores.var(0, unbiased=False),
    "weights": lambda scores: scores[0],  # there is one model
}


@dataclass(frozen=True)
class RewardModel:
    """Adapters with their heads on a base model, perhaps beside others on the same one."""

    model: Any
    policy: Any
    chat: ChatFormat
    heads: dict[str, nn.Linear]  # by the adapter's name
    combine: str
    centre: Tensor  # [M], the mean score of demonstrations
    max_length: int

    @classmethod
    def load(cls, base: Path, folder: Path, onto: tuple[Any, Any] | None = None, name: str = "reward") -> RewardModel:
        """Read what `run` left, on a base model of its own or ``onto`` a (model, policy) with other adapters.

        Args:
            name: that its adapters' names begin with.

        Raises:
            ModelError: no reward model here, or one of another base model.
        """
        if not (folder / ABOUT).exists():
            raise ModelError("no reward model here", where=str(folder), do="train one: the stage `reward_model`")
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        model, policy = onto or (pretrained.load_model(base), None)
        active = None if onto is None else onto[1].active_adapter
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
        policy.set_adapter(active or next(iter(heads)))
        chat = chat_format(pretrained.load_tokenizer(base), model.generation_config)
        return cls(model, policy, chat, heads, about["combine"], torch.tensor(about["centre"]), about["max_length"])

    def member_scores(self, groups: Sequence[Group], below: GroupStates | None = None) -> Tensor:
        """[M, S] scores of all answers, in the order of the groups.

        Args:
            below: what layers below all adapters make of the groups, if that is known.
        """
        pad_id, found = self.chat.tokenizer.pad_token_id or 0, []
        was_training = self.policy.training
        self.policy.eval()
        with torch.no_grad():
            for i in range(0, len(groups), BATCH):
                some = groups[i : i + BATCH]
                rows, parts = shared_prefix_batch(some, pad_id, self.model.device), []
                lower = below and below.batch(range(i, i + len(some)))
                for name, head in self.heads.items():
                    with using(self.policy, name):
                        parts.append(scalar(head, shared_prefix_hidden(self.model, rows, rows.last, lower)).cpu())
                found.append(torch.stack(parts))
        self.policy.train(was_training)
        return torch.cat(found, 1) - self.centre[:, None]

    def scores(self, groups: Sequence[Group], below: GroupStates | None = None) -> Tensor:
        """[S] scores of all answers, the members combined; see `member_scores`."""
        return COMBINED[self.combine](self.member_scores(groups, below))

    def judge(self, prompt: Text, answers: Sequence[str]) -> list[float]:
        """Scores of some answers to a prompt."""
        scores: list[float] = self.scores([tokenised(prompt, answers, self.chat, self.max_length)]).tolist()
        return scores

    def mean_scores(self, demonstrations: Sequence[Demonstration]) -> list[float]:
        """Each member's mean over some demonstrations, from all over; 0 without any."""
        shown = level_rows(demonstrations, self.chat, self.max_length)
        means: list[float] = self.member_scores(shown).mean(1).tolist() if shown else [0.0] * len(self.heads)
        return means


def _mean(weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of the same tensors in several files. Members start from one adapter, so that a mean of theirs is one as well."""
    return {key: torch.stack([each[key] for each in weights]).mean(0) for key in weights[0]}


BATCH = 8  # prompts in one forward pass of scoring
LEVEL_ROWS = 128  # about so many demonstrations decide where 0 is
