"""A model's answers to the evaluation prompts, under one or more conditions, resumable batch by batch.

The raw model answers twice: to the bare prompt, and after a few-shot prompt with the persona and some demonstrations.
The second is the fair baseline (the teacher of context distillation in Askell et al. 2021, arXiv:2112.00861).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from steersman.evals.conditions import Condition
from steersman.lm.language_model import LanguageModel
from steersman.lm.sampling import SamplingConfig
from steersman.lm.transcript import Transcript
from steersman.store import StageFolder, write_jsonl
from steersman.terminal import Progress
from steersman.types import Demonstration, Message, Prompt, Record, few_shot_prompt, plain_text

VERSION = 1
ANSWERS = "answers.jsonl"


class AnswersConfig(Record):
    """How the evaluation prompts are answered. Greedy by default, so that every run gives the same answers."""

    sampling: SamplingConfig = Field(
        default=SamplingConfig(), description="Sampling of the answers; greedy by default."
    )
    baselines: tuple[Literal["raw", "raw_few_shot"], ...] = Field(
        default=("raw", "raw_few_shot"),
        description="What the aligned model is compared with: raw, raw_few_shot, both, or neither: [].",
    )
    few_shot_examples: int = Field(
        default=6, ge=1, description="Demonstrations in the few-shot prompt of the raw model."
    )


def few_shot_preamble(persona: str, demonstrations: Sequence[Demonstration], examples: int) -> tuple[Message, ...]:
    """A system message and the shortest demonstration of each of the first ``examples`` principles."""
    shortest: dict[str, Demonstration] = {}
    for row in demonstrations:
        if row.principles and isinstance(row.prompt, str) and not any(tag.startswith("lang:") for tag in row.tags):
            best = shortest.get(row.principles[0])
            if best is None or len(row.prompt + row.completion) < len(plain_text(best.prompt) + best.completion):
                shortest[row.principles[0]] = row
    return few_shot_prompt(persona, list(shortest.values())[:examples])


def run(
    config: AnswersConfig,
    model: LanguageModel,
    prompts: Sequence[Prompt],
    conditions: Sequence[Condition],
    out: StageFolder,
) -> None:
    """Answer every prompt under every condition and write answers.jsonl, ordered by condition and prompt.

    A killed run resumes at the first batch without answers, see `Transcript`.
    """
    transcript = Transcript(out.file("answers.partial.jsonl"))
    rows: list[dict[str, Any]] = []
    texts = {index: row.prompt for index, row in enumerate(prompts)}
    with Progress(out.stage, len(prompts) * len(conditions), len(transcript.rows)) as progress:
        for name, preamble in conditions:
            replies = transcript.answers(
                name, model, texts, config.sampling, preamble=preamble, advance=progress.advance
            )
            answers = [_row(prompt, replies[index]) for index, prompt in enumerate(prompts)]
            out.emit(event="answers", condition=name, **_totals(answers))
            rows += answers
    write_jsonl(out.file(ANSWERS), rows)
    transcript.file.unlink(missing_ok=True)


def _row(prompt: Prompt, answer: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in answer.items() if key not in ("step", "index")}
    text = prompt.model_dump(mode="json")["prompt"]
    return {"condition": answer["step"], "index": answer["index"], "prompt": text, **rest}


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "answers": len(rows),
        "tokens": sum(row["tokens"] for row in rows),
        "ended_by_themselves": sum(row["finish_reason"] == "stop" for row in rows),
        "truncated_prompts": sum(row["truncated_prompt_tokens"] > 0 for row in rows),
    }
