"""`steersman inspect`: a page about one prompt's way through a model."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from steersman.cli.options import Json, print_json
from steersman.cli.subjects import INSIDE, Prompt, Subjects, Target, load_subjects, refusal_axis, said

SLUG_LENGTH = 40


def inspect(
    target: Target,
    prompt: Prompt,
    out: Annotated[Path | None, typer.Option(help="The page's file. Default: in RUN/inside, or here.")] = None,
    open_page: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open the page. Default: on a terminal.")
    ] = None,
    against: Annotated[
        str, typer.Option(help="Beginning of another answer, to compare the model's own with. Default: chosen.")
    ] = "",
    direction: Annotated[
        str | None, typer.Option(help="FILE or FILE#NAME of a direction. Default: the refusal direction, found once.")
    ] = None,
    without_direction: Annotated[
        bool, typer.Option("--without-direction", help="Leave out what needs a direction.")
    ] = False,
    positions: Annotated[int, typer.Option(min=1, help="Tokens at the prompt's end that the lens looks at.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    json: Json = False,
) -> None:
    """Show what a model makes of a prompt: tokens, logit lens, attributions, the refusal direction with and without."""
    from steersman import __version__
    from steersman.interp.reading_of_prompt import ReadingConfig, read_prompt
    from steersman.report import html, inside
    from steersman.store import write_text
    from steersman.terminal import results, working

    config = ReadingConfig(against=against, positions=positions, max_new_tokens=max_new_tokens)
    asked = said(prompt)
    subjects = load_subjects(target, both=True)
    axis = None if without_direction else refusal_axis(subjects, direction)
    if isinstance(axis, str):
        print(f"note: {axis}; the page leaves the refusal direction out", file=sys.stderr)
        axis = None
    with working("reading"):
        reading = read_prompt(subjects.models, asked, axis, config)
    if json:
        print_json(reading.model_dump(mode="json"))
    if json and out is None:
        return
    file = out or _file(subjects, asked)
    page = inside.page(reading, __version__)
    write_text(file, html.render(page))
    if json:
        return
    from steersman.report.terminal import render

    results().print(render([*page.summary, *page.sections[0].blocks]))
    typer.echo(f"Page: {file}")
    if sys.stdout.isatty() if open_page is None else open_page:
        typer.launch(str(file))


def _file(subjects: Subjects, prompt: str) -> Path:
    """A place for the page: its name says what was asked, and differs for prompts that begin alike."""
    from steersman.store import sha256_text

    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:SLUG_LENGTH].strip("-")
    name = f"{words}-{sha256_text(prompt)[:6]}.html" if words else f"{sha256_text(prompt)[:12]}.html"
    if subjects.run is None:
        return Path(f"{INSIDE}-{name}")
    folder = subjects.run.path / INSIDE
    folder.mkdir(exist_ok=True)
    return folder / name
