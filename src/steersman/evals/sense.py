"""Do the answers make sense? Relevance, loops, fluency and known facts, raw few-shot against aligned.

An answer can have every manner that its prompt calls for and mean nothing. Four measures say how often; the same raw
model judges both conditions, always with spelled-out roles. x is the answer's prompt, a the answer's tokens without
their terminator, x'_1 ... x'_K are other prompts of other topics, drawn with a fixed seed.

On the question: pointwise mutual information (Church & Hanks 1990; for answers, Li et al. 2016, arXiv:1510.03055;
Holtzman et al. 2021, arXiv:2104.08315). p(a) cancels, so that how common an answer is does not count:

    margin = log p_raw(a | x) - max_j log p_raw(a | x'_j)          on the question: margin > 0

By exchangeability an answer about nothing passes with probability 1 / (K + 1). That and the misses are measured on
what people wrote: sensitivity s on their own prompts, false positives f on an exchanged prompt against K others. The
rate corrected for both is Rogan & Gladen's (1978), (rate - f) / (s - f).

Loops: exact repetition, `data/loops.py` (Holtzman et al. 2020, arXiv:1904.09751). Fluency: log p_raw(a | x) by token;
*garbled* is what lies below the 5 % quantile of what people wrote. Facts: greedy answers to questions with known
answers, as in open-domain question answering (Joshi et al. 2017, arXiv:1705.03551).

    makes sense = on the question, and no loop, and not garbled, and ended

These are necessary and not sufficient: fluent nonsense on the subject passes, so that the rate is an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from steersman.data.loops import loops
from steersman.data.sources import spread
from steersman.evals import capability, facts
from steersman.evals.conditions import ALIGNED, FEW_SHOT, Condition, conditions_of, subject
from steersman.evals.facts import Fact
from steersman.evals.scores import measure, passes
from steersman.lm.chat_format import ChatFormat, Example, shorten
from steersman.lm.head import head_of
from steersman.lm.language_model import LocalModel
from steersman.lm.sampling import Sampler, SamplingConfig
from steersman.stats import Estimate, mean_estimate, wilson
from steersman.store import StageFolder, append_jsonl, cut_torn_tail, read_jsonl, write_json, write_jsonl
from steersman.terminal import Progress
from steersman.types import Comparison, Demonstration, Message, Prompt, Record, Seed, Text, plain_text

VERSION = 1
SUMMARY, SENSE, HUMAN_WRITTEN, ANSWERS = "summary.json", "sense.jsonl", "human_written.jsonl", "answers.jsonl"
PARTIAL_SCORES, PARTIAL_ANSWERS = "scored.partial.jsonl", "answers.partial.jsonl"
HUMAN = "human"  # beside the conditions, what people wrote
GARBLED_BELOW = 0.05  # quantile of what people wrote
ENOUGH = 30  # human-written rows, below which the report says that the errors are hardly known
MAX_PROMPT_TOKENS = 1024  # as in sampling; a longer prompt loses its beginning
DRAWS = 4000  # of the corrected rate's interval

Row = Mapping[str, Any]


class SenseConfig(Record):
    """Do the answers make sense? On the question, no loop, not garbled, ended; and facts with known answers."""

    prompts: int = Field(default=100, ge=1, description="Evaluation prompts whose answers are judged, spread evenly.")
    exchanged: int = Field(default=3, ge=1, description="Other prompts that each answer is held against.")
    human_written: int = Field(
        default=100, ge=0, description="Most human-written answers that measure the classifier's own error."
    )
    facts: int = Field(default=120, ge=1, description="Facts to ask, spread over the 120 that ship.")
    batch_size: int = Field(default=16, ge=1, description="Sequences that are scored in one forward pass.")
    seed: Seed = Field(default=0, description="Seed of the draw of exchanged prompts.")
    sampling: SamplingConfig = Field(
        default=SamplingConfig(max_new_tokens=48), description="Sampling of the answers to facts; greedy by default."
    )


class SenseSettings(SenseConfig):
    """The section with what the raw model's few-shot prompt needs; the recipe says that in ``answers``."""

    few_shot_examples: int


