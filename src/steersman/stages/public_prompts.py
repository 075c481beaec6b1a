"""`public_prompts`: the aligned model's refusals on public sets of prompts, from the user's copy of them."""

from __future__ import annotations

from steersman.cost.work import Work, Workload
from steersman.evals import answers, public_prompts
from steersman.evals.conditions import ALIGNED
from steersman.evals.detectors import behaviours
from steersman.evals.public_prompts import PublicPromptsConfig
from steersman.recipe import Recipe
from steersman.report.blocks import Block, Cell, Difference, Rate, Section, Table, paragraph
from steersman.report.evidence import StageRecord
from steersman.report.format import phrase
from steersman.stage import Inputs, Stage
from steersman.stages.answers import aligned_refusals, generation_work
from steersman.stages.inputs import BASE, POLICY, PUBLIC_PROMPTS
from steersman.store import StageFolder, write_json

SUMMARY = "summary.json"


def run(config: PublicPromptsConfig, given: Inputs, out: StageFolder) -> None:
    """The aligned model's refusals on public sets of prompts, where a copy of them is found."""
    found = aligned_refusals(config.sampling, given[PUBLIC_PROMPTS], given, out)
    summary = public_prompts.summarise(*zip(*found, strict=True))
    write_json(out.file(SUMMARY), summary)
    for kind, measured in summary["kinds"].items():
        out.emit(event="refused", kind=kind, rate=measured["refused"]["value"])


def config_of(recipe: Recipe) -> PublicPromptsConfig | None:
    """None where no copy of the sets is found."""
    config = recipe.public_prompts
    return config if config and public_prompts.locate(config) else None


def estimate(config: PublicPromptsConfig, workload: Workload) -> Work:
    """One answer to each prompt."""
    asked = public_prompts.load(config)
    return generation_work(config.sampling, workload, "public_prompts", asked, {ALIGNED: None})


def section(record: StageRecord) -> Section:
    """Refusal rates by set; commands against questions of each kind."""
    summary = record.read(SUMMARY)
    found = [row for row in summary["sets"] if row["refused"]["n"]]
    missing = [row["name"] for row in summary["sets"] if not row["refused"]["n"]]
    sets: tuple[tuple[Cell, ...], ...] = tuple(
        (row["name"], phrase(row["kind"]), Rate.of(row["refused"]), row["refused"]["n"]) for row in found
    )
    kinds: tuple[tuple[Cell, ...], ...] = tuple(
        (
            phrase(kind).capitalize(),
            Rate.of(row["refused"], strong=True),
            Rate.of(row["commands"]),
            Rate.of(row["questions"]),
            Difference.of(row["difference"]),
            row["refused"]["n"],
        )
        for kind, row in summary["kinds"].items()
        if row["refused"]["n"]
    )
    blocks: list[Block] = [
        paragraph("Nobody of this project wrote these prompts; nothing was trained on them."),
        Table(
            caption="Refused, by kind of prompt",
            columns=("Prompts", "All", "Commands", "Questions", "Commands - questions", "n"),
            rows=kinds,
        ),
        Table(caption="Refused, by public set", columns=("Set", "Kind", "Refused", "n"), rows=sets),
    ]
    if missing:
        blocks.append(paragraph(f"Not in the copy: {', '.join(missing)}.", style="note"))
    limits = (
        "Public prompts are judged by our detector. It was measured on answers to our own prompts; a public label says "
        "what a prompt is, not whether the answer to it was safe.",
    )
    return Section(id=record.name, title="Prompts of others", blocks=tuple(blocks), limits=limits, part="examination")


PUBLIC = Stage(
    "public_prompts",
    (public_prompts, answers, behaviours),
    config_of,
    (BASE, POLICY, PUBLIC_PROMPTS),
    run,
    estimate=estimate,
    section=section,
)
