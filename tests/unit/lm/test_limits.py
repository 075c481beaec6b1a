"""What a configuration allows is asked before the first token is read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from steersman.errors import ModelError
from steersman.lm import limits, pretrained
from steersman.lm.chat_format import ChatFormat
from steersman.lm.sampling import Request, Sampler, SamplingConfig


@pytest.fixture
def noisy(tokenizer: Any, tmp_path: Path) -> Path:
    """A GPT-2 with its usual dropout, 64 positions, and the shared tokenizer."""
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_models_own_noise_is_off_in_training(noisy: Path) -> None:
    model = pretrained.load_model(noisy).train()
    ids = torch.arange(3, 30)[None]
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    assert {name for _, name, _ in limits.noise(pretrained.configuration(noisy))} >= {"resid_pdrop", "attn_pdrop"}


def saved(tokenizer: Any, folder: Path, **changes: Any) -> Path:
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<|end|>", "[PAD]"]})
    for name, value in changes.items():
        setattr(own, name, value)
    own.save_pretrained(folder)
    return folder


def test_padding_beyond_the_embedding_becomes_eos(noisy: Path, tokenizer: Any) -> None:
    found = pretrained.load_tokenizer(saved(tokenizer, noisy, pad_token="[PAD]"))
    assert found.pad_token_id == found.eos_token_id == 1


@pytest.mark.parametrize(
    "changes",
    [{"eos_token": "<|end|>"}, {"chat_template": "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"}],
)
def test_a_token_that_is_written_needs_an_embedding(changes: dict[str, str], noisy: Path, tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=r"writes '<\|end\|>' \(id \d+\), and the model has only \d+ embeddings"):
        pretrained.load_tokenizer(saved(tokenizer, noisy, **changes))


def test_added_tokens_that_nothing_writes_are_let_be(noisy: Path, tokenizer: Any) -> None:
    assert pretrained.load_tokenizer(saved(tokenizer, noisy)).eos_token_id == 1


def test_a_tokenizer_of_another_model_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=1, n_head=4)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="tokens and the model 99 embeddings"):
        pretrained.load_tokenizer(tmp_path)


def test_prompts_are_shortened_to_the_models_positions(noisy: Path, tokenizer: Any) -> None:
    sampler = Sampler(pretrained.load_model(noisy), ChatFormat(tokenizer, frozenset({1}), None))
    prompt = "why and why and " * 20
    (answer,) = sampler.generate(Request([prompt], SamplingConfig(max_new_tokens=16)))
    assert answer.prompt_tokens == 64 - 16
    assert answer.truncated_prompt_tokens == len(sampler.chat.prompt_ids(prompt)) - (64 - 16)
    with pytest.raises(ModelError, match="reads 64 tokens"):
        list(sampler.generate(Request([prompt], SamplingConfig(max_new_tokens=60))))
