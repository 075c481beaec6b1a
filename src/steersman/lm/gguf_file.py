r"""What a GGUF file says beside its weights: the configuration, the tokenizer, the ids that begin and end a text.

`transformers` dequantises the weights; what it does not do, or does by guessing, is done here:

- **Tokenizers.** Of byte-level BPE (``tokenizer.ggml.model`` is ``gpt2``) the file does not say how a text is cut into
  words before merges apply; ``tokenizer.ggml.pre`` names it, and `WORDS` has the ways. Of SentencePiece (``llama``:
  Llama 2, Mistral, Gemma, Phi-3) it has scores and no merges. Both are built so that ids equal llama.cpp's; what cannot
  be is refused. Whether transformers reads the result back as it was is asked on `HARD_TEXTS`.
- **The configuration**: rotary positions (base, share of a head, linear, YaRN, Llama 3, LongRoPE), sizes and windows
  that the reader leaves at its class's defaults; and which architectures it reads with equal logits.
- **Ids** of BOS, EOS and padding: one that the file lacks is none, where transformers leaves the default of the
  model's class; and the second token that ends a turn (``eot_token_id``) is one to stop at.

What was compared with llama.cpp, and how, is in docs/log.md (2026-11-29) and tests/unit/lm/test_gguf_bpe.py.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from steersman.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # tokenizer.ggml.token_type
FOLDER = "give the model's folder in Hub format, or its Hub id"

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{_CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{_CONTRACTION}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}")
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


class Words(NamedTuple):
    """How a text is cut into words, within which pairs are merged.

    Attributes:
        patterns: regular expressions, applied in turn, whose matches are the words; none are GPT-2's, which are built
            into `tokenizers`.
        digits: every digit is a word of its own before the patterns apply.
        compose: the text is brought into Unicode's form NFC first.
        whole: a word that is a token is taken as it is, whatever the merges make of it.
        begins: a text begins with BOS where the file does not say.
    """

    patterns: tuple[str, ...] = ()
    digits: bool = False
    compose: bool = False
    whole: bool = False
    begins: bool = False


_OF_LLAMA3 = Words((_LLAMA3,), whole=True, begins=True)
WORDS: Mapping[str, Words] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo"), Words()),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), Words(digits=True)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "lfm2", "falcon3", "falcon-h1", "pixtral"), _OF_LLAMA3),
    "dbrx": Words((_LLAMA3,)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), Words((_QWEN2,), compose=True)),
    "stablelm2": Words((_QWEN2,)),
    "tekken": Words((_TEKKEN,), whole=True, begins=True),
    **dict.fromkeys(("gpt-4o", "llama4"), Words((_GPT4O,))),
    "bloom": Words((_BLOOM,)),
    "deepseek-coder": Words(_DEEPSEEK_CODER),
    "deepseek-v3": Words(_DEEPSEEK3),
}

# What `general.architecture` may be: each was written by llama.cpp's converter from a tiny random model, and gave its
# logits here. See docs/log.md for those that did not.
ARCHITECTURES = (
    "llama", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "phi3", "gemma2", "gemma3", "gpt2", "starcoder2", "falcon",
    "bloom", "stablelm", "mamba", "nemotron", "lfm2",
)  # fmt: skip
PARTIAL = ("phi3", "stablelm", "nemotron")  # those that may rotate only a part of each head
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")

# Names in the config of what transformers' reader leaves at its class's default, or reads for some families only.
_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "context_length": ("max_position_embeddings", "n_positions"),
    "attention.key_length": ("head_dim",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
}

# The weights of a LlamaForCausalLM; anything else would be left out silently.
_LLAMA_WEIGHT = re.compile(
    r"rope_freqs\.weight|(token_embd|output_norm|output|blk\.\d+\."
    r"(attn_norm|attn_q|attn_k|attn_v|attn_output|ffn_norm|ffn_gate|ffn_up|ffn_down))\.weight"
)

# Texts on which tokenizers differ.
HARD_TEXTS = (
    "How do I boil an egg?", " leading and trailing ", "two\n\nlines\r\nand a\ttab", "12,345.67 + 8 = 2026",
    "don't can't I'LL he's", "Zwölf Boxkämpfer jagen Viktor", "¿Dónde está el baño?", "C'est l'été, n'est-ce pas ?",
    "日本語の文章", "русский текст", "हिन्दी", "مرحبا", "🙂👩‍👩‍👧 ❤️", "def f(x):\n    return [x, 2]  # ok\n",
    "https://example.org/a?b=c&d=%20", "a   b    c", "\u00a0\u200b\ufeff", "HTTPServer helloWorld snake_case", "½ Ⅳ ٣٤",
    "e\u0301 é", "...!!!???", "1. one\n2. two\n- three", "<b>bold</b> &amp;", "User: hi\nAssistant:",
)  # fmt: skip


class Header:
    """The metadata of a GGUF file and its tensors, read once."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        reader = GGUFReader(path)
        self._fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.architecture: str = self.get("general.architecture")

    def get(self, key: str) -> Any:
        """The value of a key; None if the file does not have it."""
        field = self._fields.get(key)
        return None if field is None else field.contents()

    def of_model(self, key: str) -> Any:
        """The value of one of the architecture's keys; None if the file does not have it."""
        return self.get(f"{self.architecture}.{key}")

    def factors(self, name: str) -> list[float]:
        """The numbers of a small tensor; empty if the file does not have it."""
        return [float(x) for x in self.tensors[name].data.reshape(-1)] if name in self.tensors else []

    def token_id(self, role: str) -> int | None:
        """The id of ``bos``, ``eos``, ``eot``, ``unknown`` or ``padding``; None if the file does not have it.

        A SentencePiece file that does not say has those of Llama, as for llama.cpp.
        """
        found = self.get(f"tokenizer.ggml.{role}_token_id")
        if found is None and self.get("tokenizer.ggml.model") == "llama":
            found = {"unknown": 0, "bos": 1, "eos": 2}.get(role)
        return None if found is None else int(found)


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────
def check(header: Header, where: str) -> None:
    """Refuse before the weights are read what would become another model than the file's.

    Raises:
        ModelError: an unknown architecture, tokenizer or pre-tokenizer, or a Llama with parts that the reader drops.
    """
    if header.architecture not in ARCHITECTURES:
        raise ModelError(
            f"its architecture is {header.architecture!r}, which has not been read from GGUF with equal logits",
            where=where,
            expected=", ".join(ARCHITECTURES),
            do=FOLDER,
        )
    if header.architecture == "llama" and (
        foreign := [name for name in header.tensors if not _LLAMA_WEIGHT.fullmatch(name)]
    ):
        raise ModelError(
            f"it has weights that a plain Llama has not, the first is {foreign[0]}", where=where, do=FOLDER
        )
    check_tokenizer(header, where)


