"""Context distillation (Askell et al. 2021, arXiv:2112.00861): the base model learns what it says after a good prompt.

The teacher is the base model after a persona and a few plain demonstrations; it answers many prompts that call for no
refusal. The student reads the bare prompt and learns the teacher's distribution at every token of these answers,

    loss = sum over answer tokens of KL( pi_base(. | few-shot prompt, x, y_<t) || pi(. | x, y_<t) )

It is the base model's own text, so that it costs little drift, and it holds plain answers in place while
demonstrations teach when to refuse. The token that ends an answer is left to the demonstrations: a base model ends a
few-shot answer with the next turn, not with its end-of-text token.

What differs from the paper: the prompts are those of the demonstrations, not of a public forum; the teacher's whole
distribution is matched on the vocabulary of `lm/head.py`, not its 50 best tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from steersman.data.loops import loops
from steersman.data.sources import spread
from steersman.errors import DataError
from steersman.lm.chat_format import ChatFormat, Example, pad
from steersman.lm.head import trunk
from steersman.lm.sampling import Request, Sampler, SamplingConfig, common_prefix
from steersman.store import StageFolder, read_jsonl, write_jsonl
from steersman.terminal import Progress
from steersman.train import distributed
from steersman.types import Demonstration, Message, Record, few_shot_prompt, plain_text

FILE = "distilled.jsonl"
SAMPLED_AT_ONCE = 64  # prompts that the teacher answers at a time
TEACHER_BATCH = 16  # answers whose hidden states the teacher computes in one pass
SHORTEST = 3  # words of an answer that is kept


class DistillationConfig(Record):
    """Context distillation: the base model's own answers after a few-shot prompt, matched without the prompt."""

    prompts: int = Field(default=0, ge=0, description="Prompts to answer, spread over those that call for no refusal.")
    examples: int = Field(default=8, ge=1, description="Plain demonstrations in the teacher's prompt.")
    tokens: int = Field(default=48, ge=8, description="Most tokens of a teacher's answer.")
    temperature: float = Field(default=0.7, ge=0, description="Sampling temperature of the teacher's answers.")
    weight: float = Field(default=1.0, ge=0, description="Coefficient of KL(teacher || policy) at their positions.")


class Teacher(NamedTuple):
    """The persona of the teacher's system message, and what tells whether an answer (second) refuses a prompt."""

    persona: str
    refuses: Callable[[str, str], bool]


def teachers_prompt(persona: str, demonstrations: Sequence[Demonstration], examples: int) -> tuple[Message, ...]:
    """The persona and some plain demonstrations, of middling length and spread over the file."""
    plain = [row for row in answerable(demonstrations) if isinstance(row.prompt, str)]
    lengths = sorted(len(row.completion) for row in plain) or [0]
    low, high = (lengths[int(share * (len(lengths) - 1))] for share in (0.3, 0.7))
    middling = [row for row in plain if low <= len(row.completion) <= high and "\n" not in row.completion]
    return few_shot_prompt(persona, spread(middling or plain, examples))


def answerable(demonstrations: Sequence[Demonstration]) -> list[Demonstration]:
    """Demonstrations in the main language that call for a plain answer: tagged ``plain`` or ``lookalike``.

    Raises:
        DataError: there are none.
    """
    found = [
        row
        for row in demonstrations
        if {"plain", "lookalike"} & set(row.tags) and not any(tag.startswith("lang:") for tag in row.tags)
    ]
    if not found:
        raise DataError(
            "no demonstration is tagged plain or lookalike, so there is nothing to distil",
            where="sft.distillation",
            do="tag demonstrations that call for a plain answer, or set sft.distillation.prompts: 0",
        )
    return found


def why_dropped(prompt: str, answer: str, refuses: Callable[[str, str], bool], *, ended: bool) -> str | None:
    """Why an answer is not worth matching, None if it is."""
    words = answer.lower().split()
    if not ended:
        return "not ended"
    if len(words) < SHORTEST:
        return "too short"
    if loops(answer):
        return "loop"
    if " ".join(words) in prompt.lower():
        return "copy of the prompt"
    return "refusal" if refuses(prompt, answer) else None