class SenseData(NamedTuple):
    """What is measured. ``answers``: by condition and by the evaluation prompt's index, rows of answers.jsonl.

    The conditions are the subject and, unless it was left out, the few-shot baseline before it.
    """

    evaluation: Sequence[Prompt]
    answers: Mapping[str, Mapping[int, Row]]
    written: Sequence[Written]
    facts: Sequence[Fact]
    preamble: tuple[Message, ...]  # the few-shot prompt


# ── what is scored ───────────────────────────────────────────────────────────────────────────────────────────────────
class Written(NamedTuple):
    """A prompt with an answer that a person wrote (empty for an evaluation prompt), and what it is about."""

    prompt: Text
    answer: str
    topic: str
    language: str

    @classmethod
    def of(cls, row: Demonstration | Comparison | Prompt, answer: str = "") -> Written:
        """From a row of the data; without a topic, its prompt is a topic of its own."""
        language = next((tag for tag in row.tags if tag.startswith("lang:")), "")
        return cls(row.prompt, answer, row.topic or plain_text(row.prompt), language)


def human_written(
    validation: Sequence[Demonstration], held_out: Sequence[Comparison], limit: int | None
) -> list[Written]:
    """Demonstrations of the validation split and better answers of held-out comparisons, spread evenly over both."""
    rows = [Written.of(row, row.completion) for row in validation]
    for row in held_out:
        ranks = row.ranks()
        if len(set(ranks)) > 1 and not row.both_bad:
            rows.append(Written.of(row, row.options[ranks.index(1)]))
    return spread(rows, limit)


def exchanged(rows: Sequence[Written], wanted: Iterable[int], count: int, seed: int) -> dict[int, list[int]]:
    """For each wanted row, ``count`` other rows of other topics; fewer where there are fewer.

    Rows of the same language are preferred, because another language would give itself away. A row's draw depends on
    its index, not on which rows are wanted.
    """
    drawn = {}
    for index in wanted:
        mine = rows[index]
        others = [i for i, row in enumerate(rows) if row.topic != mine.topic]
        alike = [i for i in others if rows[i].language == mine.language]
        pool = alike if len(alike) >= count else others
        order = np.random.default_rng([seed, index]).permutation(len(pool))
        drawn[index] = [pool[place] for place in order[:count]]
    return drawn


def prompts_of(config: SenseConfig, evaluation: Sequence[Prompt]) -> dict[int, list[int]]:
    """The evaluation prompts whose answers are judged, by index, each with the prompts that it is exchanged with.

    A prompt with too few others of other topics is left out; the summary counts it.
    """
    rows = [Written.of(row) for row in evaluation]
    drawn = exchanged(rows, spread(range(len(rows)), config.prompts), config.exchanged, config.seed)
    return {index: others for index, others in drawn.items() if len(others) == config.exchanged}


class Candidate(NamedTuple):
    """An answer to be scored after its own prompt (the first) and after exchanged ones, all as token ids."""

    group: str  # a condition, or HUMAN
    row: int  # of the evaluation prompts, or of the human-written answers
    prompts: list[list[int]]
    answer: list[int]


def spelled(chat: ChatFormat) -> ChatFormat:
    """The format with spelled-out roles, in which the raw model judges."""
    return replace(chat, template=None)


def candidates(
    config: SenseConfig,
    chat: ChatFormat,
    evaluation: Sequence[Prompt],
    written: Sequence[Written],
    answers: Mapping[str, Mapping[int, list[int]]],
) -> list[Candidate]:
    """Everything to score. A human-written answer has one more exchanged prompt, which poses as its own.

    Args:
        answers: token ids without terminator, by condition and index of the prompt.
    """
    plain = spelled(chat)

    def ids(text: Text) -> list[int]:
        return shorten(plain.prompt_ids(text), MAX_PROMPT_TOKENS)

    posed = exchanged(written, range(len(written)), config.exchanged + 1, config.seed)
    found = [
        Candidate(HUMAN, i, [ids(written[j].prompt) for j in (i, *others)], answer_ids(chat, written[i].answer))
        for i, others in posed.items()
    ]
    for index, others in prompts_of(config, evaluation).items():
        prompts = [ids(evaluation[i].prompt) for i in (index, *others)]
        found += [Candidate(group, index, prompts, own[index]) for group, own in answers.items()]
    return found