def check_tokenizer(header: Header, where: str) -> None:
    """Refuse a tokenizer whose ids could not be made as the file means them.

    Raises:
        ModelError: it is of another kind than byte-level BPE and SentencePiece, or cuts words in an unknown way.
    """
    kind, pre = header.get("tokenizer.ggml.model"), header.get("tokenizer.ggml.pre")
    if kind not in ("gpt2", "llama"):
        raise ModelError(
            f"its tokenizer (tokenizer.ggml.model) is {kind!r}",
            where=where,
            expected="gpt2 (byte-level BPE) or llama (SentencePiece)",
            do=FOLDER,
        )
    if kind == "gpt2" and pre not in WORDS:
        raise ModelError(
            f"the file's pre-tokenizer (tokenizer.ggml.pre) is {pre!r}, whose way of cutting words is unknown",
            where=where,
            expected=", ".join(WORDS),
            do=FOLDER,
        )
    if kind == "llama" and (
        header.get("tokenizer.ggml.remove_extra_whitespaces") or header.get("tokenizer.ggml.precompiled_charsmap")
    ):
        raise ModelError("its SentencePiece tokenizer changes texts before it cuts them", where=where, do=FOLDER)


def check_weights(model: PreTrainedModel, header: Header, where: str) -> None:
    """Refuse a model that has fewer or more numbers than the file: the reader dropped or made up weights.

    Raises:
        ModelError: the counts differ.
    """
    theirs = sum(int(t.n_elements) for name, t in header.tensors.items() if name not in ROPE_TENSORS)
    ours = sum(weight.numel() for weight in model.parameters())
    if ours != theirs:
        raise ModelError(
            f"the file has {theirs:,} weights and a {type(model).__name__} {ours:,}: some would be left out",
            where=where,
            do=FOLDER,
        )


