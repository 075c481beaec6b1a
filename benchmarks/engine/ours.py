"""Steersman's side of `compare.py`: one process, one step for every line on standard input, one JSON line back.

python ours.py WORK.json ADAPTER --vocabulary full|compact [--layers K] [--int8]
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from workload import ALPHA, KTO_WEIGHTS, LEARNING_RATE, RANK, UPDATES, desirable, reward

from steersman.cost.bench import Endless
from steersman.data import answer_style
from steersman.functional import preference_nll
from steersman.lm import pretrained
from steersman.lm.adapters import LoraConfig, add_lora, load_trainable, trainable, using
from steersman.lm.chat_format import Example
from steersman.lm.compact_vocabulary import CompactConfig, compact_vocabulary
from steersman.lm.frozen_trunk import FrozenStates, FrozenStatesCache, FrozenTrunk
from steersman.lm.head import head_of, trunk
from steersman.lm.int8 import Int8Copy
from steersman.lm.sampling import Sampler, SamplingConfig, random_stream
from steersman.lm.shared_prefix import (
    Group,
    SharedPrefixBatch,
    compute_frozen_states,
    shared_prefix_batch,
    shared_prefix_hidden,
    shared_prefix_logprobs,
)
from steersman.store import peak_memory_mb
from steersman.train import dpo, loop, reward_model, sft
from steersman.train.loop import OptimiserConfig
from steersman.train.reward_model import Ranked
from steersman.train.rl import grpo, ppo, rloo
from steersman.train.rl.actor import REFERENCE, Actor, PolicyBatch, RolloutConfig, Rollouts
from steersman.train.rl.grpo import GrpoConfig
from steersman.train.rl.loop import RlTrainer, Totals
from steersman.train.rl.ppo import PpoConfig
from steersman.train.rl.rloo import RlooConfig

OPTIMISER = OptimiserConfig(learning_rate=LEARNING_RATE, warmup_ratio=0.0, schedule="constant")
COMPACT = CompactConfig(extra_rows=8192, full_share=0.08)


def load_start(policy: Any, adapter: Path) -> None:
    """Put the common starting weights into a policy's adapter."""
    stored = load_file(adapter / "adapter_model.safetensors")
    with torch.no_grad():
        for name, parameter in trainable(policy).items():
            parameter.copy_(stored[name.replace(".default.", ".")])


Step = Callable[[int], dict[str, Any]]


def sft_step(work: dict[str, Any], adapter: Path, vocabulary: str, layers: int | None, _: bool) -> Step:
    """The product's own optimiser step."""
    config = sft.SftConfig(
        lora=LoraConfig(rank=RANK, alpha=ALPHA, trainable_layers=layers),
        vocabulary=vocabulary,
        compact=COMPACT,
        optimiser=OPTIMISER,
        batch_size=work["rows"],
        micro_batch_size=work["rows"],
    )
    steps = [[Example(g["prompt"] + g["completions"][0], len(g["prompt"])) for g in groups] for groups in work["steps"]]
    base = Path(work["base"])
    every = [example for examples in steps for example in examples]
    trainer = sft.SftTrainer.prepare(config, pretrained.load_model(base), "base", 0, every)
    load_start(trainer.policy, adapter)

    def step(number: int) -> dict[str, Any]:
        measured = trainer.step(number, [steps[number % len(steps)]], [], OPTIMISER.learning_rate)
        return {"loss": measured["loss_nats_per_token"], "gradient_norm": measured["gradient_norm"]}

    return step


