"""Direct preference optimisation: learning from comparisons without a reward model (Rafailov et al. 2023,
arXiv:2305.18290).

    loss = -log sigmoid(beta * (r(chosen) - r(rejected)))        r(y) = log pi(y|x) - log reference(y|x)

log pi(y|x) is the sum over a completion's tokens, its terminator among them. Siblings with the same loop: `ipo_losses`
does not push margins to infinity (Azar et al. 2023, arXiv:2310.12036), `train/kto.py` treats each answer alone, and
alone learns from rows with one labelled answer.

What differs from the paper: the reference is the policy as supervised fine-tuning left it, and its log-probabilities
are computed once, before the first step, so that it needs no memory afterwards. Chosen and rejected share a row with
their prompt (`lm/shared_prefix.py`). A soft label counts a pair in both orders, each with its probability (conservative
DPO, with a label of its own for every pair); a weight multiplies the pair's loss. ``first_n_tokens`` compares only the
prefixes of answers, where a model decides whether it refuses, asks or answers. ``nll_weight`` adds the chosen answers'
own negative log-likelihood, without which both sides often become less likely (Pang et al. 2024, arXiv:2404.19733).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from steersman.errors import DataError
from steersman.functional import preference_nll
from steersman.lm import pretrained
from steersman.lm.adapters import load_trainable, save_policy, trainable, using
from steersman.lm.chat_format import ChatFormat, Example, chat_format
from steersman.lm.compact_vocabulary import CompactConfig, CompactVocabulary, choose_vocabulary
from steersman.lm.head import Head, evaluating, head_of
from steersman.lm.sampling import random_stream
from steersman.lm.shared_prefix import Group, SharedPrefixBatch, shared_prefix_batch, shared_prefix_logprobs
from steersman.store import StageFolder
from steersman.terminal import Progress, console
from steersman.train import distributed, kto, loop
from steersman.types import Comparison, Record, Seed, transport

VERSION = 3


class DpoConfig(Record):
    """Preference optimisation on comparisons, from the fine-tuned policy."""

    loss: Literal["dpo", "ipo", "kto", "simpo", "orpo"] = Field(
        default="dpo", description="Loss of a pair; see the algorithm's page. simpo and orpo need no reference."
    )
    beta: float = Field(default=0.1, gt=0, description="Strength of the KL penalty towards the reference policy.")
    target_margin: float = Field(default=0.5, ge=0, description="SimPO's gamma, in nats; ignored by the other losses.")
    desirable_weight: float = Field(default=1.0, gt=0, description="KTO's weight of good answers; others ignore it.")
    undesirable_weight: float = Field(default=1.0, gt=0, description="KTO's weight of bad answers; others ignore it.")
    nll_weight: float = Field(default=0.0, ge=0, description="Coefficient of the chosen answers' NLL per token.")
    first_n_tokens: int | None = Field(default=None, ge=1, description="Tokens compared of each answer; null is all.")
    upsample: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={}, description="Failure, tag or principle -> reads per epoch of its comparisons; others are read once."
    )
    vocabulary: Literal["full", "compact"] = Field(default="full", description="`compact` is an estimate, for CPUs.")
    compact: CompactConfig = Field(default=CompactConfig(), description="The compact vocabulary.")
    optimiser: loop.OptimiserConfig = Field(
        default=loop.OptimiserConfig(learning_rate=2e-5, warmup_ratio=0.1), description="AdamW and its schedule."
    )
    epochs: float = Field(default=1.0, gt=0, description="Passes over the comparisons; fractions are allowed.")
    max_steps: int | None = Field(default=None, ge=1, description="Optimiser steps at most; null: as epochs say.")
    batch_size: int = Field(default=16, ge=1, description="Pairs, or single answers, in an optimiser step.")
    micro_batch_size: int = Field(
        default=8, ge=1, description="Pairs, or single answers, in one pass; affects speed and memory."
    )
    max_length: int = Field(default=512, ge=16, description="Tokens of a prompt with its longer answer.")
    truncation: loop.Truncation = Field(default="truncate", description=loop.TRUNCATION)
    checkpoint_every_steps: int = transport(20, ge=1, description="Optimiser steps between checkpoints.")
    seed: Seed = Field(default=0, description="Seed of batches, dropout and the compact vocabulary's positions.")

    @model_validator(mode="after")
    def _orpo_is_a_sum(self) -> DpoConfig:
        if self.loss == "orpo" and not self.nll_weight:
            raise ValueError("loss: orpo adds the odds ratio to the chosen answers' NLL; set nll_weight: 1")
        return self


# ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────
class LogRatios(NamedTuple):
    """r of the two answers of P pairs, [P] in nats each, and their lengths in tokens, [P]."""

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    def swapped(self) -> LogRatios:
        """As if the rejected answers had been chosen."""
        return LogRatios(self.rejected, self.chosen, self.rejected_tokens, self.chosen_tokens)


def dpo_losses(ratios: LogRatios, beta: float, _: float = 0.0) -> Tensor:
    """-log sigmoid(beta * (r(chosen) - r(rejected))), [P]."""
    return preference_nll(beta * (ratios.chosen - ratios.rejected))


def ipo_losses(ratios: LogRatios, beta: float, _: float = 0.0) -> Tensor:
    """(r(chosen) - r(rejected) - 1 / (2 beta))^2, [P], with r divided by the answer's length, as the authors do."""
    margins = ratios.chosen / ratios.chosen_tokens - ratios.rejected / ratios.rejected_tokens
    return (margins - 1 / (2 * beta)) ** 2