# ── the configuration ────────────────────────────────────────────────────────────────────────────────────────────────
def configure(config: PreTrainedConfig, header: Header, where: str) -> None:
    """Complete the configuration that transformers read: ids, sizes, norms, windows, how positions are rotated.

    Raises:
        ModelError: positions are scaled in a way that transformers does not know.
    """
    config.bos_token_id, config.eos_token_id, config.pad_token_id = map(header.token_id, ("bos", "eos", "padding"))
    for key, names in _SETTINGS.items():
        value = header.of_model(key)
        for name in names:
            if value is not None and getattr(config, name, value) != value and name not in config.attribute_map:
                setattr(config, name, value)
    if getattr(config, "sliding_window", None) == 0:  # what Phi-4 writes for none
        config.sliding_window = None
    if header.architecture in ("gemma2", "gemma3"):  # not in the file; as in llama.cpp
        largest = header.of_model("block_count") == {"gemma2": 46, "gemma3": 62}[header.architecture]
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if largest else config.head_dim
    if getattr(config, "rope_parameters", None) is not None:
        _rotate(config, header, where)


def _rotate(config: Any, header: Header, where: str) -> None:
    """Write the base, the share of each head and the scaling of rotary positions into the configuration."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotated, base = header.of_model("rope.dimension_count") or head, header.of_model("rope.freq_base") or 10_000.0
    if rotated != head and header.architecture not in PARTIAL:
        raise ModelError(f"only {rotated} of each head's {head} numbers are rotated", where=where, do=FOLDER)
    parameters = {"rope_theta": base, **_scaling(header, head, base, where)}
    if header.architecture in PARTIAL:
        parameters["partial_rotary_factor"] = rotated / head
    if "sliding_attention" in config.rope_parameters:
        near = {"rope_type": "default", "rope_theta": header.of_model("rope.freq_base_swa") or 10_000.0}
        config.rope_parameters = {"full_attention": parameters, "sliding_attention": near}
    else:
        config.rope_parameters = parameters
    if parameters["rope_type"] == "longrope":
        config.original_max_position_embeddings = parameters["original_max_position_embeddings"]


def _scaling(header: Header, head: int, base: float, where: str) -> dict[str, Any]:
    """How rotary positions are scaled, in transformers' words."""
    kind = header.of_model("rope.scaling.type")
    factor = header.of_model("rope.scaling.factor") or header.of_model("rope.scale_linear")
    context = header.of_model("context_length")
    original = header.of_model("rope.scaling.original_context_length") or context
    if frequencies := header.factors("rope_freqs.weight"):
        return _llama3(frequencies, head, base, where)
    if long := header.factors("rope_factors_long.weight"):
        found = {
            "rope_type": "longrope",
            "long_factor": long,
            "short_factor": header.factors("rope_factors_short.weight"),
            "original_max_position_embeddings": original,
            "factor": context / original,
        }
        attention = header.of_model("rope.scaling.attn_factor")
        return found if attention is None else {**found, "attention_factor": attention}
    if kind in (None, "none") and factor in (None, 0.0, 1.0):
        return {"rope_type": "default"}
    if kind in (None, "linear") and factor:
        return {"rope_type": "linear", "factor": factor}
    extrapolated = header.of_model("rope.scaling.yarn_ext_factor") in (None, 1.0)
    if kind == "yarn" and factor and extrapolated and not header.of_model("rope.scaling.yarn_log_multiplier"):
        keys = {"attention_factor": "yarn_attn_factor", "beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
        said = {ours: value for ours, key in keys.items() if (value := header.of_model(f"rope.scaling.{key}"))}
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **said}
    raise ModelError(
        f"its rotary positions are scaled in a way that is not known ({kind}, factor {factor})", where=where, do=FOLDER
    )


