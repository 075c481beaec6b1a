"""Rows that share a sequence are learnt as rows of their own: loss, gradients, prefixes, caches, resuming; refusals."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BloomConfig, BloomForCausalLM

from steersman.errors import DataError, ModelError
from steersman.lm import pretrained
from steersman.lm.adapters import LoraConfig
from steersman.lm.chat_format import Example, chat_format
from steersman.lm.compact_vocabulary import CompactConfig
from steersman.lm.packing import arrange, pack, refuse_unpackable
from steersman.store import StageFolder
from steersman.train import loop, sft
from steersman.train.replay import Replayed
from steersman.train.sft import PrefixConfig, SftConfig
from steersman.types import Demonstration

from .conftest import Stopped, recorder

CONFIG = SftConfig(
    lora=LoraConfig(rank=4),
    max_length=70,
    micro_batch_size=6,
    prefix=PrefixConfig(tokens=3, weight=4),
    checkpoint_every_steps=1,
)
SETTINGS: dict[str, dict[str, Any]] = {
    "Gemma3": {},
    "Llama": {"vocabulary": "compact", "compact": CompactConfig(extra_rows=20, full_share=0.25)},
    "GPT2": {"lora": LoraConfig(rank=4, trainable_layers=1)},
    "Mistral": {"lora": LoraConfig(rank=4, trainable_layers=1), "trunk_cache_mb": 0},
}


@pytest.fixture(scope="module")
def examples(tiny_base: Path, demonstrations: list[Demonstration]) -> list[Example]:
    """Of different lengths, the longest above the limit of the sequences."""
    rows = sft.encode(demonstrations, chat_format(pretrained.load_tokenizer(tiny_base)), SftConfig()).examples
    return [Example(e.token_ids[: len(e.token_ids) - 3 * (i % 7)], e.completion_start) for i, e in enumerate(rows)]


def test_texts_are_arranged_in_few_sequences_of_about_equal_length() -> None:
    assert arrange([3, 9, 4, 5], 12) == [[1, 0], [3, 2]]
    assert arrange([7, 7, 7], 13) == [[0], [1], [2]]
    assert arrange([3, 20, 4], 12) == [[1], [2, 0]]  # one above the limit is not cut


def test_a_batch_holds_every_row_once_and_hardly_any_padding(examples: list[Example]) -> None:
    batch = pack(examples[:9], 200, 0)
    assert batch.packed is not None
    layout, place = batch.packed
    seen = batch.attention_mask.bool()
    assert layout.token_ids.flatten()[place[seen]].tolist() == batch.token_ids[seen].tolist()
    columns = torch.arange(batch.token_ids.shape[1]).expand_as(batch.token_ids)
    assert layout.position_ids.flatten()[place[seen]].tolist() == columns[seen].tolist()
    assert seen.sum() == place[seen].unique().numel() <= layout.token_ids.numel() < batch.token_ids.numel()


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_and_gradients_are_those_of_rows_of_their_own(
    name: str, family: Callable[[str], Any], examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole rows, prefixes and replayed text, in micro-batches, over sliding windows of 8 tokens."""
    found: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = []
    cut = [Example(e.token_ids[: e.completion_start + 2], e.completion_start) for e in examples[3:50:11]]
    texts = [
        Replayed(e, torch.randn(len(e.token_ids) - e.completion_start, 32, generator=torch.manual_seed(i)), 0.5)
        for i, e in enumerate(examples[20:23])
    ]
    for packing in (False, True):
        torch.manual_seed(0)
        config = CONFIG.model_copy(update={**SETTINGS[name], "packing": packing, "max_length": 100})
        model = deepcopy(family(name))
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # as the loader does
        trainer = sft.SftTrainer.prepare(config, model, "x", 0, examples)
        with torch.no_grad():
            for parameter in trainer.parameters.values():
                parameter.copy_(torch.randn_like(parameter) * 0.1)
        gradients: dict[str, torch.Tensor] = {}

        def keep(_: Any, parameters: Any, *__: Any, into: dict[str, torch.Tensor] = gradients) -> float:
            into.update({name: p.grad.clone() for name, p in parameters.items()})
            return 0.0

        monkeypatch.setattr(loop, "optimiser_step", keep)
        measured = trainer.step(3, (examples[:40:3], cut), texts, 0.1) | trainer.validate(examples[:9], outside=False)
        found.append((measured, gradients))
    (plain, wanted), (packed, gradients) = found
    for key in ("loss_nats_per_token", "replay_kl_nats_per_token"):
        assert packed[key] == pytest.approx(plain[key], rel=1e-5)
    assert max(float(g.abs().max()) for g in wanted.values()) > 1e-3
    for key, gradient in wanted.items():
        torch.testing.assert_close(gradients[key], gradient, atol=1e-5, rtol=1e-3)


def test_a_packed_training_resumes_to_the_bit_and_is_the_plain_one_up_to_rounding(
    tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    def adapter(name: str, packing: bool, stop: int | None = None) -> dict[str, torch.Tensor]:
        config = CONFIG.model_copy(update={"packing": packing, "max_length": 200, "max_steps": 3})
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        sft.run(config, tiny_base, "tiny", demonstrations, [], StageFolder(folder, "sft", recorder(stop)[1]))
        return load_file(folder / "adapter" / "adapter_model.safetensors")

    with pytest.raises(Stopped):
        adapter("stopped", True, stop=2)
    resumed, whole, plain = adapter("stopped", True), adapter("whole", True), adapter("plain", False)
    for key, weight in whole.items():
        assert torch.equal(resumed[key], weight)
        torch.testing.assert_close(weight, plain[key], atol=1e-4, rtol=1e-2)


def test_rows_over_the_limit_are_cut_or_left_out_and_said(
    tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Demonstration(prompt="rice? " * 100, completion="Yes."), *demonstrations[:8]]
    chat = chat_format(pretrained.load_tokenizer(tiny_base))
    cut, left_out = (sft.encode(rows, chat, SftConfig(max_length=64, truncation=t)) for t in ("truncate", "drop"))  # type: ignore[arg-type]
    assert (cut.too_long, cut.rows) == (1, rows)
    assert (left_out.too_long, left_out.rows, left_out.examples) == (1, rows[1:], cut.examples[1:])
    events, emit = recorder(None)
    config = CONFIG.model_copy(update={"max_length": 64, "truncation": "drop", "max_steps": 1})
    sft.run(config, tiny_base, "tiny", rows, [], StageFolder(tmp_path, "sft", emit))
    assert (events[0]["demonstrations"], events[0]["truncated"], events[0]["dropped"]) == (8, 0, 1)
    assert "sft: 1 row longer than max_length: left out (truncation: drop)" in capsys.readouterr().err
    with pytest.raises(DataError, match="all 1 rows of sft are longer than max_length"):
        sft.run(config, tiny_base, "tiny", rows[:1], [], StageFolder(tmp_path, "sft", emit))


def test_where_packed_rows_are_wrong_packing_is_refused() -> None:
    model = BloomForCausalLM(BloomConfig(vocab_size=200, hidden_size=32, n_layer=2, n_head=4))  # ALiBi counts columns
    with pytest.raises(ModelError, match="BloomForCausalLM does not read packed rows") as refusal:
        refuse_unpackable(model, "sft.packing")
    assert refusal.value.do == "set sft.packing: false"
