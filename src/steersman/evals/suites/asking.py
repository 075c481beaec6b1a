"""Asking a model the questions of a suite, so that a killed process loses little and changes nothing.

Free answers come through `lm/transcript.Transcript`. Options are compared by the summed log-probability of their
tokens after the prompt, as lm-evaluation-harness does: the options of a question share one row, so that its prompt is
read once (`lm/shared_prefix.py`). A plain question's text is encoded whole and cut where its prompt's own ids end,
which is the harness's rule too; an empty prompt is the token that begins a text. In a chat, an option is an answer
without its terminator.

A model that gives no log-probabilities of texts, such as an endpoint, is shown the options with letters and asked for
one (`LanguageModel.choose`). That is another question than the published one, and the results say so; a plain question
cannot be asked so at all.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from steersman.errors import DataError
from steersman.evals.suites.suite import Question, Reply, Suite
from steersman.lm import limits
from steersman.lm.chat_format import ChatFormat
from steersman.lm.head import head_of
from steersman.lm.language_model import LanguageModel, LocalModel
from steersman.lm.sampling import SamplingConfig
from steersman.lm.shared_prefix import Group, shared_prefix_batch, shared_prefix_logprobs
from steersman.lm.transcript import RESUMABLE, Transcript
from steersman.store import append_jsonl, cut_torn_tail, read_jsonl, write_jsonl
from steersman.types import plain_text

BATCH_TOKENS = 4096  # of all rows of a batch, with their padding
LETTERS = string.ascii_uppercase
TOO_LONG, NAMES_NONE = "longer than the model reads", "the answer names no option"
Advance = Callable[[int], object]


def ask(
    suite: Suite,
    questions: Sequence[Question],
    model: LanguageModel,
    sampling: SamplingConfig,
    file: Path,
    say: Advance,
) -> None:
    """Write the model's reply to every question, a row each with its ``index``, in order; resumes what is there.

    Args:
        sampling: of free answers; their length is the suite's, if that is less.
        file: gets the rows at the end, in one step.
        say: called with the number of new replies.

    Raises:
        DataError: the suite compares texts, and the model gives no log-probabilities of them.
    """
    if file.exists():
        return
    partial = file.with_name(f"{file.stem}.partial.jsonl")
    free = {i: question for i, question in enumerate(questions) if not question.options}
    rows: list[dict[str, Any]] = []
    if free:
        config = at_most(sampling, suite)
        prompts = {i: question.prompt for i, question in free.items()}
        said = Transcript(partial).answers(suite.name, model, prompts, config, advance=lambda: say(1))
        rows += [{**row, "index": index} for index, row in said.items()]
    chosen = {i: question for i, question in enumerate(questions) if question.options}
    if chosen:
        choose = _by_logprob if isinstance(model, LocalModel) else _by_letter
        rows += choose(suite, chosen, model, file.with_name(f"{file.stem}.options.partial.jsonl"), say)
    write_jsonl(file, sorted(rows, key=lambda row: row["index"]))
    for left in (partial, file.with_name(f"{file.stem}.options.partial.jsonl")):
        left.unlink(missing_ok=True)


def at_most(sampling: SamplingConfig, suite: Suite) -> SamplingConfig:
    """The sampling of a suite's answers."""
    return sampling.model_copy(update={"max_new_tokens": min(sampling.max_new_tokens, suite.max_new_tokens)})


def read_replies(file: Path) -> tuple[list[Reply | None], dict[str, int]]:
    """The replies in a file of `ask`, None for a question without one, and how many were dropped, by reason."""
    replies: list[Reply | None] = []
    dropped: dict[str, int] = {}
    for row in read_jsonl(file):
        if reason := row.get("dropped"):
            dropped[reason] = dropped.get(reason, 0) + 1
            replies.append(None)
        elif "answer" in row:
            replies.append(Reply(text=row["answer"]))
        else:
            never = float("-inf")  # JSON has none
            logprobs = tuple(never if value is None else value for value in row["logprobs"])
            replies.append(Reply(logprobs=logprobs, tokens=tuple(row["tokens"])))
    return replies, dropped


def in_batches(
    batches: Sequence[Sequence[int]],
    partial: Path,
    answer: Callable[[Sequence[int]], list[dict[str, Any]]],
    say: Advance,
) -> list[dict[str, Any]]:
    """The rows of all batches: those that a killed process has written whole, and new ones, each on disk at once."""
    cut_torn_tail(partial)
    known = {row["index"]: row for row in read_jsonl(partial)}
    for batch in batches:
        if not all(index in known for index in batch):
            rows = answer(batch)
            append_jsonl(partial, rows)
            known |= {row["index"]: row for row in rows}
            say(len(rows))
    return [known[index] for batch in batches for index in batch]