def _llama3(divisors: list[float], head: int, base: float, where: str) -> dict[str, Any]:
    """Llama 3's scaling, of which the file has only what each frequency is divided by.

    Low frequencies are divided by the factor, high ones not at all, and those whose wave is between an original
    context's length and a quarter of it by something between. The length is the power of two that gives the divisors.
    """
    import torch

    factor = max(divisors)
    if factor == 1.0:
        return {"rope_type": "default"}
    frequencies = base ** -(torch.arange(0, head, 2, dtype=torch.float64) / head)
    for original in (2**power for power in range(5, 21)):
        smooth = ((original * frequencies / (2 * math.pi) - 1) / 3).clamp(0, 1)
        expected = 1 / ((1 - smooth) / factor + smooth)
        if len(divisors) == len(expected) and torch.allclose(expected, torch.tensor(divisors).double(), rtol=1e-4):
            shape = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": original}
            return {"rope_type": "llama3", "factor": factor, **shape}
    raise ModelError("its rotary frequencies (rope_freqs) are not scaled as Llama 3's are", where=where, do=FOLDER)


# ── ids ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def set_ids(model: PreTrainedModel, header: Header) -> None:
    """Write the file's ids of BOS, EOS and padding into the model's config and generation config.

    The generation config also lists the token that ends a turn, if it is another one than EOS.
    """
    bos, eos, eot, padding = (header.token_id(role) for role in ("bos", "eos", "eot", "padding"))
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = bos, eos, padding
    if eot is not None and eos is not None and eot != eos:
        model.generation_config.eos_token_id = [eos, eot]


# ── the tokenizer ────────────────────────────────────────────────────────────────────────────────────────────────────
def tokenizer(header: Header, where: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a file that passed `check`.

    Raises:
        ModelError: two tokens of the file are the same, or a SentencePiece vocabulary lacks a byte.
    """
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = header.get("tokenizer.ggml.tokens")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ModelError("the file lists a token twice", where=where, expected="a vocabulary without repetitions")
    make = _byte_level if header.get("tokenizer.ggml.model") == "gpt2" else _sentencepiece
    backend, begins = make(header, vocabulary, where)

    kinds = header.get("tokenizer.ggml.token_type") or []
    whole = [(t, kind) for t, kind in zip(tokens, kinds, strict=False) if kind in (UNKNOWN, CONTROL, USER_DEFINED)]
    backend.add_tokens([AddedToken(t, special=kind != USER_DEFINED, normalized=False) for t, kind in whole])
    _begin_and_end(backend, header, begins)

    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    named = {name: tokens[found] for name, role in roles.items() if (found := header.token_id(role)) is not None}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)
    made.chat_template = header.get("tokenizer.chat_template")
    return cast("PreTrainedTokenizerBase", made)


def different_ids(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> list[str]:
    """The `HARD_TEXTS` that two tokenizers cut into different ids."""
    return [text for text in HARD_TEXTS if _ids(one, text) != _ids(other, text)]


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _byte_level(header: Header, vocabulary: dict[str, int], _: str) -> tuple[Any, bool]:
    """A byte-level BPE tokenizer without its special tokens, and whether its kind begins with BOS."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    words = WORDS[header.get("tokenizer.ggml.pre")]
    merges = [tuple(merge.split(" ", 1)) for merge in header.get("tokenizer.ggml.merges")]
    backend = Tokenizer(BPE(vocab=vocabulary, merges=merges, fuse_unk=False, ignore_merges=words.whole))
    backend.decoder = decoders.ByteLevel()
    if words.compose:
        backend.normalizer = normalizers.NFC()
    cut: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if words.digits else []
    cut += [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in words.patterns]
    cut.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not words.patterns))
    backend.pre_tokenizer = pre_tokenizers.Sequence(cut)
    return backend, words.begins


