"""Supervised fine-tuning on demonstrations: step 1 of InstructGPT (Ouyang et al. 2022, arXiv:2203.02155).

    loss = - (1 / N) * sum over scored tokens of log pi(y_t | x, y_<t)

The completion's tokens and its terminator are scored, never the prompt; N counts them over the whole optimiser step.
With replay, positions of text sampled from the base model join the mean, each with KL(base || pi).

What differs from the paper: LoRA by default instead of all weights; 2 to 3 epochs on hundreds of rows that we wrote
instead of 16 on 13,000; no dropout; optionally a compact vocabulary, an unbiased estimate of the same loss
(`lm/head.py`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from steersman.data.sources import spread
from steersman.errors import DataError
from steersman.functional import aggregate, scored_positions
from steersman.lm import limits, pretrained
from steersman.lm.adapters import ADAPTER, LoraConfig, add_lora, load_adapter, save_policy, trainable
from steersman.lm.chat_format import Batch, ChatFormat, Example, chat_format, pad
from steersman.lm.compact_vocabulary import CompactConfig, CompactVocabulary, choose_vocabulary
from steersman.lm.frozen_trunk import FrozenStates, FrozenTrunk, TrunkCache
from steersman.lm.head import Head, completion_nll, divergence, head_in_use, head_of, token_logprobs
from steersman.lm.packing import pack, refuse_unpackable, scored_hidden
from steersman.lm.sampling import random_stream
from steersman.store import StageFolder
from steersman.terminal import Progress, console
from steersman.train import distillation, distributed, loop
from steersman.train.distillation import DistillationConfig, Teacher
from steersman.train.replay import ReplayConfig, Replayed, by_weight, replay
from steersman.types import Demonstration, Record, Seed, messages_of, transport

VERSION = 2


class PrefixConfig(Record):
    """Extra weight for the first tokens of a completion. They decide whether it refuses, asks or answers, and are a
    small share of all tokens; upsampled prefixes cost a third of whole rows."""

    tokens: int = Field(default=8, ge=1, description="Length of a completion's prefix.")
    weight: float = Field(default=1.0, ge=1, description="Weight of prefix tokens in the loss; all others have 1.")
    upsample: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={}, description="Tag or principle -> extra reads per epoch of its rows, cut off after the prefix."
    )


class SftConfig(Record):
    """Supervised fine-tuning on demonstrations."""

    method: Literal["lora", "full"] = Field(default="lora", description="Train LoRA adapters, or all weights.")
    lora: LoraConfig = Field(default=LoraConfig(), description="The adapters; ignored by method: full.")
    vocabulary: Literal["full", "compact"] = Field(
        default="full", description="`compact` estimates the same loss without bias, faster on a CPU; needs lora."
    )
    compact: CompactConfig = Field(default=CompactConfig(), description="The compact vocabulary.")
    prefix: PrefixConfig = Field(default=PrefixConfig(), description="Extra weight for the first tokens of answers.")
    replay: ReplayConfig = Field(default=ReplayConfig(), description="The base model's own text among the rows.")
    distillation: DistillationConfig = Field(
        default=DistillationConfig(), description="The base model's own few-shot answers among the rows."
    )
    optimiser: loop.OptimiserConfig = Field(default=loop.OptimiserConfig(), description="AdamW and its schedule.")
    epochs: float = Field(
        default=2.0, ge=0, description="Passes over the demonstrations, also fractions; 0: an untrained adapter."
    )
    max_steps: int | None = Field(default=None, ge=1, description="Optimiser steps at most; null: as epochs say.")
    loss_on: Literal["last", "all"] = Field(
        default="last",
        description="Answers that carry loss, with their calls of tools; a conversation is read for each.",
    )
    trunk_cache_mb: int = Field(default=2048, ge=0, description="MB of memory for kept activations of frozen layers.")
    batch_size: int = Field(default=8, ge=1, description="Demonstrations in an optimiser step.")
    micro_batch_size: int = Field(default=8, ge=1, description="Rows in one pass; affects speed and memory.")
    packing: bool = Field(
        default=False,
        description="Rows of a pass share sequences of up to max_length tokens, each seeing itself alone: no padding.",
    )
    max_length: int = Field(default=512, ge=16, description="Tokens of a row, at most; of a sequence with packing.")
    truncation: loop.Truncation = Field(default="truncate", description=loop.TRUNCATION)
    eval_every_steps: int = transport(40, ge=1, description="Optimiser steps between validations.")
    checkpoint_every_steps: int = transport(20, ge=1, description="Optimiser steps between checkpoints.")
    seed: Seed = Field(default=0, description="Seed of adapters, batches, dropout and replayed text.")

    @model_validator(mode="after")
    def _compact_vocabulary_needs_lora(self) -> SftConfig:
        if self.vocabulary == "compact" and self.method == "full":
            raise ValueError("vocabulary: compact needs the frozen head of method: lora; with method: full use full")
        if self.vocabulary == "compact" and self.lora.modules_to_save:
            raise ValueError("vocabulary: compact needs a frozen head, without lora.modules_to_save; use full")
        if not self.epochs and self.method == "full":
            raise ValueError("epochs: 0 leaves a new adapter, which method: full has not; use method: lora")
        return self


class RevisedSftConfig(SftConfig):
    """Supervised learning from revisions: constitutional AI's (Bai et al. 2022, arXiv:2212.08073)."""

    from_base: bool = Field(
        default=False, description="Start from the base model, as in the paper, and not from the fine-tuned policy."
    )
    demonstrations_per_revision: float = Field(default=1.0, ge=0, description="Human demonstrations per revision.")

    def rows(self, revisions: Sequence[Demonstration], demonstrations: Sequence[Demonstration]) -> list[Demonstration]:
        """The revisions and an evenly spaced sample of the demonstrations."""
        return [*revisions, *spread(demonstrations, round(self.demonstrations_per_revision * len(revisions)))]


