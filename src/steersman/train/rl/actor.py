"""Policy, reference and reward models on one base model: sampling, scoring and forward passes.

All of them are adapters on the same weights. The activations below the adapters are computed once for policy,
reference, critic and reward models, and kept for all updates on a batch of rollouts.
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
from steersman.lm.adapters import ADAPTER, activate, load_adapter, using
from steersman.lm.chat_format import ChatFormat, chat_format
from steersman.lm.compact_vocabulary import CompactConfig, CompactVocabulary, choose_vocabulary
from steersman.lm.frozen_trunk import FrozenStates, FrozenTrunk
from steersman.lm.head import Head, divergence, entropies, head_in_use, head_of
from steersman.lm.int8 import Int8Copy
from steersman.lm.limits import prompts_within
from steersman.lm.reward_model import RewardModel, tokenised
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
from steersman.train.rl.reward_function import RewardFunction
from steersman.types import Demonstration, Prompt, Record, Seed, Text, transport

POLICY, REFERENCE = "default", "reference"
KL_POSITIONS = 512  # tokens an evaluation measures the KL at; the full-vocabulary passes are most of its time
PTX_TOKENS = 512  # longest demonstration with its prompt

Scorer = Callable[[Prompt, str], float]  # a number for an answer to a prompt


class RolloutConfig(Record):
    """Sampling. A small model's answers at temperature 1 are too odd for a reward model to rank."""

    prompts: int = Field(default=8, ge=1, description="Prompts in a step.")
    answers: int = Field(default=4, ge=2, description="Answers sampled for each prompt, the group size.")
    temperature: float = Field(default=1.0, gt=0, description="Divides all logits, in sampling and in the loss.")
    max_new_tokens: int = Field(default=64, ge=1, description="Tokens of an answer; a longer one is cut.")
    max_prompt_tokens: int = Field(
        default=256, ge=8, description="Tokens of a prompt; a longer one loses old turns, then the question's start."
    )
    missing_eos_penalty: float = Field(default=1.0, ge=0, description="Taken off the reward of an answer that is cut.")
    int8: bool = Field(default=False, description="Sample with int8 weights (CPU); the loss corrects for it.")
    engine: Literal["steersman", "vllm"] = Field(
        default="steersman", description="Sampler: steersman, or vllm if it is installed; the loss corrects for it."
    )
    vllm_cache_gb: float = transport(4.0, gt=0, description="GB for vLLM's KV cache, beside its copy of the weights.")


class ActorConfig(Record):
    """Sampling and forward passes."""

    rollouts: RolloutConfig = Field(default=RolloutConfig(), description="Sampling of answers.")
    vocabulary: Literal["full", "compact"] = Field(default="full", description="Output rows: full or compact, see sft.")
    compact: CompactConfig = Field(default=CompactConfig(), description="The compact vocabulary.")
    micro_batch_size: int = Field(default=4, ge=1, description="Prompts with all their answers, in a forward pass.")
    seed: Seed = Field(default=0, description="Seed of rollouts and of the order of the prompts.")

    @model_validator(mode="after")
    def _vllm_needs_full_vocabulary(self) -> ActorConfig:
        if self.rollouts.engine == "vllm" and (self.rollouts.int8 or self.vocabulary == "compact"):
            raise ValueError(
                "rollouts.engine: vllm samples from the full vocabulary with its own weights: "
                "set vocabulary: full and rollouts.int8: false, or rollouts.engine: steersman"
            )
        return self


class Rollouts(NamedTuple):
    """P prompts with G sampled answers each, in the order of ``groups``.

    ``scores``: [P, G] of the reward model; ``terminated``: [P, G] bool, whether an answer has its end token;
    ``sampler_logprobs``: for each prompt, [tokens of its answers], under the distribution that was sampled from;
    ``answers``: their texts; ``below``: the groups' activations below all adapters.
    """

    groups: list[Group]
    scores: Tensor
    terminated: Tensor
    sampler_logprobs: list[Tensor]
    answers: list[list[str]]
    below: GroupStates | None

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return sum(len(ids) for group in self.groups for ids in group.completions)

    def of(self, prompts: Sequence[int]) -> Rollouts:
        """The rollouts of these prompts."""
        at = list(prompts)
        groups, sampler = [self.groups[i] for i in at], [self.sampler_logprobs[i] for i in at]
        below = self.below and self.below._replace(states=[self.below.states[i] for i in at])
        return Rollouts(groups, self.scores[at], self.terminated[at], sampler, [self.answers[i] for i in at], below)


