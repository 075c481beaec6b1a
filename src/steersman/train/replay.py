"""Replay: text of the base model among the demonstrations, each position with KL(base || policy).

The pre-training mix of InstructGPT (Ouyang et al. 2022, arXiv:2203.02155) without its data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from steersman.lm.chat_format import ChatFormat, Example, pad
from steersman.lm.packing import scored_hidden
from steersman.lm.sampling import Sampler, SamplingConfig
from steersman.store import StageFolder, read_jsonl, write_jsonl
from steersman.terminal import Progress
from steersman.train import distributed
from steersman.types import Record


class ReplayConfig(Record):
    """Text sampled from the base model, mixed among the demonstrations: the pre-training mix of InstructGPT without its
    data. It keeps the general language model in place while the demonstrations change its manners."""

    rows: int = Field(default=0, ge=0, description="Continuations of everyday sentence starts to sample; 0 is none.")
    tokens: int = Field(default=64, ge=8, description="Tokens sampled for each of them.")
    weight: float = Field(default=1.0, ge=0, description="Coefficient of KL(base || policy) at their positions.")


# How English sentences start; none of these has a topic.
SENTENCE_STARTS = (
    "The", "A", "In", "It", "This", "When", "For", "There", "We", "At", "One", "As",
    "After", "If", "On", "Many", "She", "He", "They", "While", "Some", "To", "Most", "With",
    "By", "From", "Our", "During", "Since", "Although", "All", "Each", "You", "Here", "Once", "Before",
    "Because", "Last", "Two", "What", "How", "Today", "Every", "No", "His", "Her", "My", "First",
)  # fmt: skip


class Replayed(NamedTuple):
    """A text of the base model, its hidden states at the positions that carry loss, [N, H], and the loss's weight."""

    example: Example
    reference: Tensor
    weight: float


def by_weight(rows: Sequence[Replayed]) -> list[list[Replayed]]:
    """The texts of each weight; they share no batch with others."""
    return [[row for row in rows if row.weight == weight] for weight in dict.fromkeys(row.weight for row in rows)]


def replay(config: ReplayConfig, seed: int, model: Any, chat: ChatFormat, out: StageFolder) -> list[Replayed]:
    """Text sampled from the base model at temperature 1; kept in replay.jsonl, so that a resumed run reads it."""
    if not config.rows:
        return []
    path = out.file("replay.jsonl")
    bos = [] if chat.tokenizer.bos_token_id is None else [chat.tokenizer.bos_token_id]
    if not path.exists() and distributed.rank() == 0:
        words = [SENTENCE_STARTS[i % len(SENTENCE_STARTS)] for i in range(config.rows)]
        starts = [bos + chat.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        sampling = SamplingConfig(temperature=1.0, max_new_tokens=config.tokens, seed=seed, batch_size=128)
        rows: list[list[int]] = [[] for _ in starts]
        with Progress("replay", config.rows) as progress:
            for completion in Sampler(model, chat).continue_ids(starts, sampling):
                rows[completion.index] = starts[completion.index] + completion.token_ids
                progress.advance()
        kept = [
            {"token_ids": row, "start": len(start), "text": chat.decode(row)}
            for row, start in zip(rows, starts, strict=True)
        ]
        write_jsonl(path, kept)
    distributed.barrier()
    replayed = []
    rows_read = read_jsonl(path)
    with Progress("replay, reference", len(rows_read)) as progress, torch.no_grad():
        for row in rows_read:
            example = Example(row["token_ids"], row["start"])
            hidden = scored_hidden(model, pad([example], 0, model.device))[0]
            replayed.append(Replayed(example, hidden, config.weight))
            progress.advance()
    return replayed
