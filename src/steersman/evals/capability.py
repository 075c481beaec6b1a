"""The alignment tax: perplexity on neutral prose and general knowledge, both scored by log-probability.

Knowledge items are scored without sampling: of "Question: ... Answer: <option>", the option whose tokens have the
highest summed log-probability is the model's answer. The items ship with Steersman, in `data/library/capability/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field

from steersman.functional import gather_scored, sum_per_sequence
from steersman.lm import pretrained
from steersman.lm.adapters import load_policy
from steersman.lm.chat_format import Example, pad
from steersman.lm.head import Head, head_of, token_logprobs, trunk
from steersman.store import (
    StageFolder,
    append_jsonl,
    cut_torn_tail,
    read_jsonl,
    sha256_file,
    sha256_text,
    write_jsonl,
)
from steersman.terminal import Progress
from steersman.types import Record

VERSION = 1
LIBRARY = Path(__file__).parent.parent / "data" / "library" / "capability"
CAPABILITY = "capability.jsonl"


class CapabilityConfig(Record):
    """The measurement of the alignment tax: perplexity and general knowledge."""

    knowledge_items: int | None = Field(default=None, ge=1, description="Knowledge questions to score; null for all.")
    neutral_passages: int | None = Field(default=None, ge=1, description="Prose passages to score; null for all.")
    batch_size: int = Field(default=32, ge=1, description="Sequences in one forward pass.")


class Job(NamedTuple):
    """One sequence to score: the log-probability is that of the example's completion."""

    kind: str  # "neutral" or "knowledge"
    item: int
    option: int
    example: Example


def sequence_logprobs(model: Any, head: Head, examples: Sequence[Example], pad_id: int) -> list[float]:
    """Summed log-probability in nats of each example's completion, [B]."""
    batch = pad(examples, pad_id, model.device)
    with torch.inference_mode():
        hidden = trunk(model)(
            input_ids=batch.token_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        scored, targets = gather_scored(hidden, batch.token_ids, batch.completion_mask)
        totals: list[float] = sum_per_sequence(token_logprobs(scored, targets, head), batch.completion_mask).tolist()
    return totals


def jobs(tokenizer: Any, config: CapabilityConfig) -> list[Job]:
    """Every sequence to score, tokenised, shortest first."""

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    sequences = []
    for i, row in enumerate(read_jsonl(LIBRARY / "neutral.jsonl")[: config.neutral_passages]):
        ids = bos + encode(row["text"])
        sequences.append(Job("neutral", i, 0, Example(ids, 1)))
    for i, row in enumerate(read_jsonl(LIBRARY / "knowledge.jsonl")[: config.knowledge_items]):
        question = bos + encode(f"Question: {row['question']}\nAnswer:")
        for j, option in enumerate(row["options"]):
            sequences.append(Job("knowledge", i, j, Example(question + encode(f" {option}"), len(question))))
    return sorted(sequences, key=lambda job: (len(job.example.token_ids), job.kind, job.item, job.option))


def items_digest() -> str:
    """Digest of the shipped items."""
    return sha256_text("".join(sha256_file(LIBRARY / name) for name in ("knowledge.jsonl", "neutral.jsonl")))


def run(config: CapabilityConfig, base: Path, trained: Path | None, out: StageFolder) -> None:
    """Score all items and write capability.jsonl. A killed run resumes after its last finished batch."""
    model, tokenizer = load_policy(base, trained), pretrained.load_tokenizer(base)
    head, pad_id = head_of(model), tokenizer.pad_token_id or 0
    todo = jobs(tokenizer, config)
    partial = out.file("scored.partial.jsonl")
    cut_torn_tail(partial)
    scored = read_jsonl(partial)
    start = len(scored) // config.batch_size * config.batch_size  # a batch that is half on disk is scored again
    write_jsonl(partial, scored[:start])
    with Progress(out.stage, len(todo), start) as progress:
        for i in range(start, len(todo), config.batch_size):
            batch = todo[i : i + config.batch_size]
            totals = sequence_logprobs(model, head, [job.example for job in batch], pad_id)
            append_jsonl(partial, [_row(job, total) for job, total in zip(batch, totals, strict=True)])
            progress.advance(len(batch))
    rows = sorted(read_jsonl(partial), key=lambda row: (row["kind"], row["item"], row["option"]))
    write_jsonl(out.file(CAPABILITY), rows)
    partial.unlink()


def _row(job: Job, total: float) -> dict[str, Any]:
    tokens = len(job.example.token_ids) - job.example.completion_start
    return {"kind": job.kind, "item": job.item, "option": job.option, "logprob_nats": total, "tokens": tokens}


def knowledge_answers(rows: Sequence[dict[str, Any]]) -> list[bool]:
    """Whether each knowledge item was answered correctly, in the order of the items."""
    items = read_jsonl(LIBRARY / "knowledge.jsonl")
    options: dict[int, dict[int, float]] = {}
    for row in rows:
        if row["kind"] == "knowledge":
            options.setdefault(row["item"], {})[row["option"]] = row["logprob_nats"]
    return [max(scores, key=scores.__getitem__) == items[i]["answer"] for i, scores in sorted(options.items())]


def passages(rows: Sequence[dict[str, Any]]) -> tuple[list[float], list[int]]:
    """Negative log-likelihood in nats and number of tokens of each neutral passage."""
    neutral = [row for row in rows if row["kind"] == "neutral"]
    return [-row["logprob_nats"] for row in neutral], [row["tokens"] for row in neutral]