@dataclass
class RolloutBatch:
    """A micro-batch of rollouts: P prompts, G answers each, N answer tokens in all.

    ``rewards``: [P, G]; ``reference_logprobs``: [N]; ``sampler_logprobs``: [N] of the distribution that was sampled
    from, None if it is the policy; ``rng_state``: for the sampled rows of a compact vocabulary; ``old_logprobs``: [N]
    under the policy before the updates, set by its first forward pass.
    """

    tree: SharedPrefixBatch
    lower: FrozenStates | None
    rewards: Tensor
    reference_logprobs: Tensor
    sampler_logprobs: Tensor | None
    rng_state: Tensor
    old_logprobs: Tensor | None = None


class PolicyBatch(NamedTuple):
    """A `RolloutBatch` after a forward pass: ``logprobs`` [N], and a critic's ``values`` [N], have gradients."""

    tree: SharedPrefixBatch
    lower: FrozenStates | None
    rewards: Tensor
    reference_logprobs: Tensor
    sampler_logprobs: Tensor | None
    old_logprobs: Tensor
    logprobs: Tensor
    values: Tensor | None = None

    def k1_per_answer(self) -> Tensor:
        """[P, G] log policy - log reference of whole answers, without gradients."""
        k1 = k1_nats(self.old_logprobs, self.reference_logprobs)
        return self.tree.sum_per_sequence(k1).view_as(self.rewards)


