"""Continuous batching with any Hugging Face decoder-only model.

Four phases, numbered in `_generate`, are repeated until the queue is empty:

    1  admit and prefill   one forward pass over queued prompts of similar length fills their KV cache
    2  sample              one token per sequence, from the logits at its last position
    3  evict               finished sequences leave the batch and the KV cache
    4  decode              one forward pass over the new tokens, one column, extends the KV cache

Decoding costs nearly as much for eight sequences as for forty, so the batch is kept full. Equal prompts are prefilled
once; so is a prefix common to all prompts (a few-shot preamble), whose KV cache is kept for later calls. Every sequence
has a random stream of its own, seeded by (seed, index of the prompt): its draws do not depend on its batch. Shapes: B
sequences, T columns (the longest sequence), H hidden units, V tokens.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from steersman.lm.chat_format import ChatFormat, common_length, shorten
from steersman.lm.compact_vocabulary import CompactVocabulary
from steersman.lm.fast_paths import fast_paths
from steersman.lm.head import Head, head_of, trunk
from steersman.lm.int8 import Int8Copy
from steersman.lm.limits import MIN_PROMPT, prompt_limit, prompts_within
from steersman.lm.no_repeat import repeating
from steersman.lm.uncached import UncachedBatch
from steersman.types import Record, Seed, Text

BLOCK = 512  # weights of the draw that are summed at a time
DRAW_AHEAD = 64  # random numbers of a sequence that are drawn at a time
PREFILL_BATCH = 16  # sequences of which only the next token's log-probs are wanted
MIN_PREFIX_REUSE = 0.9  # share of a common prefix that must be cached already for the rest to be prefilled per sequence

FinishReason = Literal["stop", "stop_string", "length", "filtered"]  # filtered: by an endpoint, lm/endpoint/client.py


class SamplingConfig(Record):
    """How tokens are sampled. Order: temperature, then ``top_k``, then ``top_p``."""

    max_new_tokens: int = Field(default=96, ge=1, description="Most tokens of an answer.")
    temperature: float = Field(default=0.0, ge=0, description="Divisor of the logits; 0 is greedy decoding.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Nucleus sampling: mass of the tokens kept; 1 is off.")
    top_k: int = Field(default=0, ge=0, description="Only the k most probable tokens are sampled; 0 is off.")
    no_repeat_ngram: int = Field(
        default=0, ge=0, description="An n-gram of this many tokens never occurs twice in an answer; 0 is off."
    )
    seed: Seed = Field(default=0, description="Seed of the sequences' random streams.")
    batch_size: int = Field(default=64, ge=1, description="Sequences that are decoded at once.")
    max_prompt_tokens: int = Field(
        default=1024, ge=MIN_PROMPT, description="Longer prompts, in tokens, lose old turns, then the question's start."
    )


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


@dataclass(frozen=True)
class Request:
    """Prompts for a `LanguageModel` to answer.

    ``preamble``: a conversation put before every prompt, prefilled once. ``indices``: the prompts' numbers in a longer
    list; they choose the random streams. ``on_text``: called after every token, the last time with the final text.
    """

    prompts: Sequence[Text]
    config: SamplingConfig
    preamble: Text | None = None
    indices: Sequence[int] | None = None
    on_text: OnText | None = None

    @property
    def numbers(self) -> Sequence[int]:
        """The index of each prompt."""
        return self.indices or range(len(self.prompts))


def random_stream(*numbers: int) -> torch.Generator:
    """The random stream of a few integers, such as (seed, step); others give independent ones.

    They are hashed, because PyTorch's generator on CPU keeps only the low 32 bits of its seed.
    """
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


class Prefix:
    """The KV cache of a common prefix, batch of one, kept for later calls whose prompts have the same prefix."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._cache: Any = None

    def reusable(self, shared: list[int]) -> list[int]:
        """The common prefix to use: only its cached part, if that is nearly all of it."""
        same = common_length([shared, self.ids])
        return shared[:same] if same >= MIN_PREFIX_REUSE * len(shared) else shared

    def prefill(self, model: Any, ids: list[int]) -> Any:
        """A KV cache of these ids, [1, T]; computed unless what is cached begins with them."""
        from steersman.lm.kv_cache import KVCache

        if self.ids[: len(ids)] != ids:
            self._cache, self.ids = KVCache(), ids
            inputs = torch.tensor([ids], device=model.device)
            trunk(model)(input_ids=inputs, past_key_values=self._cache, use_cache=True)
        return self._cache.prefix(1, len(ids))


