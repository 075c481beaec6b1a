"""The report of a run: `report/report.json` and `report/index.html`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steersman.report import html, overview
from steersman.report.blocks import Section
from steersman.report.evidence import ReportSettings, overview_data, read_evidence
from steersman.store import Run, disk_full_is_explained, write_json, write_text


def write(run: Run, sections: Iterable[Section], config: ReportSettings | None = None) -> Path:
    """Write the report of a run that has reached its scores, each file atomically.

    Args:
        run: the run.
        sections: of the stages, in the order in which they are shown.
        config: title and featured questions; those of the run's recipe unless given.

    Returns:
        The path of index.html.

    Raises:
        UserError: the run has not reached ``scores``, or its parts do not belong together.
        DiskFull: no space left; an earlier report is kept.
    """
    data = report_data(run, sections, config)
    folder = run.path / "report"
    with disk_full_is_explained(folder):
        folder.mkdir(exist_ok=True)
        write_json(folder / "report.json", data)
        write_text(folder / "index.html", render(data))
    return folder / "index.html"


def report_data(run: Run, sections: Iterable[Section], config: ReportSettings | None = None) -> dict[str, Any]:
    """All contents of the report as JSON values; arguments and errors as of `write`."""
    overview_part = overview_data(read_evidence(run), config)
    return {**overview_part, "sections": [section.model_dump(mode="json") for section in sections]}


def render(data: dict[str, Any]) -> str:
    """The HTML page of `report_data`'s value."""
    return html.render(overview.page(data, [Section.model_validate(section) for section in data["sections"]]))
