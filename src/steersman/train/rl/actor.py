"""The policy, its reference and the reward model on one base model: what they sample, score and read.

All of them are adapters on the same weights. What the layers below the adapters make of a text is computed once for
policy, reference, critic and judges, and kept over the updates that a batch of rollouts is used for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from steersman.functional import k1_nats
from steersman.lm import pretrained
from steersman.lm.adapters import ADAPTER, load_adapter, using
from steersman.lm.chat_format import ChatFormat, shorten
from steersman.lm.compact_vocabulary import CompactConfig, CompactVocabulary, choose_vocabulary
from steersman.lm.frozen_trunk import FrozenStates, FrozenTrunk
from steersman.lm.head import Head, divergence, entropies, head_of
from steersman.lm.int8 import Int8Copy
from steersman.lm.sampling import Completion, Sampler, SamplingConfig, random_stream
from steersman.lm.shared_prefix import (
    Group,
    GroupStates,
    SharedPrefixBatch,
    compute_frozen_states,
    compute_group_states,
    shared_prefix_batch,
    shared_prefix_hidden,
    shared_prefix_logprobs,
)
from steersman.lm.vllm_engine import VllmEngine
from steersman.train import distributed
from steersman.train.reward_model import RewardModel, tokenised
from steersman.types import Demonstration, Prompt, Record, Seed, Text, transport

POLICY, REFERENCE = "default", "reference"
KL_POSITIONS = 512  # of a look; four passes over the whole head for each are most of its time
IMITATED_TOKENS = 512  # of a demonstration with its prompt, at most

Judge = Callable[[Prompt, str], float]  # something said of an answer, in a number


class RolloutConfig(Record):
    """``answers`` to each of ``prompts`` a step. Lengths are in tokens.

    The policy that is improved, and its reference, are those that sample at ``temperature``: their logits are divided
    by it everywhere. A small model's answers at temperature 1 are too odd for a reward model to judge.
    ``unended_penalty`` is taken off the reward of an answer that does not end by itself. ``int8`` samples with rounded
    weights, ``engine: vllm`` with vLLM, which gets ``vllm_cache_gb`` of memory for keys and values beside its weights;
    the loss is corrected for both, and for a compact vocabulary.
    """

    prompts: int = Field(default=8, ge=1)
    answers: int = Field(default=4, ge=2)
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=64, ge=1)
    max_prompt_tokens: int = Field(default=256, ge=8)
    unended_penalty: float = Field(default=1.0, ge=0)
    int8: bool = False
    engine: Literal["steersman", "vllm"] = "steersman"
    vllm_cache_gb: float = transport(4.0, gt=0)


class ActorConfig(Record):
    """What sampling and reading depend on."""

    rollouts: RolloutConfig = RolloutConfig()
    vocabulary: Literal["full", "compact"] = "full"
    compact: CompactConfig = CompactConfig()
    micro_batch_size: int = Field(default=4, ge=1)
    seed: Seed = 0

    @model_validator(mode="after")
    def _vllm_samples_from_the_policy_alone(self) -> ActorConfig:
        if self.rollouts.engine == "vllm" and (self.rollouts.int8 or self.vocabulary == "compact"):
            raise ValueError(
                "rollouts.engine: vllm draws from the whole vocabulary with weights of its own: "
                "set vocabulary: full and rollouts.int8: false, or rollouts.engine: steersman"
            )
        return self


class Rollouts(NamedTuple):
    """Prompts with their sampled answers, P and G of each, in the order of the groups.

    ``scores``: [P, G] of the reward model; ``ended``: [P, G] bool; ``drawn``: a tensor for each prompt with the
    log-probs of its answers' tokens as they were drawn; ``answers``: the texts by prompt; ``below``: what the layers
    below all adapters make of the groups.
    """

    groups: list[Group]
    scores: Tensor
    ended: Tensor
    drawn: list[Tensor]
    answers: list[list[str]]
    below: GroupStates | None

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return sum(len(ids) for group in self.groups for ids in group.completions)

    def of(self, prompts: Sequence[int]) -> Rollouts:
        """Those of these prompts alone."""
        at = list(prompts)
        groups, drawn = [self.groups[i] for i in at], [self.drawn[i] for i in at]
        below = self.below and self.below._replace(states=[self.below.states[i] for i in at])
        return Rollouts(groups, self.scores[at], self.ended[at], drawn, [self.answers[i] for i in at], below)


@dataclass
class Seen:
    """A micro-batch of rollouts as it stands before the updates; N are the tokens of all its answers.

    ``places``: of its prompts among the step's; ``reference``: [N] log-probs; ``drawn``: [N] under the distribution
    that sampled them, where that is not the policy; ``old``: [N] under the policy that is to be improved, once it was
    read; ``stream``: the state that the random stream had.
    """

    number: int
    places: Sequence[int]
    batch: SharedPrefixBatch
    lower: FrozenStates | None
    stream: Tensor
    reference: Tensor
    drawn: Tensor | None
    old: Tensor | None = None


class Read(NamedTuple):
    """A micro-batch under policy and reference. Its fields are those of `Seen`, and:

    ``number``: of the micro-batch; ``logprobs``: [N] with gradients; ``rewards``: [P, G].
    """

    number: int
    batch: SharedPrefixBatch
    lower: FrozenStates | None
    logprobs: Tensor
    old: Tensor
    reference: Tensor
    drawn: Tensor | None
    rewards: Tensor

    def k1_per_answer(self) -> Tensor:
        """[P, G] log policy - log reference of whole answers, without gradients."""
        return self.batch.sum_per_sequence(k1_nats(self.old, self.reference)).view_as(self.rewards)


@dataclass(frozen=True)
class Actor:
    """Policy, reference and reward model, and what sampling and reading them take.

    ``second`` is a reward model that nothing is optimised for: it looks on. ``cost`` is one that a constraint asks.
    As a context manager it ends, when it is left, what it has started.
    """

    config: ActorConfig
    base: Path
    model: Any
    policy: Any
    chat: ChatFormat
    reward: RewardModel
    second: RewardModel | None
    cost: RewardModel | None
    head: Head
    vocabulary: CompactVocabulary | None
    int8: Int8Copy | None
    vllm: VllmEngine | None
    below: FrozenTrunk | None
    pad_id: int

    @classmethod
    def load(
        cls,
        config: ActorConfig,
        base: Path,
        start: Path,
        reward: Path,
        demonstrations: Sequence[Demonstration],
        second: Path | None = None,
        cost: Path | None = None,
    ) -> Actor:
        """Put the adapter in ``start`` twice on the base model, as policy and as reference, and the reward models.

        Args:
            demonstrations: a compact vocabulary holds their tokens.
        """
        tokenizer, model = pretrained.load_tokenizer(base), pretrained.load_model(base)
        model.requires_grad_(False)
        head, vocabulary = replace(head_of(model), temperature=config.rollouts.temperature), None
        policy = load_adapter(model, base, start / ADAPTER, POLICY)
        load_adapter(policy, base, start / ADAPTER, REFERENCE)
        policy.set_adapter(POLICY)
        judge = RewardModel.load(base, reward, onto=(model, policy))
        other, costs = (
            RewardModel.load(base, folder, onto=(model, policy), name=name) if folder else None
            for folder, name in ((second, "second"), (cost, "cost"))
        )
        if config.vocabulary == "compact":
            examples = [judge.chat.example(row.prompt, row.completion, IMITATED_TOKENS) for row in demonstrations]
            with using(policy, None):
                vocabulary = choose_vocabulary(config.compact, model, head, examples)
        int8 = Int8Copy(model, vocabulary.head if vocabulary else head) if config.rollouts.int8 else None
        # The same layers for all that read what was sampled.
        names = [POLICY, *(name for reader in (judge, other, costs) if reader for name in reader.heads)]
        trunks = [FrozenTrunk.below(model, policy, name) for name in names]
        below = None if None in trunks else min(filter(None, trunks), key=lambda trunk: trunk.layers)
        vllm = _vllm(config.rollouts, base, policy) if config.rollouts.engine == "vllm" else None
        pad = tokenizer.pad_token_id or 0
        return cls(
            config, base, model, policy, judge.chat, judge, other, costs, head, vocabulary, int8, vllm, below, pad
        )

    def __enter__(self) -> Actor:
        return self

    def __exit__(self, *_: object) -> None:
        if self.vllm is not None:
            self.vllm.close()

    # ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def answers(self, prompts: Sequence[Text], each: int, number: int) -> list[Completion]:
        """``each`` answers to every prompt, in order; the processes share the work.

        An answer's random stream is that of its place among all answers of step ``number``, or of -1: which process
        samples it, and with which others, changes nothing.
        """
        starts = [ids for prompt in prompts for ids in [self.chat.prompt_ids(prompt)] * each]
        limits = self.config.rollouts
        # A compact vocabulary's head, and an int8 one, have the temperature in them.
        tempered = self.vocabulary is not None or self.int8 is not None
        own = [i for i in range(len(starts)) if i // each % distributed.count() == distributed.rank()]
        sampling = SamplingConfig(
            temperature=1.0 if tempered else limits.temperature,
            max_new_tokens=limits.max_new_tokens,
            max_prompt_tokens=limits.max_prompt_tokens,
            batch_size=max(1, len(own)),
            seed=self.config.seed,
        )
        first = number * len(starts)
        mine, indices = [starts[i] for i in own], [first + i for i in own]
        self.policy.eval()
        found: Iterable[Completion]
        if self.vllm is not None:
            found = self.vllm.continue_ids(self.policy, self.chat, mine, sampling, name=POLICY, indices=indices)
        else:
            sampler = Sampler(self.model, self.chat, self.vocabulary, self.int8)
            found = sampler.continue_ids(mine, sampling, indices=indices)
        everyone = distributed.gather(list(found) if own else [])
        self.policy.train()
        return sorted(everyone, key=lambda completion: completion.index)

    def rollouts(self, prompts: Sequence[Text], number: int) -> Rollouts:
        """Sample and score."""
        each = self.config.rollouts.answers
        found = self.answers(prompts, each, number)
        shape = (len(prompts), each)
        by_prompt = [found[i : i + each] for i in range(0, len(found), each)]
        groups = self.groups(prompts, by_prompt)
        below = self.below_of(groups)
        scores = self.reward.scores(groups, below).view(shape)
        ended = torch.tensor([completion.finish_reason == "stop" for completion in found]).view(shape)
        drawn = [torch.tensor([x for completion in answers for x in completion.logprobs]) for answers in by_prompt]
        return Rollouts(groups, scores, ended, drawn, [[c.text for c in answers] for answers in by_prompt], below)

    def below_of(self, groups: Sequence[Group]) -> GroupStates | None:
        """What the layers below all adapters make of groups: for policy, reference, critic and judges."""
        return compute_group_states(self.model, groups, self.below, self.pad_id, self.config.micro_batch_size)

    def groups(self, prompts: Sequence[Text], by_prompt: Sequence[Sequence[Completion]]) -> list[Group]:
        """Each prompt, as sampling read it, with its answers."""
        most = self.config.rollouts.max_prompt_tokens
        return [
            Group(shorten(self.chat.prompt_ids(prompt), most), [completion.token_ids for completion in answers])
            for prompt, answers in zip(prompts, by_prompt, strict=True)
        ]

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def look(self, rollouts: Rollouts, step: int) -> Iterator[Seen]:
        """This process's micro-batches, read by the reference; groups stay whole."""
        off_policy = any(other is not None for other in (self.int8, self.vllm, self.vocabulary))
        generator = random_stream(self.config.seed, step)
        for number, places in enumerate(distributed.share(range(len(rollouts.groups)), self.config.micro_batch_size)):
            if not distributed.mine(number):
                if self.vocabulary is not None:
                    self.vocabulary.pass_over(sum(len(rollouts.drawn[i]) for i in places), generator)
                continue
            batch = shared_prefix_batch([rollouts.groups[i] for i in places], self.pad_id, self.model.device)
            lower = rollouts.below and rollouts.below.batch(places)
            stream = generator.get_state()
            with torch.no_grad(), using(self.policy, REFERENCE):
                reference = self._logprobs(batch, generator, lower)
            drawn = torch.cat([rollouts.drawn[i] for i in places]).to(reference.device) if off_policy else None
            yield Seen(number, places, batch, lower, stream, reference, drawn)

    def read(self, seen: Seen, rewards: Tensor) -> Read:
        """Read a micro-batch with the policy; its first reading is what the later ones are compared with.

        Args:
            rewards: [P, G] of all prompts of the step.
        """
        # The same positions of a compact vocabulary in every reading: what chance adds to one it adds to the others.
        generator = torch.Generator()
        generator.set_state(seen.stream)
        logprobs = self._logprobs(seen.batch, generator, seen.lower)
        if seen.old is None:
            seen.old = logprobs.detach()
        own = rewards[list(seen.places)].to(logprobs.device)
        return Read(seen.number, seen.batch, seen.lower, logprobs, seen.old, seen.reference, seen.drawn, own)

    def imitation(self, rows: Sequence[Demonstration], step: int) -> Iterator[Tensor]:
        """This process's shares of the mean -log policy over the tokens of all the rows' completions, in nats."""
        generator = random_stream(self.config.seed, step, 1)
        groups = [tokenised(row.prompt, [row.completion], self.chat, IMITATED_TOKENS) for row in rows]
        tokens = sum(len(group.completions[0]) for group in groups)
        for number, share in enumerate(distributed.share(groups, self.config.micro_batch_size)):
            if distributed.mine(number):
                batch = shared_prefix_batch(share, self.pad_id, self.model.device)
                lower = compute_frozen_states(self.model, batch, self.below)
                yield -self._logprobs(batch, generator, lower).sum() / tokens
            elif self.vocabulary is not None:
                self.vocabulary.pass_over(sum(len(group.completions[0]) for group in share), generator)

    def _logprobs(self, batch: SharedPrefixBatch, generator: torch.Generator, lower: FrozenStates | None) -> Tensor:
        return shared_prefix_logprobs(self.model, batch, self.head, self.vocabulary, generator, lower)

    def divergence(self, groups: Sequence[Group], below: GroupStates | None = None) -> tuple[float, float]:
        """KL(policy || reference) and the policy's entropy, in nats a token of the answers, which are the policy's own.

        Over the whole vocabulary, at `KL_POSITIONS` tokens that are spread evenly over all answers.

        Args:
            below: see `below_of`.
        """
        kl = entropy = 0.0
        total, met = sum(len(ids) for group in groups for ids in group.completions), 0
        count = min(total, KL_POSITIONS)
        chosen = torch.arange(count) * total // count
        with torch.no_grad():
            for i in range(0, len(groups), self.config.micro_batch_size):
                places = range(i, min(i + self.config.micro_batch_size, len(groups)))
                batch = shared_prefix_batch([groups[place] for place in places], self.pad_id, self.model.device)
                own = chosen[(chosen >= met) & (chosen < met + len(batch.source))] - met
                met += len(batch.source)
                if not len(own):
                    continue
                at, lower = batch.source[own.to(batch.source.device)], below and below.batch(places)
                with using(self.policy, REFERENCE):
                    reference = shared_prefix_hidden(self.model, batch, at, lower)
                policy = shared_prefix_hidden(self.model, batch, at, lower)
                # `divergence` is from its second argument to its first.
                kl += float(divergence(reference, policy, self.head))
                entropy += float(entropies(policy, self.head).sum())
        return kl / count, entropy / count


def _vllm(limits: RolloutConfig, base: Path, policy: Any) -> VllmEngine:
    """vLLM with room for the policy's adapter and for the longest text of a rollout."""
    rank = policy.peft_config[POLICY].r
    return VllmEngine(base, rank, limits.max_prompt_tokens + limits.max_new_tokens, limits.vllm_cache_gb)