def answers(
    config: DistillationConfig,
    teacher: Teacher | None,
    demonstrations: Sequence[Demonstration],
    model: Any,
    chat: ChatFormat,
    seed: int,
    out: StageFolder,
) -> tuple[list[Example], list[Tensor]]:
    """The teacher's answers behind bare prompts, and the teacher's hidden states at their tokens, [N, H] each.

    Answers are kept in distilled.jsonl, dropped ones with the reason, so that a resumed run reads them.
    """
    if not config.prompts:
        return [], []
    if teacher is None:
        raise ValueError("distillation needs a teacher")
    preamble, path = teachers_prompt(teacher.persona, demonstrations, config.examples), out.file(FILE)
    prompts = [row.prompt for row in spread(answerable(demonstrations), config.prompts)]
    if not path.exists() and distributed.rank() == 0:
        sampling = SamplingConfig(
            temperature=config.temperature, max_new_tokens=config.tokens, seed=seed, batch_size=SAMPLED_AT_ONCE
        )
        found = []
        with Progress("distillation", len(prompts)) as progress:
            for reply in Sampler(model, chat).generate(Request(prompts, sampling, preamble=preamble)):
                prompt = plain_text(prompts[reply.index])
                why = why_dropped(prompt, reply.text, teacher.refuses, ended=reply.finish_reason != "length")
                found.append({"index": reply.index, "prompt": prompt, "answer": reply.text, "dropped": why})
                progress.advance()
        write_jsonl(path, sorted(found, key=lambda row: row["index"]))
    distributed.barrier()
    rows = read_jsonl(path)
    counts = Counter(row["dropped"] or "kept" for row in rows)
    out.emit(event="distillation", **{name.replace(" ", "_"): count for name, count in counts.items()})
    kept = [row for row in rows if row["dropped"] is None]
    examples, taught = (
        [
            Example(ids + completion, len(ids))
            for row in kept
            for ids in [chat.prompt_ids(prompts[row["index"]], before)]
            for completion in [chat.completion_ids(row["answer"], prompts[row["index"]])[:-1]]
        ]
        for before in (None, preamble)
    )
    return examples, teachers_states(model, taught, chat.tokenizer.pad_token_id or 0)


def shared_beginning(taught: Sequence[Example]) -> list[int]:
    """The ids with which all texts begin, before the positions that predict their completions."""
    shared = common_prefix([example.token_ids for example in taught])
    return shared[: min((example.completion_start for example in taught), default=1) - 1]


def teachers_states(model: Any, taught: Sequence[Example], pad_id: int) -> list[Tensor]:
    """Hidden states, [N, H] each, that predict the completions; how all texts begin is read once."""
    from steersman.lm.kv_cache import KVCache

    shared, device = shared_beginning(taught), model.device
    states: list[Tensor] = [torch.empty(0)] * len(taught)
    order = sorted(range(len(taught)), key=lambda i: len(taught[i].token_ids))
    with torch.no_grad():
        cache = KVCache()
        if shared:
            trunk(model)(input_ids=torch.tensor([shared], device=device), past_key_values=cache, use_cache=True)
        for part in (order[i : i + TEACHER_BATCH] for i in range(0, len(order), TEACHER_BATCH)):
            own = [Example(taught[i].token_ids[len(shared) :], taught[i].completion_start - len(shared)) for i in part]
            batch = pad(own, pad_id, device)
            width = batch.token_ids.shape[1]
            hidden = trunk(model)(
                input_ids=batch.token_ids,
                attention_mask=torch.nn.functional.pad(batch.attention_mask, (len(shared), 0), value=1),
                position_ids=torch.arange(len(shared), len(shared) + width, device=device).expand(len(part), -1),
                past_key_values=cache.prefix(len(part), len(shared)) if shared else None,
                use_cache=bool(shared),
            ).last_hidden_state
            for row, i, example in zip(hidden, part, own, strict=True):
                states[i] = row[example.completion_start - 1 : len(example.token_ids) - 1].clone()
    return states
