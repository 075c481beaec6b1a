"""A model's answers to the evaluation prompts, under one or more conditions, resumable batch by batch.

The raw model is asked twice: on the bare prompt, and after a few-shot prompt that tells it to be a good assistant and
shows it how (Askell et al. 2021, arXiv:2112.00861, call this context distillation's teacher: the fair baseline).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from steersman.lm.sampling import Completion, LanguageModel, SamplingConfig
from steersman.store import StageFolder, append_jsonl, cut_torn_tail, read_jsonl, write_jsonl
from steersman.terminal import Progress
from steersman.types import Demonstration, Message, Prompt, Record, Text, plain_text

VERSION = 1
ANSWERS = "answers.jsonl"
RESUMABLE = 128  # prompts between two points from which a killed run goes on


class AnswersConfig(Record):
    """Greedy by default: the model's most likely answer, the same on every run."""

    sampling: SamplingConfig = SamplingConfig()
    few_shot_examples: int = Field(default=6, ge=1)


class Condition(NamedTuple):
    """A way of asking: a name for the tables, and what is put before every prompt."""

    name: str
    preamble: Text | None


def few_shot_preamble(persona: str, demonstrations: Sequence[Demonstration], examples: int) -> tuple[Message, ...]:
    """A system message and the shortest demonstration of each of the first ``examples`` principles."""
    shortest: dict[str, Demonstration] = {}
    for row in demonstrations:
        if row.principles and isinstance(row.prompt, str) and not any(tag.startswith("lang:") for tag in row.tags):
            best = shortest.get(row.principles[0])
            if best is None or len(row.prompt + row.completion) < len(plain_text(best.prompt) + best.completion):
                shortest[row.principles[0]] = row
    messages = [Message(role="system", content=persona)]
    for row in list(shortest.values())[:examples]:
        messages.append(Message(role="user", content=plain_text(row.prompt)))
        messages.append(Message(role="assistant", content=row.completion))
    return tuple(messages)


def run(
    config: AnswersConfig,
    model: LanguageModel,
    prompts: Sequence[Prompt],
    conditions: Sequence[Condition],
    out: StageFolder,
) -> None:
    """Answer every prompt under every condition and write answers.jsonl, ordered by condition and prompt.

    A killed run goes on at the first batch without answers; batches are cut the same way each time, so that the
    answers are those of an undisturbed run.
    """
    partial = out.file("answers.partial.jsonl")
    cut_torn_tail(partial)
    done = {(row["condition"], row["index"]) for row in read_jsonl(partial)}
    order = sorted(range(len(prompts)), key=lambda i: (len(plain_text(prompts[i].prompt)), i))
    batches = [order[i : i + RESUMABLE] for i in range(0, len(order), RESUMABLE)]
    with Progress(out.stage, len(prompts) * len(conditions), len(done)) as progress:
        for condition in conditions:
            for batch in batches:
                if all((condition.name, i) in done for i in batch):
                    continue
                texts = [prompts[i].prompt for i in batch]
                rows = []
                for answer in model.answers(texts, config.sampling, preamble=condition.preamble, indices=batch):
                    rows.append(_row(condition, prompts[answer.index], answer))
                    progress.advance()
                append_jsonl(partial, rows)
    names = [condition.name for condition in conditions]
    # A batch that reached the disk only in part, before a kill or on a full disk, was answered a second time.
    unique = {(names.index(row["condition"]), row["index"]): row for row in read_jsonl(partial)}
    rows = [unique[key] for key in sorted(unique)]
    write_jsonl(out.file(ANSWERS), rows)
    partial.unlink()
    for name in names:
        mine = [row for row in rows if row["condition"] == name]
        out.emit(event="answers", condition=name, **_totals(mine))


def _row(condition: Condition, prompt: Prompt, answer: Completion) -> dict[str, Any]:
    return {
        "condition": condition.name,
        "index": answer.index,
        "prompt": prompt.model_dump(mode="json")["prompt"],
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "tokens": len(answer.token_ids),
        "logprob_nats": round(sum(answer.logprobs), 3),
        "truncated_prompt_tokens": answer.truncated_prompt_tokens,
    }


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "answers": len(rows),
        "tokens": sum(row["tokens"] for row in rows),
        "ended_by_themselves": sum(row["finish_reason"] == "stop" for row in rows),
        "truncated_prompts": sum(row["truncated_prompt_tokens"] > 0 for row in rows),
    }