@dataclass(frozen=True)
class Sampler:
    """A model with what its text is sampled from.

    Attributes:
        model: a decoder-only Hugging Face model, in evaluation mode.
        vocabulary: sample among its exact rows only, several times cheaper on CPU. This is another distribution than
            the model's: tokens outside never come, and the log-probs are those of the softmax over the exact rows.
        int8: prefill and decode with this copy of the weights, made for the head of ``vocabulary`` or the model's own:
            another distribution, too, with log-probs of its own.
        prefix: the KV cache of the last common prefix; it holds for these weights alone.
    """

    model: Any
    chat: ChatFormat
    vocabulary: CompactVocabulary | None = None
    int8: Int8Copy | None = None
    prefix: Prefix = field(default_factory=Prefix)

    def generate(self, request: Request) -> Iterator[Completion]:
        """Answer every prompt; completions come as they finish, each with the index of its prompt."""
        behind = functools.partial(prompt_limit, self.model.config, request.config)
        starts, limit, lost = prompts_within(self.chat, request.prompts, request.preamble, behind)
        shared = common_prefix(starts) if request.preamble is not None else None
        lost_by = dict(zip(request.numbers, lost, strict=True))
        for answer in self.continue_ids(
            starts, request.config, shared=shared, limit=limit, indices=request.numbers, on_text=request.on_text
        ):
            yield replace(answer, truncated_prompt_tokens=lost_by[answer.index])

    def continue_ids(
        self,
        starts: Sequence[list[int]],
        config: SamplingConfig,
        *,
        shared: list[int] | None = None,
        limit: int | None = None,
        indices: Sequence[int] | None = None,
        on_text: OnText | None = None,
    ) -> Iterator[Completion]:
        """Continue token sequences, as `generate` continues prompts.

        Args:
            starts: ids from BOS on; equal ones that are admitted together (the answers of a GRPO group) are prefilled
                once.
            shared: a common prefix of all of them, prefilled once.
            limit: their greatest length; longer ones lose ids after the first. None: of a prompt, as `prompt_limit`.
            indices, on_text: as in `Request`.
        """
        limit = limit or prompt_limit(self.model.config, config)
        shared = self.prefix.reusable(shared or [])
        queue = to_rows(starts, shared, indices or range(len(starts)), limit, config.seed)
        first: dict[tuple[int, ...], int] = {}
        places = {row.index: first.setdefault(tuple(row.prompt), i) for i, row in enumerate(queue)}
        queue.sort(key=lambda row: (len(row.prompt), places[row.index]))  # equal prompts are admitted together
        if self.int8 is not None:
            with self.int8.in_use():  # to the end, so that the caller never meets the model with it
                completions = list(_generate(self, self.int8.head, queue, shared, config, on_text))
            yield from completions
            return
        with torch.inference_mode():
            head = head_of(self.model) if self.vocabulary is None else self.vocabulary.head
            yield from _generate(self, head, queue, shared, config, on_text)

    def next_token_logprobs(self, starts: Sequence[list[int]], tokens: Sequence[int], *, shared: bool) -> Tensor:
        """Log-probabilities in nats, by the exact model, that each of some tokens follows each sequence, [S, N].

        Args:
            shared: the common prefix of all sequences is prefilled once.
        """
        common = self.prefix.reusable(common_prefix(starts)) if shared else []
        rows = to_rows(starts, common, range(len(starts)), max(map(len, starts)), seed=0)
        rows.sort(key=lambda row: len(row.prompt))
        head, logprobs = head_of(self.model), torch.empty(len(starts), len(tokens))
        with torch.inference_mode():
            for i in range(0, len(rows), PREFILL_BATCH):
                batch = read(self, rows[i : i + PREFILL_BATCH], common)
                over_all = head.logits(batch.hidden).float().log_softmax(-1)  # [B, V]
                logprobs[[row.index for row in batch.rows]] = over_all[:, list(tokens)].cpu()
        return logprobs


def common_prefix(sequences: Sequence[list[int]]) -> list[int]:
    """The ids with which all sequences begin, but for a last one: every sequence keeps an id of its own."""
    shortest = min(sequences, key=len, default=[])
    return shortest[: max(0, min(common_length(sequences), len(shortest) - 1))]


