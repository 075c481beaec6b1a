"""The section of published suites: what got worse first, then a table a suite with its nulls, then what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steersman.evals.conditions import ALIGNED, RAW
from steersman.report.blocks import Block, Cell, Details, Difference, Label, Number, Rate, Section, Table, paragraph
from steersman.report.evidence import StageRecord
from steersman.report.format import p_value, percent, phrase, points

Data = Mapping[str, Any]
SUMMARY = "summary.json"
NAMES = {RAW: "Raw", ALIGNED: "Aligned", "guarded": "Aligned with guard"}
AIMS = {"higher": "higher is better", "lower": "lower is better", "zero": "0 is the aim", "half": "50 % is the aim"}
LIMITS = (
    "A suite is not a deployment. Its figure holds for its questions, in its form; a published figure of another model "
    "was often asked in another form.",
    "A small model is near a null on many suites. A figure that the null reaches as well says nothing about the model.",
    "The sets are public. A base model may have read them, which raises its figures and leaves the differences alone.",
)


def section(record: StageRecord) -> Section:
    """The section of a stage's summary."""
    shown = blocks(record.read(SUMMARY))
    return Section(id=record.name, title="Suites, before and after", blocks=shown, limits=LIMITS, part="examination")


def blocks(summary: Data) -> tuple[Block, ...]:
    """Of a summary of `evals.suites.runner`: sentences, the table of changes, and a table a suite."""
    found: list[Block] = []
    if summary["changes"]:
        found += [paragraph(*_sentence(summary["changes"]), style="lead"), _changes_table(summary["changes"])]
    for suite in summary["suites"]:
        found += [_suite_table(suite), paragraph(f"{suite['about']} {suite['paper']}.", style="note")]
        if suite["groups"]:
            found.append(_groups(suite))
        found += [paragraph(text, style="note") for text in _notes(suite)]
    if summary["missing"]:
        names = "; ".join(f"{suite['title']} ({suite['paper']})" for suite in summary["missing"])
        found.append(paragraph(f"Not asked, because no copy of the set was found: {names}.", style="note"))
    return tuple(found)


# ── what got worse ───────────────────────────────────────────────────────────────────────────────────────────────────
def _sentence(changes: Sequence[Data]) -> list[str]:
    named: dict[str, list[str]] = {"worse": [], "better": []}
    for row in changes:
        if row["outcome"] in named:
            named[row["outcome"]].append(f"{row['suite_title']}: {row['title'].lower()} {_change_text(row)}")
    unsure = sum(row["outcome"] == "unsure" for row in changes)
    worse = f"Worse: {'; '.join(named['worse'])}." if named["worse"] else "Nothing got worse beyond the noise."
    better = f" Better: {'; '.join(named['better'])}." if named["better"] else " Nothing got better beyond the noise."
    return [f"{worse}{better} {unsure} of {len(changes)} figures show no change beyond the noise."]


def _change_text(row: Data) -> str:
    value = row["change"]["value"]
    return f"({points(row['change'])} points)" if row["is_rate"] else f"({value:+.2f})"


def _changes_table(changes: Sequence[Data]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for row in changes:
        before, after = [*row["arms"]][:2]
        cells = [cell(row["arms"][arm], row) for arm in (before, after)]
        label = Label(text=row["title"], note=f"{row['suite_title']}; {AIMS[row['better']]}")
        outcome = {"unsure": "no change beyond the noise"}.get(row["outcome"], row["outcome"])
        rows.append((label, *cells, cell(row["change"], row, is_change=True), p_value(row["p_holm"]), outcome))
    columns = ("Figure", "Before", "After", "Difference", "p, Holm", "Outcome")
    return Table(caption="What changed, the worst first", columns=columns, rows=tuple(rows))


def cell(figure: Data, row: Data, *, is_change: bool = False) -> Cell:
    """A figure as a table shows it: rates in per cent, gaps and changes in points, others as numbers."""
    if not row["is_rate"]:
        return Number.of(figure, digits=2)
    in_points = is_change or row["better"] == "zero"
    if figure["value"] is not None and figure["low"] is None:  # too few clusters for an interval
        return points(figure) if in_points else percent(figure["value"])
    return Difference.of(figure) if in_points else Rate.of(figure)


# ── a suite ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _suite_table(suite: Data) -> Table:
    metrics = suite["metrics"]
    arms = list(metrics[0]["arms"])
    rows: list[tuple[Cell, ...]] = []
    for row in metrics:
        nulls = "; ".join(f"{name} {_null(value, row)}" for name, value in row["nulls"].items())
        label = Label(text=row["title"], note=AIMS.get(row["better"], ""))
        rows.append((label, *(cell(row["arms"][arm], row) for arm in arms), nulls))
    columns = ("Figure", *(NAMES.get(arm, phrase(arm)) for arm in arms), "Without a model")
    caption = f"{suite['title']}, n={suite['questions']}"
    return Table(caption=caption, columns=columns, rows=tuple(rows))


def _null(value: float | None, row: Data) -> str:
    if value is None:
        return "not defined"
    if not row["is_rate"]:
        return f"{value:.2f}"
    return points({"value": value}) if row["better"] == "zero" else percent(value)


def _groups(suite: Data) -> Details:
    """Every figure by group, of the last arm that answered."""
    titles = {row["metric"]: row for row in suite["metrics"]}
    arms = list(suite["metrics"][0]["arms"])
    shown = [slug for slug in titles if any(group["metrics"][slug][arms[-1]]["n"] for group in suite["groups"])]
    tables = []
    for arm in arms:
        rows = tuple(
            (group["group"] or "-", *(cell(group["metrics"][slug][arm], titles[slug]) for slug in shown), group["n"])
            for group in suite["groups"]
        )
        columns = ("Group", *(titles[slug]["title"] for slug in shown), "n")
        tables.append(Table(caption=NAMES.get(arm, phrase(arm)), columns=columns, rows=rows))
    return Details(title=f"{suite['title']}, by group", blocks=tuple(tables))


def _notes(suite: Data) -> list[str]:
    notes = []
    for arm, dropped in suite["dropped"].items():
        counts = ", ".join(f"{count} ({reason})" for reason, count in dropped.items())
        notes.append(f"{suite['title']}: questions left out, {NAMES.get(arm, phrase(arm)).lower()}: {counts}.")
    if suite["by_letter"]:
        notes.append(
            f"{suite['title']}: the model gives no log-probabilities of texts, so that it chose among letters. That is "
            "another question than the published one."
        )
    return notes
