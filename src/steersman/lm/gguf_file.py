r"""What a GGUF file says beside its weights: the tokenizer, the ids that begin and end a text, the chat template.

`transformers` dequantises the weights; three things it does not do, or does by guessing, are done here:

- **BPE tokenizers** (``tokenizer.ggml.model`` is ``gpt2``: Llama 3, SmolLM2, Qwen ...). How a text is cut into words
  before merges apply is not in the file; ``tokenizer.ggml.pre`` names it. transformers 5.23 has no tokenizer for the
  model type ``llama``, and takes GPT-2's way for a name that it does not know: "1234" becomes other ids than in
  training, without a word. Here the ways are a table, taken from the models' published tokenizer.json; a name that is
  not in it is refused.
- **Ids** of BOS, EOS and padding: one that the file lacks is none, where transformers leaves the default of the
  model's class (a LlamaConfig ends at 2); and the second token that ends a turn (``eot_token_id``) is one to stop at.
- **What the reader drops**: a Llama whose rotary positions are scaled, or which has weights that a
  `LlamaForCausalLM` does not (experts, biases), is refused instead of loaded without them.

Token ids of all these tokenizers were compared with llama.cpp (xllamacpp 2026.10): see tests/unit/lm/test_gguf_bpe.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from steersman.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # tokenizer.ggml.token_type

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Words(NamedTuple):
    """How a text is cut into words, within which pairs are merged.

    Attributes:
        pattern: a regular expression whose matches are the words; None is GPT-2's, built into `tokenizers`.
        digits: every digit is a word of its own before the pattern applies.
        compose: the text is brought into Unicode's form NFC first.
        whole: a word that is a token is taken as it is, whatever the merges make of it.
        begins: a text begins with BOS where the file does not say.
    """

    pattern: str | None = None
    digits: bool = False
    compose: bool = False
    whole: bool = False
    begins: bool = False


_OF_LLAMA3 = Words(_LLAMA3, whole=True, begins=True)
WORDS: Mapping[str, Words] = {
    "gpt-2": Words(),
    "smollm": Words(digits=True),
    "starcoder": Words(digits=True),
    "llama-bpe": _OF_LLAMA3,
    "llama3": _OF_LLAMA3,
    "llama-v3": _OF_LLAMA3,
    "lfm2": _OF_LLAMA3,
    "qwen2": Words(_QWEN2, compose=True),
    "tekken": Words(_TEKKEN, whole=True, begins=True),
}

# The weights of a LlamaForCausalLM; anything else would be left out silently.
_LLAMA_WEIGHT = re.compile(
    r"(token_embd|output_norm|output|blk\.\d+\."
    r"(attn_norm|attn_q|attn_k|attn_v|attn_output|ffn_norm|ffn_gate|ffn_up|ffn_down))\.weight"
)


class Header:
    """The metadata of a GGUF file and the names of its weights, read once."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        reader = GGUFReader(path)
        self._fields = reader.fields
        self.weights = [tensor.name for tensor in reader.tensors]

    def get(self, key: str) -> Any:
        """The value of a key; None if the file does not have it."""
        field = self._fields.get(key)
        return None if field is None else field.contents()

    def token_id(self, role: str) -> int | None:
        """The id of ``bos``, ``eos``, ``eot``, ``unknown`` or ``padding``; None if the file does not have it."""
        found = self.get(f"tokenizer.ggml.{role}_token_id")
        return None if found is None else int(found)


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────
def check(header: Header, where: str) -> None:
    """Refuse before the weights are read what would become another model than the file's.

    Raises:
        ModelError: an unknown pre-tokenizer, or a Llama with parts that the reader drops.
    """
    do = "give the model's folder in Hub format, or its Hub id"
    if header.get("tokenizer.ggml.model") == "gpt2":
        pre = header.get("tokenizer.ggml.pre")
        if pre not in WORDS:
            raise ModelError(
                f"the file's pre-tokenizer (tokenizer.ggml.pre) is {pre!r}, whose way of cutting words is unknown",
                where=where,
                expected=", ".join(WORDS),
                do=do,
            )
    if header.get("general.architecture") == "llama":
        scaling = header.get("llama.rope.scaling.type")
        if scaling not in (None, "none") or "rope_freqs.weight" in header.weights:
            raise ModelError("its rotary positions are scaled, which the reader leaves out", where=where, do=do)
        if foreign := [name for name in header.weights if not _LLAMA_WEIGHT.fullmatch(name)]:
            raise ModelError(
                f"it has weights that a plain Llama has not, the first is {foreign[0]}", where=where, do=do
            )


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
def tokenizer(gguf: Path, header: Header, model_type: str, where: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a file that passed `check`, alone in its folder.

    Raises:
        ModelError: two tokens of the file are the same.
    """
    if header.get("tokenizer.ggml.model") == "gpt2":
        return _bpe(header, where)
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, tokenizer_type=model_type, local_files_only=True, trust_remote_code=False
    )
    if model_type.startswith("gemma"):
        # Gemma takes the longest run of spaces first; transformers 5.23 does so for newlines and tabs only.
        runs = {"▁" * length for length in range(2, 32)} & made.get_vocab().keys()
        made.add_tokens([AddedToken(run, normalized=True) for run in sorted(runs)])
    # transformers before 5.23 does not ask the file whether a text begins with BOS.
    if made("a").input_ids[:1] != [made.bos_token_id]:
        _begin_and_end(made.backend_tokenizer, header, begins=False)
    return cast("PreTrainedTokenizerBase", made)


def _bpe(header: Header, where: str) -> PreTrainedTokenizerBase:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    words = WORDS[header.get("tokenizer.ggml.pre")]
    tokens: list[str] = header.get("tokenizer.ggml.tokens")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ModelError("the file lists a token twice", where=where, expected="a vocabulary without repetitions")
    merges = [tuple(merge.split(" ", 1)) for merge in header.get("tokenizer.ggml.merges")]
    backend = Tokenizer(BPE(vocab=vocabulary, merges=merges, fuse_unk=False, ignore_merges=words.whole))
    backend.decoder = decoders.ByteLevel()
    if words.compose:
        backend.normalizer = normalizers.NFC()
    cut: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if words.digits else []
    if words.pattern is not None:
        cut.append(pre_tokenizers.Split(Regex(words.pattern), behavior="isolated"))
    cut.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words.pattern is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(cut)

    kinds = header.get("tokenizer.ggml.token_type") or []
    whole = [(t, kind) for t, kind in zip(tokens, kinds, strict=False) if kind in (UNKNOWN, CONTROL, USER_DEFINED)]
    backend.add_tokens([AddedToken(t, special=kind != USER_DEFINED, normalized=False) for t, kind in whole])
    _begin_and_end(backend, header, words.begins)

    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    named = {name: tokens[found] for name, role in roles.items() if (found := header.token_id(role)) is not None}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)
    made.chat_template = header.get("tokenizer.chat_template")
    return cast("PreTrainedTokenizerBase", made)


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