class TokenLoss(NamedTuple):
    """The loss at scored positions: over the whole vocabulary or an unbiased estimate of it, with token weights."""

    head: Head
    vocabulary: CompactVocabulary | None = None
    prefix: PrefixConfig = PrefixConfig()
    base_head: Head | None = None  # the base model's, if it is not the policy's own

    def nll(self, hidden: Tensor, targets: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Weighted sum of the negative log-likelihoods of [N] targets at [N, H] hidden states."""
        if self.vocabulary is None:
            return completion_nll(hidden, targets, self.head, weights)
        return self.vocabulary.nll(hidden, targets, self.head, generator, weights)

    def divergence(self, hidden: Tensor, reference: Tensor, generator: torch.Generator) -> Tensor:
        """Sum of KL(base || policy) at [N, H] hidden states, given the base model's, [N, H]."""
        if self.vocabulary is None:
            return divergence(hidden, reference, self.head, self.base_head)
        return self.vocabulary.divergence(hidden, reference, self.head, generator)

    def pass_over(self, positions: int, generator: torch.Generator) -> None:
        """Advance the generator as `nll` or `divergence` would for ``positions`` that another process scores."""
        if self.vocabulary is not None:
            self.vocabulary.pass_over(positions, generator)

    def weights(self, batch: Batch) -> Tensor:
        """[N] weights of the scored tokens: ``prefix.weight`` in a completion's prefix, else 1."""
        in_prefix = batch.completion_mask.cumsum(1) <= self.prefix.tokens
        weights = torch.where(in_prefix, self.prefix.weight, 1.0)
        return weights.roll(-1, dims=1)[scored_positions(batch.completion_mask)]


def sft_loss(
    model: Any,
    token_loss: TokenLoss,
    batch: Batch,
    weight_in_optimiser_step: float,
    generator: torch.Generator,
    lower: FrozenStates | None = None,
) -> Tensor:
    """Negative log-likelihood of the completions, averaged over the weighted tokens of the optimiser step.

    Args:
        batch: token ids and masks, [B, T].
        weight_in_optimiser_step: sum of `TokenLoss.weights` over all micro-batches of this step.
        generator: random choices of a compact vocabulary.
        lower: see `scored_hidden`.

    Returns:
        This micro-batch's share of the mean, a scalar; the shares of a step add up to the mean.
    """
    hidden, targets = scored_hidden(model, batch, lower)
    nll = token_loss.nll(hidden, targets, token_loss.weights(batch), generator)
    return aggregate(nll, weight_in_optimiser_step)


def replay_loss(
    model: Any,
    token_loss: TokenLoss,
    batch: Batch,
    reference: Tensor,
    weight_in_optimiser_step: float,
    generator: torch.Generator,
    lower: FrozenStates | None = None,
) -> Tensor:
    """KL(base || policy) summed over the scored positions of replayed text, as a share of the step's mean loss.

    Args:
        reference: [N, H], the base model's hidden states at these positions.
    """
    hidden, _ = scored_hidden(model, batch, lower)
    return aggregate(token_loss.divergence(hidden, reference, generator), weight_in_optimiser_step)


def learnt_rows(config: SftConfig, rows: Sequence[Demonstration]) -> list[Demonstration]:
    """The rows, each conversation once for every answer that is learnt: a template may write an answer otherwise once
    others follow (it takes thoughts out of old turns), and each is learnt as it would be asked for. With ``loss_on:
    last`` they are the last answer and the calls of tools that led to it, since the user's last message."""
    found: list[Demonstration] = []
    for row in rows:
        messages = messages_of(row.prompt)
        questions = [place for place, message in enumerate(messages) if message.role == "user"]
        first = 0 if config.loss_on == "all" else max(questions, default=len(messages))
        for place, message in enumerate(messages):
            before = messages[place - 1].role if place else "tools"
            learnt = message.role == "assistant" and message.weight and message.content.strip()
            if learnt and place > first and before != "tools":
                update = {"prompt": messages[:place], "completion": message.content}
                found.append(row.model_copy(update=update))
        found.append(row)
    return found


class Encoded(NamedTuple):
    """Tokenised rows, how many were too long (cut, or left out by ``truncation``), and the rows that are there."""

    examples: list[Example]
    too_long: int
    rows: list[Demonstration]


def encode(rows: Sequence[Demonstration], chat: ChatFormat, config: SftConfig) -> Encoded:
    """Tokenise rows of at most ``max_length``.

    Raises:
        DataError: no rows.
    """
    if not rows:
        raise DataError("no demonstrations to train on", do="add rows to demonstrations.jsonl")
    examples = [chat.example(row.prompt, row.completion, config.max_length) for row in rows]
    fits = [not example.truncated_tokens for example in examples]
    kept = [i for i, own in enumerate(fits) if own or config.truncation == "truncate"]
    return Encoded([examples[i] for i in kept], fits.count(False), [rows[i] for i in kept])


def prefix_repeats(config: PrefixConfig, rows: Sequence[Demonstration]) -> list[int]:
    """How often an epoch reads each row's prefix.

    Raises:
        DataError: ``upsample`` names a tag or principle that no row has.
    """
    names, what = [{*row.tags, *row.principles} for row in rows], "demonstration has such a tag"
    return loop.repeats(names, config.upsample, default=0, key="sft.prefix.upsample", what=what)


def prefixes(config: PrefixConfig, rows: Sequence[Demonstration], examples: Sequence[Example]) -> list[Example]:
    """The rows that ``upsample`` names, cut off after their prefixes and repeated as often as it says.

    Args:
        examples: the tokenised ``rows``.

    Raises:
        DataError: as `prefix_repeats`.
    """
    repeated = []
    for count, example in zip(prefix_repeats(config, rows), examples, strict=True):
        cut = Example(example.token_ids[: example.completion_start + config.tokens], example.completion_start)
        repeated += [cut] * count
    return repeated


def own_texts(
    config: SftConfig, by: Teacher | None, rows: Sequence[Demonstration], model: Any, chat: ChatFormat, out: StageFolder
) -> list[Replayed]:
    """The base model's own texts: those of replay, then its few-shot answers."""
    distilled = distillation.answers(config.distillation, by, rows, model, chat, config.seed, out)
    answers = [Replayed(*pair, config.distillation.weight) for pair in zip(*distilled, strict=True)]
    return replay(config.replay, config.seed, model, chat, out) + answers


def warn_about_terminators(model: Any, chat: ChatFormat) -> None:
    """Warn if the token that ends answers looks untrained: such a model writes random tokens in its place."""
    ending = chat.completion_ids("?")[-1]
    if limits.untrained_terminators(model, [ending]):
        console.print(
            f"[bold]warning:[/bold] answers will end with {chat.tokenizer.convert_ids_to_tokens(ending)!r}, which "
            "looks untrained (its embedding lies among those of unused tokens).\n  to do: remove the chat template, so "
            "that roles are spelled out and answers end with the trained end-of-text token"
        )


def leave_untrained(config: SftConfig, base: Path, base_name: str, out: StageFolder) -> None:
    """A new adapter, which changes nothing, in ``out``: later stages start from the model itself."""
    torch.manual_seed(config.seed)
    policy = add_lora(pretrained.load_model(base), config.lora, base_name)
    if distributed.rank() == 0:
        save_policy(policy, out.path, pretrained.load_tokenizer(base), pretrained.digest(base))


def _loaded(config: SftConfig, base: Path, stage: str) -> tuple[Any, Any, ChatFormat]:
    """Tokenizer, model and chat format, as far as these settings can train the model."""
    tokenizer, model = pretrained.load_tokenizer(base), pretrained.load_model(base)
    if config.packing:
        refuse_unpackable(model, f"{stage}.packing")
    chat = chat_format(tokenizer, model.generation_config)
    warn_about_terminators(model, chat)
    return tokenizer, model, chat


def run(
    config: SftConfig,
    base: Path,
    base_name: str,
    demonstrations: Sequence[Demonstration],
    validation: Sequence[Demonstration],
    out: StageFolder,
    *,
    start: Path | None = None,
    teacher: Teacher | None = None,
) -> None:
    """Fine-tune ``base`` and leave ``adapter/`` (or ``model/``) in ``out``; resumes from its checkpoint.

    Under torchrun every process calls this with the same arguments; the leader validates and writes.

    Args:
        start: a folder of `save_policy` whose adapter is trained further, in its own shape; None: a new adapter.
        teacher: for `DistillationConfig`.

    Raises:
        TrainingFailed: a loss or gradient that is not finite.
    """
    torch.manual_seed(config.seed)
    tokenizer, model, chat = _loaded(config, base, out.stage)
    examples, too_long, demonstrations = encode(learnt_rows(config, demonstrations), chat, config)
    fates = loop.say_too_long(out.stage, too_long, len(examples), config.truncation)
    held_out = encode(validation, chat, config).examples if validation else []
    upsampled = prefixes(config.prefix, demonstrations, examples)
    replayed = own_texts(config, teacher, demonstrations, model, chat, out)
    lengths = [len(e.token_ids) for e in examples]
    plan = loop.plan_batches(lengths, config.batch_size, config.epochs, config.seed, config.max_steps)
    extras = [loop.turns(len(extra), config.epochs, len(plan), config.seed) for extra in (upsampled, replayed)]
    beside = [*upsampled, *(row.example for row in replayed), *held_out]
    adapter = base_name if start is None else Adapter(base, start / ADAPTER)
    read = [*(examples[i] for i in sorted(set().union(*plan))), *beside]
    trainer = SftTrainer.prepare(config, model, adapter, tokenizer.pad_token_id or 0, [*examples, *beside], read)
    state = loop.load_checkpoint(out.path, trainer.parameters, trainer.optimiser) or {"step": 0, "tokens": 0}
    distributed.barrier()  # before the leader writes the next checkpoint
    leader = distributed.rank() == 0
    sizes = {"prefixes": upsampled, "replayed": replayed, "validation": held_out, "steps": plan}
    counts = {name: len(some) for name, some in sizes.items()} | trainer.counts()  # type: ignore[arg-type]
    out.emit(event="setup", **counts, demonstrations=len(demonstrations), **fates, resumed_at_step=state["step"])
    with Progress(out.stage, len(plan), done=state["step"]) as progress:
        for step in range(state["step"], len(plan)):
            if step % config.eval_every_steps == 0 and held_out and leader:
                out.emit(event="validation", step=step, **trainer.validate(held_out, outside=step == 0))
            rate = loop.learning_rate_at(step, len(plan), config.optimiser)
            batch = [examples[i] for i in plan[step]], [upsampled[i] for i in extras[0][step]]
            measured = trainer.step(step, batch, [replayed[i] for i in extras[1][step]], rate)
            state = {"step": step + 1, "tokens": state["tokens"] + measured.pop("tokens")}
            out.emit(event="train", step=step, learning_rate=rate, tokens_seen=state["tokens"], **measured)
            progress.advance(loss=measured["loss_nats_per_token"])
            if (step + 1) % config.checkpoint_every_steps == 0 and step + 1 < len(plan) and leader:
                loop.save_checkpoint(out.path, step + 1, trainer.parameters, trainer.optimiser, state)
    if leader:
        if held_out:
            out.emit(event="validation", step=len(plan), **trainer.validate(held_out, outside=True))
        save_policy(trainer.policy, out.path, tokenizer, pretrained.digest(base))
        loop.drop_checkpoint(out.path)


class Adapter(NamedTuple):
    """A trained adapter and the folder of the base model that it belongs to."""

    base: Path
    folder: Path


@dataclass(frozen=True)
class SftTrainer:
    """The state of training, and its optimiser step."""

    config: SftConfig
    model: Any
    policy: Any
    token_loss: TokenLoss
    cache: TrunkCache | None
    parameters: Mapping[str, Tensor]
    optimiser: torch.optim.Optimizer
    pad_id: int

    @classmethod
    def prepare(
        cls,
        config: SftConfig,
        model: Any,
        adapter: Adapter | str,
        pad_id: int,
        examples: list[Example],
        cached: list[Example] | None = None,
    ) -> SftTrainer:
        """Choose the vocabulary by the base model, then add the adapters.

        Args:
            adapter: a trained one, or the base model's name for new ones.
            examples: what a compact vocabulary is chosen for.
            cached: those that will be read, whose activations below the adapters are kept; None: all.
        """
        model.requires_grad_(config.method == "full")
        head = head_of(model)
        vocabulary = None
        if config.vocabulary == "compact":
            vocabulary = choose_vocabulary(config.compact, model, head, examples)
        base_head = head.frozen_copy() if config.method == "full" else head
        if config.method == "full":
            policy = model
        elif isinstance(adapter, Adapter):
            policy = load_adapter(model, *adapter)
        else:
            policy = add_lora(model, config.lora, adapter)
        token_loss = TokenLoss(head_in_use(head, model), vocabulary, config.prefix, base_head)
        frozen = FrozenTrunk.below(model, policy) if config.method == "lora" else None
        texts = [example.token_ids for example in (examples if cached is None else cached)]
        cache = TrunkCache(frozen, texts, pad_id, config.trunk_cache_mb) if frozen else None
        policy.train()
        parameters = trainable(policy)
        optimiser = loop.adamw(parameters, config.optimiser)
        return cls(config, model, policy, token_loss, cache, parameters, optimiser, pad_id)

    def counts(self) -> dict[str, Any]:
        """Trainable parameters, and the exact rows of a compact vocabulary."""
        vocabulary = self.token_loss.vocabulary
        parameters = sum(p.numel() for p in self.parameters.values())
        return {"trainable_parameters": parameters, "exact_rows": None if vocabulary is None else len(vocabulary.exact)}

    def step(
        self, step: int, rows: Sequence[Sequence[Example]], replayed: Sequence[Replayed], rate: float
    ) -> dict[str, Any]:
        """One optimiser step over micro-batches of whole rows, then of prefixes, then of replayed text.

        Returns its metrics, over all processes.
        """
        start = time.perf_counter()
        most = self.config.micro_batch_size
        shares = [
            share for kind in rows for share in distributed.split(sorted(kind, key=lambda e: len(e.token_ids)), most)
        ]
        batches = [self._batch(share) for share in shares]
        texts = [share for kind in by_weight(replayed) for share in distributed.split(kind, most)]
        weights = [self.token_loss.weights(batch) for batch in batches]
        nll_weight = sum(float(own.sum()) for own in weights)
        weight = nll_weight + sum(row.weight * len(row.reference) for row in replayed)
        # One stream a step, used in the order of the rows: resuming, splitting into micro-batches and sharing them
        # among processes change nothing.
        generator = random_stream(self.config.seed, step)
        nll, kl, penalty = 0.0, 0.0, 0.0
        for number, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            if not distributed.mine(number):
                self.token_loss.pass_over(len(weights[number]), generator)
                continue
            part = sft_loss(self.model, self.token_loss, batch, weight, generator, self._lower(share))
            part.backward()  # type: ignore[no-untyped-call]
            nll += part.item()
        for number, text in enumerate(texts, len(batches)):
            reference = torch.cat([row.reference for row in text])
            if not distributed.mine(number):
                self.token_loss.pass_over(len(reference), generator)
                continue
            examples = [row.example for row in text]
            batch, lower = self._batch(examples), self._lower(examples)
            part = replay_loss(self.model, self.token_loss, batch, reference, weight, generator, lower)
            (text[0].weight * part).backward()
            kl, penalty = kl + part.item(), penalty + text[0].weight * part.item()
        nll, kl, penalty = distributed.all_reduce(self.parameters.values(), nll, kl, penalty)
        objective, max_norm = nll + penalty, self.config.optimiser.max_grad_norm
        norm = loop.optimiser_step(self.optimiser, self.parameters, objective, rate, max_norm)
        positions = sum(len(row.reference) for row in replayed)
        tokens = sum(len(e.token_ids) for kind in rows for e in kind) + sum(len(r.example.token_ids) for r in replayed)
        return {
            "loss_nats_per_token": nll * weight / nll_weight,
            **({"replay_kl_nats_per_token": kl * weight / positions} if positions else {}),
            "gradient_norm": norm,
            "tokens": tokens,
            "tokens_per_second": round(tokens / (time.perf_counter() - start), 1),
        }

    def _batch(self, examples: Sequence[Example]) -> Batch:
        """The rows as one pass reads them."""
        if self.config.packing:
            return pack(examples, self.config.max_length, self.pad_id, self.model.device)
        return pad(examples, self.pad_id, self.model.device)

    def _lower(self, examples: Sequence[Example]) -> FrozenStates | None:
        """The rows' activations below the trainable layers, if they are cached."""
        return None if self.cache is None else self.cache.batch([example.token_ids for example in examples])

    def validate(self, examples: Sequence[Example], *, outside: bool) -> dict[str, float]:
        """Exact loss on held-out rows; with ``outside``, also the probability mass outside the compact vocabulary."""
        self.policy.eval()
        head, vocabulary = self.token_loss.head, self.token_loss.vocabulary
        nll, mass, count = 0.0, 0.0, 0
        with torch.no_grad():
            for i in range(0, len(examples), self.config.micro_batch_size):
                some = examples[i : i + self.config.micro_batch_size]
                hidden, targets = scored_hidden(self.model, self._batch(some), self._lower(some))
                nll -= float(token_logprobs(hidden, targets, head).double().sum())
                if outside and vocabulary is not None:
                    mass += vocabulary.outside_mass(hidden, head) * len(targets)
                count += len(targets)
        self.policy.train()
        measured = {"loss_nats_per_token": nll / count}
        if outside and vocabulary is not None:
            measured["mass_outside_exact_rows"] = mass / count
        return measured