class Engine:
    """A policy with the common adapter, its vocabulary, and what an update needs."""

    def __init__(self, work: dict[str, Any], adapter: Path, vocabulary: str, layers: int | None, int8: bool) -> None:
        base = Path(work["base"])
        self.work, self.model = work, pretrained.load_model(base)
        self.model.requires_grad_(False)
        self.head, self.compact = head_of(self.model), None
        # No stop ids: nothing ends a completion before its length.
        self.chat = Endless(pretrained.load_tokenizer(base), frozenset(), None)
        if vocabulary == "compact":
            with torch.no_grad():
                ids = torch.tensor([work["steps"][0][0]["prompt"]])
                hidden = trunk(self.model)(input_ids=ids, use_cache=False).last_hidden_state[0]
            self.compact = compact_vocabulary(torch.tensor(work["vocabulary"]), hidden, self.head, COMPACT)
        self.int8 = Int8Copy(self.model, self.head if self.compact is None else self.compact.head) if int8 else None
        total = self.model.config.get_text_config().num_hidden_layers
        self.below = None if layers in (None, total) else FrozenTrunk(self.model, total - layers)
        self.policy = add_lora(self.model, LoraConfig(rank=RANK, alpha=ALPHA, trainable_layers=layers), "base")
        load_start(self.policy, adapter)
        self.parameters = trainable(self.policy)
        self.optimiser = loop.adamw(self.parameters, OPTIMISER)

    def groups(self, number: int) -> list[Group]:
        """The groups of a step."""
        return [Group(g["prompt"], g["completions"]) for g in self.work["steps"][number % len(self.work["steps"])]]

    def lower(self, batch: SharedPrefixBatch) -> FrozenStates | None:
        """The layers that are not trained, read once for policy and reference."""
        return compute_frozen_states(self.model, batch, self.below)

    def logprobs(self, batch: SharedPrefixBatch, number: int, lower: FrozenStates | None) -> torch.Tensor:
        """[N] of the scored tokens, under the adapter or, if it is disabled, the reference."""
        # The same positions for policy and reference: what chance adds to one it adds to the other.
        return shared_prefix_logprobs(self.model, batch, self.head, self.compact, random_stream(number), lower)

    def reference_logprobs(self, batch: SharedPrefixBatch, number: int, lower: FrozenStates | None) -> torch.Tensor:
        """[N] of the same tokens with the adapter off."""
        with torch.no_grad(), using(self.policy, None):
            return self.logprobs(batch, number, lower)

    def update(self, loss: torch.Tensor) -> dict[str, Any]:
        """Backward pass and optimiser step."""
        loss.backward()
        value = loss.item()
        norm = loop.optimiser_step(self.optimiser, self.parameters, value, self.work["learning_rate"], 1.0)
        return {"loss": value, "gradient_norm": norm}

    def rollouts(self, number: int) -> tuple[list[Group], torch.Tensor]:
        """The step's prompts, answered G times at temperature 1 to a fixed length, and the log-probs of the draws."""
        groups, size = self.groups(number), self.work["group"]
        starts = [g.prompt for g in groups for _ in range(size)]
        sampling = SamplingConfig(
            temperature=1.0, max_new_tokens=self.work["completion"], batch_size=len(starts), seed=number
        )
        answers = Sampler(self.model, self.chat, self.compact, self.int8).continue_ids(starts, sampling)
        found = sorted(answers, key=lambda c: c.index)
        assert all(len(c.token_ids) == self.work["completion"] for c in found)
        drawn = torch.tensor([logprob for c in found for logprob in c.logprobs])
        ids = [c.token_ids for c in found]
        return [Group(g.prompt, ids[i * size : (i + 1) * size]) for i, g in enumerate(groups)], drawn


def rollouts_step(*arguments: Any) -> Step:
    """A batch of groups sampled with the adapter in place."""
    engine = Engine(*arguments)

    def step(number: int) -> dict[str, Any]:
        engine.rollouts(number)
        return {"loss": None, "gradient_norm": None}

    return step


def dpo_step(*arguments: Any) -> Step:
    """DPO with beta 0.1; the reference is the base model, read in every step as the peer does."""
    engine = Engine(*arguments)

    def step(number: int) -> dict[str, Any]:
        batch = shared_prefix_batch(engine.groups(number), 0)
        lower = engine.lower(batch)
        difference = engine.logprobs(batch, number, lower) - engine.reference_logprobs(batch, number, lower)
        log_ratios = batch.sum_per_sequence(difference)
        return engine.update(preference_nll(0.1 * (log_ratios[0::2] - log_ratios[1::2])).mean())

    return step


