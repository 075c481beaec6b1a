"""Batched sampling with any Hugging Face decoder-only model.

Prompts are read in groups of similar length, equal ones once; a preamble common to all of them (a few-shot prompt) is
read once and its KV cache copied; then one token per row and step. Rows leave the batch as they end and waiting ones
enter, because decoding costs nearly as much for eight rows as for forty. The draw needs no sort of the vocabulary:
one uniform number per row against the cumulative probabilities of the allowed tokens.

Every row has a random stream of its own, from (seed, index of the prompt), so that a row's draws do not depend on
the batch in which it happens to be. This is the one place where faster decoding grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from steersman.lm.chat_format import ChatFormat, shorten
from steersman.lm.head import CompactVocabulary, Head, head_of, trunk
from steersman.lm.int8 import Int8Copy
from steersman.types import Record, Seed, Text

ROOM = 64  # columns that a KV cache grows at a time
BLOCK = 512  # weights of the draw that are summed at a time
READ_AT_ONCE = 16  # sequences of which only the next token is asked
NEARLY_ALL = 0.9  # of a common beginning: from this share on it is not worth reading it again for the rest

FinishReason = Literal["stop", "stop_string", "length", "filtered"]  # filtered: by an endpoint, lm/endpoint/client.py


class SamplingConfig(Record):
    """``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 leave the distribution whole."""

    max_new_tokens: int = Field(default=96, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    seed: Seed = 0
    batch_size: int = Field(default=64, ge=1)
    max_prompt_tokens: int = Field(default=1024, ge=8)


@dataclass(frozen=True)
class Completion:
    """One sampled answer. ``logprobs`` are the model's own (temperature 1, nothing cut off), one per token id."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    prompt_tokens: int
    truncated_prompt_tokens: int


OnText = Callable[[int, str], None]  # called with a prompt's index and its answer so far


class Row:
    """A prompt on its way to a completion: its ids, how many were cut off, the tokens drawn, its random stream."""

    def __init__(self, index: int, ids: list[int], cut: int, seed: int) -> None:
        self.index, self.prompt, self.cut = index, ids, cut
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.generator = random_stream(seed, index)

    def finish_reason(self, chat: ChatFormat, limit: int) -> FinishReason | None:
        """Why the row ends with its last token, if it does."""
        if self.tokens[-1] in chat.stop_ids:
            return "stop"
        if chat.stop_strings:
            # "\nAssistant:" is eleven bytes, so no tokenizer makes more tokens of it.
            tail = chat.tokenizer.decode(self.tokens[-11:], skip_special_tokens=True)
            if any(stop in tail for stop in chat.stop_strings):
                return "stop_string"
        return "length" if len(self.tokens) >= limit else None

    def completion(self, chat: ChatFormat, reason: FinishReason) -> Completion:
        """What the caller gets of it."""
        text = chat.decode(self.tokens)
        for stop in chat.stop_strings:
            text = text.split(stop)[0].rstrip()
        return Completion(self.index, text, self.tokens, self.logprobs, reason, len(self.prompt), self.cut)


def random_stream(*numbers: int) -> torch.Generator:
    """The random stream of a few integers, such as (seed, step); others give independent ones.

    They are hashed, because PyTorch's generator on CPU keeps only the low 32 bits of its seed.
    """
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


def generate(
    model: Any,
    chat: ChatFormat,
    prompts: Sequence[Text],
    config: SamplingConfig,
    *,
    preamble: Text | None = None,
    indices: Sequence[int] | None = None,
    vocabulary: CompactVocabulary | None = None,
    int8: Int8Copy | None = None,
    prefix: Prefix | None = None,
    on_text: OnText | None = None,
) -> Iterator[Completion]:
    """Answer every prompt; completions come as they end, each with the index of its prompt.

    Args:
        model: a decoder-only Hugging Face model, in evaluation mode.
        preamble: conversation put before every prompt and read only once.
        indices: the prompts' numbers, when these are a part of a longer list; they choose the random streams.
        vocabulary, int8, prefix: see `continue_ids`.
        on_text: called with (index, answer so far) after every draw; for streaming.
    """
    full = [chat.prompt_ids(prompt, preamble) for prompt in prompts]
    yield from continue_ids(
        model,
        chat,
        full,
        config,
        shared=common_beginning(full) if preamble is not None else None,
        indices=indices or range(len(prompts)),
        vocabulary=vocabulary,
        int8=int8,
        prefix=prefix,
        on_text=on_text,
    )


