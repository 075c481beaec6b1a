"""Estimates count the work that the stages then do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.cost.work import Counts, Workload, assumed_lengths, schedule
from steersman.evals import capability, reward_card
from steersman.lm import compact_vocabulary as compact_module
from steersman.lm import fast_paths, pretrained, sampling, shared_prefix
from steersman.lm import head as head_module
from steersman.lm import reward_model as scoring
from steersman.lm.chat_format import ChatFormat
from steersman.lm.frozen_trunk import FrozenTrunk
from steersman.lm.sampling import SamplingConfig
from steersman.store import StageFolder
from steersman.train import distillation, dpo, replay, reward_model, sft
from steersman.train.rl import actor, critic, ppo, rloo
from steersman.train.rl import loop as rl
from steersman.train.rl.loop import Monitors, RlData
from steersman.train.rl.ppo import PpoConfig
from steersman.types import Demonstration
from workloads import changed, estimate, prices, small_workload


@pytest.fixture(autouse=True)
def nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `lm/fast_paths.py` and `FrozenTrunk.agrees` read of a few tokens is in no estimate."""
    monkeypatch.setattr(fast_paths, "_agrees", lambda model, trial: True)
    monkeypatch.setattr(FrozenTrunk, "agrees", lambda self: True)


@pytest.fixture
def workload(tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path) -> Workload:
    return small_workload(tiny_base, demonstrations, tmp_path)


# ── work ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Counting:
    """Counts, while a stage runs, the tokens that pass through the trunk and positions that pass through the head."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        self.patch, self.counts = monkeypatch, Counter[str]()
        if module is sft:
            self.scored_hidden(sft)
            self.scored_hidden(replay)
        else:
            self.trunk(module)
        self.trunk(sampling)
        self.rows(module, "token_logprobs", "scored_tokens")
        self.rows(sampling, "draw", "decode_rows", "decode_steps")

    def trunk(self, module: Any) -> None:
        """Count tokens trained on and read; single ones are the sampler's steps, counted where they are drawn."""

        def counted(model: Any) -> Callable[..., Any]:
            def forward(**inputs: Any) -> Any:
                if module is not sampling or inputs["input_ids"].shape[1] > 1:
                    kind = "train_tokens" if torch.is_grad_enabled() else "read_tokens"
                    self.counts[kind] += inputs["input_ids"].numel()
                return head_module.trunk(model)(**inputs)

            return forward

        self.patch.setattr(module, "trunk", counted)

    def scored_hidden(self, module: Any) -> None:
        """Count the tokens of batches that pass through the whole trunk."""
        function = module.scored_hidden

        def counted(model: Any, batch: Any, lower: Any = None) -> Any:
            if lower is None:
                ids = batch.token_ids if batch.packed is None else batch.packed.layout.token_ids
                self.counts["train_tokens" if torch.is_grad_enabled() else "read_tokens"] += ids.numel()
            return function(model, batch, lower)

        self.patch.setattr(module, "scored_hidden", counted)

    def rows(self, owner: Any, name: str, kind: str, calls: str = "", argument: int = 0) -> None:
        """Count the rows of an argument of a function and, if they have a name, its calls."""
        function = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self.counts[kind] += len(arguments[argument])
            if calls:
                self.counts[calls] += 1
            return function(*arguments, **named)

        self.patch.setattr(owner, name, counted)

    def expect(self, counts: Counts) -> None:
        """Fail unless the counts are what was counted."""
        names = ("train_tokens", "train_scored", "read_tokens", "scored_tokens", "decode_rows", "decode_steps")
        assert {name: getattr(counts, name) for name in names} == {name: self.counts[name] for name in names}


def answers_of_one_length(monkeypatch: pytest.MonkeyPatch, tokens: int, others: Collection[str]) -> None:
    """The teacher's answers are as long as they may be, also in the estimate, and none is dropped.

    Args:
        others: texts whose ids stay as they are.
    """
    ids = ChatFormat.completion_ids

    def completion_ids(self: ChatFormat, text: str, prompt: Any = "?") -> list[int]:
        return ids(self, text) if text in others or text == "?" else [*[5] * tokens, 1]

    monkeypatch.setattr(ChatFormat, "completion_ids", completion_ids)
    monkeypatch.setattr(distillation, "why_dropped", lambda *_, **__: None)
    monkeypatch.setattr("steersman.stages.sft.assumed_lengths", lambda _, limit, count: [limit] * count)


