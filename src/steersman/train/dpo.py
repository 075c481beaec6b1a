"""Direct preference optimisation: learning from comparisons without a reward model (Rafailov et al. 2023,
arXiv:2305.18290).

    loss = -log sigmoid(beta * (r(chosen) - r(rejected)))        r(y) = log pi(y|x) - log reference(y|x)

log pi(y|x) is the sum over a completion's tokens, its terminator among them. Siblings with the same loop: `ipo_losses`
does not push margins to infinity (Azar et al. 2023, arXiv:2310.12036), `kto_losses` judges each answer alone
(Ethayarajh et al. 2024, arXiv:2402.01306).

What differs from the paper: the reference is the policy as supervised fine-tuning left it, and its log-probabilities
are taken once, before the first step, so that it needs no memory afterwards. Chosen and rejected share a row with their
prompt (`lm/shared_prefix.py`). A soft label counts as both orders, each as surely as it says (conservative DPO, with a
label of its own for every pair), and a weight as so many pairs. ``tokens`` compares only the beginnings of answers,
where a model decides whether it refuses, asks or tells. ``nll_weight`` adds the chosen answers' own negative
log-likelihood, without which both sides often become less likely (Pang et al. 2024, arXiv:2404.19733).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from steersman.errors import DataError
from steersman.functional import preference_nll
from steersman.lm import pretrained
from steersman.lm.adapters import load_trainable, save_policy, trainable, using
from steersman.lm.chat_format import ChatFormat, Example, chat_format
from steersman.lm.compact_vocabulary import CompactConfig, CompactVocabulary, choose_vocabulary
from steersman.lm.head import Head, head_of
from steersman.lm.sampling import random_stream
from steersman.lm.shared_prefix import Group, SharedPrefixBatch, fitting, shared_prefix_batch, shared_prefix_logprobs
from steersman.store import StageFolder
from steersman.terminal import Progress
from steersman.train import distributed, loop
from steersman.types import Comparison, Record, Seed, transport

VERSION = 2
CHOSEN, REJECTED = slice(0, None, 2), slice(1, None, 2)  # among the completions of a batch


class DpoConfig(Record):
    """``tokens``: only so many of an answer's first tokens are compared, None for all. Lengths are in tokens.

    ``passes``: ``{needless-refusal: 3}`` reads the comparisons with this failure, tag or principle three times in every
    epoch, all others once; a comparison with several takes the most.
    """

    loss: Literal["dpo", "ipo", "kto"] = "dpo"
    beta: float = Field(default=0.1, gt=0)
    nll_weight: float = Field(default=0.0, ge=0)
    tokens: int | None = Field(default=None, ge=1)
    passes: dict[str, Annotated[int, Field(ge=1)]] = Field(default={})
    vocabulary: Literal["full", "compact"] = "full"
    compact: CompactConfig = CompactConfig()
    optimiser: loop.OptimiserConfig = loop.OptimiserConfig(learning_rate=2e-5, warmup_ratio=0.1)
    epochs: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=16, ge=1)
    micro_batch_size: int = Field(default=8, ge=1)
    max_length: int = Field(default=512, ge=16)
    checkpoint_every_steps: int = transport(20, ge=1)
    seed: Seed = 0


# ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────
class Answers(NamedTuple):
    """The two answers of some pairs: r, [P] in nats, and their lengths in tokens, [P]."""

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    def turned(self) -> Answers:
        """As if the rejected ones had been chosen."""
        return Answers(self.rejected, self.chosen, self.rejected_tokens, self.chosen_tokens)


def dpo_losses(answers: Answers, beta: float, _: float = 0.0) -> Tensor:
    """-log sigmoid(beta * (r(chosen) - r(rejected))), [P]."""
    return preference_nll(beta * (answers.chosen - answers.rejected))


def ipo_losses(answers: Answers, beta: float, _: float = 0.0) -> Tensor:
    """(r(chosen) - r(rejected) - 1 / (2 beta))^2, [P], with r divided by the answer's length, as the authors do."""
    margins = answers.chosen / answers.chosen_tokens - answers.rejected / answers.rejected_tokens
    return (margins - 1 / (2 * beta)) ** 2