def common_beginning(full: Sequence[list[int]]) -> list[int]:
    """The ids with which all of some sequences begin, but for a last one: every sequence keeps an id of its own."""
    shortest = min(full, key=len, default=[])
    common = next((i for i in range(len(shortest)) if any(ids[i] != shortest[i] for ids in full)), len(shortest))
    return shortest[: max(0, min(common, len(shortest) - 1))]


def continue_ids(
    model: Any,
    chat: ChatFormat,
    starts: Sequence[list[int]],
    config: SamplingConfig,
    *,
    shared: list[int] | None = None,
    indices: Sequence[int] | None = None,
    vocabulary: CompactVocabulary | None = None,
    int8: Int8Copy | None = None,
    prefix: Prefix | None = None,
    on_text: OnText | None = None,
) -> Iterator[Completion]:
    """Continue token sequences, as `generate` continues prompts.

    Args:
        starts: ids from BOS on; equal ones that enter together (the answers of a GRPO group) are read once.
        shared: a common beginning of all of them, read only once.
        vocabulary: draw among its exact rows only, several times cheaper on CPU. That is another distribution than the
            model's: tokens outside never come, and the log-probs are those of the softmax over the exact rows.
        int8: read and decode with this copy of the weights, made for the head of ``vocabulary`` or the model's own.
            That is another distribution, too, and the log-probs are its own.
        prefix: what an earlier call with the same weights read of its common beginning, and after it what this one did.
    """
    prefix = prefix or Prefix()
    shared = prefix.part_of(shared or [])
    rows = to_rows(starts, shared, indices or range(len(starts)), config)
    first: dict[tuple[int, ...], int] = {}
    places = {row.index: first.setdefault(tuple(row.prompt), i) for i, row in enumerate(rows)}
    rows.sort(key=lambda row: (len(row.prompt), places[row.index]))  # equal prompts enter together
    ids = None if vocabulary is None else vocabulary.exact

    def decoded(head: Head) -> Iterator[Completion]:
        cache = prefix.read(model, shared) if shared else None
        return _decode(model, head, ids, chat, rows, cache, len(shared), config, on_text)

    if int8 is not None:
        with int8.in_use():  # to the end, so that the caller never meets the model with it
            found = list(decoded(int8.head))
        yield from found
        return
    with torch.inference_mode():
        yield from decoded(head_of(model) if vocabulary is None else vocabulary.head)


def to_rows(full: Sequence[list[int]], shared: list[int], indices: Sequence[int], config: SamplingConfig) -> list[Row]:
    """Rows that hold what follows the common beginning, shortened to the allowed length."""
    rows = []
    for index, ids in zip(indices, full, strict=True):
        own = ids[len(shared) :]
        kept = own[-config.max_prompt_tokens :] if shared else shorten(own, config.max_prompt_tokens)  # BOS is shared
        rows.append(Row(index, kept, len(own) - len(kept), config.seed))
    return rows


