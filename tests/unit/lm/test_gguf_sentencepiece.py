"""GGUF files with a SentencePiece tokenizer, of several families: tokens, logits, rotary positions, what is refused.

Expected tokens are those of llama.cpp (xllamacpp 2026.10.11549, /tokenize) for the same tiny file. With it, and with
files of llama.cpp's own converter, more was compared outside the tests: docs/log.md, 2026-11-29.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

import tiny_spm_gguf
from steersman.errors import ModelError
from steersman.lm import gguf_export, gguf_file
from steersman.lm.pretrained import load_model, load_tokenizer, resolve
from tiny_spm_gguf import BYTE, NORMAL, vocabulary

TOKENS = [token for token, *_ in vocabulary()]
SHAPE: dict[str, Any] = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / "cache"))


def converted(model: PreTrainedModel, folder: Path, architecture: str = "llama", **options: Any) -> Path:
    tiny_spm_gguf.write(model, folder / "tiny.gguf", architecture, **options)
    return resolve(str(folder / "tiny.gguf"), notify=lambda _: None)


def llama(**options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return tiny_spm_gguf.noisy(LlamaForCausalLM(LlamaConfig(**{**SHAPE, **options})))


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────
LLAMA_CPP = {
    "the other in": "<s> ▁the ▁ o t he r ▁in",
    "  in   12 123\n": "<s> ▁▁ ▁in ▁▁ ▁ 12 ▁ 12 3 <0x0A>",
    "日本ü é🙂": "<s> ▁ 日本 ü▁ <0xC3> <0xA9> <0xF0> <0x9F> <0x99> <0x82>",
    "a<think>the</s>in": "<s> ▁ a <think> ▁the </s> ▁in",
    "": "<s>",
}


@pytest.mark.parametrize("text", LLAMA_CPP)
def test_tokens_are_those_of_llama_cpp(text: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(converted(llama(), tmp_path))
    ids = tokenizer(text).input_ids
    assert [TOKENS[i] for i in ids] == LLAMA_CPP[text].split()
    if "<" not in text:
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_what_the_file_says_of_spaces_and_ends_is_followed(tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_bos_token": False}
    tokenizer = load_tokenizer(converted(llama(), tmp_path, keys={**keys, "tokenizer.ggml.add_eos_token": True}))
    assert [TOKENS[i] for i in tokenizer("the in").input_ids] == ["t", "he", "▁in", "</s>"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")


def test_a_control_token_that_a_person_types_stays_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(converted(llama(), tmp_path))
    ids = tokenizer("<s>", add_special_tokens=False, split_special_tokens=True).input_ids
    assert [TOKENS[i] for i in ids] == ["▁", "<s", ">"]


def test_tied_runs_of_spaces_are_taken_longest_first(tmp_path: Path) -> None:
    runs = {"▁▁", "▁▁▁▁", "▁t", "▁▁▁"}
    tokens = [*((t, k, 0.0 if t in runs else s - 1) for t, k, s in vocabulary()), ("▁▁▁", NORMAL, 0.0)]
    keys = {"tokenizer.ggml.add_space_prefix": False}
    tokenizer = load_tokenizer(converted(llama(vocab_size=len(tokens)), tmp_path, tokens=tokens, keys=keys))
    ids = tokenizer("       the the", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁▁▁▁", "▁▁▁", "t", "he", "▁the"]


CONVERTER = (
    "import json, shutil, sys\n"
    "folder, out = sys.argv[1], sys.argv[sys.argv.index('--outfile') + 1]\n"
    "told = json.load(open(folder + '/tokenizer_config.json'))\n"
    "assert told['add_prefix_space'] and told['added_tokens_decoder']['3']['content'] == '<think>', told\n"
    "shutil.copy(folder + '/tokenizer.model', out + '.model')\n"
    "shutil.copy({source!r}, out)\n"
)


def test_the_converter_gets_the_scores_and_its_file_the_same_ids(tmp_path: Path) -> None:
    folder = converted(llama(), tmp_path)
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text(CONVERTER.format(source=str(tmp_path / "tiny.gguf")), encoding="utf-8")
    gguf_export.export_gguf(folder, tmp_path / "out.gguf", script)
    pieces = (tmp_path / "out.gguf.model").read_bytes()
    # As SentencePiece 0.2.3 writes them: text, score, kind; at the end BPE with byte fallback, a prefix, no stripping.
    assert pieces.startswith(b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02\x0a\x0c\x0a\x03<s>\x15\0\0\0\0\x18\x03")
    assert b"\x0a\x02he\x15\0\0\0\x80\x18\x01" in pieces
    assert b"\x0a\x04\xe2\x96\x81t\x15\0\0\x80\xbf\x18\x01" in pieces
    assert pieces.endswith(b"\x12\x05\x18\x02\x98\x02\x01\x1a\x0e\x0a\x08identity\x18\x01\x20\0")


def test_a_file_with_another_prefix_makes_other_ids(tmp_path: Path) -> None:
    folder = converted(llama(), tmp_path)
    tiny_spm_gguf.write(llama(), tmp_path / "other.gguf", "llama", keys={"tokenizer.ggml.add_space_prefix": False})
    assert gguf_export.different_ids(folder, tmp_path / "other.gguf")


# ── logits ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def same_logits(written: PreTrainedModel, folder: Path) -> PreTrainedModel:
    model = load_model(folder)
    assert type(model) is type(written)
    for length in (20, 100):  # short and long of LongRoPE's two lists
        ids = torch.randint(0, len(TOKENS), (2, length), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(model(ids).logits, written(ids).logits, rtol=1e-4, atol=1e-4)
    return model


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 50_000.0, **parameters}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"factor": 4.0, "original_max_position_embeddings": 128}
YARN_KEYS = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128}


def divisors() -> list[float]:
    """What llama.cpp's converter writes for `LLAMA3`."""
    scaled, plain = (
        LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=parameters)).model.rotary_emb.inv_freq
        for parameters in (rope("llama3", **LLAMA3), rope("default"))
    )
    return [float(x) for x in plain / scaled]


