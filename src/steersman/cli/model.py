"""A conversation with a run's models, and the way out of a run: what `chat` and `export` do."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text as RichText

from steersman.errors import ModelError, UserError
from steersman.lm import adapters as policies
from steersman.lm import pretrained
from steersman.lm.device import Hardware, placed
from steersman.lm.language_model import LanguageModel, LocalModel
from steersman.lm.sampling import OnText, Request, SamplingConfig
from steersman.report.evidence import read_recipe
from steersman.store import open_run
from steersman.types import Message


class Speaker(NamedTuple):
    """A loaded model with a name for the screen."""

    name: str
    model: LanguageModel


def base_of(run: Path) -> Path:
    """The base model's folder of a run, resolved again if it has moved."""
    note = json.loads((open_run(run).path / "run.json").read_text(encoding="utf-8"))["model"]
    for folder in (Path(note["path"]), run / "base" / "model"):  # the second of a run that made its own and has moved
        if folder.exists():
            return folder
    return pretrained.resolve(note["name"])


def trained_of(run: Path) -> Path:
    """The folder of a run's trained policy.

    Raises:
        ModelError: the run has not reached its training stage.
    """
    path = open_run(run).path
    about = json.loads((path / "run.json").read_text(encoding="utf-8"))
    folder: Path = path / about.get("policy", "sft")
    if not folder.exists():
        raise ModelError("this run has no aligned model yet", where=str(run), do="finish it with `steersman align`")
    return folder


@contextmanager
def on_its_hardware(run: Path) -> Iterator[None]:
    """Within it, models are loaded for what the run was made on; without such a GPU, for the CPU, which it says."""
    wanted = Hardware.model_validate(read_recipe(open_run(run)).get("hardware", {}))
    try:
        wanted.check()
    except ModelError:
        print(f"note: this run was made on {wanted.device}, which is not here: the CPU answers", file=sys.stderr)
        wanted = Hardware()
    with placed(wanted):
        yield


def speaker(run: Path, *, aligned: bool) -> Speaker:
    """Load the raw or the aligned model of a run."""
    with on_its_hardware(run):
        model = LocalModel.load(base_of(run), trained_of(run) if aligned else None)
    return Speaker("aligned" if aligned else "raw", model)


def export(run: Path, target: Path, *, merged: bool = False) -> Path:
    """Copy a run's aligned model to ``target`` as a PEFT adapter or a merged model, with its tokenizer."""
    return policies.export(base_of(run), trained_of(run), target, merged=merged)


def reply(who: Speaker, conversation: list[Message], config: SamplingConfig, on_text: OnText | None = None) -> str:
    """One answer; ``on_text`` gets the text so far after every token."""
    (answer,) = who.model.answers(Request([tuple(conversation)], config, on_text=on_text))
    if answer.truncated_prompt_tokens:
        print(f"note: the first {answer.truncated_prompt_tokens} tokens of the conversation were cut", file=sys.stderr)
    return answer.text


def talk(run: Path, prompt: str | None, config: SamplingConfig, *, compare: bool = False) -> None:
    """Answer one prompt, or hold a conversation line by line until end of file.

    Raises:
        UserError: the prompt is empty.
    """
    if prompt is not None and not prompt.strip():
        raise UserError("the prompt is empty", do='give a question, e.g. steersman chat RUN "What is tar?"')
    trained_of(run)  # before a second is spent on loading
    who = [speaker(run, aligned=False), speaker(run, aligned=True)] if compare else [speaker(run, aligned=True)]
    histories: list[list[Message]] = [[] for _ in who]
    console = Console(highlight=False)
    if prompt is not None:
        _turn(who, histories, prompt, config, console)
        return
    if sys.stdin.isatty():
        console.print("A line is a message; an empty conversation ends with Ctrl-D.")
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip():
            _turn(who, histories, line, config, console)


def _turn(
    who: list[Speaker], histories: list[list[Message]], prompt: str, config: SamplingConfig, console: Console
) -> None:
    """One question to every speaker, streamed into columns on a terminal, printed whole elsewhere."""
    texts = [""] * len(who)
    for history in histories:
        history.append(Message(role="user", content=prompt))
    with Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else _Quiet() as live:
        for i, one in enumerate(who):

            def show(_: int, text: str, i: int = i) -> None:
                texts[i] = text
                live.update(_columns(who, texts), refresh=True)

            texts[i] = reply(one, histories[i], config, show if console.is_terminal else None)
            histories[i].append(Message(role="assistant", content=texts[i]))
        live.update(_columns(who, texts), refresh=True)
    if not console.is_terminal:
        for one, text in zip(who, texts, strict=True):
            print(f"{one.name}: {printable(text)}" if len(who) > 1 else printable(text))


class _Quiet:
    """Stands in for `Live` where there is no terminal."""

    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, *_: object, **__: object) -> None:
        return None


def printable(text: str) -> str:
    """Without control characters, with which a model's answer could take over the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def _columns(who: list[Speaker], texts: list[str]) -> Table:
    table = Table(show_header=len(who) > 1, box=None, expand=True, padding=(0, 2))
    for one in who:
        table.add_column(one.name, ratio=1)
    table.add_row(*(RichText(printable(text)) for text in texts))  # RichText: model output is never read as markup
    return table