# ── the batch ────────────────────────────────────────────────────────────────────────────────────────────────────────
class Row:
    """One sequence: its prompt's ids, how many were truncated, the sampled tokens, its random stream."""

    def __init__(self, index: int, ids: list[int], truncated: int, seed: int) -> None:
        self.index, self.prompt, self.truncated = index, ids, truncated
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.generator = random_stream(seed, index)
        self._uniforms: list[float] = []
        self._text, self._prefix, self._read = "", 0, 0

    def uniform(self) -> float:
        """The next number of the random stream, in [0, 1). A block is the same sequence as one number at a time."""
        if not self._uniforms:
            block = torch.rand(DRAW_AHEAD, generator=self.generator, dtype=torch.float64)
            self._uniforms = block.tolist()[::-1]
        return self._uniforms.pop()

    def finish_reason(self, chat: ChatFormat, limit: int) -> FinishReason | None:
        """Why the sequence ends with its last token, if it does."""
        if self.tokens[-1] in chat.stop_ids:
            return "stop"
        if chat.stop_strings:
            # "\nAssistant:" is eleven bytes, so no tokenizer makes more tokens of it.
            tail = chat.tokenizer.decode(self.tokens[-11:], skip_special_tokens=True)
            if any(stop in tail for stop in chat.stop_strings):
                return "stop_string"
        return "length" if len(self.tokens) >= limit else None

    def spell(self, tokenizer: Any, *, whole: bool = False) -> str:
        """The text of the tokens without an incomplete character at its end, decoding only what is new.

        A token's text depends on its left neighbour (a leading space, the bytes of one character): tokens from
        ``_prefix`` on are decoded without and with those from ``_read`` on, and the difference is new text.

        Args:
            whole: no further token comes: with the replacement of an incomplete character.
        """
        known = tokenizer.decode(self.tokens[self._prefix : self._read], skip_special_tokens=True)
        longer = tokenizer.decode(self.tokens[self._prefix :], skip_special_tokens=True)
        if len(longer) > len(known) and (whole or not longer.endswith("\ufffd")):
            self._text += longer[len(known) :]
            self._prefix, self._read = self._read, len(self.tokens)
        return self._text

    def text_so_far(self, tokenizer: Any) -> str:
        """The answer so far, as `completion` writes it."""
        return self.spell(tokenizer).strip()

    def completion(self, chat: ChatFormat, reason: FinishReason) -> Completion:
        """The finished answer, cut at a stop string."""
        text = chat.decode(self.tokens)
        for stop in chat.stop_strings:
            text = text.split(stop)[0].rstrip()
        return Completion(self.index, text, self.tokens, self.logprobs, reason, len(self.prompt), self.truncated)


def to_rows(starts: Sequence[list[int]], shared: list[int], indices: Sequence[int], limit: int, seed: int) -> list[Row]:
    """Rows that hold what follows the common prefix; ids from the beginning are left out beyond ``limit`` with it."""
    rows = []
    for index, ids in zip(indices, starts, strict=True):
        own = ids[len(shared) :]
        kept = own[-(limit - len(shared)) :] if shared else shorten(own, limit)  # BOS is shared
        rows.append(Row(index, kept, len(own) - len(kept), seed))
    return rows


@dataclass
class Batch:
    """Sequences being decoded: KV cache [B, T] and its mask [B, T], left-padded; last hidden states [B, H]."""

    rows: list[Row]
    cache: Any
    mask: Tensor
    hidden: Tensor

    def admit(self, other: Batch) -> Batch:
        """Append newly prefilled sequences; returns this batch."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        self.cache.join(other.cache)
        self.mask = torch.cat([torch.nn.functional.pad(b.mask, (width - b.mask.shape[1], 0)) for b in (self, other)])
        self.rows = self.rows + other.rows
        self.hidden = torch.cat([self.hidden, other.hidden])
        return self

    def evict(self, keep: list[int]) -> None:
        """Drop all other sequences, and the columns that are padding for all that stay."""
        rows = torch.tensor(keep, dtype=torch.long, device=self.mask.device)
        self.rows = [self.rows[i] for i in keep]
        mask = self.mask[rows]
        start = int(mask.any(0).int().argmax())
        self.mask = mask[:, start:]
        self.cache.keep(rows, start)

    def decode(self, model: Any, tokens: Tensor) -> None:
        """One forward pass over the new tokens, [B]: T grows by one."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], 1)
        self.hidden = trunk(model)(
            input_ids=tokens[:, None],
            attention_mask=self.mask,
            position_ids=self.mask.sum(1, keepdim=True) - 1,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]