def kto_losses(ratios: LogRatios, beta: float, baseline: float) -> Tensor:
    """1 - sigmoid(beta * (r - z)) of a chosen and 1 - sigmoid(beta * (z - r)) of a rejected answer; [P], their mean.

    Args:
        baseline: z, in nats; see `train/kto.py`, which learns from single answers too.
    """
    chosen = kto.answer_losses(ratios.chosen, torch.ones_like(ratios.chosen), beta, baseline)
    return (chosen + kto.answer_losses(ratios.rejected, torch.zeros_like(ratios.rejected), beta, baseline)) / 2


def simpo_losses(ratios: LogRatios, beta: float, margin: float) -> Tensor:
    """-log sigmoid(beta * (log pi(chosen) / |chosen| - log pi(rejected) / |rejected|) - margin), [P]."""
    difference = ratios.chosen / ratios.chosen_tokens - ratios.rejected / ratios.rejected_tokens
    return preference_nll(beta * difference - margin)


def orpo_losses(ratios: LogRatios, beta: float, _: float = 0.0) -> Tensor:
    """-beta * log sigmoid(log odds(chosen) - log odds(rejected)), [P], of geometric mean probabilities by token."""
    means = ratios.chosen / ratios.chosen_tokens, ratios.rejected / ratios.rejected_tokens
    chosen, rejected = (mean - torch.log1p(-mean.exp().clamp(max=1 - 1e-6)) for mean in means)
    return beta * preference_nll(chosen - rejected)


LOSSES: Mapping[str, Callable[[LogRatios, float, float], Tensor]] = {
    "dpo": dpo_losses,
    "ipo": ipo_losses,
    "kto": kto_losses,
    "simpo": simpo_losses,
    "orpo": orpo_losses,
}
REFERENCE_FREE = ("simpo", "orpo")  # their r is the policy's own log-probability


def expected_losses(config: DpoConfig, ratios: LogRatios, certainty: Tensor, baseline: float) -> Tensor:
    """[P]: the expected loss when the chosen answer is the better one with probability ``certainty``, [P]."""
    loss = LOSSES[config.loss]
    as_labelled, swapped = (loss(side, config.beta, baseline) for side in (ratios, ratios.swapped()))
    return certainty * as_labelled + (1 - certainty) * swapped


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def upsampled(rows: Sequence[Comparison], upsample: Mapping[str, int]) -> list[Comparison]:
    """The comparisons of one epoch; those without an order or a label are left out.

    Raises:
        DataError: no comparisons, or ``upsample`` names a failure, tag or principle that none has.
    """
    rows, count = [row for row in rows if row.pairs() or row.desirable is not None], len(rows)
    if not rows:
        raise DataError(
            f"none of {count} comparisons says which answer is better" if count else "no comparisons to train on",
            do="add rows to comparisons.jsonl, or take `dpo` out of the recipe",
        )
    repeats = comparison_repeats([names(row) for row in rows], upsample)
    return [row for row, count in zip(rows, repeats, strict=True) for _ in range(count)]


