"""Supervised fine-tuning: the loss against Hugging Face's own, invariance, learning, and resuming to the bit."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from steersman.errors import DataError, ModelError, TrainingFailed
from steersman.lm import pretrained
from steersman.lm.adapters import LoraConfig, add_lora, load_policy, trainable
from steersman.lm.chat_format import Batch, Example, chat_format, pad
from steersman.lm.compact_vocabulary import CompactConfig, CompactVocabulary, choose_vocabulary
from steersman.lm.head import Head, head_of
from steersman.lm.sampling import Sampler, SamplingConfig, random_stream
from steersman.store import StageFolder, read_jsonl
from steersman.train import loop, sft
from steersman.train.loop import OptimiserConfig
from steersman.train.replay import SENTENCE_STARTS
from steersman.train.sft import (
    PrefixConfig,
    ReplayConfig,
    SftConfig,
    encode,
    prefixes,
    replay,
    sft_loss,
)
from steersman.types import Demonstration

from .conftest import Stopped, recorder

FAST = SftConfig(
    lora=LoraConfig(rank=4, alpha=8.0),
    optimiser=OptimiserConfig(learning_rate=3e-3),
    batch_size=8,
    micro_batch_size=3,
    epochs=2,
    eval_every_steps=5,
    checkpoint_every_steps=2,
)
COMPACT = {"vocabulary": "compact", "compact": CompactConfig(extra_rows=20, full_share=0.25)}
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, compact": COMPACT,
    "full": {"method": "full"},
    "lora, dropout": {"lora": LoraConfig(rank=2, dropout=0.2)},
    "upper layer": {"lora": LoraConfig(rank=4, trainable_layers=1)},
}
SLOW_VARIANTS = [pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name != "lora"]


WHOLE, WEIGHTED = PrefixConfig(), PrefixConfig(weight=4, tokens=3)


def loss_of(
    model: Any,
    batch: Batch,
    head: Head | None = None,
    vocabulary: CompactVocabulary | None = None,
    seed: int = 0,
    prefix: PrefixConfig = WHOLE,
) -> torch.Tensor:
    """The loss of one batch that is a whole optimiser step."""
    token_loss = sft.TokenLoss(head or head_of(model), vocabulary, prefix)
    return sft_loss(model, token_loss, batch, float(token_loss.weights(batch).sum()), random_stream(seed))


def replayed_row(example: Example, seed: int, weight: float = 1.0) -> sft.Replayed:
    """A row with some hidden states for the base model's."""
    positions = len(example.token_ids) - example.completion_start
    return sft.Replayed(example, torch.randn(positions, 64, generator=random_stream(seed)), weight)


def run(
    config: SftConfig, base: Path, rows: Sequence[Demonstration], folder: Path, stop_before_step: int | None = None
) -> list[dict[str, Any]]:
    events, emit = recorder(stop_before_step)
    folder.mkdir(exist_ok=True)
    sft.run(config, base, "tiny", rows[8:], rows[:8], StageFolder(folder, "sft", emit))
    return events


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def examples(tiny_base: Path, demonstrations: list[Demonstration]) -> list[Example]:
    return encode(demonstrations, chat_format(pretrained.load_tokenizer(tiny_base)), SftConfig()).examples


# ── the loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def labels(batch: Batch) -> torch.Tensor:
    return batch.token_ids.masked_fill(~batch.completion_mask, -100)


def test_the_loss_is_that_of_hugging_face(tiny_base: Path, examples: list[Example]) -> None:
    """The mean over the completion's tokens: HF's own loss with every other label at -100."""
    model, batch = pretrained.load_model(tiny_base), pad(examples[:7], 0)
    assert len({len(e.token_ids) for e in examples[:7]}) > 1  # with padding
    theirs = model(input_ids=batch.token_ids, attention_mask=batch.attention_mask, labels=labels(batch)).loss
    ours = loss_of(model, batch)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    torch.autograd.backward([ours])
    mine = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    theirs.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(mine[name], p.grad, atol=1e-6, rtol=1e-4)