@pytest.mark.parametrize(
    ("parameters", "keys"),
    [
        (rope("default"), {}),
        (rope("linear", factor=4.0), {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
        (rope("yarn", **YARN), YARN_KEYS),
        (rope("yarn", **YARN, attention_factor=1.3, beta_fast=16.0), {
            **YARN_KEYS, "rope.scaling.yarn_attn_factor": 1.3, "rope.scaling.yarn_beta_fast": 16.0,
        }),
        (rope("llama3", **LLAMA3), {}),
    ],
)  # fmt: skip
def test_scaled_rotary_positions_of_a_llama(parameters: dict[str, Any], keys: dict[str, Any], tmp_path: Path) -> None:
    tensors = {"rope_freqs.weight": divisors()} if parameters["rope_type"] == "llama3" else {}
    written = llama(rope_parameters=parameters)
    folder = converted(written, tmp_path, keys={"rope.freq_base": 50_000.0, **keys}, tensors=tensors)
    read = same_logits(written, folder).config.rope_parameters
    assert read["rope_type"] == parameters["rope_type"]
    assert {name: read.get(name) for name in LLAMA3} == {name: parameters.get(name) for name in LLAMA3}


LONG = {"long_factor": [2.0 + i for i in range(6)], "short_factor": [1.0 + i / 10 for i in range(6)]}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any], dict[str, Any]]] = {
    "phi3": (
        Phi3Config,
        Phi3ForCausalLM,
        {
            "rope_parameters": rope("longrope", **LONG, partial_rotary_factor=0.75),
            "original_max_position_embeddings": 64,
            "sliding_window": 16,
        },
        {"rope.dimension_count": 12, "rope.scaling.original_context_length": 64, "attention.sliding_window": 16},
    ),
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8, "attn_logit_softcapping": 20.0,
         "final_logit_softcapping": 15.0, "rope_parameters": rope("default")},
        {"attention.key_length": 32, "attention.sliding_window": 8, "attn_logit_softcapping": 20.0,
         "final_logit_softcapping": 15.0},
    ),
    "qwen3": (
        Qwen3Config,
        Qwen3ForCausalLM,
        {"head_dim": 32, "rope_parameters": rope("default")},
        {"attention.key_length": 32},
    ),
    "starcoder2": (
        Starcoder2Config,
        Starcoder2ForCausalLM,
        {"rope_parameters": rope("default"), "norm_epsilon": 1e-3},
        {"attention.layer_norm_epsilon": 1e-3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("architecture", FAMILIES)
def test_what_transformers_leaves_at_its_defaults_is_read(architecture: str, tmp_path: Path) -> None:
    config, kind, options, keys = FAMILIES[architecture]
    torch.manual_seed(0)
    written = tiny_spm_gguf.noisy(kind(config(**{**SHAPE, **options})))
    tensors = {f"rope_factors_{name}.weight": LONG[f"{name}_factor"] for name in ("long", "short")}
    options = {"keys": {"rope.freq_base": 50_000.0, **keys}, "tensors": tensors if architecture == "phi3" else {}}
    same_logits(written, converted(written, tmp_path, architecture, **options))


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": {"rope.scaling.type": "longrope"}}, "scaled in a way that is not known"),
        ({"keys": {"rope.dimension_count": 8, "attention.key_length": 16}}, "only 8 of each head's 16 numbers"),
        ({"keys": {"tokenizer.ggml.remove_extra_whitespaces": True}}, "changes texts before it cuts them"),
        ({"tensors": {"rope_freqs.weight": [1.0, 2.0, 3.0, 9.0]}}, "not scaled as Llama 3's are"),
        ({"tokens": [row for row in vocabulary() if row[0] != "<0x41>"]}, "no token for 1 of the 256 bytes"),
        ({"tokens": [(t, k, s if k == BYTE else 0.0) for t, k, s in vocabulary()]}, "the order of merges is open"),
    ],
)
def test_what_would_become_another_model_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    written = llama(vocab_size=len(options.get("tokens", TOKENS)))
    with pytest.raises(ModelError, match=message):
        converted(written, tmp_path, **options)


def test_a_tokenizer_that_transformers_replaces_by_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="transformers reads its tokenizer as another one"):
        converted(Qwen2ForCausalLM(Qwen2Config(**SHAPE)), tmp_path, "qwen2")  # of a Qwen2 it makes byte-level BPE


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.architecture", "olmo2", "its architecture is 'olmo2', which has not been read"),
        ("tokenizer.ggml.model", "t5", r"its tokenizer \(tokenizer\.ggml\.model\) is 't5'"),
    ],
)
def test_what_was_not_compared_with_llama_cpp_is_refused(key: str, value: str, message: str, tmp_path: Path) -> None:
    class Foreign(gguf_file.Header):
        def get(self, asked: str) -> Any:
            return value if asked == key else super().get(asked)

    tiny_spm_gguf.write(llama(), tmp_path / "tiny.gguf", "llama")
    with pytest.raises(ModelError, match=message):
        gguf_file.check(Foreign(tmp_path / "tiny.gguf"), "tiny.gguf")
