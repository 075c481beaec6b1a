"""What a model allows: how much it reads, for which tokens it has embeddings, trained ones, and its own noise."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steersman.errors import ModelError
from steersman.lm.chat_format import ChatFormat, common_length
from steersman.types import Text

if TYPE_CHECKING:
    from steersman.lm.sampling import SamplingConfig

MIN_PROMPT = 8  # tokens of a prompt for which a model's positions must leave room


def padded_batches(sizes: Mapping[int, int], budget: int) -> list[list[int]]:
    """Numbers in batches whose sizes, padded to the largest, are at most ``budget``; one that is larger stands alone.

    Small ones come first, and equal ones in the order of their numbers, so that the batches are always the same.
    """
    batches: list[list[int]] = []
    for number in sorted(sizes, key=lambda number: (sizes[number], number)):
        if not batches or sizes[number] * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(number)
    return batches


def fit_embedding(tokenizer: Any, rows: int, where: str) -> None:
    """Refuse ids beyond the embedding; a padding token there, which is never read, is replaced by EOS."""
    added = {token: i for token, i in tokenizer.get_added_vocab().items() if i >= rows}
    if tokenizer.vocab_size > rows:
        raise ModelError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model {rows} embeddings",
            where=where,
            expected="a tokenizer and a model that belong together",
            do="take both from one checkpoint",
        )
    needed = {str(tokenizer.eos_token), str(tokenizer.bos_token)}
    needed |= {token for token in added if token in (tokenizer.chat_template or "")}
    if beyond := sorted(needed & set(added)):
        raise ModelError(
            f"the tokenizer writes {beyond[0]!r} (id {added[beyond[0]]}), and the model has only {rows} embeddings",
            where=where,
            expected="an embedding for every token of the chat template and for the end of a text",
            do="resize the model with transformers (resize_token_embeddings) and save it, or take the tokenizer that "
            "belongs to it",
        )
    if tokenizer.pad_token in added:
        tokenizer.pad_token = tokenizer.eos_token


def positions(config: Any) -> int | None:
    """How many tokens a model can read at once; None if it sets no limit."""
    text = config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    found = (getattr(text, name, None) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), None)  # XLNet says -1


def prompt_limit(model_config: Any, sampling: SamplingConfig, shared: int = 0) -> int:
    """How many tokens a prompt may have with a common prefix of ``shared`` tokens, which does not count for itself.

    Raises:
        ModelError: prefix and answer leave no room in the model's positions.
    """
    limit = positions(model_config)
    room = sampling.max_prompt_tokens if limit is None else limit - shared - sampling.max_new_tokens
    if room < MIN_PROMPT:
        raise ModelError(
            f"the model reads {limit} tokens: {shared} of a common prefix and {sampling.max_new_tokens} of an answer "
            f"leave {max(0, room)} for a prompt",
            expected=f"{MIN_PROMPT} or more",
            do="lower sampling.max_new_tokens, or shorten the few-shot prompt",
        )
    return shared + min(sampling.max_prompt_tokens, room)


def prompts_within(
    chat: ChatFormat, prompts: Sequence[Text], preamble: Text | None, limit_behind: Callable[[int], int]
) -> tuple[list[list[int]], int, list[int]]:
    """Ids of prompts within a limit, see `ChatFormat.prompt_within`; the limit; how many tokens each prompt lost.

    Args:
        limit_behind: from the length of a preamble, in tokens, to the most tokens of a prompt behind it.

    Raises:
        ModelError: system text leaves no room for the question.
    """
    starts = [chat.prompt_ids(prompt, preamble) for prompt in prompts]
    shared = 0 if preamble is None else common_length([*starts, chat.prompt_ids("?", preamble)])
    limit = limit_behind(shared)
    lost = []
    for i, (prompt, ids) in enumerate(zip(prompts, starts, strict=True)):
        starts[i] = ids if len(ids) <= limit else chat.prompt_within(prompt, limit, preamble=preamble)
        lost.append(len(ids) - len(starts[i]))
        if len(starts[i]) > limit:
            raise ModelError(
                f"a prompt's system text leaves no room for its question: {len(starts[i]) - shared} tokens without it",
                expected=f"at most {limit - shared}",
                do="raise max_prompt_tokens if the model reads more, or shorten the system text",
            )
    return starts, limit, lost


def shortened(count: int, of: int) -> str:
    """What is said of prompts that were too long."""
    return (
        f"{count} of {of} prompts are longer than max_prompt_tokens, or than the model reads: they lose their oldest "
        "turns, then the beginning of their question"
    )


def noise(config: Any) -> list[tuple[Any, str, float]]:
    """Dropouts and router jitters above 0 in a configuration and its text part: where, name, value."""
    parts = {id(part): part for part in (config, config.get_text_config())}.values()
    return [
        (part, name, value)
        for part in parts
        for name, value in list(vars(part).items())
        if type(value) is float and value > 0 and re.search("drop|jitter", name)
    ]


def untrained_terminators(model: Any, token_ids: Sequence[int], *, cosine: float = 0.9) -> list[int]:
    """Those of the token ids whose input embedding looks as if it had never been trained.

    Tokens that training never met stay near one another: a row that lies within ``cosine`` of more than 100 other rows
    (1 % of a vocabulary below 10,000), or that is zero, has not become a word. A model that is taught to end its
    answers with such a token writes random other ones there. In gemma-3-270m <end_of_turn> (106) has 6,442 such
    neighbours and <eos> (1) none.

    Raises:
        ModelError: an id outside the vocabulary.
    """
    import torch

    rows = model.get_input_embeddings().weight.detach()  # [V, D]
    if foreign := [token for token in token_ids if not 0 <= token < len(rows)]:
        raise ModelError(f"token ids {foreign} are outside the vocabulary", expected=f"0 to {len(rows) - 1}")
    norms = torch.linalg.vector_norm(rows, dim=1).float()  # [V]
    chosen = list(token_ids)
    cosines = (rows @ rows[chosen].T).float() / torch.outer(norms, norms[chosen]).clamp_min(1e-12)  # [V, K]
    neighbours = (cosines > cosine).sum(0) - 1  # without itself
    limit = min(100, len(rows) // 100)
    return [t for t, near in zip(chosen, neighbours.tolist(), strict=True) if near > limit or norms[t] == 0]