def kto_losses(answers: Answers, beta: float, baseline: float) -> Tensor:
    """1 - sigmoid(beta * (r - z)) of a chosen and 1 - sigmoid(beta * (z - r)) of a rejected answer; [P], their mean.

    Args:
        baseline: z, an estimate of KL(pi || reference) over prompts with answers to other prompts, at least 0.
    """
    losses = torch.sigmoid(beta * (baseline - answers.chosen)) + torch.sigmoid(beta * (answers.rejected - baseline))
    return losses / 2


LOSSES: Mapping[str, Callable[[Answers, float, float], Tensor]] = {
    "dpo": dpo_losses,
    "ipo": ipo_losses,
    "kto": kto_losses,
}


def expected_losses(config: DpoConfig, answers: Answers, certainty: Tensor, baseline: float) -> Tensor:
    """[P]: the mean over which answer is better, the chosen one with a probability of ``certainty``, [P]."""
    loss = LOSSES[config.loss]
    as_said, turned = (loss(side, config.beta, baseline) for side in (answers, answers.turned()))
    return certainty * as_said + (1 - certainty) * turned


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def repeated(rows: Sequence[Comparison], passes: Mapping[str, int]) -> list[Comparison]:
    """The comparisons of one epoch; those that put no answer before another are left out.

    Raises:
        DataError: no comparisons, or none has a failure, tag or principle that ``passes`` names.
    """
    rows, count = [row for row in rows if row.pairs()], len(rows)
    if not rows:
        raise DataError(
            f"none of {count} comparisons says which answer is better" if count else "no comparisons to train on",
            do="add rows to comparisons.jsonl, or take `dpo` out of the recipe",
        )
    times = times_read([names(row) for row in rows], passes)
    return [row for row, count in zip(rows, times, strict=True) for _ in range(count)]


def names(row: Comparison) -> set[str]:
    """What ``passes`` can call a comparison by."""
    return {row.failure, *row.tags, *row.principles}


def times_read(names: Sequence[set[str]], passes: Mapping[str, int]) -> list[int]:
    """How often an epoch reads each of the comparisons with these failures, tags and principles.

    Raises:
        DataError: none has a name that ``passes`` holds.
    """
    return loop.passes_of(names, passes, default=1, key="dpo.passes", what="comparison has such a failure, tag")


class Pair(NamedTuple):
    """A better and a worse answer to a prompt, how surely the one is better, and as how many pairs it counts."""

    group: Group
    certainty: float = 1.0
    weight: float = 1.0


def pairs(rows: Sequence[Comparison], chat: ChatFormat, config: DpoConfig) -> tuple[list[Pair], int]:
    """Every pair of a better and a worse answer, tokenised in this order, and how many were truncated.

    See `fitting`; both sides keep the same prompt.
    """
    found, truncated = [], 0
    for row in rows:
        whole = chat.prompt_ids(row.prompt)
        for pair in row.pairs():
            answers = [chat.completion_ids(text)[: config.tokens] for text in (pair.better, pair.worse)]
            group = fitting(whole, answers, config.max_length)
            truncated += group.tokens < len(whole) + sum(map(len, answers))
            found.append(Pair(group, row.certainty, pair.weight))
    return found, truncated


