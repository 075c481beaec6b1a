"""`sense`: do the answers make sense? Relevance, loops, fluency and facts, raw few-shot against aligned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steersman.cost.work import Counts, PeakSizes, Work, Workload, assumed_lengths, padded, scored, total
from steersman.evals import answers, capability, facts, scores, sense
from steersman.evals.answers import AnswersConfig
from steersman.evals.conditions import ALIGNED, FEW_SHOT, RAW, baselines
from steersman.evals.detectors import behaviours
from steersman.evals.sense import SUMMARY, SenseConfig, SenseData, SenseSettings
from steersman.recipe import Recipe
from steersman.report.blocks import Block, Cell, Difference, Number, Rate, Section, Table, paragraph
from steersman.report.evidence import StageRecord
from steersman.report.format import percent, phrase
from steersman.stage import Inputs, Sources, Stage
from steersman.stages.answers import generation_work
from steersman.stages.inputs import (
    ALIGNED_ANSWERS,
    BASE,
    EVALUATION,
    FACTS,
    HELD_OUT_COMPARISONS,
    PERSONA,
    POLICY,
    RAW_ANSWERS,
    TRAIN,
    VALIDATION,
)
from steersman.store import StageFolder, read_jsonl
from steersman.types import Prompt


def run(config: SenseSettings, given: Inputs, out: StageFolder) -> None:
    """Whether the answers make sense: on the question, no loop, not garbled, ended; and facts with known answers."""
    data = SenseData(
        evaluation=given[EVALUATION],
        answers=_answers(given[RAW_ANSWERS], given[ALIGNED_ANSWERS]),
        written=sense.human_written(given[VALIDATION], given[HELD_OUT_COMPARISONS], config.human_written),
        facts=facts.chosen(given[FACTS], config.facts),
        preamble=answers.few_shot_preamble(given[PERSONA], given[TRAIN], config.few_shot_examples),
    )
    sense.run(config, given[BASE], given[POLICY], data, out)


def _answers(raw: Path | None, aligned: Path | None) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Answers by condition and prompt: after the few-shot prompt, if it was tried, then the subject's."""
    rows = [row for folder in (raw, aligned) if folder for row in read_jsonl(folder / answers.ANSWERS)]
    by_condition: dict[str, dict[int, Mapping[str, Any]]] = {
        name: {row["index"]: row for row in rows if row["condition"] == name}
        for name in (FEW_SHOT, ALIGNED if aligned else RAW)
    }
    return {name: own for name, own in by_condition.items() if own}


def settings(recipe: Recipe) -> SenseSettings | None:
    """The section, with the few-shot prompt of the raw answers."""
    if recipe.sense is None:
        return None
    own = {name: getattr(recipe.sense, name) for name in SenseConfig.model_fields}
    return SenseSettings(**own, few_shot_examples=(recipe.answers or AnswersConfig()).few_shot_examples)


def check(config: SenseSettings, sources: Sources) -> None:
    """Refuse to judge answers that nobody gives."""
    if sources.recipe.answers is None:
        raise sources.recipe.conflict("sense judges answers, and answers is null", "sense", do="set sense: null")


def estimate(config: SenseSettings, workload: Workload) -> Work:
    """Every answer scored after its own and after exchanged prompts, and each fact answered under each condition."""
    recipe, chosen = workload.recipe, sense.prompts_of(config, workload.evaluation)
    answering = recipe.answers or AnswersConfig()
    asked_of = [("aligned_answers", ALIGNED) if recipe.trains_a_policy else ("raw_answers", RAW)]
    asked_of = [*([("raw_answers", FEW_SHOT)] if FEW_SHOT in answering.baselines else []), *asked_of]
    limit = answering.sampling.max_new_tokens
    lengths = {
        name: assumed_lengths(workload.answer_tokens(stage, name), limit, len(chosen)) for stage, name in asked_of
    }
    texts = {name: {i: [0] * n for i, n in zip(chosen, own, strict=True)} for name, own in lengths.items()}
    written = sense.human_written(workload.validation, workload.held_out, config.human_written)
    found = sense.candidates(config, workload.chat, workload.evaluation, written, texts)
    examples, size = [job.example for job in sense.jobs(found)], config.batch_size
    tokens = padded([len(e.token_ids) for e in examples], size)
    positions = [scored(*examples[i : i + size]) for i in range(0, len(examples), size)]
    asked = [Prompt(prompt=fact.question) for fact in facts.chosen(facts.load(), config.facts)]
    preamble = answers.few_shot_preamble(workload.constitution.persona, workload.train, config.few_shot_examples)
    each = [
        generation_work(config.sampling, workload, "sense", asked, {name: before})
        for name, before in ((name, preamble if name == FEW_SHOT else None) for name in lengths)
    ]
    counts = Counts(read_tokens=sum(tokens), scored_tokens=sum(positions))  # with the model that answers facts, too
    most = [max(sizes) for sizes in zip(*(work.peak for work in each), strict=True)]
    peak = PeakSizes(*most)
    return Work(
        total(counts, *(work.counts for work in each)),
        peak._replace(read_tokens=max(peak.read_tokens, *tokens), scored=max(peak.scored, *positions)),
    )


