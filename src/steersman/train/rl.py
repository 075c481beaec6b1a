"""What GRPO, RLOO and PPO share: rollouts and their scores, the leash to the reference, what is watched, resuming.

A step samples several answers to each of some prompts, scores them, and moves the policy towards those that scored
well. Policy, reference and reward model are adapters on one base model; what the layers below them make of a text is
computed once. An algorithm is a file with a `RlConfig` of its own and a function from `Read` to a loss; this file knows
none of them.

The score that is optimised is never what a checkpoint is chosen by: it rises whatever happens to the answers (Gao et
al. 2022, arXiv:2210.10760). Every ``watch.every_steps`` the policy answers held-out prompts. If ``gold``, a judge that
training does not see, is given, the checkpoint at its best is kept, and training ends when it has been falling for
``watch.patience`` looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from steersman.errors import DataError, TrainingFailed
from steersman.functional import k1_nats
from steersman.lm import pretrained
from steersman.lm.chat import ChatFormat, shorten
from steersman.lm.head import (
    CompactConfig,
    CompactVocabulary,
    Head,
    choose_vocabulary,
    divergence,
    head_of,
    token_logprobs,
)
from steersman.lm.int8 import Int8Copy
from steersman.lm.model import ADAPTER, frozen_layers, load_adapter, restore, save_policy, snapshot, trainable, using
from steersman.lm.sampling import Completion, SamplingConfig, continue_ids, random_stream
from steersman.lm.shared_prompt import Group, Tree, tree, tree_hidden, tree_lower
from steersman.lm.trunk import FrozenTrunk, Lower
from steersman.store import StageFolder
from steersman.terminal import Progress
from steersman.train import loop, processes
from steersman.train.reward_model import RewardModel
from steersman.types import Prompt, Record, Seed, Text, transport

POLICY, REFERENCE = "default", "reference"
BEST = "best.safetensors"
COLLAPSED = 5  # steps without any difference within a prompt's answers

Gold = Callable[[Prompt, str], float]  # how good an answer is, by a judge that the policy is not trained on


class RolloutConfig(Record):
    """``answers`` to each of ``prompts`` a step, at temperature 1. Lengths are in tokens.

    ``unended_penalty`` is taken off the score of an answer that does not end by itself. ``int8`` samples with rounded
    weights; the loss is corrected for it, and for a compact vocabulary.
    """

    prompts: int = Field(default=8, ge=1)
    answers: int = Field(default=4, ge=2)
    max_new_tokens: int = Field(default=64, ge=1)
    max_prompt_tokens: int = Field(default=256, ge=8)
    unended_penalty: float = Field(default=1.0, ge=0)
    int8: bool = False


class WatchConfig(Record):
    """Every so many steps, ``prompts`` held-out prompts are answered. ``patience`` looks at a falling gold end it."""

    every_steps: int = Field(default=5, ge=1)
    prompts: int = Field(default=32, ge=1)
    patience: int = Field(default=3, ge=1)


class RlConfig(Record):
    """``kl_coefficient`` is beta. With ``kl_target_nats``, beta is changed until answers have this KL."""

    rollouts: RolloutConfig = RolloutConfig()
    watch: WatchConfig = WatchConfig()
    steps: int = Field(default=40, ge=1)
    kl_coefficient: float = Field(default=0.05, ge=0)
    kl_target_nats: float | None = Field(default=None, gt=0)
    vocabulary: Literal["full", "compact"] = "full"
    compact: CompactConfig = CompactConfig()
    optimiser: loop.OptimiserConfig = loop.OptimiserConfig(learning_rate=1e-5, schedule="constant")
    micro_batch_size: int = Field(default=4, ge=1)
    checkpoint_every_steps: int = transport(5, ge=1)
    seed: Seed = 0


class Rollouts(NamedTuple):
    """Prompts with their sampled answers, P and G of each, in the order of the groups.

    ``scores``: [P, G] of the reward model; ``rewards``: [P, G] with the penalty; ``ended``: [P, G] bool; ``drawn``: a
    tensor for each prompt with the log-probs of its answers' tokens as they were drawn.
    """

    groups: list[Group]
    scores: Tensor
    rewards: Tensor
    ended: Tensor
    drawn: list[Tensor]


class Read(NamedTuple):
    """Some prompts' rollouts under policy and reference; N are the tokens of all their answers.

    ``logprobs``: [N] with gradients; ``old``: [N] under the policy that is to be improved; ``reference``: [N];
    ``drawn``: [N] under the distribution that sampled them, where that is not the policy; ``rewards``: [P, G].
    """

    batch: Tree
    logprobs: Tensor
    old: Tensor
    reference: Tensor
    drawn: Tensor | None
    rewards: Tensor

    def k1_per_answer(self) -> Tensor:
        """[P, G] log policy - log reference of whole answers, without gradients."""
        return self.batch.sum_per_sequence(k1_nats(self.old, self.reference)).view_as(self.rewards)


class Totals(NamedTuple):
    """Of the whole step, however it is split into micro-batches and processes."""

    tokens: int
    answers: int


Loss = Callable[[Read, Totals, float], Tensor]  # with beta; a micro-batch's share of the step's loss


class Leash:
    """Beta, constant or steered towards a KL per answer: Ziegler et al. 2019, arXiv:1909.08593.

    beta <- beta * (1 + 0.1 * clip(KL / target - 1, -0.2, 0.2))
    """

    def __init__(self, config: RlConfig) -> None:
        self.beta, self.target = config.kl_coefficient, config.kl_target_nats

    def see(self, kl_nats: float) -> None:
        """After a step, the mean KL of its answers."""
        if self.target is not None:
            self.beta *= 1 + 0.1 * min(0.2, max(-0.2, kl_nats / self.target - 1))


# ── the models ───────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Actor:
    """The policy, its reference and the reward model on one base, and what sampling and reading them take."""

    config: RlConfig
    model: Any
    policy: Any
    chat: ChatFormat
    reward: RewardModel
    head: Head
    vocabulary: CompactVocabulary | None
    int8: Int8Copy | None
    below: FrozenTrunk | None
    pad_id: int

    @classmethod
    def load(cls, config: RlConfig, base: Path, start: Path, reward: Path, texts: Sequence[tuple[Text, str]]) -> Actor:
        """Put the adapter in ``start`` twice on the base model, as policy and as reference, and the reward model.

        Args:
            texts: prompts with answers, whose tokens a compact vocabulary holds.
        """
        tokenizer, model = pretrained.load_tokenizer(base), pretrained.load_model(base)
        model.requires_grad_(False)
        head, vocabulary = head_of(model), None
        policy = load_adapter(model, base, start / ADAPTER, POLICY)
        load_adapter(policy, base, start / ADAPTER, REFERENCE)
        policy.set_adapter(POLICY)
        judge = RewardModel.load(base, reward, onto=(model, policy))
        if config.vocabulary == "compact":
            examples = [judge.chat.example(prompt, answer, 512) for prompt, answer in texts]
            with using(policy, None):
                vocabulary = choose_vocabulary(config.compact, model, head, examples)
        int8 = Int8Copy(model, vocabulary.head if vocabulary else head) if config.rollouts.int8 else None
        layers = frozen_layers(policy, POLICY)
        below = FrozenTrunk(model, layers) if layers else None
        pad_id = tokenizer.pad_token_id or 0
        return cls(config, model, policy, judge.chat, judge, head, vocabulary, int8, below, pad_id)

    def answers(self, prompts: Sequence[Text], each: int, number: int) -> list[Completion]:
        """``each`` answers to every prompt, in order. The random streams are those of step ``number``, or -1."""
        starts = [ids for prompt in prompts for ids in [self.chat.prompt_ids(prompt)] * each]
        limits = self.config.rollouts
        sampling = SamplingConfig(
            temperature=1.0,
            max_new_tokens=limits.max_new_tokens,
            max_prompt_tokens=limits.max_prompt_tokens,
            batch_size=len(starts),
            seed=self.config.seed,
        )
        first = number * len(starts)
        self.policy.eval()
        found = continue_ids(
            self.model,
            self.chat,
            starts,
            sampling,
            indices=range(first, first + len(starts)),
            vocabulary=self.vocabulary,
            int8=self.int8,
        )
        ordered = sorted(found, key=lambda completion: completion.index)
        self.policy.train()
        return ordered

    def rollouts(self, prompts: Sequence[Text], number: int) -> Rollouts:
        """Sample and score."""
        limits = self.config.rollouts
        found = self.answers(prompts, limits.answers, number)
        shape = (len(prompts), limits.answers)
        by_prompt = [found[i : i + limits.answers] for i in range(0, len(found), limits.answers)]
        groups = [
            Group(self.prompt_ids(prompt), [completion.token_ids for completion in answers])
            for prompt, answers in zip(prompts, by_prompt, strict=True)
        ]
        scores = self.reward.scores(groups).view(shape)
        ended = torch.tensor([completion.finish_reason == "stop" for completion in found]).view(shape)
        drawn = [torch.tensor([x for completion in answers for x in completion.logprobs]) for answers in by_prompt]
        return Rollouts(groups, scores, scores - limits.unended_penalty * (~ended).float(), ended, drawn)

    def prompt_ids(self, prompt: Text) -> list[int]:
        """What sampling reads of a prompt."""
        return shorten(self.chat.prompt_ids(prompt), self.config.rollouts.max_prompt_tokens)

    def kl_nats(self, groups: Sequence[Group]) -> float:
        """KL(policy || reference) summed over the answers' positions, exact over the whole vocabulary."""
        total = 0.0
        with torch.no_grad():
            for i in range(0, len(groups), self.config.micro_batch_size):
                batch = tree(groups[i : i + self.config.micro_batch_size], self.pad_id, self.model.device)
                lower = None if self.below is None else tree_lower(self.model, batch, self.below)
                with using(self.policy, REFERENCE):
                    reference = tree_hidden(self.model, batch, batch.source, lower)
                policy = tree_hidden(self.model, batch, batch.source, lower)
                # The answers are the policy's own, so this is the KL of whole answers from it to the reference.
                total += float(divergence(reference, policy, self.head))
        return total

    def logprobs(self, batch: Tree, lower: Lower | None, generator: torch.Generator) -> Tensor:
        """[N] of the scored tokens under the adapter in use."""
        hidden = tree_hidden(self.model, batch, batch.source, lower)
        if self.vocabulary is None:
            return token_logprobs(hidden, batch.targets, self.head)
        return self.vocabulary.token_logprobs(hidden, batch.targets, self.head, generator)

    def read(self, rollouts: Rollouts, step: int) -> Iterator[Read]:
        """This process's micro-batches; groups stay whole."""
        off_policy = self.int8 is not None or self.vocabulary is not None
        generator = random_stream(self.config.seed, step)
        for number, places in enumerate(processes.share(range(len(rollouts.groups)), self.config.micro_batch_size)):
            if not processes.mine(number):
                if self.vocabulary is not None:
                    self.vocabulary.pass_over(sum(len(rollouts.drawn[i]) for i in places), generator)
                continue
            batch = tree([rollouts.groups[i] for i in places], self.pad_id, self.model.device)
            lower = None if self.below is None else tree_lower(self.model, batch, self.below)
            # The same positions of a compact vocabulary for both: what chance adds to one it adds to the other.
            state = generator.get_state()
            with torch.no_grad(), using(self.policy, REFERENCE):
                reference = self.logprobs(batch, lower, generator)
            generator.set_state(state)
            logprobs = self.logprobs(batch, lower, generator)
            old = logprobs.detach()
            drawn = torch.cat([rollouts.drawn[i] for i in places]).to(old.device) if off_policy else None
            yield Read(batch, logprobs, old, reference, drawn, rollouts.rewards[list(places)].to(old.device))


