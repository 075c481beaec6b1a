"""`steersman demo`: the report of a recorded run, without weights, training or a network.

``recorded.json`` is the report.json of `make align` on the date and at the commit that it names; only text lies in it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

RECORDED = Path(__file__).with_name("recorded.json")


def demo(
    to: Annotated[Path | None, typer.Option(help="Folder for the page. Default: a temporary folder.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Open the report of a recorded run: raw and aligned answers, pass rates with intervals, training."""
    from steersman.report.compare import summary_of
    from steersman.report.page import render
    from steersman.store import write_text
    from steersman.terminal import results

    data = json.loads(RECORDED.read_text(encoding="utf-8"))
    label = f"Recorded on {data['started'][:10]} at commit {data['provenance']['git'][:7]}"
    folder = to or Path(tempfile.mkdtemp(prefix="steersman-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    write_text(page, render({**data, "title": f"{data['title']} ({label.lower()})"}))
    results().print(summary_of(data))
    typer.echo(f"{label}: {data['model']['name']} and the constitution {data['constitution']['name']}.")
    typer.echo(f"Report: {page}")
    if browser:
        typer.launch(str(page))