def answer_ids(chat: ChatFormat, answer: str) -> list[int]:
    """Token ids of an answer without terminator; none for an empty one."""
    return spelled(chat).completion_ids(answer)[:-1] if answer.strip() else []


class Job(NamedTuple):
    """One sequence to score; ``place`` 0 is the answer's own prompt."""

    group: str
    row: int
    place: int
    example: Example


def jobs(found: Iterable[Candidate]) -> list[Job]:
    """Every sequence to score, shortest first."""
    sequences = [
        Job(each.group, each.row, place, Example(prompt + each.answer, len(prompt)))
        for each in found
        if each.answer
        for place, prompt in enumerate(each.prompts)
    ]
    return sorted(sequences, key=lambda job: (len(job.example.token_ids), job.group, job.row, job.place))


def score(config: SenseConfig, sampler: Sampler, todo: Sequence[Job], file: Path, stage: str) -> Sequence[Row]:
    """Summed log-probabilities, a row per job, in ``file``. A killed run resumes after its last finished batch."""
    head, pad_id = head_of(sampler.model), sampler.chat.tokenizer.pad_token_id or 0
    cut_torn_tail(file)
    done = read_jsonl(file)
    start = len(done) // config.batch_size * config.batch_size  # a batch that is half on disk is scored again
    if len(done) < len(todo):
        write_jsonl(file, done[:start])
        with Progress(stage, len(todo), start) as progress:
            for i in range(start, len(todo), config.batch_size):
                batch = todo[i : i + config.batch_size]
                totals = capability.sequence_logprobs(sampler.model, head, [job.example for job in batch], pad_id)
                append_jsonl(
                    file,
                    [
                        {"group": job.group, "row": job.row, "place": job.place, "logprob_nats": total}
                        for job, total in zip(batch, totals, strict=True)
                    ],
                )
                progress.advance(len(batch))
    return read_jsonl(file)


# ── from log-probabilities to verdicts ───────────────────────────────────────────────────────────────────────────────
class Scored(NamedTuple):
    """Log-probabilities of an answer in nats: after its own prompt (None: it is empty), and after exchanged ones."""

    own: float | None
    others: tuple[float, ...]
    tokens: int

    def margin(self, count: int) -> float | None:
        """Own prompt minus the best of ``count`` exchanged ones."""
        others = self.others[:count]
        return self.own - max(others) if self.own is not None and len(others) == count else None

    def posed_margin(self, count: int) -> float | None:
        """The margin of an exchanged prompt that poses as the answer's own."""
        return self.others[count] - max(self.others[:count]) if len(self.others) > count else None

    @property
    def nats_per_token(self) -> float | None:
        """Mean log-probability of the answer's tokens after its own prompt."""
        return self.own / self.tokens if self.own is not None else None


def collect(found: Sequence[Candidate], rows: Sequence[Row]) -> dict[tuple[str, int], Scored]:
    """The log-probabilities of each answer, by group and index."""
    places = {(row["group"], row["row"], row["place"]): row["logprob_nats"] for row in rows}
    return {
        (each.group, each.row): Scored(
            places.get((each.group, each.row, 0)),
            tuple(places[each.group, each.row, place] for place in range(1, len(each.prompts)) if each.answer),
            len(each.answer),
        )
        for each in found
    }


def garbled_below(human: Iterable[Scored]) -> float | None:
    """The 5 % quantile of human-written answers in nats per token; None without any."""
    values = [row.nats_per_token for row in human if row.nats_per_token is not None]
    return float(np.quantile(values, GARBLED_BELOW)) if values else None