@pytest.mark.parametrize("vocabulary", ["full", "compact"])
@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["sft.micro_batch_size=3"],
        ["sft.packing=true", "sft.max_length=90"],
        pytest.param(["sft.replay.rows=9", "sft.replay.tokens=8"], marks=pytest.mark.slow),
        pytest.param(["sft.distillation.prompts=6", "sft.distillation.tokens=8"], marks=pytest.mark.slow),
        ["sft.distillation={prompts: 22, tokens: 8, weight: 0.5}", "sft.replay={rows: 9, tokens: 8}"],
        ["sft.prefix.upsample={ask-first: 2}"],
    ],
)
def test_work_of_sft_is_what_sft_does(
    workload: Workload,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vocabulary: str,
    settings: list[str],
) -> None:
    workload = replace(workload, train=[row.model_copy(update={"tags": ("plain",)}) for row in workload.train])
    always = ("sft.epochs=1.5", "sft.eval_every_steps=3", "sft.compact.extra_rows=9", f"sft.vocabulary={vocabulary}")
    s = changed(workload, *always, *settings)
    counting = Counting(monkeypatch, sft)
    counting.rows(compact_module.CompactVocabulary, "outside_mass", "scored_tokens", argument=1)
    counting.rows(compact_module.CompactVocabulary, "nll", "train_scored", argument=1)
    counting.rows(sft, "completion_nll", "train_scored")
    counting.rows(compact_module.CompactVocabulary, "divergence", "train_scored", argument=1)
    counting.rows(sft, "divergence", "train_scored")
    counting.rows(compact_module, "compact_vocabulary", "scored_tokens", argument=1)
    probe = compact_module._scored_states

    def counted_probe(model: Any, example: Any) -> Any:
        counting.counts["read_tokens"] += len(example.token_ids)
        return probe(model, example)

    monkeypatch.setattr(compact_module, "_scored_states", counted_probe)
    (tmp_path / "out").mkdir()
    answers_of_one_length(monkeypatch, 8, [row.completion for row in (*s.train, *s.validation)])
    counting.trunk(distillation)
    teacher = distillation.Teacher(s.constitution.persona, lambda *_: False)
    out = StageFolder(tmp_path / "out", "sft")
    sft.run(s.recipe.sft, tiny_base, "tiny", s.train, s.validation, out, teacher=teacher)
    counting.expect(estimate("sft", s).counts)