def names(row: Comparison) -> set[str]:
    """What ``upsample`` can select a comparison by."""
    return {row.failure, *row.tags, *row.principles}


def comparison_repeats(names: Sequence[set[str]], upsample: Mapping[str, int]) -> list[int]:
    """How often an epoch reads each of the comparisons with these failures, tags and principles.

    Raises:
        DataError: ``upsample`` holds a name that none has.
    """
    return loop.repeats(names, upsample, default=1, key="dpo.upsample", what="comparison has such a failure, tag")


def refuse_labelled(rows: Sequence[Comparison], loss: str) -> None:
    """Refuse rows with one labelled answer for every loss but KTO's.

    Raises:
        DataError: there are some, and the loss is another one.
    """
    if loss != "kto" and (alone := sum(row.desirable is not None for row in rows)):
        raise DataError(
            f"{alone} of {len(rows)} comparisons have one answer with a label, and dpo.loss: {loss} learns from pairs",
            expected="a better and a worse answer in every comparison",
            do="set dpo.loss: kto, or take these rows out",
        )


class PreferencePair(NamedTuple):
    """A tokenised prompt with a better and a worse answer, the probability of this order, and the pair's weight.

    Of one labelled answer: the probability that it is a good one.
    """

    group: Group
    certainty: float = 1.0
    weight: float = 1.0


def encode(rows: Sequence[Comparison], chat: ChatFormat, config: DpoConfig) -> tuple[list[PreferencePair], int]:
    """All pairs of a better and a worse answer, tokenised in this order, single answers, and how many were too long.

    See `ChatFormat.fit`; both sides keep the same prompt. ``truncation: drop`` leaves out pairs that are too long.
    """
    pairs, too_long = [], 0
    for row in rows:
        certainty = row.certainty if row.desirable is None else float(row.desirable)
        alone = [row.options] if row.desirable is not None else []
        for texts in [*((pair.better, pair.worse) for pair in row.pairs()), *alone]:
            answers = [chat.completion_ids(text, row.prompt)[: config.first_n_tokens] for text in texts]
            prompt, kept, excess = chat.fit(row.prompt, answers, config.max_length)
            too_long += excess > 0
            if not excess or config.truncation == "truncate":
                pairs.append(PreferencePair(Group(prompt, kept), certainty, row.weight))
    return pairs, too_long


class Answers(NamedTuple):
    """The answers of some rows, in the order of their batch: how probably each is a good one and its row's weight, [S],
    and the places of the better answers of pairs, [P], each followed by its worse one."""

    desirable: Tensor
    weight: Tensor
    first: Tensor

    @classmethod
    def of(cls, rows: Sequence[PreferencePair], device: Any = None) -> Answers:
        """Those of rows of one answer or two."""
        said: list[tuple[float, float]] = []
        first: list[int] = []
        for group, certainty, weight in rows:
            if len(group.completions) == 2:
                first.append(len(said))
            said += [(p, weight) for p in (certainty, 1 - certainty)[: len(group.completions)]]
        desirable, weights = torch.tensor(said, device=device).T
        return cls(desirable, weights, torch.tensor(first, dtype=torch.long, device=device))


def batches_of(config: DpoConfig, pairs: Sequence[PreferencePair]) -> list[list[PreferencePair]]:
    """The rows of every optimiser step."""
    lengths = [pair.group.tokens for pair in pairs]
    plan = loop.plan_batches(lengths, config.batch_size, config.epochs, config.seed, config.max_steps)
    return [[pairs[i] for i in rows] for rows in (kto.at_least_two(plan) if config.loss == "kto" else plan)]