def verdict(prompt: Prompt, answer: Row, scored: Scored, count: int, threshold: float | None) -> dict[str, Any]:
    """One judged answer. An empty one is neither on the question nor fluent."""
    margin, fluency = scored.margin(count), scored.nats_per_token
    found = {
        "on_question": margin is not None and margin > 0,
        "loop": loops(answer["answer"]),
        "garbled": fluency is None or (threshold is not None and fluency < threshold),
        "ended": answer["finish_reason"] != "length",  # a base model ends an answer with the next turn
    }
    sense = found["on_question"] and found["ended"] and not found["loop"] and not found["garbled"]
    return {
        "condition": answer["condition"],
        "index": answer["index"],
        "prompt": prompt.model_dump(mode="json")["prompt"],
        "answer": answer["answer"],
        "margin_nats": margin,
        "nats_per_token": fluency,
        **found,
        "makes_sense": sense,
        "kept": bool(passes(prompt, answer["answer"])) if prompt.expect else None,
    }


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────
MEASURES: Mapping[str, Callable[[Row], bool]] = {
    "on the question": lambda r: r["on_question"],
    "loop": lambda r: r["loop"],
    "garbled": lambda r: r["garbled"],
    "ended": lambda r: r["ended"],
    "makes sense": lambda r: r["makes_sense"],
}


def summarise(
    config: SenseConfig, rows: Sequence[Row], written: Sequence[Row], asked: Sequence[Row], threshold: float | None
) -> dict[str, Any]:
    """The tables of the report as JSON values.

    Args:
        rows: of sense.jsonl; written: of human_written.jsonl; asked: of answers.jsonl, all ordered by condition.
        threshold: nats per token, below which an answer is garbled.
    """
    names = conditions_of([*rows, *asked]) or (ALIGNED,)
    own = {name: [row for row in rows if row["condition"] == name] for name in names}
    with_manners = {name: [row for row in group if row["kept"] is not None] for name, group in own.items()}
    table = [measure(label, own, fact) for label, fact in MEASURES.items()]
    table.append(measure("keeps its principle", with_manners, lambda r: r["kept"]))
    table.append(measure("keeps its principle and makes sense", with_manners, lambda r: r["kept"] and r["makes_sense"]))
    true = [row["on_question"] for row in written if row["on_question"] is not None]
    posed = [row["exchanged_on_question"] for row in written if row["exchanged_on_question"] is not None]
    sensitivity, false_positive = wilson(sum(true), len(true)), wilson(sum(posed), len(posed))
    answered = {name: [row for row in asked if row["condition"] == name] for name in names}
    by_form = {
        form: {name: [row for row in group if form in ("all", row["form"])] for name, group in answered.items()}
        for form in ("all", "question", "command")
    }
    return {
        "prompts": len(own[subject(names)]),
        "exchanged": config.exchanged,
        "measures": table,
        "classifier": {
            "human_written": len(written),
            "enough": min(len(true), len(posed)) >= ENOUGH,
            "sensitivity": sensitivity.json(),
            "false_positive": false_positive.json(),
            "chance": 1 / (config.exchanged + 1),
            "corrected": {
                name: corrected([row["on_question"] for row in group], true, posed).json()
                for name, group in own.items()
            },
            "loops": wilson(sum(row["loop"] for row in written), len(written)).json(),
        },
        "fluency": _fluency(own, threshold),
        "facts": [
            *(measure(form, groups, lambda r: r["right"]) for form, groups in by_form.items()),
            measure("declined", answered, lambda r: r["declined"]),
        ],
    }


def corrected(found: Sequence[bool], true: Sequence[bool], posed: Sequence[bool], seed: int = 0) -> Estimate:
    """The rate on the question without the classifier's misses and false alarms, (rate - f) / (s - f) in [0, 1].

    The interval has the uncertainty of all three rates: each is drawn from its posterior under Jeffreys' prior.

    Returns:
        NaN and [0, 1] where one of them was not measured, or where the classifier tells nothing.
    """
    if not (found and true and posed) or sum(true) / len(true) <= sum(posed) / len(posed):
        return Estimate(math.nan, 0.0, 1.0, 0)
    random = np.random.default_rng(seed)
    rates, ss, fs = (random.beta(sum(x) + 0.5, len(x) - sum(x) + 0.5, DRAWS) for x in (found, true, posed))
    low, high = np.quantile(np.clip((rates - fs) / np.maximum(ss - fs, 1e-9), 0, 1), [0.025, 0.975])
    rate, s, f = (sum(x) / len(x) for x in (found, true, posed))
    return Estimate(min(1.0, max(0.0, (rate - f) / (s - f))), float(low), float(high), len(found))