@dataclass(frozen=True)
class Actor:
    """Policy, reference and reward models. As a context manager it shuts vLLM down.

    ``holdout_reward_model`` is only measured, never optimised; ``cost_model`` scores violations for a constraint.
    """

    config: ActorConfig
    base: Path
    model: Any
    policy: Any
    chat: ChatFormat
    reward_model: RewardModel | None
    holdout_reward_model: RewardModel | None
    cost_model: RewardModel | None
    head: Head
    vocabulary: CompactVocabulary | None
    int8: Int8Copy | None
    vllm: VllmEngine | None
    below: FrozenTrunk | None
    pad_id: int
    reward_function: RewardFunction | None = None
    reward_weight: float = 1.0

    @classmethod
    def load(
        cls,
        config: ActorConfig,
        base: Path,
        start: Path,
        reward: Path | None,
        demonstrations: Sequence[Demonstration],
        holdout_reward_model: Path | None = None,
        cost_model: Path | None = None,
    ) -> Actor:
        """Load the adapter in ``start`` as policy and as reference, and the reward models, onto one base model.

        Args:
            demonstrations: their tokens are part of a compact vocabulary.
        """
        tokenizer, model = pretrained.load_tokenizer(base), pretrained.load_model(base)
        model.requires_grad_(False)
        head, vocabulary = replace(head_of(model), temperature=config.rollouts.temperature), None
        policy = load_adapter(model, base, start / ADAPTER, POLICY)
        load_adapter(policy, base, start / ADAPTER, REFERENCE)
        activate(policy, POLICY)
        main = RewardModel.load(base, reward, onto=(model, policy)) if reward else None
        chat = main.chat if main else chat_format(tokenizer, model.generation_config)
        holdout, cost = (
            RewardModel.load(base, folder, onto=(model, policy), name=name) if folder else None
            for folder, name in ((holdout_reward_model, "holdout"), (cost_model, "cost"))
        )
        if config.vocabulary == "compact":
            examples = [chat.example(row.prompt, row.completion, PTX_TOKENS) for row in demonstrations]
            with using(policy, None):
                vocabulary = choose_vocabulary(config.compact, model, head, examples)
        int8 = Int8Copy(model, vocabulary.head if vocabulary else head) if config.rollouts.int8 else None
        # One frozen trunk under all adapters: the layers that none of them changes.
        names = [POLICY, *(name for scorer in (main, holdout, cost) if scorer for name in scorer.heads)]
        trunks = [FrozenTrunk.below(model, policy, name) for name in names]
        below = None if None in trunks else min(filter(None, trunks), key=lambda trunk: trunk.layers)
        limits, vllm = config.rollouts, None
        if limits.engine == "vllm":
            length = limits.max_prompt_tokens + limits.max_new_tokens
            vllm = VllmEngine(base, policy.peft_config[POLICY].r, length, limits.vllm_cache_gb)
        pad = tokenizer.pad_token_id or 0
        return cls(config, base, model, policy, chat, main, holdout, cost, head, vocabulary, int8, vllm, below, pad)

    def __enter__(self) -> Actor:
        return self

    def __exit__(self, *_: object) -> None:
        if self.vllm is not None:
            self.vllm.close()

    # ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def sample(self, prompts: Sequence[Text], each: int, step: int) -> list[Completion]:
        """``each`` answers to every prompt, in order; the processes share the work.

        An answer's random stream depends on its index among all answers of the step, -1 for evaluations, and not on
        the process or the batch that it is sampled in.
        """
        starts = [ids for ids in self.starts(prompts)[0] for _ in range(each)]
        limits = self.config.rollouts
        # A compact vocabulary's head, and an int8 one, have the temperature in them.
        tempered = self.vocabulary is not None or self.int8 is not None
        own = [i for i in range(len(starts)) if i // each % distributed.world_size() == distributed.rank()]
        sampling = SamplingConfig(
            temperature=1.0 if tempered else limits.temperature,
            max_new_tokens=limits.max_new_tokens,
            max_prompt_tokens=limits.max_prompt_tokens,
            batch_size=max(1, len(own)),
            seed=self.config.seed,
        )
        first = step * len(starts)
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

    def sample_rollouts(self, prompts: Sequence[Text], step: int) -> Rollouts:
        """Sample ``rollouts.answers`` answers to each prompt and score them."""
        each = self.config.rollouts.answers
        sampled = self.sample(prompts, each, step)
        shape = (len(prompts), each)
        by_prompt = [sampled[i : i + each] for i in range(0, len(sampled), each)]
        groups = self.groups(prompts, by_prompt)
        below = self.below_of(groups)
        texts = [[completion.text for completion in answers] for answers in by_prompt]
        scores = self.score(prompts, texts, groups, below).view(shape)
        terminated = torch.tensor([completion.finish_reason == "stop" for completion in sampled]).view(shape)
        logprobs = [torch.tensor([x for completion in answers for x in completion.logprobs]) for answers in by_prompt]
        return Rollouts(groups, scores, terminated, logprobs, texts, below)

    def score(
        self,
        prompts: Sequence[Text],
        answers: Sequence[Sequence[str]],
        groups: Sequence[Group],
        below: GroupStates | None,
    ) -> Tensor:
        """What is maximised, [answers of all prompts]: the reward model's score, the user's function, or their sum."""
        total = torch.zeros(sum(map(len, answers)))
        if self.reward_model is not None:
            total = total + self.reward_model.scores(groups, below).flatten().cpu()
        if self.reward_function is not None:
            asked = [prompt for prompt, own in zip(prompts, answers, strict=True) for _ in own]
            found = self.reward_function(asked, [text for own in answers for text in own])
            total = total + self.reward_weight * torch.tensor(found)
        return total

    def below_of(self, groups: Sequence[Group]) -> GroupStates | None:
        """The groups' activations below all adapters, for policy, reference, critic and reward models."""
        return compute_group_states(self.model, groups, self.below, self.pad_id, self.config.micro_batch_size)

    def starts(self, prompts: Sequence[Text]) -> tuple[list[list[int]], int]:
        """Ids of the prompts as they are sampled from, and how many are shortened.

        Raises:
            ModelError: a prompt's system text is too long.
        """
        most = self.config.rollouts.max_prompt_tokens
        starts, _, lost = prompts_within(self.chat, prompts, None, lambda _: most)
        return starts, sum(tokens > 0 for tokens in lost)

    def groups(self, prompts: Sequence[Text], by_prompt: Sequence[Sequence[Completion]]) -> list[Group]:
        """Each prompt, shortened as for sampling, with its answers."""
        return [
            Group(start, [completion.token_ids for completion in answers])
            for start, answers in zip(self.starts(prompts)[0], by_prompt, strict=True)
        ]

    # ── forward passes ───────────────────────────────────────────────────────────────────────────────────────────────
    def iter_minibatches(self, rollouts: Rollouts, rewards: Tensor, step: int) -> Iterator[RolloutBatch]:
        """This process's micro-batches, with the reference's log-probs; groups stay whole.

        Args:
            rewards: [P, G] of the rollouts.
        """
        off_policy = any(sampler is not None for sampler in (self.int8, self.vllm, self.vocabulary))
        generator = random_stream(self.config.seed, step)
        for number, places in enumerate(distributed.split(range(len(rollouts.groups)), self.config.micro_batch_size)):
            if not distributed.mine(number):
                if self.vocabulary is not None:
                    self.vocabulary.pass_over(sum(len(rollouts.sampler_logprobs[i]) for i in places), generator)
                continue
            batch = shared_prefix_batch([rollouts.groups[i] for i in places], self.pad_id, self.model.device)
            lower = rollouts.below and rollouts.below.batch(places)
            rng_state = generator.get_state()
            with torch.no_grad(), using(self.policy, REFERENCE):
                reference = self._logprobs(batch, generator, lower)
            own, sampler = rewards[list(places)].to(reference.device), None
            if off_policy:
                sampler = torch.cat([rollouts.sampler_logprobs[i] for i in places]).to(reference.device)
            yield RolloutBatch(batch, lower, own, reference, sampler, rng_state)

    def forward(self, batch: RolloutBatch) -> PolicyBatch:
        """The policy's log-probs; the first pass over a micro-batch sets its ``old_logprobs``."""
        # The same sampled rows of a compact vocabulary in every pass: their noise cancels in ratios.
        generator = torch.Generator()
        generator.set_state(batch.rng_state)
        logprobs = self._logprobs(batch.tree, generator, batch.lower)
        if batch.old_logprobs is None:
            batch.old_logprobs = logprobs.detach()
        reference, sampler, old = batch.reference_logprobs, batch.sampler_logprobs, batch.old_logprobs
        return PolicyBatch(batch.tree, batch.lower, batch.rewards, reference, sampler, old, logprobs)

    def ptx_losses(self, rows: Sequence[Demonstration], step: int) -> Iterator[Tensor]:
        """This process's shares of the mean negative log-likelihood of all rows' completion tokens, in nats."""
        generator = random_stream(self.config.seed, step, 1)
        groups = [tokenised(row.prompt, [row.completion], self.chat, PTX_TOKENS) for row in rows]
        tokens = sum(len(group.completions[0]) for group in groups)
        for number, share in enumerate(distributed.split(groups, self.config.micro_batch_size)):
            if distributed.mine(number):
                batch = shared_prefix_batch(share, self.pad_id, self.model.device)
                lower = compute_frozen_states(self.model, batch, self.below)
                yield -self._logprobs(batch, generator, lower).sum() / tokens
            elif self.vocabulary is not None:
                self.vocabulary.pass_over(sum(len(group.completions[0]) for group in share), generator)

    def _logprobs(self, batch: SharedPrefixBatch, generator: torch.Generator, lower: FrozenStates | None) -> Tensor:
        head = head_in_use(self.head, self.model)
        return shared_prefix_logprobs(self.model, batch, head, self.vocabulary, generator, lower)

    def divergence(self, groups: Sequence[Group], below: GroupStates | None = None) -> tuple[float, float]:
        """KL(policy || reference) and the policy's entropy, in nats per token of the policy's own answers.

        Exact over the full vocabulary, at `KL_POSITIONS` tokens spread evenly over all answers.

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
                    reference_head = head_in_use(self.head, self.model)
                head = head_in_use(self.head, self.model)
                policy = shared_prefix_hidden(self.model, batch, at, lower)
                # `divergence` is from its second argument to its first.
                kl += float(divergence(reference, policy, reference_head, head))
                entropy += float(entropies(policy, head).sum())
        return kl / count, entropy / count