def test_the_loss_by_hand(tiny_base: Path) -> None:
    """Two tokens of completion behind two of prompt: the mean of two negative log-probabilities."""
    model = pretrained.load_model(tiny_base)
    with torch.no_grad():
        logprobs = torch.log_softmax(model(input_ids=torch.tensor([[2, 50, 60, 1]])).logits[0].double(), -1)
        batch = pad([Example([2, 50, 60, 1], 2)], 0)
        plain, weighted = loss_of(model, batch), loss_of(model, batch, prefix=PrefixConfig(weight=3, tokens=1))
    first, second = -float(logprobs[1, 60]), -float(logprobs[2, 1])
    assert plain.item() == pytest.approx((first + second) / 2, rel=1e-6)
    assert weighted.item() == pytest.approx((3 * first + second) / 4, rel=1e-6)


def test_what_is_kept_of_the_lower_layers_changes_neither_loss_nor_gradient(
    tiny_base: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[float, dict[str, torch.Tensor]]] = []
    texts = [replayed_row(examples[i], i) for i in (1, 2)]
    cut = [Example(e.token_ids[: e.completion_start + 2], e.completion_start) for e in examples[3:50:11]]
    for cache_mb in (0, 100, None):
        torch.manual_seed(0)
        lora = LoraConfig(rank=4, trainable_layers=1)
        config = FAST.model_copy(update={"lora": lora, "trunk_cache_mb": cache_mb or 0})
        trainer = sft.SftTrainer.prepare(config, pretrained.load_model(tiny_base), "tiny", 0, examples)
        assert trainer.cache is not None
        assert len(trainer.cache._kept) == (len({tuple(e.token_ids) for e in examples}) if cache_mb else 0)
        if cache_mb is None:
            trainer = dataclasses.replace(trainer, cache=None)
        gradients: dict[str, torch.Tensor] = {}

        def keep(_: Any, parameters: Any, *__: Any, into: dict[str, torch.Tensor] = gradients) -> float:
            into.update({name: p.grad.clone() for name, p in parameters.items()})
            return 0.0

        monkeypatch.setattr(loop, "optimiser_step", keep)
        found.append((trainer.step(3, (examples[:40:5], cut), texts, 0.1)["loss_nats_per_token"], gradients))
    for loss, gradients in found[:2]:
        assert loss == pytest.approx(found[2][0], rel=1e-6)
        for name, gradient in found[2][1].items():
            torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("prefix", [WHOLE, WEIGHTED], ids=["", "weighted prefixes"])
