"""Arguments and output that several commands share. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/laptop.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Deployment = Annotated[
    Path | None,
    typer.Option(help="YAML file of what the publisher has decided for this deployment (docs/contested.md)."),
]


def print_json(value: Any) -> None:
    """JSON on stdout, indented, with text as it is written."""
    from steersman.store import json_text

    typer.echo(json_text(value, indent=2))