def prefill(sampler: Sampler, rows: list[Row], prefix: Any, prefix_length: int) -> Batch:
    """Fill a KV cache with the prompts of some rows, behind a common prefix.

    Rows with the same prompt (a GRPO group) share one pass over it. In this pass prompts are padded on the right,
    because a sliding window counts columns and none may lie between the prefix and a row's own tokens; then keys and
    values move to the right end, where decoding goes on.
    """
    from steersman.lm.kv_cache import KVCache

    model, pad = sampler.model, sampler.chat.tokenizer.pad_token_id or 0
    prompts = list(dict.fromkeys(tuple(row.prompt) for row in rows))  # P different ones
    place = {prompt: i for i, prompt in enumerate(prompts)}
    prompt_of = torch.tensor([place[tuple(row.prompt)] for row in rows], device=model.device)  # [B]
    lengths = torch.tensor([[len(prompt)] for prompt in prompts], device=model.device)  # [P, 1]
    width = int(lengths.max())
    ids = torch.tensor([[*prompt, *[pad] * (width - len(prompt))] for prompt in prompts], device=model.device)
    columns = torch.arange(prefix_length + width, device=model.device).expand(len(prompts), -1)  # [P, T]
    cache = KVCache() if prefix is None else prefix.prefix(len(prompts), prefix_length)
    hidden = trunk(model)(
        input_ids=ids,
        attention_mask=(columns < prefix_length + lengths).long(),
        position_ids=columns[:, prefix_length:],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    source = columns - (width - lengths)  # negative where padding now comes first
    cache.rearrange(source.clamp(min=0), prompt_of)
    last = hidden.take_along_dim(lengths[:, :, None] - 1, 1)[:, 0]  # [P, H]
    return Batch(rows, cache, (source >= 0).long()[prompt_of], last[prompt_of])


def read(sampler: Sampler, rows: list[Row], shared: list[int]) -> Batch | UncachedBatch:
    """Prompts behind a common prefix, ready to be decoded; without a KV cache where the model allows none."""
    if not fast_paths(sampler.model).kv_cache:
        return UncachedBatch.read(sampler.model, rows, shared, sampler.chat.tokenizer.pad_token_id or 0)
    prefix = sampler.prefix.prefill(sampler.model, shared) if shared else None  # batch of one
    return prefill(sampler, rows, prefix, len(shared))


def _generate(
    sampler: Sampler, head: Head, queue: list[Row], shared: list[int], config: SamplingConfig, on_text: OnText | None
) -> Iterator[Completion]:
    """The loop of continuous batching; the queue is sorted by length."""
    model, chat = sampler.model, sampler.chat
    ids = None if sampler.vocabulary is None else sampler.vocabulary.exact  # token ids of the head's rows
    batch: Any = None  # a Batch, or an UncachedBatch
    while queue or batch is not None:
        # 1. Admit and prefill when the batch is empty or a quarter of it is free.
        free = config.batch_size - (len(batch.rows) if batch else 0)
        if queue and (batch is None or free >= max(1, config.batch_size // 4)):
            admitted, queue = queue[:free], queue[free:]
            new = read(sampler, admitted, shared)
            batch = new if batch is None else batch.admit(new)
        # 2. Sample: hidden [B, H] -> logits [B, V] -> tokens [B]. One transfer of tokens and one of log-probs a step.
        logits, uniform = head.logits(batch.hidden).float(), uniforms(batch.rows, config, model.device)
        repeats = repeating([row.tokens for row in batch.rows], config.no_repeat_ngram, sampler.vocabulary)
        tokens, logprobs = draw_without(repeats, logits, config, uniform) if repeats else draw(logits, config, uniform)
        tokens = tokens if ids is None else ids[tokens]
        keep: list[int] = []
        for i, (row, token, logprob) in enumerate(zip(batch.rows, tokens.tolist(), logprobs.tolist(), strict=True)):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            reason = row.finish_reason(chat, config.max_new_tokens)
            completion = row.completion(chat, reason) if reason else None
            if on_text is not None:
                on_text(row.index, completion.text if completion else row.text_so_far(chat.tokenizer))
            if completion is None:
                keep.append(i)
            else:
                yield completion
        # 3. Evict finished sequences.
        if not keep:
            batch = None
            continue
        if len(keep) < len(batch.rows):
            batch.evict(keep)
            tokens = tokens[keep]
        # 4. Decode: new tokens [B, 1] -> hidden [B, H].
        batch.decode(model, tokens)


# ── sampling one token ───────────────────────────────────────────────────────────────────────────────────────────────
def uniforms(rows: Sequence[Row], config: SamplingConfig, device: Any = None) -> Tensor | None:
    """The next random number of each row, [B] in double; None for greedy decoding, which needs none."""
    if config.temperature == 0:
        return None
    return torch.tensor([row.uniform() for row in rows], dtype=torch.float64, device=device)


def draw_without(
    columns: Sequence[tuple[int, int]], logits: Tensor, config: SamplingConfig, uniform: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `draw`, but for some pairs of row and column of the logits; the log-probs stay those among all columns."""
    allowed = logits.clone()
    allowed[tuple(torch.tensor(columns, device=logits.device).T)] = -torch.inf
    tokens, _ = draw(allowed, config, uniform)
    return tokens, logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


def draw(logits: Tensor, config: SamplingConfig, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """One token per row and its log-probability under the model itself.

    Args:
        logits: [B, V] fp32; used as working memory.
        uniform: [B] random numbers in [0, 1), double; not read, so None will do, in greedy decoding.

    Returns:
        ([B] token ids, [B] log-probs at temperature 1 over the whole vocabulary).
    """
    if config.temperature == 0:
        best, tokens = logits.max(-1, keepdim=True)
        return tokens[:, 0], -_block_sums(logits.sub_(best).exp_()).sum(-1).log().float()
    assert uniform is not None
    shifted = logits.sub_(logits.amax(-1, keepdim=True))
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