def run(config: DpoConfig, base: Path, start: Path, comparisons: Sequence[Comparison], out: StageFolder) -> None:
    """Go on training the policy in ``start`` (a folder of `save_policy`); leaves the new one in ``out``.

    Resumes from its checkpoint. Under torchrun every process calls this with the same arguments.

    Raises:
        DataError: nothing to train on. ModelError: ``start`` belongs to another base model.
        TrainingFailed: a loss or gradient that is not finite.
    """
    torch.manual_seed(config.seed)
    tokenizer, (model, policy) = pretrained.load_tokenizer(base), load_trainable(base, start)
    chat = chat_format(tokenizer, model.generation_config)
    compared, truncated = pairs(repeated(comparisons, config.passes), chat, config)
    groups = [pair.group for pair in compared]
    trainer = Trainer.prepare(config, model, policy, tokenizer.pad_token_id or 0, groups)
    plan = loop.plan_batches([g.tokens for g in groups], config.batch_size, config.epochs, config.seed)
    batches = [[compared[i] for i in rows] for rows in plan]
    references = trainer.references(batches)
    state = loop.load_checkpoint(out.path, trainer.parameters, trainer.optimiser) or {"step": 0}
    distributed.wait()  # before the first one writes the next checkpoint
    leads = distributed.rank() == 0
    out.emit(
        event="setup",
        comparisons=len(comparisons),
        without_order=sum(not row.pairs() for row in comparisons),
        pairs_per_epoch=len(compared),
        truncated=truncated,
        steps=len(plan),
        trainable_parameters=sum(p.numel() for p in trainer.parameters.values()),
        resumed_at_step=state["step"],
    )
    with Progress("dpo", len(plan), done=state["step"]) as progress:
        for step in range(state["step"], len(plan)):
            rate = loop.learning_rate_at(step, len(plan), config.optimiser)
            measured = trainer.step(step, batches[step], references[step], rate)
            out.emit(event="train", step=step, learning_rate=rate, **measured)
            progress.advance(loss=measured["loss"])
            if (step + 1) % config.checkpoint_every_steps == 0 and step + 1 < len(plan) and leads:
                loop.save_checkpoint(out.path, step + 1, trainer.parameters, trainer.optimiser, {})
    if leads:
        save_policy(policy, out.path, tokenizer, pretrained.digest(base))
        loop.drop_checkpoint(out.path)


# ── one step ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class Reference(NamedTuple):
    """The reference's log-probs of an optimiser step's scored tokens, by micro-batch; KTO's foreign answers apart."""

    own: list[Tensor]
    foreign: list[Tensor]


