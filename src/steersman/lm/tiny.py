"""A tiny random model with a tokenizer trained on the spot: the smoke recipe's base, and the tests' workhorse.

It knows nothing, learns a little in seconds, and goes through every line of code that a real model goes through.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steersman.lm.pretrained import no_progress_bars
from steersman.types import ROLE_NAMES, Comparison, Demonstration, plain_text

NAME = "tiny-random"
VERSION = 2
VOCABULARY = 2000


def corpus(demonstrations: Sequence[Demonstration], comparisons: Sequence[Comparison] = ()) -> list[str]:
    """The text that the tokenizer is trained on; that of comparisons where there are no demonstrations."""
    texts = [f"{plain_text(row.prompt)}\n{row.completion}" for row in demonstrations]
    return texts or ["\n".join((plain_text(row.prompt), *row.options)) for row in comparisons]


def tokenizer(texts: Sequence[str], vocabulary: int = VOCABULARY) -> Any:
    """A byte-level BPE tokenizer with <pad> 0, <eos> 1, <bos> 2, trained in about a second."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<eos>", "<bos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")


def word_tokenizer(words: Sequence[str]) -> Any:
    """A tokenizer with one token a word, for a small language such as `data.toy_world`'s, and the roles of a chat.

    Then answers are short, whatever is sampled consists of words, and what is counted in words is counted in tokens.
    Text is words between spaces: line ends and runs of spaces are not kept, words that are not listed become <unk>.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    roles = [f"{role}:" for role in ROLE_NAMES.values()]
    ids = {word: i for i, word in enumerate(dict.fromkeys([*specials, *roles, *words]))}
    listed = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    listed.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {f"{special[1:-1]}_token": special for special in specials}
    return PreTrainedTokenizerFast(tokenizer_object=listed, **names)


def build(texts: Sequence[str], folder: Path, seed: int = 0) -> None:
    """Write a two-layer Gemma 3 of 64 hidden units and its tokenizer in hub format."""
    save(tokenizer(texts), folder, seed)


def save(trained: Any, folder: Path, seed: int = 0) -> None:
    """Write a random two-layer Gemma 3 of 64 hidden units for a tokenizer, and both in hub format."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=len(trained),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=4096,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Gemma3ForCausalLM(config)
    with no_progress_bars():
        model.save_pretrained(folder)
    trained.save_pretrained(folder)
