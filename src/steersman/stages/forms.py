"""`forms`: does the aligned model follow the harm of a request, or its form? A grid of contents in every form."""

from __future__ import annotations

from steersman.cost.work import Work, Workload
from steersman.evals import answers, forms
from steersman.evals.conditions import ALIGNED
from steersman.evals.detectors import behaviours
from steersman.evals.forms import FormsConfig
from steersman.report.blocks import Cell, Number, Rate, Section, Table, paragraph
from steersman.report.evidence import StageRecord
from steersman.report.format import p_value, phrase
from steersman.stage import Inputs, Sources, Stage
from steersman.stages.answers import aligned_refusals, generation_work
from steersman.stages.inputs import BASE, DEVELOPMENT, FORM_GRID, POLICY
from steersman.store import StageFolder, write_json

SUMMARY = "summary.json"


def run(config: FormsConfig, given: Inputs, out: StageFolder) -> None:
    """The aligned model's refusals on a grid of contents in every form."""
    prompts = given[FORM_GRID] if config.prompts == "forms" else given[DEVELOPMENT]
    found = aligned_refusals(config.sampling, prompts, given, out)
    summary = forms.summarise([forms.cell(prompt, refused) for prompt, refused in found])
    write_json(out.file(SUMMARY), {"prompts": config.prompts, **summary})
    for kind, measured in summary["kinds"].items():
        refused, effect = measured["refused"]["value"], measured["effect_of_form"]["value"]
        out.emit(event="refused", kind=kind, rate=refused, effect_of_form=effect)


def check(config: FormsConfig, sources: Sources) -> None:
    """Refuse a grid that the data set does not have."""
    if not getattr(sources.data, config.prompts):
        raise sources.recipe.conflict(
            f"forms needs {config.prompts}.jsonl, which the data set {sources.recipe.data} does not have",
            "forms",
            do="write the file (docs/data.md), or leave out the section forms",
        )


def estimate(config: FormsConfig, workload: Workload) -> Work:
    """One answer to each prompt of the grid."""
    asked = workload.forms if config.prompts == "forms" else workload.development
    return generation_work(config.sampling, workload, "forms", asked, {ALIGNED: None})


def section(record: StageRecord) -> Section:
    """The factorial table: refusal rates by kind of content and form, and the effect of form."""
    summary = record.read(SUMMARY)
    kinds = summary["kinds"]
    columns = ("Form", *(f"{phrase(kind).capitalize()}, n={kinds[kind]['contents']}" for kind in kinds))
    rows: list[tuple[Cell, ...]] = [
        (phrase(form), *(Rate.of(kinds[kind]["forms"][form]) for kind in kinds)) for form in summary["forms"]
    ]
    rows.append(("all forms", *(Rate.of(kinds[kind]["refused"], strong=True) for kind in kinds)))
    effects: list[tuple[Cell, ...]] = [
        (
            phrase(kind).capitalize(),
            Number(**{k: 100 * v for k, v in effect.items() if k in ("value", "low", "high") and v is not None})
            if (effect := kinds[kind]["effect_of_form"])["value"] is not None
            else None,
            p_value(effect["p"]),
        )
        for kind in kinds
    ]
    blocks = (
        paragraph(
            "The same contents were asked in every form. A model that follows the rule refuses a harmful content in "
            "all forms and a harmless one in none, so that the rows are alike."
        ),
        Table(caption="Refused, by content and form", columns=columns, rows=tuple(rows)),
        Table(caption="Effect of form on refusal", columns=("Content", "Points", "p"), rows=tuple(effects)),
        paragraph(
            "The effect is the standard deviation of the forms’ refusal rates, without what chance gives; p is the "
            "share of permutations of the forms within contents that vary as much.",
            style="note",
        ),
    )
    title = "Does it follow the rule or the form?"
    limits = ("Few contents. The grid crosses a few dozen contents with their forms; other contents may show more.",)
    return Section(id=record.name, title=title, blocks=blocks, limits=limits, part="examination")


FORMS = Stage(
    "forms",
    (forms, answers, behaviours),
    lambda r: r.forms,
    (BASE, POLICY, FORM_GRID, DEVELOPMENT),
    run,
    check=check,
    estimate=estimate,
    section=section,
)