# ── log-probabilities ────────────────────────────────────────────────────────────────────────────────────────────────
def encoded(question: Question, chat: ChatFormat) -> Group:
    """A question's prompt and its options as token ids, the options without terminators."""
    if not question.plain:
        prompt = chat.prompt_ids(question.prompt)
        answers = [chat.completion_ids(option, question.prompt) for option in question.options]
        return Group(prompt, [ids[:-1] if ids[-1] in chat.stop_ids else ids for ids in answers])
    tokenizer, text = chat.tokenizer, plain_text(question.prompt)

    def ids_of(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    stripped = text.rstrip(" ")
    begin = [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
    start = begin if tokenizer.bos_token_id is not None or not stripped else []
    own = ids_of(stripped) if stripped else []
    options = [ids_of(stripped + text[len(stripped) :] + option)[len(own) :] for option in question.options]
    return Group(start + own, options)


def _by_logprob(
    suite: Suite, questions: dict[int, Question], model: LanguageModel, partial: Path, say: Advance
) -> list[dict[str, Any]]:
    assert isinstance(model, LocalModel)
    exact, chat = model.sampler.model, model.sampler.chat
    groups = {i: encoded(question, chat) for i, question in questions.items()}
    for i, group in groups.items():
        if not all(group.completions):
            raise DataError(
                f"option {group.completions.index([])} of a question has no token of its own",
                where=f"suite {suite.name}, {plain_text(questions[i].prompt)[-60:]!r}",
            )
    limit = limits.positions(exact.config)
    long = [i for i, g in groups.items() if limit and len(g.prompt) + max(map(len, g.completions)) > limit]
    fitting = {i: group for i, group in groups.items() if i not in set(long)}

    def answer(batch: Sequence[int]) -> list[dict[str, Any]]:
        totals = iter(summed_logprobs(exact, [fitting[i] for i in batch], chat.tokenizer.pad_token_id or 0))
        return [
            {
                "index": i,
                "logprobs": [next(totals) for _ in fitting[i].completions],
                "tokens": [len(ids) for ids in fitting[i].completions],
            }
            for i in batch
        ]

    rows = in_batches(batched(fitting, BATCH_TOKENS), partial, answer, say)
    return rows + [{"index": i, "dropped": TOO_LONG} for i in long]


def summed_logprobs(model: Any, groups: Sequence[Group], pad_id: int) -> list[float]:
    """The summed log-probability in nats of every completion of some groups, by the exact model, in order."""
    batch = shared_prefix_batch(groups, pad_id, model.device)
    with torch.inference_mode():
        logprobs = shared_prefix_logprobs(model, batch, head_of(model), None, torch.Generator())
        totals: list[float] = batch.sum_per_sequence(logprobs.float()).tolist()
    return totals


def batched(groups: dict[int, Group], budget: int) -> list[list[int]]:
    """Batches of at most ``budget`` tokens with their padding, shorter questions first; the same ones every time."""
    return limits.padded_batches({i: group.tokens for i, group in groups.items()}, budget)


# ── letters ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def with_letters(question: Question) -> str:
    """A question with its options to choose from by letter."""
    options = "\n".join(f"({letter}) {text.strip()}" for letter, text in zip(LETTERS, question.options, strict=False))
    return f"{plain_text(question.prompt)}\n\n{options}\n\nAnswer with the letter alone."


def _by_letter(
    suite: Suite, questions: dict[int, Question], model: LanguageModel, partial: Path, say: Advance
) -> list[dict[str, Any]]:
    if any(question.plain for question in questions.values()):
        raise DataError(
            f"{suite.title} compares the log-probabilities of texts, and this model gives none of them",
            where=f"suite {suite.name}",
            expected="a run, or a model whose weights are here",
            do="leave the suite out for an endpoint",
        )

    def answer(batch: Sequence[int]) -> list[dict[str, Any]]:
        count = len(questions[batch[0]].options)
        found = model.choose([with_letters(questions[i]) for i in batch], list(LETTERS[:count]))
        return [
            {"index": i, "logprobs": list(logprobs), "tokens": [1] * count, "by_letter": True}
            if logprobs is not None
            else {"index": i, "dropped": NAMES_NONE}
            for i, logprobs in zip(batch, found, strict=True)
        ]

    batches = []
    for count in sorted({len(question.options) for question in questions.values()}):
        same = [i for i, question in questions.items() if len(question.options) == count]
        batches += [same[i : i + RESUMABLE] for i in range(0, len(same), RESUMABLE)]
    return in_batches(batches, partial, answer, say)
