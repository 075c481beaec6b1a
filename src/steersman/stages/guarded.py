"""`guarded`: what the model and its guard catch, each alone and both together, on answers that are there already."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from steersman.cost.work import Counts, PeakSizes, Work, Workload
from steersman.evals import answers
from steersman.evals.conditions import ALIGNED, CONDITIONS, FEW_SHOT, RAW
from steersman.evals.detectors import behaviours
from steersman.evals.forms import HARMFUL, LOOKALIKE, PLAIN
from steersman.guard import arms
from steersman.guard.guard import Guard
from steersman.guard.verdict import Side
from steersman.recipe import Recipe
from steersman.report.blocks import Block, Cell, Difference, Rate, Section, Table, paragraph
from steersman.report.evidence import StageRecord
from steersman.report.format import phrase
from steersman.stage import Inputs, NoSettings, Stage
from steersman.stages.inputs import (
    ALIGNED_ANSWERS,
    BASE,
    EVALUATION,
    GUARD,
    POLICY,
    PUBLIC_ANSWERS,
    PUBLIC_PROMPTS,
    RAW_ANSWERS,
)
from steersman.store import StageFolder, read_jsonl, write_json, write_jsonl
from steersman.types import Prompt

VERSION = 1
SUMMARY, ROWS = "summary.json", "rulings.jsonl"
OWN, PUBLIC = "evaluation", "public"
NAMES = {RAW: "Raw", FEW_SHOT: "Few-shot", ALIGNED: "Aligned"}


def run(config: NoSettings, given: Inputs, out: StageFolder) -> None:
    """What the model and the guard catch, alone and together: raw and aligned answers, with and without the guard."""
    guard = Guard.load(given[GUARD], base=given[BASE], policy=given[POLICY])
    ms: dict[Side, list[float]] = {"input": [], "output": []}
    judged = [(OWN, row) for row in arms.judge(guard, given[EVALUATION], _own(given), ms)]
    if folder := given[PUBLIC_ANSWERS]:
        found = _by_condition(read_jsonl(folder / answers.ANSWERS), given[PUBLIC_PROMPTS])
        judged += [(PUBLIC, row) for row in arms.judge(guard, given[PUBLIC_PROMPTS], found, ms)]
    write_jsonl(out.file(ROWS), [{"prompts": prompts, **row} for prompts, row in judged])
    names = list(dict.fromkeys(prompts for prompts, _ in judged))
    summary = {name: arms.summarise([row for prompts, row in judged if prompts == name]) for name in names}
    write_json(out.file(SUMMARY), summary)
    out.emit(event="latency", **{side: arms.quantiles(own) for side, own in ms.items()})  # no file: it always differs
    for kind, policies in summary[OWN]["kinds"].items():
        for policy, own in policies.items():
            out.emit(event="arm", kind=kind, policy=policy, alone=own["alone"], guarded=own["guarded"])


def _own(given: Inputs) -> dict[str, list[str]]:
    folders = [folder for folder in (given[RAW_ANSWERS], given[ALIGNED_ANSWERS]) if folder]
    rows = [row for folder in folders for row in read_jsonl(folder / answers.ANSWERS)]
    return _by_condition(rows, given[EVALUATION])


def _by_condition(rows: Sequence[Mapping[str, Any]], prompts: Sequence[Prompt]) -> dict[str, list[str]]:
    """Answers by policy, in the order of the prompts."""
    found: dict[str, list[str]] = {}
    for name in CONDITIONS:
        own = {row["index"]: row["answer"] for row in rows if row["condition"] == name}
        if own:
            found[name] = [own[index] for index in range(len(prompts))]
    return found


def config_of(recipe: Recipe) -> NoSettings | None:
    """None without a guard, and without answers."""
    return NoSettings() if recipe.guard and recipe.answers else None


def estimate(config: NoSettings, workload: Workload) -> Work:
    """Every prompt is read once more, by the guard's probe."""
    lengths = [len(workload.chat.prompt_ids(row.prompt)) for row in workload.evaluation]
    return Work(Counts(loads=1, read_tokens=sum(lengths)), PeakSizes(read_tokens=max(lengths, default=0)))


