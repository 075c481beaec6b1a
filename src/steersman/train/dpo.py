"""Direct preference optimisation: learning from comparisons without a reward model (Rafailov et al. 2023,
arXiv:2305.18290).

    loss = -log sigmoid(beta * (r(chosen) - r(rejected)))        r(y) = log pi(y|x) - log reference(y|x)

log pi(y|x) is the sum over a completion's tokens, its terminator among them. Siblings with the same loop: `ipo_losses`
does not push margins to infinity (Azar et al. 2023, arXiv:2310.12036), `kto_losses` treats each answer alone
(Ethayarajh et al. 2024, arXiv:2402.01306).

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
from steersman.lm.shared_prefix import Group, SharedPrefixBatch, fitting, shared_prefix_batch, shared_prefix_logprobs
from steersman.store import StageFolder
from steersman.terminal import Progress
from steersman.train import distributed, loop
from steersman.types import Comparison, Record, Seed, transport

VERSION = 2
CHOSEN, REJECTED = slice(0, None, 2), slice(1, None, 2)  # among the completions of a batch


class DpoConfig(Record):
    """Preference optimisation on comparisons, from the fine-tuned policy."""

    loss: Literal["dpo", "ipo", "kto", "simpo", "orpo"] = Field(
        default="dpo", description="Loss of a pair; see the algorithm's page. simpo and orpo need no reference."
    )
    beta: float = Field(default=0.1, gt=0, description="Strength of the KL penalty towards the reference policy.")
    target_margin: float = Field(default=0.5, ge=0, description="SimPO's gamma, in nats; ignored by the other losses.")
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
    batch_size: int = Field(default=16, ge=1, description="Pairs in an optimiser step.")
    micro_batch_size: int = Field(default=8, ge=1, description="Pairs in one pass; affects speed and memory.")
    max_length: int = Field(default=512, ge=16, description="Tokens of a prompt with its longer answer.")
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
        baseline: z, an estimate of KL(pi || reference) over prompts with answers to other prompts, at least 0.
    """
    losses = torch.sigmoid(beta * (baseline - ratios.chosen)) + torch.sigmoid(beta * (ratios.rejected - baseline))
    return losses / 2


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
    """The comparisons of one epoch; those without an order are left out.

    Raises:
        DataError: no comparisons, or ``upsample`` names a failure, tag or principle that none has.
    """
    rows, count = [row for row in rows if row.pairs()], len(rows)
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


class PreferencePair(NamedTuple):
    """A tokenised prompt with a better and a worse answer, the probability of this order, and the pair's weight."""

    group: Group
    certainty: float = 1.0
    weight: float = 1.0


