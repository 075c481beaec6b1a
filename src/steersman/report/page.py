"""The report of a run: `report/report.json` and `report/index.html`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steersman.report import html, overview, stage_sections
from steersman.report.blocks import Section
from steersman.report.evidence import ReportSettings, overview_data, read_evidence
from steersman.store import Run, disk_full_is_explained, write_json, write_text


def write(run: Run, config: ReportSettings | None = None, sections: Iterable[Section] | None = None) -> Path:
    """Write the report of a run that has reached its scores, each file atomically.

    Args:
        run: the run.
        config: title and featured questions; those of the run's recipe unless given.
        sections: of the stages, in the order in which they are shown; those of the run's stages unless given.

    Returns:
        The path of index.html.

    Raises:
        UserError: the run has not reached ``scores``, or its parts do not belong together.
        DiskFull: no space left; an earlier report is kept.
    """
    data = report_data(run, config, sections)
    folder = run.path / "report"
    with disk_full_is_explained(folder):
        folder.mkdir(exist_ok=True)
        write_json(folder / "report.json", data)
        write_text(folder / "index.html", render(data))
    return folder / "index.html"


def report_data(
    run: Run, config: ReportSettings | None = None, sections: Iterable[Section] | None = None
) -> dict[str, Any]:
    """All contents of the report as JSON values; arguments and errors as of `write`."""
    evidence = read_evidence(run)
    shown = stage_sections.sections_of(evidence) if sections is None else sections
    return {**overview_data(evidence, config), "sections": [s.model_dump(mode="json") for s in shown]}


def render(data: dict[str, Any]) -> str:
    """The HTML page of `report_data`'s value."""
    return html.render(overview.page(data, [Section.model_validate(section) for section in data["sections"]]))