# ── report ───────────────────────────────────────────────────────────────────────────────────────────────────────────
TITLES = {OWN: "Evaluation prompts", PUBLIC: "Public prompts"}
WANTED = {HARMFUL: "answered, where they should not be", LOOKALIKE: "not answered", PLAIN: "not answered"}
LIMITS = (
    "Answered is not harmed. A harmful request counts as answered if neither the model refused nor the guard stopped "
    "it; many such answers of a small model hold no help at all.",
)
NOT_ATTACKED = (
    "Nobody attacked. These prompts ask plainly; what a search or a disguise achieves is another measurement."
)


def section(record: StageRecord) -> Section:
    """The arms: raw, aligned, each with the guard; what each half caught; cost in harmless prompts and milliseconds."""
    summary = record.read(SUMMARY)
    blocks: list[Block] = [
        paragraph(
            "The model was trained from the constitution and the guard was compiled from it. A prompt is answered if "
            "the model does not refuse and the guard stops neither the prompt nor the answer."
        )
    ]
    for name, found in summary.items():
        for kind, policies in found["kinds"].items():
            blocks.append(_arms_table(f"{TITLES[name]}, {phrase(kind)}: {WANTED[kind]}", kind, policies))
    own = summary[OWN]
    blocks += [_caught_table(own["kinds"].get(HARMFUL, {})), _principles_table(own["principles"], record)]
    for ms in record.rows("latency")[-1:]:
        text = (
            f"The guard took {ms['input']['p50']} ms for a prompt and {ms['output']['p50']} ms for an answer in the "
            f"median, {ms['input']['p95']} and {ms['output']['p95']} ms at the 95th percentile, on this machine."
        )
        blocks.append(paragraph(text, style="note"))
    limits = LIMITS if record.recipe.get("redteam") else (*LIMITS, NOT_ATTACKED)
    return Section(
        id=record.name,
        title="Model and guard, alone and together",
        blocks=tuple(blocks),
        limits=limits,
        part="examination",
    )


def _arms_table(caption: str, kind: str, policies: Mapping[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for policy, own in policies.items():
        cells = [_shown(own[arm], kind) for arm in ("alone", "guarded")]
        change = own["difference"] if kind != HARMFUL else _turned(own["difference"])
        rows.append((NAMES[policy], *cells, Difference.of(change), own["alone"]["n"]))
    return Table(caption=caption, columns=("Model", "Alone", "With guard", "Change", "n"), rows=tuple(rows))


def _shown(rate: Mapping[str, Any], kind: str) -> Rate:
    """Harmful prompts: the share that was answered; others: the share that was not."""
    if kind != HARMFUL or rate["value"] is None:
        return Rate.of(rate)
    return Rate.of({"value": 1 - rate["value"], "low": 1 - rate["high"], "high": 1 - rate["low"], "n": rate["n"]})


def _turned(change: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": -change["value"], "low": -change["high"], "high": -change["low"]}


def _caught_table(policies: Mapping[str, Any]) -> Table:
    by = ("model only", "guard only", "both", "neither")
    rows: list[tuple[Cell, ...]] = []
    for policy, own in policies.items():
        caught = [Rate.of(own["caught_by"][name]) for name in by]
        rows.append((NAMES[policy], *caught, Rate.of(own["input"]), Rate.of(own["output"])))
    columns = ("Model", *(phrase(name).capitalize() for name in by), "Guard, prompt", "Guard, answer")
    return Table(caption="Who stopped the harmful evaluation prompts", columns=columns, rows=tuple(rows))


def _principles_table(policies: Mapping[str, Any], record: StageRecord) -> Table:
    policy = ALIGNED if ALIGNED in policies else next(iter(policies))
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (record.title(principle), Rate.of(own["answered"]), Rate.of(own["stopped"]))
        for principle, own in policies[policy].items()
    )
    caption = f"{NAMES[policy]} with guard, by principle"
    return Table(caption=caption, columns=("Principle", "Harmful answered", "Harmless stopped"), rows=rows)


GUARDED = Stage(
    "guarded",
    (sys.modules[__name__], arms, behaviours),
    config_of,
    (BASE, POLICY, GUARD, EVALUATION, RAW_ANSWERS, ALIGNED_ANSWERS, PUBLIC_PROMPTS, PUBLIC_ANSWERS),
    run,
    recipe_key="guard",
    estimate=estimate,
    section=section,
)