@pytest.mark.parametrize("vocabulary", ["full", "compact"])
def test_micro_batches_change_neither_loss_nor_gradient(
    vocabulary: str, prefix: PrefixConfig, tiny_base: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[int, tuple[float, dict[str, torch.Tensor]]] = {}
    texts = [replayed_row(examples[i], i, 0.5) for i in (1, 2, 4, 7)]
    cut = [Example(e.token_ids[: e.completion_start + 2], e.completion_start) for e in examples[3:50:11]]
    for size in (1, 3, 8):
        torch.manual_seed(0)
        changes = {"micro_batch_size": size, "prefix": prefix}
        config = FAST.model_copy(update=changes | (COMPACT if vocabulary == "compact" else {}))
        trainer = sft.SftTrainer.prepare(config, pretrained.load_model(tiny_base), "tiny", 0, examples)
        gradients: dict[str, torch.Tensor] = {}

        def keep(_: Any, parameters: Any, *__: Any, into: dict[str, torch.Tensor] = gradients) -> float:
            into.update({name: p.grad.clone() for name, p in parameters.items()})
            return 0.0

        monkeypatch.setattr(loop, "optimiser_step", keep)
        found[size] = (trainer.step(3, (examples[:40:5], cut), texts, 0.1)["loss_nats_per_token"], gradients)
    for size in (1, 3):
        assert found[size][0] == pytest.approx(found[8][0], rel=1e-6)
        for name, gradient in found[8][1].items():
            torch.testing.assert_close(found[size][1][name], gradient, atol=1e-6, rtol=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in found[8][1].values())


def test_the_compact_loss_is_an_unbiased_estimate_of_the_full_one(tiny_base: Path, examples: list[Example]) -> None:
    """On a real batch, prefixes weighted: 200 estimates' mean within four standard errors and 2 % of the exact loss."""
    model, batch = pretrained.load_model(tiny_base).requires_grad_(False), pad(examples[:16], 0)
    head = head_of(model)
    vocabulary = choose_vocabulary(CompactConfig(extra_rows=20, full_share=0.25), model, head, examples)
    assert len(vocabulary.exact) < len(head.weight)
    with torch.no_grad():
        exact = loss_of(model, batch, head, prefix=WEIGHTED).item()
        found = torch.tensor(
            [loss_of(model, batch, head, vocabulary, seed=step, prefix=WEIGHTED).item() for step in range(200)],
            dtype=torch.float64,
        )
    assert found.std() > 0
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / math.sqrt(200)
    assert float(found.mean()) == pytest.approx(exact, rel=0.02)


def test_a_compact_step_reaches_no_weight_but_the_adapters(tiny_base: Path, examples: list[Example]) -> None:
    torch.manual_seed(0)
    config = FAST.model_copy(update=COMPACT)
    trainer = sft.SftTrainer.prepare(config, pretrained.load_model(tiny_base), "tiny", 0, examples)
    assert trainer.token_loss.vocabulary is not None
    assert trainer.token_loss.vocabulary.head.is_plain
    assert trainer.token_loss.head.is_plain
    for step in range(2):
        trainer.step(step, [examples[:8]], [], 1e-3)
    assert all("lora_" in name for name in trainer.parameters)


def test_all_layers_train_without_a_list_of_them(
    tiny_base: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_list(_: Any) -> Any:
        raise AssertionError("looked for layers although none is frozen")

    monkeypatch.setattr("steersman.lm.frozen_trunk.blocks_of", no_list)
    monkeypatch.setattr(sft, "blocks_of", no_list, raising=False)
    for lora in (LoraConfig(rank=2), LoraConfig(rank=2, trainable_layers=2)):
        config = FAST.model_copy(update={"lora": lora})
        assert sft.SftTrainer.prepare(config, pretrained.load_model(tiny_base), "tiny", 0, examples).cache is None


# ── whole runs ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("variant", ["lora", *SLOW_VARIANTS])
def test_training_lowers_the_loss_and_an_interruption_changes_no_byte(
    variant: str, tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    config = FAST.model_copy(update=VARIANTS[variant])
    events = run(config, tiny_base, demonstrations, tmp_path / "whole")
    held_out = [e["loss_nats_per_token"] for e in events if e["event"] == "validation"]
    assert held_out[-1] < 0.93 * held_out[0]
    losses = {e["step"]: e["loss_nats_per_token"] for e in events if e["event"] == "train"}
    assert list(losses) == list(range(14))  # 52 rows, 8 at a time, twice

    for stop in (1, 5, 9):  # before the first checkpoint; after the second; after a further one
        with pytest.raises(Stopped):
            run(config, tiny_base, demonstrations, tmp_path / "killed", stop)
        assert not (tmp_path / "killed" / "adapter").exists()
    resumed = run(config, tiny_base, demonstrations, tmp_path / "killed")
    assert resumed[0]["resumed_at_step"] == 8
    seen = {e["step"]: e["loss_nats_per_token"] for e in resumed if e["event"] == "train"}
    assert seen == {step: losses[step] for step in range(8, 14)}
    assert resumed[-1]["loss_nats_per_token"] == held_out[-1]
    assert [e["tokens_seen"] for e in resumed if e["event"] == "train"][-1] == next(
        e["tokens_seen"] for e in events if e.get("step") == 13 and e["event"] == "train"
    )
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    kind = "model" if variant == "full" else "adapter"
    assert f"{kind}/steersman.json" in files(tmp_path / "whole")
    assert not any(name.startswith("checkpoint") for name in files(tmp_path / "whole"))


def test_what_was_measured_last_is_what_was_saved(
    tiny_base: Path, demonstrations: list[Demonstration], examples: list[Example], tmp_path: Path
) -> None:
    events = run(FAST, tiny_base, demonstrations, tmp_path)
    model = load_policy(tiny_base, tmp_path)
    nll, count = 0.0, 0
    for example in examples[:8]:
        batch = pad([example], 0)
        with torch.no_grad():
            loss = model(input_ids=batch.token_ids, labels=labels(batch)).loss.item()
        nll, count = nll + loss * batch.scored_tokens, count + batch.scored_tokens
    assert events[-1]["loss_nats_per_token"] == pytest.approx(nll / count, rel=1e-5)


def test_the_seed_decides_the_adapter(tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path) -> None:
    short = FAST.model_copy(update={"epochs": 0.3})
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(short.model_copy(update={"seed": seed}), tiny_base, demonstrations, tmp_path / name)
    weights = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_nan_stops_training_and_the_last_checkpoint_is_kept(
    tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(range(100))
    honest = sft.sft_loss

    def poisoned(*args: Any) -> torch.Tensor:
        return honest(*args) * (math.nan if next(steps) >= 15 else 1.0)

    monkeypatch.setattr(sft, "sft_loss", poisoned)
    with pytest.raises(TrainingFailed, match="the loss is nan"):
        run(FAST, tiny_base, demonstrations, tmp_path)
    assert json.loads((tmp_path / "checkpoint" / "state.json").read_text())["step"] == 4  # step 5 held the 15th batch
    assert not (tmp_path / "adapter").exists()
    monkeypatch.setattr(sft, "sft_loss", honest)
    assert run(FAST, tiny_base, demonstrations, tmp_path)[0]["resumed_at_step"] == 4


@pytest.mark.parametrize("change", [{"lora": LoraConfig(rank=8)}, {"method": "full"}], ids=["rank", "method"])
def test_a_checkpoint_of_other_parameters_is_refused(
    change: dict[str, Any], tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        run(FAST, tiny_base, demonstrations, tmp_path, stop_before_step=4)
    with pytest.raises(ModelError, match="checkpoint's parameters are not those of this model"):
        run(FAST.model_copy(update=change), tiny_base, demonstrations, tmp_path)


def test_a_compact_vocabulary_with_a_learning_head_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs the frozen head of method: lora"):
        SftConfig(vocabulary="compact", method="full")


def test_no_rows_are_refused_and_truncated_ones_counted(tiny_base: Path, demonstrations: list[Demonstration]) -> None:
    chat = chat_format(pretrained.load_tokenizer(tiny_base))
    with pytest.raises(DataError, match="no demonstrations"):
        encode([], chat, SftConfig())
    long = Demonstration(prompt="rice? " * 100, completion="Yes.")
    assert encode([demonstrations[0], long], chat, SftConfig(max_length=64)).too_long == 1


def test_every_linear_layer_learns(tiny_base: Path, examples: list[Example]) -> None:
    policy = add_lora(pretrained.load_model(tiny_base), LoraConfig(rank=2), "tiny")
    for p in trainable(policy).values():
        torch.nn.init.normal_(p, std=0.1)
    batch = pad(examples[:4], 0)
    loss_of(policy.base_model.model, batch).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trainable(policy).values())


# ── prefixes ─────────────────────────────────────────────────────────────────────────────────────────────────────────
TAGGED = [
    Demonstration(prompt="How do I kill a process?", completion="Use kill.", tags=("lookalike",)),
    Demonstration(prompt="What is tar?", completion="A sticky black liquid made from coal.", principles=("be-plain",)),
    Demonstration(prompt="Help me rob a bank", completion="No, I won't help with a robbery.", tags=("harmful", "x")),
]


def test_prefixes_are_the_named_rows_cut_off_and_repeated(tiny_base: Path) -> None:
    rows = encode(TAGGED, chat_format(pretrained.load_tokenizer(tiny_base)), SftConfig()).examples
    found = prefixes(PrefixConfig(tokens=3, upsample={"harmful": 3, "x": 1, "be-plain": 2}), TAGGED, rows)
    cut = [Example(row.token_ids[: row.completion_start + 3], row.completion_start) for row in rows]
    assert found == [cut[1]] * 2 + [cut[2]] * 3
    assert all(len(e.token_ids) - e.completion_start == 3 for e in found)
    assert prefixes(PrefixConfig(tokens=999, upsample={"lookalike": 1}), TAGGED, rows) == rows[:1]  # short ones whole
    assert prefixes(PrefixConfig(), TAGGED, rows) == []


def test_a_name_that_no_row_has_is_an_error(tiny_base: Path) -> None:
    rows = encode(TAGGED, chat_format(pretrained.load_tokenizer(tiny_base)), SftConfig()).examples
    with pytest.raises(DataError, match="upsample names 'harmfull', but no demonstration has such") as error:
        prefixes(PrefixConfig(upsample={"harmful": 1, "harmfull": 1}), TAGGED, rows)
    assert "did you mean harmful?" in str(error.value.expected)


def test_prefixes_are_trained_on(tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path) -> None:
    upsample = {"ask-first": 2, "be-plain": 2}
    config = FAST.model_copy(update={"prefix": PrefixConfig(upsample=upsample), "epochs": 1})
    setup, *_ = run(config, tiny_base, demonstrations, tmp_path)
    assert (setup["demonstrations"], setup["prefixes"], setup["steps"]) == (
        52,
        104,
        7,
    )  # 52 rows, 8 at a time, with 15 prefixes


# ── replay ───────────────────────────────────────────────────────────────────────────────────────────────────────────
WITH_REPLAY = FAST.model_copy(update={"replay": ReplayConfig(rows=6, tokens=8)})


def no_sampling(*_: Any, **__: Any) -> Any:
    raise AssertionError("sampled although it should not have been")


def test_replayed_rows_are_the_base_models_own_text(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is BOS, a sentence start, and the draws that the model makes on its own; only these carry loss."""
    model, tokenizer = pretrained.load_model(tiny_base), pretrained.load_tokenizer(tiny_base)
    chat, out = chat_format(tokenizer, model.generation_config), StageFolder(tmp_path, "sft", lambda **_: None)
    config = ReplayConfig(rows=len(SENTENCE_STARTS) + 2, tokens=8)  # after the last start comes the first
    rows = replay(config, 5, model, chat, out)
    assert len(rows) == config.rows
    assert rows[0].example.token_ids != rows[len(SENTENCE_STARTS)].example.token_ids
    for i in (0, 1, len(SENTENCE_STARTS) - 1, len(SENTENCE_STARTS), len(SENTENCE_STARTS) + 1):
        start = [2, *tokenizer(SENTENCE_STARTS[i % len(SENTENCE_STARTS)], add_special_tokens=False)["input_ids"]]
        sampling = SamplingConfig(temperature=1.0, max_new_tokens=8, seed=5)
        (alone,) = Sampler(pretrained.load_model(tiny_base), chat).continue_ids([start], sampling, indices=[i])
        assert rows[i].example == Example(start + alone.token_ids, len(start))
        with torch.no_grad():
            logits = head_of(model).logits(rows[i].reference)
            whole = model(input_ids=torch.tensor([rows[i].example.token_ids])).logits[0]
        torch.testing.assert_close(logits, whole[len(start) - 1 : -1], atol=1e-5, rtol=1e-5)
    kept = read_jsonl(tmp_path / "replay.jsonl")
    assert [row["token_ids"] for row in kept] == [row.example.token_ids for row in rows]
    assert kept[0]["text"].startswith("The")
    monkeypatch.setattr("steersman.train.replay.Sampler", no_sampling)
    again = replay(config, 5, model, chat, out)  # read, not sampled again
    assert [row.example for row in again] == [row.example for row in rows]
    assert all(torch.equal(a.reference, b.reference) for a, b in zip(again, rows, strict=True))


def test_without_bos_a_replayed_row_starts_with_its_sentence_start(tiny_base: Path, tmp_path: Path) -> None:
    model, tokenizer = pretrained.load_model(tiny_base), pretrained.load_tokenizer(tiny_base)
    tokenizer.bos_token = None
    out = StageFolder(tmp_path, "sft", lambda **_: None)
    (row,) = replay(ReplayConfig(rows=1, tokens=8), 0, model, chat_format(tokenizer), out)
    start = tokenizer("The", add_special_tokens=False)["input_ids"]
    assert (row.example.token_ids[: len(start)], row.example.completion_start) == (start, len(start))


@pytest.mark.slow
def test_replayed_rows_are_trained_on_and_an_interruption_changes_no_byte(
    tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, *_ = run(WITH_REPLAY, tiny_base, demonstrations, tmp_path / "whole")
    assert (setup["demonstrations"], setup["replayed"]) == (52, 6)
    assert setup["steps"] == 14  # 52 rows, 8 at a time, twice
    for stop in (1, 5):  # before the first checkpoint, and after the second
        with pytest.raises(Stopped):
            run(WITH_REPLAY, tiny_base, demonstrations, tmp_path / "killed", stop)
        monkeypatch.setattr("steersman.train.replay.Sampler", no_sampling)
    resumed = run(WITH_REPLAY, tiny_base, demonstrations, tmp_path / "killed")
    assert (resumed[0]["resumed_at_step"], resumed[0]["replayed"]) == (4, 6)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert {"replay.jsonl", "adapter/adapter_model.safetensors"} <= set(files(tmp_path / "whole"))


def test_the_objective_with_replay_by_hand(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(sum of NLL + weight * sum of KL) / (scored tokens + weight * replayed positions); logged apart, as means."""
    model = pretrained.load_model(tiny_base)
    rows, texts = [Example([2, 50, 60, 1], 2)], [replayed_row(Example([2, 70, 80, 90], 1), 0, 0.5)]
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([ids])).logits[0].double() for ids in ([2, 50, 60, 1], [2, 70, 80, 90])]
        wanted = torch.log_softmax(head_of(model).logits(texts[0].reference).double(), -1)
    logprobs = torch.log_softmax(logits[0], -1)
    nll = -float(logprobs[1, 60] + logprobs[2, 1])
    kl = float((wanted.exp() * (wanted - torch.log_softmax(logits[1][:3], -1))).sum())
    seen: list[float] = []
    monkeypatch.setattr(loop, "optimiser_step", lambda _, __, objective, *___: seen.append(objective) or 0.0)
    measured = sft.SftTrainer.prepare(FAST, model, "tiny", 0, rows).step(0, [rows], texts, 0.1)
    assert seen == [pytest.approx((nll + 0.5 * kl) / (2 + 0.5 * 3), rel=1e-6)]
    assert measured["loss_nats_per_token"] == pytest.approx(nll / 2, rel=1e-6)
    assert measured["replay_kl_nats_per_token"] == pytest.approx(kl / 3, rel=2e-5)  # fp32 of a small difference


def test_replay_holds_the_policy_near_the_base_model(
    tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    """Of two equal trainings, the one that pays for leaving the base model ends nearer to it."""
    ends = []
    for weight in (0.0, 1000.0):
        config = WITH_REPLAY.model_copy(update={"replay": ReplayConfig(rows=6, tokens=8, weight=weight)})
        events = run(config, tiny_base, demonstrations, tmp_path / str(weight))
        ends.append([row["replay_kl_nats_per_token"] for row in events if "replay_kl_nats_per_token" in row][-1])
    assert 0 < ends[1] < ends[0] / 2


def test_no_replayed_rows_write_nothing(
    tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steersman.train.replay.Sampler", no_sampling)
    setup, *_ = run(FAST.model_copy(update={"epochs": 0.3}), tiny_base, demonstrations, tmp_path)
    assert (setup["demonstrations"], setup["replayed"]) == (52, 0)
    assert not (tmp_path / "replay.jsonl").exists()


# ── going on from a trained adapter ──────────────────────────────────────────────────────────────────────────────────
def test_training_goes_on_from_an_adapter_in_its_own_shape(
    tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    """With next to no learning rate it stays as it is, whatever rank and layers the configuration names."""
    for name in ("first", "still", "further"):
        (tmp_path / name).mkdir()
    quick = OptimiserConfig(learning_rate=1e-2)
    first = SftConfig(lora=LoraConfig(rank=2, trainable_layers=1), epochs=0.5, optimiser=quick)
    sft.run(first, tiny_base, "tiny", demonstrations, [], StageFolder(tmp_path / "first", "sft"))
    for name, rate in (("still", 1e-12), ("further", 1e-2)):
        config = SftConfig(epochs=0.5, optimiser=OptimiserConfig(learning_rate=rate))
        out = StageFolder(tmp_path / name, "sft")
        sft.run(config, tiny_base, "tiny", demonstrations, [], out, start=tmp_path / "first")
    before, still, further = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("first", "still", "further")
    )
    assert before.keys() == still.keys() == further.keys()
    assert all(torch.allclose(before[key], still[key], rtol=0, atol=1e-9) for key in before)
    assert any(not torch.equal(before[key], further[key]) for key in before)
    assert {tensor.shape[0] for key, tensor in before.items() if "lora_A" in key} == {2}


def test_revisions_are_mixed_with_demonstrations_from_all_over(demonstrations: list[Demonstration]) -> None:
    revisions = [row.model_copy(update={"source": "revision"}) for row in demonstrations[:4]]
    config = sft.RevisedSftConfig(demonstrations_per_revision=1.5)
    assert config.rows(revisions, demonstrations) == [*revisions, *demonstrations[::10]]
    assert sft.RevisedSftConfig(demonstrations_per_revision=0.0).rows(revisions, demonstrations) == revisions
    everything = sft.RevisedSftConfig(demonstrations_per_revision=99.0).rows(revisions, demonstrations)
    assert everything == [*revisions, *demonstrations]