def encode(rows: Sequence[Comparison], chat: ChatFormat, config: DpoConfig) -> tuple[list[PreferencePair], int]:
    """All pairs of a better and a worse answer, tokenised in this order, and how many were truncated.

    See `fitting`; both sides keep the same prompt.
    """
    pairs, truncated = [], 0
    for row in rows:
        prompt = chat.prompt_ids(row.prompt)
        for pair in row.pairs():
            answers = [
                chat.completion_ids(text, row.prompt)[: config.first_n_tokens] for text in (pair.better, pair.worse)
            ]
            group = fitting(prompt, answers, config.max_length)
            truncated += group.tokens < len(prompt) + sum(map(len, answers))
            pairs.append(PreferencePair(group, row.certainty, pair.weight))
    return pairs, truncated


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
    torch.manual_seed(config.seed)
    tokenizer, (model, policy) = pretrained.load_tokenizer(base), load_trainable(base, start)
    chat = chat_format(tokenizer, model.generation_config)
    pairs, truncated = encode(upsampled(comparisons, config.upsample), chat, config)
    groups = [pair.group for pair in pairs]
    trainer = DpoTrainer.prepare(config, model, policy, tokenizer.pad_token_id or 0, groups)
    lengths = [g.tokens for g in groups]
    plan = loop.plan_batches(lengths, config.batch_size, config.epochs, config.seed, config.max_steps)
    plan = at_least_two(plan) if config.loss == "kto" else plan
    batches = [[pairs[i] for i in rows] for rows in plan]
    references = trainer.references(batches)
    unseen, _ = encode(held_out, chat, config)
    before = trainer.pair_logprobs(unseen)
    state = loop.load_checkpoint(out.path, trainer.parameters, trainer.optimiser) or {"step": 0}
    distributed.barrier()  # before the leader writes the next checkpoint
    leader = distributed.rank() == 0
    out.emit(
        event="setup",
        comparisons=len(comparisons),
        without_order=sum(not row.pairs() for row in comparisons),
        pairs_per_epoch=len(pairs),
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
            if (step + 1) % config.checkpoint_every_steps == 0 and step + 1 < len(plan) and leader:
                loop.save_checkpoint(out.path, step + 1, trainer.parameters, trainer.optimiser, {})
    if leader:
        if unseen:
            after = trainer.pair_logprobs(unseen)
            out.emit(event="held_out", **held_out_order(before, after))
        save_policy(policy, out.path, tokenizer, pretrained.digest(base))
        loop.drop_checkpoint(out.path)


def at_least_two(plan: Sequence[list[int]]) -> list[list[int]]:
    """Steps with a single pair joined to the one before, because KTO's baseline needs the answers to another prompt.

    Raises:
        DataError: there is no step with two pairs.
    """
    joined: list[list[int]] = []
    for step in plan:
        if joined and (len(step) == 1 or len(joined[-1]) == 1):
            joined[-1] = [*joined[-1], *step]
        else:
            joined.append(list(step))
    if len(joined[-1]) == 1 or max(map(len, plan)) == 1:
        raise DataError(
            "every optimiser step has one pair",
            expected="two or more: KTO's baseline is measured on the answers to other prompts",
            do="raise dpo.batch_size, or add comparisons",
        )
    return joined


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
class Reference(NamedTuple):
    """The reference's log-probs of an optimiser step's scored tokens, by micro-batch; KTO's mismatched pairs apart."""

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
        """Log-probs of the tokens of every optimiser step under the policy as it is now, in evaluation mode."""
        references = []
        self.model.eval()
        with torch.no_grad(), Progress("reference", len(batches)) as progress:
            for step, batch in enumerate(batches):
                groups = [pair.group for pair in batch]
                own = [logprobs for _, logprobs in self._logprobs(step, groups)]
                if self.config.loss in REFERENCE_FREE:
                    own = [torch.zeros_like(logprobs) for logprobs in own]
                references.append(Reference(own, [logprobs for _, logprobs in self._mismatched(step, groups)]))
                progress.advance()
        self.model.train()
        return references

    def pair_logprobs(self, pairs: Sequence[PreferencePair]) -> Tensor:
        """Exact log-probs of the chosen and the rejected answers under the policy as it is now, [P, 2] in nats."""
        found = []
        with torch.no_grad(), evaluating(self.model):
            for i in range(0, len(pairs), self.config.micro_batch_size):
                groups = [pair.group for pair in pairs[i : i + self.config.micro_batch_size]]
                batch = shared_prefix_batch(groups, self.pad_id, self.model.device)
                logprobs = shared_prefix_logprobs(self.model, batch, self.head, None, random_stream(0))
                found.append(batch.sum_per_sequence(logprobs).view(-1, 2).cpu())
        return torch.cat(found) if found else torch.zeros(0, 2)

    def step(self, step: int, pairs: Sequence[PreferencePair], reference: Reference, rate: float) -> dict[str, Any]:
        """One optimiser step; returns its metrics, over all processes."""
        start, config = time.perf_counter(), self.config
        groups = [pair.group for pair in pairs]
        total_weight = sum(pair.weight for pair in pairs)
        chosen_tokens = sum(len(g.completions[0]) for g in groups)
        baseline = config.target_margin if config.loss == "simpo" else self._baseline(step, groups, reference)
        sums = torch.zeros(5, dtype=torch.float64)
        shares: list[Sequence[PreferencePair]] = distributed.split(pairs, config.micro_batch_size)
        mine = [share for number, share in enumerate(shares) if distributed.mine(number)]
        for (batch, logprobs), before, share in zip(self._logprobs(step, groups), reference.own, mine, strict=True):
            r = batch.sum_per_sequence(logprobs - before)
            lengths = batch.sum_per_sequence(torch.ones_like(logprobs))
            ratios = LogRatios(r[CHOSEN], r[REJECTED], lengths[CHOSEN], lengths[REJECTED])
            certainty, weight = r.new_tensor([(pair.certainty, pair.weight) for pair in share]).T
            preference = (expected_losses(config, ratios, certainty, baseline) * weight).sum() / total_weight
            nll = -logprobs[batch.sequence % 2 == 0].sum() / chosen_tokens
            (preference + config.nll_weight * nll).backward()
            correct = (ratios.chosen > ratios.rejected).float()
            means = [values.sum() / len(groups) for values in (ratios.chosen, ratios.rejected, correct)]
            sums += torch.stack([preference, nll, *means]).detach().double().cpu()
        measured = distributed.all_reduce(self.parameters.values(), *sums.tolist())
        loss = measured[0] + config.nll_weight * measured[1]
        norm = loop.optimiser_step(self.optimiser, self.parameters, loss, rate, config.optimiser.max_grad_norm)
        tokens = sum(g.tokens for g in groups)
        return {
            "loss": loss,
            "preference_loss": measured[0],
            "chosen_nll_nats_per_token": measured[1],
            # Watch this one first: chosen answers that become less likely.
            "chosen_log_ratio_nats": measured[2],
            "rejected_log_ratio_nats": measured[3],
            "accuracy": measured[4],
            **({"baseline_nats": baseline} if config.loss == "kto" else {}),
            "gradient_norm": norm,
            "tokens_per_second": round(tokens / (time.perf_counter() - start), 1),
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
        neighbours = [groups[-1], *groups[:-1]]
        room = self.config.max_length
        mixed = [
            Group(own.prompt, [ids[: max(1, room - len(own.prompt))] for ids in other.completions])
            for own, other in zip(groups, neighbours, strict=True)
        ]
        yield from self._logprobs(step, mixed)

    def _baseline(self, step: int, groups: Sequence[Group], reference: Reference) -> float:
        """KTO's z: the mean of r over the mismatched answers, at least 0."""
        with torch.no_grad():
            mismatched = zip(self._mismatched(step, groups), reference.mismatched, strict=True)
            total = sum(float((logprobs - before).sum()) for (_, logprobs), before in mismatched)
        (total,) = distributed.all_reduce((), total)
        return max(0.0, total / (2 * len(groups)))
