"""The report of a run: `report/report.json` and `report/index.html`, one file that opens from disk anywhere.

The page loads nothing: its style is inline, its charts are SVG of ours, it has no script, and a content security policy
forbids the browser to fetch anything, should some model text ever slip through the escaping.
"""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

from steersman.report.compare import diff_table, differences, terminal_summary
from steersman.report.data import ReportSettings, report_data
from steersman.report.sections import SECTIONS, facts, summary
from steersman.report.wording import html
from steersman.store import Run, disk_full_is_explained, write_json, write_text

__all__ = ["diff_table", "differences", "render", "report_data", "terminal_summary", "write"]

TEMPLATE = Path(__file__).with_name("page.html")


def write(run: Run, config: ReportSettings | None = None) -> Path:
    """Write the report of a run that has reached its scores, each file atomically.

    Args:
        run: the run.
        config: title and featured questions; those of the run's recipe unless given.

    Returns:
        The path of index.html.

    Raises:
        UserError: the run has not reached ``scores``, or its parts do not belong together.
        DiskFull: no space left; an earlier report is kept.
    """
    data = report_data(run, config)
    folder = run.path / "report"
    with disk_full_is_explained(folder):
        folder.mkdir(exist_ok=True)
        write_json(folder / "report.json", data)
        write_text(folder / "index.html", render(data))
    return folder / "index.html"


def render(data: dict[str, Any]) -> str:
    """The page of `report_data`'s value."""
    contents = "".join(f'<li><a href="#{id}">{name}</a></li>' for id, name, _ in SECTIONS)
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html(data["title"]),
        facts=facts(data),
        summary=summary(data),
        contents=contents,
        sections="\n".join(section(data) for _, _, section in SECTIONS),
        version=html(data["provenance"]["steersman"]),
    )