class _Batch:
    """Rows being decoded together: their KV cache and its mask, left-padded to one width."""

    def __init__(self, rows: list[Row], cache: Any, mask: Tensor) -> None:
        self.rows, self.cache, self.mask = rows, cache, mask  # mask: [B, T]

    def keep(self, indices: list[int]) -> None:
        """Let the other rows leave, and cut columns that are padding for all who stay."""
        chosen = torch.tensor(indices, dtype=torch.long, device=self.mask.device)
        self.rows = [self.rows[i] for i in indices]
        self.mask = self.mask[chosen]
        start = int(self.mask.any(0).int().argmax()) if indices else 0
        self.mask = self.mask[:, start:]
        for layer in self.cache.layers:
            layer.hold(layer.keys[chosen, :, start:], layer.values[chosen, :, start:])

    def join(self, other: _Batch) -> None:
        """Take in newly read rows, padding the narrower cache on the left."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        both = (self, other)
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.hold(
                torch.cat([_pad_left(x, width) for x in (mine.keys, theirs.keys)]),
                torch.cat([_pad_left(x, width) for x in (mine.values, theirs.values)]),
            )
        self.mask = torch.cat([torch.nn.functional.pad(b.mask, (width - b.mask.shape[1], 0)) for b in both])
        self.rows = self.rows + other.rows


def _pad_left(x: Tensor, width: int) -> Tensor:
    """[B, heads, T, D] -> [B, heads, width, D]."""
    return torch.nn.functional.pad(x, (0, 0, width - x.shape[2], 0))


def _cache() -> Any:
    """An empty KV cache that grows without being copied in every step.

    No model configuration is given: every layer keeps all keys, and the attention mask does the sliding window; a layer
    that drops old keys could not be padded, joined and cut.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class Layer(DynamicLayer):  # type: ignore[misc]
        """Keys and values, [B, heads, T, D], at the beginning of buffers with room for ROOM more columns."""

        def hold(self, keys: Tensor, values: Tensor) -> None:
            """Go on from these."""
            self.buffers = [x.new_empty(*x.shape[:2], x.shape[2] + ROOM, x.shape[3]) for x in (keys, values)]
            self._write(0, keys, values)

        def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            """Take in new columns and return all."""
            if not self.is_initialized:
                self.lazy_initialization(keys, values)
                self.hold(keys, values)
                return self.keys, self.values
            length = self.keys.shape[2]
            if length + keys.shape[2] > self.buffers[0].shape[2]:
                self.hold(torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2))
            else:
                self._write(length, keys, values)
            return self.keys, self.values

        def _write(self, start: int, *new: Tensor) -> None:
            end = start + new[0].shape[2]
            for buffer, x in zip(self.buffers, new, strict=True):
                buffer[:, :, start:end] = x
            self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)

    cache = DynamicCache()
    cache.layer_class_to_replicate = Layer
    return cache