def stage_step(work: dict[str, Any], adapter: Path, vocabulary: str, _: int | None, __: bool) -> Step:
    """The product's own optimiser step of `train/dpo.py`; the reference is the starting adapter."""
    unpaired = work["method"] == "kto-unpaired-stage"
    weights = KTO_WEIGHTS if unpaired else (1.0, 1.0)
    config = dpo.DpoConfig(
        loss="kto" if unpaired else work["method"].removesuffix("-stage"),
        beta=0.1,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
        vocabulary=vocabulary,
        compact=COMPACT,
        optimiser=OPTIMISER,
        batch_size=work["rows"],
        micro_batch_size=work["rows"],
    )
    model, policy = load_trainable(Path(work["base"]), adapter.parent)
    steps = [[Group(g["prompt"], g["completions"]) for g in groups] for groups in work["steps"]]
    trainer = dpo.DpoTrainer.prepare(config, model, policy, 0, [group for groups in steps for group in groups])
    batches = [[dpo.PreferencePair(group) for group in groups] for groups in steps]
    if unpaired:
        batches = [
            [dpo.PreferencePair(Group(g.prompt, g.completions[:1]), float(desirable(i))) for i, g in enumerate(groups)]
            for groups in steps
        ]
    references = trainer.references(batches)
    return lambda number: trainer.step(number, batches[number], references[number], work["learning_rate"])


def reward_step(*arguments: Any) -> Step:
    """A reward model: a linear score of each answer's last hidden state."""
    engine = Engine(*arguments)
    score = torch.nn.Parameter(torch.tensor(engine.work["score"]))
    engine.parameters["score"] = score
    engine.optimiser = loop.adamw(engine.parameters, OPTIMISER)

    def step(number: int) -> dict[str, Any]:
        batch = shared_prefix_batch(engine.groups(number), 0)
        scores = shared_prefix_hidden(engine.model, batch, batch.last, engine.lower(batch)) @ score
        return engine.update(preference_nll(scores[0::2] - scores[1::2]).mean())

    return step


def reward_stage_step(work: dict[str, Any], adapter: Path, _: str, __: int | None, ___: bool) -> Step:
    """The product's own optimiser step of `train/reward_model.py`, with TRL's head: no bias, the same start."""
    config = reward_model.RewardConfig(
        center_rewards_coefficient=0.0, optimiser=OPTIMISER, batch_size=work["rows"], micro_batch_size=work["rows"]
    )
    model, policy = load_trainable(Path(work["base"]), adapter.parent)
    states = FrozenStatesCache(FrozenTrunk.below(model, policy), 0)
    unstyled = [0.0] * len(answer_style.FEATURES)
    trainer = reward_model.RewardTrainer.prepare(config, 0, model, policy, states, torch.tensor(unstyled))
    with torch.no_grad():
        trainer.head.weight.copy_(torch.tensor(work["score"])[None])
    steps = [
        [Ranked(Group(g["prompt"], g["completions"]), (1, 2), [unstyled] * 2) for g in groups]
        for groups in work["steps"]
    ]
    return lambda number: trainer.step(number, steps[number], work["learning_rate"])


def grpo_step(*arguments: Any) -> Step:
    """GRPO as TRL has it by default (DAPO's mean, k3 as a loss), or RLOO: rollouts and one update, beta 0.05.

    For the update alone, the workload's own completions stand in for rollouts.

    What was not drawn from the policy itself (int8 weights, compact vocabulary) counts as the policy would have it.
    """
    engine = Engine(*arguments)
    alone = engine.work["method"].endswith("-update")
    algorithm = grpo.algorithm(GrpoConfig(variant="dapo", kl="k3"))
    if engine.work["method"] == "rloo-update":
        algorithm = rloo.algorithm(RlooConfig())

    def step(number: int) -> dict[str, Any]:
        groups, drawn = (engine.groups(number), None) if alone else engine.rollouts(number)
        rewards = torch.tensor([[reward(ids) for ids in g.completions] for g in groups])
        batch = shared_prefix_batch(groups, 0)
        lower = engine.lower(batch)
        reference = engine.reference_logprobs(batch, number, lower)
        logprobs = engine.logprobs(batch, number, lower)
        other = drawn if engine.int8 or engine.compact else None
        read = PolicyBatch(batch, lower, rewards, reference, other, logprobs.detach(), logprobs)
        (targets,) = algorithm.advantages([read], 0.05)
        return engine.update(algorithm.loss(read, targets, Totals(len(logprobs), rewards.numel()), 0.05).policy)

    return step