# ── report ───────────────────────────────────────────────────────────────────────────────────────────────────────────
LIMITS = (
    "Makes sense is an upper bound. Each measure finds a fault; fluent nonsense about the subject has none of them. "
    "Read answers before you believe the rate.",
    "Relevance is not truth. An answer that copies words of its question counts as on the question, and a fluent "
    "falsehood makes sense by these measures.",
    "The classifier's error is that of human-written answers. Short and vague answers are harder to place, so that its "
    "misses among a model's answers are more.",
    "The raw model judges itself. Greedy answers are likely under the model that wrote them; garbled is only what is "
    "less likely than nearly all that people wrote.",
    "Known facts are easy ones. 120 items of general knowledge say little about any one field.",
)


def section(record: StageRecord) -> Section:
    """Rates of both conditions, the classifier's own error, fluency, and facts."""
    summary = record.read(SUMMARY)
    return Section(
        id=record.name,
        part="examination",
        title="Do the answers make sense?",
        blocks=(
            paragraph(
                "An answer has no fault that these measures find if it is on the question, has no loop, is not "
                "garbled, and ended; so at most this share makes sense. Judged by the raw model on "
                f"{summary['prompts']} evaluation prompts.{_versus(summary)}{_left_out(summary)}"
            ),
            _compared("What the answers are", "Answers", summary["measures"], strong="makes sense"),
            *_classifier(summary),
            _compared("Known facts", "Answers", summary["facts"], strong="all"),
            *_fluency(summary["fluency"]),
        ),
        limits=LIMITS,
    )


def _versus(summary: dict[str, Any]) -> str:
    compared = len(summary["measures"][0]["rates"]) > 1
    return " Differences are paired." if compared else " The raw model’s few-shot answers were left out."


def _left_out(summary: dict[str, Any]) -> str:
    count = summary["left_out"]
    return f" {count} prompts were left out: the evaluation has too few other topics." if count else ""


def _compared(caption: str, first: str, measured: list[dict[str, Any]], strong: str) -> Table:
    names = list(measured[0]["rates"])
    versus = baselines(names)
    rows: list[tuple[Cell, ...]] = [
        (
            NAMES.get(row["label"], row["label"]).capitalize(),
            *(Rate.of(row["rates"][name], strong=row["label"] == strong) for name in names),
            *(Difference.of(row[f"versus_{baseline}"]) for baseline in versus),
            row["n"],
        )
        for row in measured
    ]
    columns = (first, *map(phrase, names), *(["Difference"] if versus else []), "n")
    return Table(caption=caption, columns=columns, rows=tuple(rows))


NAMES = {
    "loop": "has a loop",
    "garbled": "is garbled",
    "makes sense": "makes sense (at most)",
    "all": "right in the first two sentences",
    "question": "... asked as questions",
    "command": "... asked as commands",
}


def _classifier(summary: dict[str, Any]) -> list[Block]:
    """The errors of the test of relevance, and the rates without them."""
    found = summary["classifier"]
    corrected = found["corrected"]
    rows: tuple[tuple[Cell, ...], ...] = (
        ("Human-written answers found to be on their question (sensitivity)", Rate.of(found["sensitivity"])),
        ("... and on an exchanged one (false positives)", Rate.of(found["false_positive"])),
        ("Human-written answers called loops", Rate.of(found["loops"])),
        *(
            (f"{phrase(name)}: on the question, corrected for both errors", Rate.of(rate, strong=True))
            for name, rate in corrected.items()
        ),
    )
    words = (
        f"On the question: the raw model finds the answer likelier after its own prompt than after each of "
        f"{summary['exchanged']} others. An answer about nothing passes in {percent(found['chance'])} of cases; "
        f"the errors were measured on {found['human_written']} human-written answers."
    )
    blocks: list[Block] = [
        Table(caption="How far the test of relevance can be trusted", columns=("", "Rate"), rows=rows),
        paragraph(words, style="note"),
    ]
    if not found["enough"]:
        blocks.append(
            paragraph(f"Fewer than {sense.ENOUGH} of them could be used, so that these errors are hardly known.")
        )
    return blocks


def _fluency(found: dict[str, Any]) -> list[Block]:
    means = found["nats_per_token"]
    rows: list[tuple[Cell, ...]] = [(phrase(name), Number.of(mean, digits=2)) for name, mean in means.items()]
    if len(means) > 1:
        rows.append(("Difference", Number.of(found["difference"], digits=2)))
    blocks: list[Block] = [
        Table(caption="Log-probability under the raw model", columns=("Answers", "Nats per token"), rows=tuple(rows))
    ]
    threshold = found["garbled_below"]
    words = (
        f"Garbled: below {threshold:.2f} nats per token, the 5 % quantile of human-written answers."
        if threshold is not None
        else "The run has no human-written answers to compare with, so that no answer was called garbled."
    )
    return [*blocks, paragraph(words, style="note")]


SENSE = Stage(
    "sense",
    (sense, capability, scores, behaviours, answers),
    settings,
    (
        BASE,
        POLICY,
        PERSONA,
        TRAIN,
        VALIDATION,
        HELD_OUT_COMPARISONS,
        EVALUATION,
        RAW_ANSWERS,
        ALIGNED_ANSWERS,
        FACTS,
    ),
    run,
    check=check,
    estimate=estimate,
    section=section,
)