class Prefix:
    """The KV cache of a common beginning, batch of one, kept for later calls that begin alike."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._cache: Any = None

    def part_of(self, shared: list[int]) -> list[int]:
        """The common beginning to use: so much of it as was read before, if that is nearly all."""
        same = next((i for i, (a, b) in enumerate(zip(shared, self.ids, strict=False)) if a != b), None)
        same = min(len(shared), len(self.ids)) if same is None else same
        return shared[:same] if same >= NEARLY_ALL * len(shared) else shared

    def read(self, model: Any, ids: list[int]) -> Any:
        """The cache of these ids, from what was read before if that begins with them."""
        if self.ids[: len(ids)] != ids:
            self._cache, self.ids = _cache(), ids
            inputs = torch.tensor([ids], device=model.device)
            trunk(model)(input_ids=inputs, past_key_values=self._cache, use_cache=True)
        found = _cache()
        for number, layer in enumerate(self._cache.layers):
            found.update(layer.keys[:, :, : len(ids)], layer.values[:, :, : len(ids)], number)
        return found


def _read(model: Any, rows: list[Row], prefix: Any, prefix_length: int, pad: int) -> tuple[_Batch, Tensor]:
    """Read the rows' prompts; returns the batch and the hidden states of their last positions, [B, H].

    Rows with the same prompt (a GRPO group) share one reading. Prompts are padded on the right while they are read,
    because a sliding window counts columns and none may lie between the prefix and a row's own tokens; then keys and
    values move to the right end, where decoding goes on.
    """
    prompts = list(dict.fromkeys(tuple(row.prompt) for row in rows))
    place = {prompt: i for i, prompt in enumerate(prompts)}
    reader = torch.tensor([place[tuple(row.prompt)] for row in rows], device=model.device)
    lengths = torch.tensor([[len(prompt)] for prompt in prompts], device=model.device)
    width = int(lengths.max())
    ids = torch.tensor([[*prompt, *[pad] * (width - len(prompt))] for prompt in prompts], device=model.device)
    columns = torch.arange(prefix_length + width, device=model.device).expand(len(prompts), -1)
    cache = _cache()
    for number, layer in enumerate(prefix.layers if prefix is not None else ()):
        cache.update(*(x.expand(len(prompts), -1, -1, -1) for x in (layer.keys, layer.values)), number)
    hidden = trunk(model)(
        input_ids=ids,
        attention_mask=(columns < prefix_length + lengths).long(),
        position_ids=columns[:, prefix_length:],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    source = columns - (width - lengths)  # negative where padding now comes first
    for layer in cache.layers:
        layer.hold(
            *(x.take_along_dim(source.clamp(min=0)[:, None, :, None], 2)[reader] for x in (layer.keys, layer.values))
        )
    last = hidden.take_along_dim(lengths[:, :, None] - 1, 1)[:, 0]
    return _Batch(rows, cache, (source >= 0).long()[reader]), last[reader]


def _decode(
    model: Any,
    head: Head,
    ids: Tensor | None,
    chat: ChatFormat,
    waiting: list[Row],
    prefix: Any,
    prefix_length: int,
    config: SamplingConfig,
    on_text: OnText | None,
) -> Iterator[Completion]:
    """One token per row and step. Rows leave as they end; when a quarter of the places is free, new ones enter.

    Args:
        ids: the token ids of the head's rows, None for all in order.
    """
    pad = chat.tokenizer.pad_token_id or 0
    batch: _Batch | None = None
    hidden = torch.empty(0)
    while waiting or (batch is not None and batch.rows):
        free = config.batch_size - (len(batch.rows) if batch else 0)
        if waiting and (batch is None or not batch.rows or free >= max(1, config.batch_size // 4)):
            entering, waiting = waiting[:free], waiting[free:]
            new, last = _read(model, entering, prefix, prefix_length, pad)
            if batch is None or not batch.rows:
                batch, hidden = new, last
            else:
                batch.join(new)
                hidden = torch.cat([hidden, last])
        assert batch is not None
        tokens, logprobs = draw(head.logits(hidden).float(), config, [row.generator for row in batch.rows])
        tokens = tokens if ids is None else ids[tokens]
        staying: list[int] = []
        for i, row in enumerate(batch.rows):
            row.tokens.append(int(tokens[i]))
            row.logprobs.append(float(logprobs[i]))
            if on_text is not None:
                on_text(row.index, chat.decode(row.tokens))
            reason = row.finish_reason(chat, config.max_new_tokens)
            if reason is None:
                staying.append(i)
            else:
                yield row.completion(chat, reason)
        if len(staying) < len(batch.rows):
            batch.keep(staying)
            tokens = tokens[staying]
        if batch.rows:
            batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.rows), 1)], 1)
            hidden = trunk(model)(
                input_ids=tokens[:, None],
                attention_mask=batch.mask,
                position_ids=batch.mask.sum(1, keepdim=True) - 1,
                past_key_values=batch.cache,
                use_cache=True,
            ).last_hidden_state[:, -1]


def draw(logits: Tensor, config: SamplingConfig, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
    """One token per row and its log-probability under the model itself.

    Args:
        logits: [B, V] fp32; used as working memory.
        generators: one random stream per row.

    Returns:
        ([B] token ids, [B] log-probs at temperature 1 over the whole vocabulary).
    """
    if config.temperature == 0:
        best, tokens = logits.max(-1, keepdim=True)
        return tokens[:, 0], -_block_sums(logits.sub_(best).exp_()).sum(-1).log().float()
    shifted = logits.sub_(logits.amax(-1, keepdim=True))
    uniform = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators]).to(logits.device)
    if config.temperature == 1.0 and config.top_k == 0 and config.top_p == 1.0:
        weights = shifted.exp_()
        sums = _block_sums(weights)
        tokens = _inverse_cdf(weights, sums, uniform)
        chosen = weights.gather(1, tokens[:, None])[:, 0]
        return tokens, (chosen.double() / sums.sum(-1)).log().float()
    log_z = _block_sums(shifted.exp()).sum(-1).log()
    weights = (shifted / config.temperature).exp_()
    if config.top_k == 0 and config.top_p == 1.0:
        tokens = _inverse_cdf(weights, _block_sums(weights), uniform)
    else:
        tokens = _truncated_draw(weights, config, uniform)
    return tokens, (shifted.gather(1, tokens[:, None])[:, 0] - log_z).float()


def _truncated_draw(weights: Tensor, config: SamplingConfig, uniform: Tensor) -> Tensor:
    """Top-k, then top-p. The nucleus nearly always lies within the 512 best tokens; only if not, all are sorted."""
    total = _block_sums(weights).sum(-1, keepdim=True)
    best, order = weights.topk(min(config.top_k or 512, weights.shape[-1]), -1)
    if config.top_k:
        total = best.double().sum(-1, keepdim=True)
    elif bool((best.double().sum(-1, keepdim=True) < config.top_p * total).any()):
        best, order = weights.sort(-1, descending=True)
    before = best.double().cumsum(-1) - best
    best = torch.where(before < config.top_p * total, best, 0.0)
    return order.gather(1, _inverse_cdf(best, _block_sums(best), uniform)[:, None])[:, 0]


def _block_sums(weights: Tensor) -> Tensor:
    """Sums of BLOCK neighbouring weights, [B, V] -> [B, ceil(V / BLOCK)], to be added up further in double."""
    whole = weights.shape[-1] // BLOCK * BLOCK
    sums = weights[:, :whole].reshape(len(weights), -1, BLOCK).sum(-1)
    rest = weights[:, whole:]
    return torch.cat([sums, rest.sum(-1, keepdim=True)], -1).double() if rest.shape[-1] else sums.double()


def _inverse_cdf(weights: Tensor, sums: Tensor, uniform: Tensor) -> Tensor:
    """The first index whose cumulative weight exceeds u times the total; never an index of weight zero.

    It is looked for among the sums of blocks, then within one block: the vocabulary is read once, not sorted.
    """
    block, below = _first_above(sums, uniform * sums.sum(-1))
    inside = block[:, None] * BLOCK + torch.arange(BLOCK, device=weights.device)
    own = weights.gather(1, inside.clamp(max=weights.shape[-1] - 1)).double() * (inside < weights.shape[-1])
    # In double the block's weights add up to a little more or less than its sum: scaled, u always falls among them.
    share = (uniform * sums.sum(-1) - below) / sums.gather(1, block[:, None])[:, 0]
    return block * BLOCK + _first_above(own, share * own.sum(-1))[0]


def _first_above(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The first index, [B], whose cumulative weight exceeds the target (the last one of weight above 0, if none does).

    Also the sum of the weights before it, [B].
    """
    cumulative = weights.cumsum(-1)
    index = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    last = weights.shape[-1] - 1 - (weights.flip(-1) > 0).int().argmax(-1)
    index = torch.minimum(index, last)
    return index, (cumulative - weights).gather(1, index[:, None])[:, 0]