def _sentencepiece(header: Header, vocabulary: dict[str, int], where: str) -> tuple[Any, bool]:
    """A SentencePiece tokenizer without its special tokens, which begins with BOS.

    SentencePiece's BPE (and llama.cpp for every such file) has no list of merges: of all neighbours that together are
    a token, those whose token has the highest score are joined first. As a list of merges that is every way to put a
    token together from two others, by falling score. No merge makes a control token: one that a person types is text.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers
    from tokenizers.models import BPE

    if missing := [byte for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary]:
        raise ModelError(
            f"its vocabulary has no token for {len(missing)} of the 256 bytes, so that some texts have no ids",
            where=where,
            expected="tokens <0x00> to <0xFF>",
            do=FOLDER,
        )
    tokens = list(vocabulary)
    kinds = header.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    scores = header.get("tokenizer.ggml.scores") or [0.0] * len(tokens)
    known = {token for token, kind in zip(tokens, kinds, strict=True) if kind not in (UNKNOWN, CONTROL, BYTE)}
    ranked: list[tuple[float, int, int, tuple[str, str]]] = []
    for index, token in enumerate(tokens):
        if token in known:
            cuts = [(end, (token[:end], token[end:])) for end in range(1, len(token))]
            ranked += [(-scores[index], index, end, pair) for end, pair in cuts if known.issuperset(pair)]
    prefix = header.get("tokenizer.ggml.add_space_prefix") is not False
    merged = {tokens[index]: -score for score, index, *_ in ranked if kinds[index] != USER_DEFINED}
    runs = _runs(merged, prefix, where)
    unknown = header.token_id("unknown")
    backend = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=[pair for *_, pair in sorted(ranked)],
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = [normalizers.Replace(" ", "▁")]
    backend.add_tokens([AddedToken(run, normalized=True) for run in runs])
    # In front of every stretch of text between special tokens, as in llama.cpp; also where a space is already there.
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *spaces] if prefix else spaces)
    back: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
    return backend, True


def _runs(scores: Mapping[str, float], prefix: bool, where: str) -> list[str]:
    """Tokens that share the highest score and are one character repeated: Gemma's runs of spaces, in some files.

    Of equal scores the leftmost is joined first, which a list of merges cannot say. For these runs it means the
    longest one first, before all merges, also before the one merge that SentencePiece gives the same score of 0.
    `tokenizers` finds them in a text without a prefix only.

    Raises:
        ModelError: other tokens have equal scores.
    """
    shared = {score for score, count in Counter(scores.values()).items() if count > 1}
    tied = [token for token, score in scores.items() if score in shared]
    runs = sorted(token for token in tied if len(set(token)) == 1)
    ends = {run[0] for run in runs}
    others = [token for token in tied if len(set(token)) > 1]
    lower = any(scores[token] < max(scores.values()) for token in tied)
    if (tied and prefix) or lower or len(others) > 1 or any(token[-1] in ends for token in others):
        raise ModelError(
            f"{len(tied)} tokens have the score of another one, so that the order of merges is open",
            where=where,
            expected="SentencePiece's scores, one for each token",
            do=FOLDER,
        )
    return runs


def _begin_and_end(backend: Any, header: Header, begins: bool) -> None:
    """Let a text begin with BOS and end with EOS as far as the file says so."""
    from tokenizers.processors import TemplateProcessing

    tokens = header.get("tokenizer.ggml.tokens")
    add_bos, add_eos = (header.get(f"tokenizer.ggml.add_{role}_token") for role in ("bos", "eos"))
    bos = header.token_id("bos") if (begins if add_bos is None else add_bos) else None
    eos = header.token_id("eos") if add_eos else None
    if bos is None and eos is None:
        return
    before, after = ([] if found is None else [tokens[found]] for found in (bos, eos))
    backend.post_processor = TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *before, "$B", *after],
        special_tokens=[(tokens[i], i) for i in {bos, eos} if i is not None],
    )