def labels(config: DpoConfig, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """Under KTO, how many answers of an epoch are good and bad ones; what is to be said of it, also on the console."""
    if config.loss != "kto":
        return {}
    told = kto.labels(Answers.of(pairs).desirable, (config.desirable_weight, config.undesirable_weight))
    if told["balance"]:
        console.print(told["balance"], soft_wrap=True)
    return told


def run(
    config: DpoConfig,
    base: Path,
    start: Path,
    comparisons: Sequence[Comparison],
    out: StageFolder,
    *,
    held_out: Sequence[Comparison] = (),
) -> None:
    """Train the policy in ``start`` (a folder of `save_policy`) further and leave it in ``out``.

    Resumes from its checkpoint. Under torchrun every process calls this with the same arguments.

    Args:
        held_out: comparisons that are not learnt, on which the order of the answers is measured at the end.

    Raises:
        DataError: nothing to train on. ModelError: ``start`` belongs to another base model.
        TrainingFailed: a loss or gradient that is not finite.
    """
    refuse_labelled(comparisons, config.loss)
    torch.manual_seed(config.seed)
    tokenizer, (model, policy) = pretrained.load_tokenizer(base), load_trainable(base, start)
    chat = chat_format(tokenizer, model.generation_config)
    pairs, too_long = encode(upsampled(comparisons, config.upsample), chat, config)
    fates = loop.say_too_long(out.stage, too_long, len(pairs), config.truncation)
    groups = [pair.group for pair in pairs]
    trainer = DpoTrainer.prepare(config, model, policy, tokenizer.pad_token_id or 0, groups)
    batches, labelled = batches_of(config, pairs), labels(config, pairs)
    references = trainer.references(batches)
    unseen, _ = encode(held_out, chat, config)
    before = trainer.answer_logprobs(unseen)
    state = loop.load_checkpoint(out.path, trainer.parameters, trainer.optimiser) or {"step": 0}
    distributed.barrier()  # before the leader writes the next checkpoint
    leader = distributed.rank() == 0
    out.emit(
        event="setup",
        comparisons=len(comparisons),
        without_order=sum(not row.pairs() and row.desirable is None for row in comparisons),
        pairs_per_epoch=sum(len(group.completions) == 2 for group in groups),
        **fates,
        steps=len(batches),
        **labelled,
        trainable_parameters=sum(p.numel() for p in trainer.parameters.values()),
        resumed_at_step=state["step"],
    )
    with Progress("dpo", len(batches), done=state["step"]) as progress:
        for step in range(state["step"], len(batches)):
            rate = loop.learning_rate_at(step, len(batches), config.optimiser)
            measured = trainer.step(step, batches[step], references[step], rate)
            out.emit(event="train", step=step, learning_rate=rate, **measured)
            progress.advance(loss=measured["loss"])
            if (step + 1) % config.checkpoint_every_steps == 0 and step + 1 < len(batches) and leader:
                loop.save_checkpoint(out.path, step + 1, trainer.parameters, trainer.optimiser, {})
    if leader:
        if unseen:
            for event, gains in held_out_gains(unseen, before, trainer.answer_logprobs(unseen)).items():
                out.emit(event=event, **gains)
        save_policy(policy, out.path, tokenizer, pretrained.digest(base))
        loop.drop_checkpoint(out.path)


def held_out_gains(unseen: Sequence[PreferencePair], before: Tensor, after: Tensor) -> dict[str, dict[str, Any]]:
    """What unseen answers gained, by the event that tells it: the order of pairs, and the means of single answers.

    Args:
        before, after: [S] log-probs of all answers under the reference and the trained policy.
    """
    answers, events = Answers.of(unseen), dict[str, dict[str, Any]]()
    if len(answers.first):
        sides = torch.stack([answers.first, answers.first + 1], 1)
        events["held_out"] = held_out_order(before[sides], after[sides])
    alone = torch.ones(len(after), dtype=torch.bool)
    alone[answers.first], alone[answers.first + 1] = False, False
    good, gained = answers.desirable > 0.5, after - before
    told: dict[str, Any] = {}
    for name, own in (("desirable", gained[alone & good]), ("undesirable", gained[alone & ~good])):
        told |= {name: len(own), **({f"{name}_log_ratio_nats": float(own.mean())} if len(own) else {})}
    return {**events, "held_out_answers": told} if alone.any() else events


def held_out_order(before: Tensor, after: Tensor) -> dict[str, Any]:
    """How often the chosen answer of an unseen pair is the likelier one, and gained more than the rejected one.

    Args:
        before, after: [P, 2] log-probs of chosen and rejected answers under the reference and the trained policy.
    """
    gained = after - before
    return {
        "pairs": len(after),
        "chosen_gained_more": int((gained[:, 0] > gained[:, 1]).sum()),
        "chosen_likelier_before": int((before[:, 0] > before[:, 1]).sum()),
        "chosen_likelier_after": int((after[:, 0] > after[:, 1]).sum()),
        "margin_nats": float((gained[:, 0] - gained[:, 1]).mean()),
    }


# ── one step ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def weighted_loss(config: DpoConfig, r: Tensor, lengths: Tensor, answers: Answers, baseline: float) -> Tensor:
    """The sum of the losses of pairs, under KTO of answers, each times its weight.

    Args:
        r: [S] in nats; lengths: [S] in tokens; baseline: KTO's z, SimPO's margin.
    """
    if config.loss == "kto":
        weights = config.desirable_weight, config.undesirable_weight
        return (kto.answer_losses(r, answers.desirable, config.beta, baseline, weights) * answers.weight).sum()
    first, second = answers.first, answers.first + 1
    ratios = LogRatios(r[first], r[second], lengths[first], lengths[second])
    return (expected_losses(config, ratios, answers.desirable[first], baseline) * answers.weight[first]).sum()


class Reference(NamedTuple):
    """The reference's log-probs of an optimiser step's scored tokens, by micro-batch; KTO's mismatched rows apart."""

    own: list[Tensor]
    mismatched: list[Tensor]


@dataclass(frozen=True)
class DpoTrainer:
    """The state of training, and its optimiser step."""

    config: DpoConfig
    model: Any
    head: Head
    vocabulary: CompactVocabulary | None
    parameters: dict[str, torch.nn.Parameter]
    optimiser: torch.optim.Optimizer
    pad_id: int

    @classmethod
    def prepare(cls, config: DpoConfig, model: Any, policy: Any, pad_id: int, groups: Sequence[Group]) -> DpoTrainer:
        """Choose the compact vocabulary by the base model, without the adapter."""
        head, vocabulary = head_of(model), None
        if config.vocabulary == "compact":
            examples = [Example(g.prompt + ids, len(g.prompt)) for g in groups for ids in g.completions]
            with using(policy, None):
                vocabulary = choose_vocabulary(config.compact, model, head, examples)
        policy.train()
        parameters = trainable(policy)
        return cls(config, model, head, vocabulary, parameters, loop.adamw(parameters, config.optimiser), pad_id)

    def references(self, batches: Sequence[Sequence[PreferencePair]]) -> list[Reference]:
        """Log-probs of the tokens of every optimiser step under the policy as it is now, in evaluation mode.

        Zeros, and no pass through the model, for a loss without a reference.
        """
        if self.config.loss in REFERENCE_FREE:
            shares = [distributed.split(batch, self.config.micro_batch_size) for batch in batches]
            mine = [sum(map(distributed.mine, range(len(own)))) for own in shares]
            return [Reference([torch.zeros(())] * count, []) for count in mine]
        references = []
        self.model.eval()
        with torch.no_grad(), Progress("reference", len(batches)) as progress:
            for step, batch in enumerate(batches):
                groups = [pair.group for pair in batch]
                own = [logprobs for _, logprobs in self._logprobs(step, groups)]
                references.append(Reference(own, [logprobs for _, logprobs in self._mismatched(step, groups)]))
                progress.advance()
        self.model.train()
        return references

    def answer_logprobs(self, pairs: Sequence[PreferencePair]) -> Tensor:
        """Exact log-probs of all answers under the policy as it is now, [S] in nats."""
        found = []
        with torch.no_grad(), evaluating(self.model):
            for i in range(0, len(pairs), self.config.micro_batch_size):
                groups = [pair.group for pair in pairs[i : i + self.config.micro_batch_size]]
                batch = shared_prefix_batch(groups, self.pad_id, self.model.device)
                logprobs = shared_prefix_logprobs(self.model, batch, self.head, None, random_stream(0))
                found.append(batch.sum_per_sequence(logprobs).cpu())
        return torch.cat(found) if found else torch.zeros(0)

    def step(self, step: int, pairs: Sequence[PreferencePair], reference: Reference, rate: float) -> dict[str, Any]:
        """One optimiser step; returns its metrics, over all processes."""
        start, config = time.perf_counter(), self.config
        groups, answers = [pair.group for pair in pairs], Answers.of(pairs)
        good = answers.desirable > 0.5
        counts = int(good.sum()), int((~good).sum()), len(answers.first)
        total_weight = sum(pair.weight * (len(pair.group.completions) if config.loss == "kto" else 1) for pair in pairs)
        chosen_tokens = sum(len(g.completions[0]) for g, p, _ in pairs if p > 0.5)
        baseline = config.target_margin if config.loss == "simpo" else self._baseline(step, groups, reference)
        sums = torch.zeros(5, dtype=torch.float64)
        shares: list[Sequence[PreferencePair]] = distributed.split(pairs, config.micro_batch_size)
        mine = [share for number, share in enumerate(shares) if distributed.mine(number)]
        for (batch, logprobs), before, share in zip(self._logprobs(step, groups), reference.own, mine, strict=True):
            r = batch.sum_per_sequence(logprobs - before)
            lengths, own = batch.sum_per_sequence(torch.ones_like(logprobs)), Answers.of(share, r.device)
            preference = weighted_loss(config, r, lengths, own, baseline) / total_weight
            good = own.desirable > 0.5
            nll = -logprobs[good[batch.sequence]].sum() / max(1, chosen_tokens)
            (preference + config.nll_weight * nll).backward()  # type: ignore[no-untyped-call]
            correct = (r[own.first] > r[own.first + 1]).float()
            means = [v.sum() / max(1, n) for v, n in zip((r[good], r[~good], correct), counts, strict=True)]
            sums += torch.stack([preference, nll, *means]).detach().double().cpu()
        measured = distributed.all_reduce(self.parameters.values(), *sums.tolist())
        loss = measured[0] + config.nll_weight * measured[1]
        norm = loop.optimiser_step(self.optimiser, self.parameters, loss, rate, config.optimiser.max_grad_norm)
        # Watch the first ratio first: chosen answers that become less likely.
        names = ("chosen_log_ratio_nats", "rejected_log_ratio_nats", "accuracy")
        return {
            "loss": loss,
            "preference_loss": measured[0],
            "chosen_nll_nats_per_token": measured[1],
            **{name: value for name, value, n in zip(names, measured[2:], counts, strict=True) if n},
            **({"baseline_nats": baseline} if config.loss == "kto" else {}),
            "gradient_norm": norm,
            "tokens_per_second": round(sum(g.tokens for g in groups) / (time.perf_counter() - start), 1),
        }

    def _logprobs(self, step: int, groups: Sequence[Group]) -> Iterator[tuple[SharedPrefixBatch, Tensor]]:
        """This process's micro-batches of an optimiser step, with the log-probs of their scored tokens, [N].

        One random stream a step, used in the order of the rows: policy and reference are estimated at the same
        positions of a compact vocabulary, and splitting or sharing the rows changes nothing.
        """
        generator = random_stream(self.config.seed, step)
        for number, share in enumerate(distributed.split(groups, self.config.micro_batch_size)):
            if not distributed.mine(number):
                if self.vocabulary is not None:
                    self.vocabulary.pass_over(sum(len(ids) for g in share for ids in g.completions), generator)
                continue
            batch = shared_prefix_batch(share, self.pad_id, self.model.device)
            yield batch, shared_prefix_logprobs(self.model, batch, self.head, self.vocabulary, generator)

    def _mismatched(self, step: int, groups: Sequence[Group]) -> Iterator[tuple[SharedPrefixBatch, Tensor]]:
        """`_logprobs` of every prompt with its neighbour's answers, from which KTO estimates its KL baseline."""
        if self.config.loss != "kto":
            return
        yield from self._logprobs(step, kto.mismatched(groups, self.config.max_length))

    def _baseline(self, step: int, groups: Sequence[Group], reference: Reference) -> float:
        """KTO's z: the mean of r over the mismatched answers, at least 0."""
        with torch.no_grad():
            mismatched = zip(self._mismatched(step, groups), reference.mismatched, strict=True)
            total = sum(float((logprobs - before).sum()) for (_, logprobs), before in mismatched)
        (total,) = distributed.all_reduce((), total)
        return max(0.0, total / sum(len(group.completions) for group in groups))