def next_token_logprobs(
    model: Any,
    chat: ChatFormat,
    starts: Sequence[list[int]],
    tokens: Sequence[int],
    *,
    shared: bool,
    prefix: Prefix | None = None,
) -> Tensor:
    """Log-probabilities in nats, over the whole vocabulary, that each of some tokens follows each sequence, [S, N].

    Args:
        shared: what all sequences begin with is read only once.
        prefix: see `continue_ids`.
    """
    prefix = prefix or Prefix()
    common = prefix.part_of(common_beginning(starts)) if shared else []
    limit = SamplingConfig(max_prompt_tokens=max(map(len, starts)))
    rows = sorted(to_rows(starts, common, range(len(starts)), limit), key=lambda row: len(row.prompt))
    pad, head = chat.tokenizer.pad_token_id or 0, head_of(model)
    found = torch.empty(len(starts), len(tokens))
    with torch.inference_mode():
        cache = prefix.read(model, common) if common else None
        for i in range(0, len(rows), READ_AT_ONCE):
            some = rows[i : i + READ_AT_ONCE]
            _, last = _read(model, some, cache, len(common), pad)
            logprobs = head.logits(last).float().log_softmax(-1)
            found[[row.index for row in some]] = logprobs[:, list(tokens)].cpu()
    return found