def ppo_step(work: dict[str, Any], adapter: Path, _: str, __: int | None, ___: bool) -> Step:
    """The updates of `train/rl/ppo.py` on one batch, whose completions and scores are the workload's.

    The critic starts as a reward model with the common adapter, and like the peer's its head has no bias; the reference
    is the base model.
    """
    reward_folder = adapter.parent / "reward"
    shutil.copytree(adapter, reward_folder / "member-0" / "adapter", dirs_exist_ok=True)
    head = {"weight": torch.tensor(work["score"])[None], "bias": torch.zeros(1)}
    save_file(head, reward_folder / "member-0" / reward_model.HEAD)
    about = {"combine": "mean", "members": 1, "max_length": 64, "centre": [0.0]}
    (reward_folder / reward_model.ABOUT).write_text(json.dumps(about), encoding="utf-8")
    limits = RolloutConfig(temperature=1.0, missing_eos_penalty=0.0)
    config = PpoConfig(rollouts=limits, kl_coef=0.05, updates=UPDATES, optimiser=OPTIMISER)
    actor = Actor.load(config, Path(work["base"]), adapter.parent, reward_folder, [])
    with torch.no_grad():
        for name, parameter in actor.policy.named_parameters():
            if f"lora_B.{REFERENCE}" in name:
                parameter.zero_()
    trainer = RlTrainer(config, ppo.algorithm(config), actor, reward_folder)
    assert trainer.critic is not None
    trainer.critic.head.bias.requires_grad_(False)
    groups = [Group(g["prompt"], g["completions"]) for g in work["steps"][0]]
    rewards = torch.tensor([[reward(ids) for ids in group.completions] for group in groups])
    rollouts = Rollouts(groups, rewards, torch.ones_like(rewards).bool(), [], [], actor.below_of(groups))
    totals, batches = Totals(rollouts.tokens, rewards.numel()), list(actor.iter_minibatches(rollouts, rewards, 0))
    targets, measured = trainer.critic_targets(batches), dict.fromkeys(trainer.algorithm.metrics, 0.0)

    def step(_: int) -> dict[str, Any]:
        loss, _k1 = trainer.update(batches, targets, totals, 0, [], measured)
        norm = loop.optimiser_step(trainer.optimiser, trainer.parameters, loss, work["learning_rate"], math.inf)
        return {"loss": loss, "gradient_norm": norm}

    return step


METHODS = {
    "sft": sft_step,
    "rollouts": rollouts_step,
    "dpo": dpo_step,
    "dpo-stage": stage_step,
    "ipo-stage": stage_step,
    "kto-stage": stage_step,
    "kto-unpaired-stage": stage_step,
    "reward": reward_step,
    "reward-stage": reward_stage_step,
    "grpo": grpo_step,
    "grpo-update": grpo_step,
    "rloo-update": grpo_step,
    "ppo-update": ppo_step,
}


def main() -> None:
    """Load, say that it is ready, and step when asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--vocabulary", choices=["full", "compact"], default="full")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--int8", action="store_true", help="int8 weights in rollouts")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    work = json.loads(arguments.work.read_text(encoding="utf-8"))
    step = METHODS[work["method"]](work, arguments.adapter, arguments.vocabulary, arguments.layers, arguments.int8)
    print(json.dumps({"ready": True, "torch": torch.__version__}), flush=True)
    for number, _ in enumerate(sys.stdin):
        start = time.perf_counter()
        measured = step(number)
        seconds = time.perf_counter() - start
        print(json.dumps({**measured, "seconds": seconds, "peak_mb": peak_memory_mb()}), flush=True)


if __name__ == "__main__":
    main()