@pytest.mark.parametrize("loss", ["dpo", "kto", "simpo"])
def test_work_of_dpo_is_what_dpo_does(
    workload: Workload, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    s = changed(workload, f"dpo.loss={loss}", "dpo.epochs=1.5", "dpo.batch_size=8", "dpo.micro_batch_size=3")
    for name in ("sft", "dpo"):
        (tmp_path / name).mkdir()
    sft.run(s.recipe.sft, tiny_base, "tiny", s.train, [], StageFolder(tmp_path / "sft", "sft"))
    counts, read, config = Counter[str](), shared_prefix.shared_prefix_hidden, s.recipe.dpo
    assert config is not None

    def counted(model: Any, batch: Any, at: Any, lower: Any) -> Any:
        kind = "train_tokens" if torch.is_grad_enabled() else "read_tokens"
        counts[kind] += batch.token_ids.numel()
        counts[kind.replace("tokens", "scored")] += len(at)
        return read(model, batch, at, lower)

    monkeypatch.setattr(shared_prefix, "shared_prefix_hidden", counted)
    dpo.run(config, tiny_base, tmp_path / "sft", s.comparisons, StageFolder(tmp_path / "dpo", "dpo"))
    found = estimate("dpo", s).counts
    assert found.train_tokens == counts["train_tokens"]
    assert found.train_scored == pytest.approx(counts["train_scored"] + counts["read_scored"] / 3)
    # A foreign answer may be longer than a prompt's own.
    assert found.read_tokens == pytest.approx(counts["read_tokens"], rel=0.15 if loss == "kto" else 1e-9)


@pytest.mark.parametrize("layers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_work_of_the_reward_model_is_what_it_does(
    workload: Workload, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: int
) -> None:
    settings = (f"sft.lora.trainable_layers={layers}", "reward_model.epochs=2", "reward_model.micro_batch_size=3")
    s = changed(workload, *settings)
    assert s.recipe.reward_model is not None
    for name in ("sft", "reward_model", "reward_card"):
        (tmp_path / name).mkdir()
    sft.run(s.recipe.sft, tiny_base, "tiny", s.train, [], StageFolder(tmp_path / "sft", "sft"))
    counts, read, lower = Counter[str](), reward_model.shared_prefix_hidden, reward_model.compute_frozen_states

    def counted(model: Any, batch: Any, at: Any, below: Any = None) -> Any:
        counts["train_tokens" if torch.is_grad_enabled() else "read_tokens"] += batch.token_ids.numel()
        return read(model, batch, at, below)

    def counted_lower(model: Any, batch: Any, below: Any) -> Any:
        if below is not None:
            counts["lower_tokens"] += batch.token_ids.numel()
        return lower(model, batch, below)

    monkeypatch.setattr(reward_model, "shared_prefix_hidden", counted)
    monkeypatch.setattr(scoring, "shared_prefix_hidden", counted)
    monkeypatch.setattr(reward_model, "compute_frozen_states", counted_lower)
    out = StageFolder(tmp_path / "reward_model", "reward_model")
    reward_model.run(s.recipe.reward_model, tiny_base, tmp_path / "sft", s.comparisons, s.train, out)
    found = estimate("reward_model", s).counts
    assert {name: getattr(found, name) for name in counts} == counts
    assert ("lower_tokens" in counts) == (layers == 1)
    counts.clear()
    judge = scoring.RewardModel.load(tiny_base, out.path).score
    reward_card.run(judge, s.held_out, s.train, StageFolder(tmp_path / "reward_card", "reward_card"))
    assert estimate("reward_card", s).counts.read_tokens == counts["read_tokens"]


def counted_reinforcement(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Filled, while reinforcement learning runs, with the tokens of each kind of work."""
    counts = Counter[str]()

    def counting(module: Any, name: str, place: int, kind: str, learning: str = "") -> None:
        function = getattr(module, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            counted_one = arguments[place]
            tokens = counted_one.token_ids.numel() if hasattr(counted_one, "token_ids") else len(counted_one)
            counts[learning if learning and torch.is_grad_enabled() else kind] += tokens
            counts[kind + " calls"] += 1
            return function(*arguments, **named)

        monkeypatch.setattr(module, name, counted)

    counting(actor, "shared_prefix_logprobs", 1, "read", "train_tokens")
    counting(critic, "shared_prefix_hidden", 1, "read", "train_tokens")
    counting(scoring, "shared_prefix_hidden", 1, "judged")
    counting(sampling, "draw", 0, "rollout_rows")
    counting(actor, "entropies", 0, "looked_at")
    counting(actor, "shared_prefix_hidden", 1, "watched")

    below = FrozenTrunk.read

    def counted_below(self: FrozenTrunk, **inputs: Any) -> Any:
        counts["laid_out"] += inputs["input_ids"].numel()
        return below(self, **inputs)

    monkeypatch.setattr(FrozenTrunk, "read", counted_below)

    def reading(model: Any) -> Callable[..., Any]:
        def forward(**inputs: Any) -> Any:
            ids = inputs["input_ids"]
            counts["sampled"] += ids.numel() if ids.shape[1] > 1 else 0
            return head_module.trunk(model)(**inputs)

        return forward

    monkeypatch.setattr(sampling, "trunk", reading)
    return counts


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
@pytest.mark.parametrize("layers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_work_of_reinforcement_is_what_it_does(
    workload: Workload, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: int, algorithm: str
) -> None:
    """But for the price of the upper layers alone, which a reading after the frozen ones has."""
    shape = f"{{algorithm: {algorithm}, steps: 3, updates: 2, micro_batch_size: 3, checkpoint_every_steps: 2, "
    shape += "rollouts: {prompts: 4, answers: 3, max_new_tokens: 8}, evaluation: {every_steps: 2, prompts: 5}}"
    s = changed(workload, f"sft.lora.trainable_layers={layers}", f"rl={shape}")
    config = s.recipe.rl
    assert config is not None
    assert s.recipe.reward_model is not None
    for name in ("sft", "reward", "rl"):
        (tmp_path / name).mkdir()
    sft.run(s.recipe.sft, tiny_base, "tiny", s.train, [], StageFolder(tmp_path / "sft", "sft"))
    out = StageFolder(tmp_path / "reward", "reward_model")
    one = s.recipe.reward_model.model_copy(update={"members": 1})
    reward_model.run(one, tiny_base, tmp_path / "sft", s.comparisons, s.train, out)
    s = replace(s, recipe=s.recipe.model_copy(update={"reward_model": one}))
    counts = counted_reinforcement(monkeypatch)
    # Answers have the length that is expected: none ends by itself.
    monkeypatch.setattr(type(s), "like_demonstrations", lambda self, limit: limit)
    make = scoring.chat_format
    monkeypatch.setattr(scoring, "chat_format", lambda *given: replace(make(*given), stop_ids=frozenset()))
    data = RlData(s.prompts, s.held_out_prompts, s.train)
    start, stage = tmp_path / "sft", StageFolder(tmp_path / "rl", "rl")
    monitors = Monitors(holdout_reward_model=tmp_path / "reward")
    kind = ppo.algorithm(config) if isinstance(config, PpoConfig) else rloo.algorithm(config)  # type: ignore[arg-type]
    rl.run(config, kind, tiny_base, start, tmp_path / "reward", data, stage, monitors)
    found = estimate("rl", s).counts
    assert found.train_tokens == counts["train_tokens"]
    assert found.lower_tokens == counts["laid_out"]
    assert (counts["laid_out"] > 0) == (layers == 1)
    assert (found.rollout_rows, found.rollout_steps) == (counts["rollout_rows"], counts["rollout_rows calls"])
    assert found.scored_tokens == 3 * counts["looked_at"]
    assert found.checkpoints == 1
    upper = layers / 2 * (counts["judged"] + counts["read"] + counts["watched"])
    assert found.read_tokens == pytest.approx(counts["sampled"] + upper)


def test_frozen_layers_read_every_text_once_or_in_every_step(workload: Workload) -> None:
    always = ("sft.lora.trainable_layers=1", "sft.prefix.upsample={ask-first: 2}")
    kept = estimate("sft", changed(workload, *always)).counts
    rows = {tuple(e.token_ids) for e in (*workload.train_examples, *workload.validation_examples)}
    assert kept.lower_tokens == sum(map(len, rows))  # prefixes begin these texts
    anew = estimate("sft", changed(workload, *always, "sft.trunk_cache_mb=0")).counts
    assert anew == kept._replace(lower_tokens=anew.train_tokens)
    assert estimate("sft", workload).counts.lower_tokens == 0


def test_work_of_capability_is_what_capability_does(
    workload: Workload, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = changed(workload, "capability.batch_size=3")
    counting = Counting(monkeypatch, capability)
    (tmp_path / "out").mkdir()
    capability.run(s.recipe.capability, tiny_base, None, StageFolder(tmp_path / "out", "raw_capability"))
    counting.expect(estimate("raw_capability", s).counts)


@pytest.mark.parametrize("preamble", [None, "Be plain and short."])
def test_schedule_is_the_samplers(
    workload: Workload, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, preamble: str | None
) -> None:
    counting = Counting(monkeypatch, capability)
    prompts = [row.prompt for row in workload.train[:21]]
    config = SamplingConfig(max_new_tokens=60, temperature=3.0, batch_size=8)
    chat = replace(workload.chat, stop_ids=frozenset(range(40)))  # so that answers end after every number of tokens
    said = list(
        sampling.Sampler(pretrained.load_model(tiny_base), chat).generate(
            sampling.Request(prompts, config, preamble=preamble)
        )
    )
    said.sort(key=lambda answer: (answer.prompt_tokens, answer.index))
    assert len({len(answer.token_ids) for answer in said}) > 5
    first = said[0]
    prefix = len(chat.prompt_ids(prompts[first.index], preamble)) - first.prompt_tokens
    lengths = [len(answer.token_ids) for answer in said]
    counts, most = schedule([answer.prompt_tokens for answer in said], lengths, prefix, config.batch_size)
    counting.expect(counts)
    assert most >= 8 * (prefix + first.prompt_tokens)


@pytest.mark.parametrize("mean", [5, 32, 48, 96])
def test_assumed_lengths_have_the_mean(mean: int) -> None:
    lengths = assumed_lengths(mean, 96, 240)
    assert abs(sum(lengths) / 240 - mean) < 1
    assert min(lengths) >= 1
    assert max(lengths) <= 96


def test_estimate_scales_with_epochs(workload: Workload) -> None:
    one, three = (estimate("sft", changed(workload, f"sft.epochs={n}", "sft.eval_every_steps=99")) for n in (1, 3))
    calibration = prices(train_tokens=0.01, train_scored=0.02)
    assert calibration.seconds(three.counts) == pytest.approx(3 * calibration.seconds(one.counts), rel=0.02)
    assert three.counts.train_scored == 3 * one.counts.train_scored
    assert three.peak.train_scored == one.peak.train_scored