# ── the watch ────────────────────────────────────────────────────────────────────────────────────────────────────────
class Watch:
    """Answers to held-out prompts, and what is seen in them; keeps the policy at the gold's best."""

    def __init__(self, actor: Actor, prompts: Sequence[Prompt], gold: Gold | None, folder: Path) -> None:
        self.actor, self.gold, self.folder = actor, gold, folder
        self.prompts = prompts[:: max(1, len(prompts) // actor.config.watch.prompts)] if prompts else []
        self.best: float | None = None
        self.best_step = 0
        self.falling = 0

    def state(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {"best": self.best, "best_step": self.best_step, "falling": self.falling}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Put `state` back."""
        self.best, self.best_step, self.falling = state["best"], state["best_step"], state["falling"]

    def look(self, step: int) -> dict[str, Any]:
        """Answer the prompts, always with the same random streams, and measure; with gold, keep the best policy."""
        actor, texts = self.actor, [prompt.prompt for prompt in self.prompts]
        found = actor.answers(texts, 1, -1)
        groups = [
            Group(actor.prompt_ids(text), [completion.token_ids]) for text, completion in zip(texts, found, strict=True)
        ]
        tokens = sum(len(completion.token_ids) for completion in found)
        kl = actor.kl_nats(groups)
        measured = {
            "score": float(actor.reward.scores(groups).mean()),
            "kl_nats_per_token": kl / tokens,
            "kl_nats_per_answer": kl / len(found),
            "mean_answer_tokens": tokens / len(found),
            "ended": sum(completion.finish_reason == "stop" for completion in found) / len(found),
            "repeated_trigrams": sum(map(_repeated, found)) / len(found),
        }
        if self.gold is None:
            return measured
        gold = sum(
            self.gold(prompt, completion.text) for prompt, completion in zip(self.prompts, found, strict=True)
        ) / len(found)
        if self.best is None or gold > self.best:
            self.best, self.best_step, self.falling = gold, step, 0
            if processes.rank() == 0:
                save_file(snapshot(actor.policy, POLICY), self.folder / BEST)
        else:
            self.falling += 1
        return measured | {"gold": gold}


def _repeated(completion: Completion) -> float:
    """The share of an answer's runs of three tokens that stood in it before."""
    ids = completion.token_ids
    runs = [tuple(ids[i : i + 3]) for i in range(len(ids) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


# ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def prompts_of(step: int, total: int, count: int, seed: int) -> list[int]:
    """Which of ``total`` prompts a step takes: each once in a pass, every pass in another order."""
    found = []
    for place in range(step * count, (step + 1) * count):
        epoch, index = divmod(place, total)
        found.append(int(torch.randperm(total, generator=random_stream(seed, epoch))[index]))
    return found


def run(
    config: RlConfig,
    loss: Loss,
    base: Path,
    start: Path,
    reward: Path,
    prompts: Sequence[Prompt],
    watched: Sequence[Prompt],
    texts: Sequence[tuple[Text, str]],
    out: StageFolder,
    gold: Gold | None = None,
) -> None:
    """Improve the policy in ``start`` by the score of the model in ``reward``; leaves ``adapter/`` in ``out``.

    Resumes from its checkpoint, to the bit.

    Args:
        loss: the algorithm.
        watched: held-out prompts; ``gold``: how good an answer to one of them is.
        texts: prompts with answers, whose tokens a compact vocabulary holds.

    Raises:
        DataError: no prompts. TrainingFailed: a loss or gradient that is not finite, or a policy that collapsed.
    """
    if not prompts or not watched:
        raise DataError("no prompts to answer", do="add rows to prompts.jsonl")
    torch.manual_seed(config.seed)
    actor = Actor.load(config, base, start, reward, texts)
    parameters = trainable(actor.policy)
    optimiser = loop.adamw(parameters, config.optimiser)
    watch, leash, silent = Watch(actor, watched, gold, out.path), Leash(config), Silence()
    state = loop.load_checkpoint(out.path, parameters, optimiser)
    if state:
        watch.resume(state["watch"])
        leash.beta, silent.steps = state["beta"], state["silent"]
    first = state["step"] if state else 0
    processes.wait()
    out.emit(event="setup", prompts=len(prompts), watched=len(watch.prompts), steps=config.steps, resumed_at_step=first)
    with Progress("rl", config.steps, done=first) as progress:
        for step in range(first, config.steps + 1):
            if step % config.watch.every_steps == 0 or step == config.steps:
                out.emit(event="watch", step=step, **watch.look(step))
            if step == config.steps or watch.falling >= config.watch.patience:
                break
            rate = loop.learning_rate_at(step, config.steps, config.optimiser)
            asked = [prompts[i].prompt for i in prompts_of(step, len(prompts), config.rollouts.prompts, config.seed)]
            measured = update(actor, loss, parameters, optimiser, leash, asked, step, rate)
            silent.see(measured["groups_without_signal"], step)
            out.emit(event="train", step=step, learning_rate=rate, **measured)
            progress.advance(loss=measured["loss"])
            if (step + 1) % config.checkpoint_every_steps == 0 and processes.rank() == 0:
                kept = {"beta": leash.beta, "silent": silent.steps, "watch": watch.state()}
                loop.save_checkpoint(out.path, step + 1, parameters, optimiser, kept)
    if processes.rank() == 0:
        if watch.best is not None:
            restore(actor.policy, load_file(out.path / BEST), POLICY)
            out.emit(event="taken", step=watch.best_step, gold=watch.best)
        save_policy(actor.policy, out.path, actor.chat.tokenizer, pretrained.digest(base), POLICY)
        loop.drop_checkpoint(out.path)
        (out.path / BEST).unlink(missing_ok=True)


class Silence:
    """Counts the steps running in which no answer was better than another to the same prompt."""

    def __init__(self) -> None:
        self.steps = 0

    def see(self, groups_without_signal: float, step: int) -> None:
        """After a step, the share of prompts whose answers all scored the same."""
        self.steps = self.steps + 1 if groups_without_signal == 1.0 else 0
        if self.steps == COLLAPSED:
            raise TrainingFailed(
                f"in {COLLAPSED} steps running, all answers to a prompt scored the same (step {step})",
                expected="answers that differ, so that some can be better",
                do="the last checkpoint is kept; raise kl_coefficient, lower the learning rate, or look at the "
                "answers: a policy that always says the same has collapsed",
            )


def update(
    actor: Actor,
    loss: Loss,
    parameters: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    leash: Leash,
    prompts: Sequence[Text],
    step: int,
    rate: float,
) -> dict[str, Any]:
    """Sample, score and take one optimiser step; returns what was measured, over all processes."""
    start = time.perf_counter()
    rollouts = actor.rollouts(prompts, step)
    sampled = time.perf_counter()
    answers = rollouts.rewards.numel()
    totals = Totals(sum(len(ids) for group in rollouts.groups for ids in group.completions), answers)
    sums = torch.zeros(2, dtype=torch.float64)
    for read in actor.read(rollouts, step):
        part = loss(read, totals, leash.beta)
        part.backward()  # type: ignore[no-untyped-call]
        sums += torch.stack([part.detach().double().cpu(), read.k1_per_answer().sum().double().cpu()])
    value, kl = processes.add_up(list(parameters.values()), *sums.tolist())
    norm = loop.optimiser_step(optimiser, parameters, value, rate, actor.config.optimiser.max_grad_norm)
    leash.see(kl / answers)
    silent = (rollouts.rewards.std(1) < 1e-6).float().mean()
    return {
        "loss": value,
        "score": float(rollouts.scores.mean()),
        "reward": float(rollouts.rewards.mean()),
        "ended": float(rollouts.ended.float().mean()),
        "mean_answer_tokens": totals.tokens / answers,
        "k1_nats_per_answer": kl / answers,
        "groups_without_signal": float(silent),
        "beta": leash.beta,
        "gradient_norm": norm,
        "rollout_seconds": sampled - start,
        "update_seconds": time.perf_counter() - sampled,
    }