@dataclass(frozen=True)
class Trainer:
    """What one optimiser step needs."""

    config: DpoConfig
    model: Any
    head: Head
    vocabulary: CompactVocabulary | None
    parameters: dict[str, torch.nn.Parameter]
    optimiser: torch.optim.Optimizer
    pad_id: int

    @classmethod
    def prepare(cls, config: DpoConfig, model: Any, policy: Any, pad_id: int, groups: Sequence[Group]) -> Trainer:
        """Choose the vocabulary by the base model."""
        head, vocabulary = head_of(model), None
        if config.vocabulary == "compact":
            examples = [Example(g.prompt + ids, len(g.prompt)) for g in groups for ids in g.completions]
            with using(policy, None):
                vocabulary = choose_vocabulary(config.compact, model, head, examples)
        policy.train()
        parameters = trainable(policy)
        return cls(config, model, head, vocabulary, parameters, loop.adamw(parameters, config.optimiser), pad_id)

    def references(self, batches: Sequence[Sequence[Pair]]) -> list[Reference]:
        """What the policy, as it is now, gives to the tokens of every optimiser step; its dropout is off."""
        found = []
        self.model.eval()
        with torch.no_grad(), Progress("reference", len(batches)) as progress:
            for step, batch in enumerate(batches):
                groups = [pair.group for pair in batch]
                own = [logprobs for _, logprobs in self._read(step, groups)]
                found.append(Reference(own, [logprobs for _, logprobs in self._foreign(step, groups)]))
                progress.advance()
        self.model.train()
        return found

    def step(self, step: int, compared: Sequence[Pair], reference: Reference, rate: float) -> dict[str, Any]:
        """One optimiser step on some pairs; returns what was measured, over all processes."""
        start, config = time.perf_counter(), self.config
        groups = [pair.group for pair in compared]
        weights = sum(pair.weight for pair in compared)
        chosen_tokens = sum(len(g.completions[0]) for g in groups)
        baseline = self._baseline(step, groups, reference)
        sums = torch.zeros(5, dtype=torch.float64)
        shares: list[Sequence[Pair]] = distributed.share(compared, config.micro_batch_size)
        mine = [share for number, share in enumerate(shares) if distributed.mine(number)]
        for (batch, logprobs), before, share in zip(self._read(step, groups), reference.own, mine, strict=True):
            ratios = batch.sum_per_sequence(logprobs - before)
            lengths = batch.sum_per_sequence(torch.ones_like(logprobs))
            answers = Answers(ratios[CHOSEN], ratios[REJECTED], lengths[CHOSEN], lengths[REJECTED])
            certainty, weight = ratios.new_tensor([(pair.certainty, pair.weight) for pair in share]).T
            preference = (expected_losses(config, answers, certainty, baseline) * weight).sum() / weights
            nll = -logprobs[batch.sequence % 2 == 0].sum() / chosen_tokens
            (preference + config.nll_weight * nll).backward()
            won = (answers.chosen > answers.rejected).float()
            means = [values.sum() / len(groups) for values in (answers.chosen, answers.rejected, won)]
            sums += torch.stack([preference, nll, *means]).detach().double().cpu()
        measured = distributed.add_up(self.parameters.values(), *sums.tolist())
        loss = measured[0] + config.nll_weight * measured[1]
        norm = loop.optimiser_step(self.optimiser, self.parameters, loss, rate, config.optimiser.max_grad_norm)
        tokens = sum(g.tokens for g in groups)
        return {
            "loss": loss,
            "preference_loss": measured[0],
            "chosen_nll_nats_per_token": measured[1],
            # Chosen answers that become less likely are what to look for first.
            "chosen_log_ratio_nats": measured[2],
            "rejected_log_ratio_nats": measured[3],
            "accuracy": measured[4],
            **({"baseline_nats": baseline} if config.loss == "kto" else {}),
            "gradient_norm": norm,
            "tokens_per_second": round(tokens / (time.perf_counter() - start), 1),
        }

    def _read(self, step: int, groups: Sequence[Group]) -> Iterator[tuple[SharedPrefixBatch, Tensor]]:
        """This process's micro-batches of an optimiser step, with the log-probs of their scored tokens, [N].

        One random stream a step, used in the order of the rows: policy and reference are estimated at the same
        positions of a compact vocabulary, and splitting or sharing the rows changes nothing.
        """
        generator = random_stream(self.config.seed, step)
        for number, share in enumerate(distributed.share(groups, self.config.micro_batch_size)):
            if not distributed.mine(number):
                if self.vocabulary is not None:
                    self.vocabulary.pass_over(sum(len(ids) for g in share for ids in g.completions), generator)
                continue
            batch = shared_prefix_batch(share, self.pad_id, self.model.device)
            yield batch, shared_prefix_logprobs(self.model, batch, self.head, self.vocabulary, generator)

    def _foreign(self, step: int, groups: Sequence[Group]) -> Iterator[tuple[SharedPrefixBatch, Tensor]]:
        """The same of every prompt with the answers to its neighbour: what KTO takes its baseline from."""
        if self.config.loss != "kto":
            return
        neighbours = [groups[-1], *groups[:-1]]
        room = self.config.max_length
        mixed = [
            Group(own.prompt, [ids[: max(1, room - len(own.prompt))] for ids in other.completions])
            for own, other in zip(groups, neighbours, strict=True)
        ]
        yield from self._read(step, mixed)

    def _baseline(self, step: int, groups: Sequence[Group], reference: Reference) -> float:
        """KTO's z: the mean of r over the foreign answers, at least 0."""
        with torch.no_grad():
            foreign = zip(self._foreign(step, groups), reference.foreign, strict=True)
            total = sum(float((logprobs - before).sum()) for (_, logprobs), before in foreign)
        (total,) = distributed.add_up((), total)
        return max(0.0, total / (2 * len(groups)))