def _fluency(own: Mapping[str, Sequence[Row]], threshold: float | None) -> dict[str, Any]:
    """Mean nats per token by condition, and their difference over prompts that both answered."""
    values = {name: {row["index"]: row["nats_per_token"] for row in rows} for name, rows in own.items()}
    before, after = values.get(FEW_SHOT, {}), values[subject(values)]
    pairs = [(before[i], after[i]) for i in before if before[i] is not None and after.get(i) is not None]
    return {
        "garbled_below": threshold,
        "nats_per_token": {
            name: mean_estimate([value for value in found.values() if value is not None]).json()
            for name, found in values.items()
        },
        "difference": mean_estimate([b - a for a, b in pairs]).json(),
    }


# ── the stage's work ─────────────────────────────────────────────────────────────────────────────────────────────────
def run(config: SenseConfig, base: Path, policy: Path, data: SenseData, out: StageFolder) -> None:
    """Judge the answers, ask the facts, and write sense, human_written and answers (.jsonl) and summary.json.

    A killed run resumes after its last batch of scores or answers and ends in the same bytes.
    """
    raw = LocalModel.load(base)
    chat = raw.sampler.chat
    chosen = prompts_of(config, data.evaluation)
    texts = {name: {i: answer_ids(chat, own[i]["answer"]) for i in chosen} for name, own in data.answers.items()}
    found = candidates(config, chat, data.evaluation, data.written, texts)
    scored = collect(found, score(config, raw.sampler, jobs(found), out.file(PARTIAL_SCORES), out.stage))
    threshold = garbled_below(value for (group, _), value in scored.items() if group == HUMAN)
    rows = [
        verdict(data.evaluation[i], own[i], scored[name, i], config.exchanged, threshold)
        for name, own in data.answers.items()
        for i in chosen
    ]
    out.emit(event="scored", answers=len(rows), human_written=len(data.written))
    partial = out.file(PARTIAL_ANSWERS)
    asked: list[dict[str, Any]] = []
    if FEW_SHOT in data.answers:
        asked += facts.ask(data.facts, raw, Condition(FEW_SHOT, data.preamble), config.sampling, partial, out)
    own = subject(data.answers)
    if own == ALIGNED:
        del raw
        raw = LocalModel.load(base, policy)
    asked += facts.ask(data.facts, raw, Condition(own, None), config.sampling, partial, out)
    written = [_written(row, scored[HUMAN, i], config.exchanged, threshold) for i, row in enumerate(data.written)]
    for name, content in ((SENSE, rows), (HUMAN_WRITTEN, written), (ANSWERS, asked)):
        write_jsonl(out.file(name), content)
    left_out = min(config.prompts, len(data.evaluation)) - len(chosen)
    summary = {"left_out": left_out, **summarise(config, rows, written, asked, threshold)}
    write_json(out.file(SUMMARY), summary)
    for row in summary["measures"]:
        out.emit(event="rate", label=row["label"], **{name: rate["value"] for name, rate in row["rates"].items()})
    for file in (out.file(PARTIAL_SCORES), partial):
        file.unlink(missing_ok=True)


def _written(row: Written, scored: Scored, count: int, threshold: float | None) -> dict[str, Any]:
    """One human-written answer, whose verdicts are the classifier's own errors. None: too few other topics."""
    margin, posed, fluency = scored.margin(count), scored.posed_margin(count), scored.nats_per_token
    return {
        "prompt": plain_text(row.prompt),
        "margin_nats": margin,
        "exchanged_margin_nats": posed,
        "nats_per_token": fluency,
        "on_question": None if margin is None else margin > 0,
        "exchanged_on_question": None if posed is None else posed > 0,
        "loop": loops(row.answer),
        "garbled": None if fluency is None or threshold is None else fluency < threshold,
    }
