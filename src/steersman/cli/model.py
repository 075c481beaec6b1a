"""Commands of a run's models: `chat` holds a conversation, `export` copies the aligned model out of the run."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from steersman.cli.options import Deployment, RunFolder
from steersman.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from steersman.constitution.layers import Effective
    from steersman.lm.language_model import LanguageModel
    from steersman.lm.sampling import OnText, SamplingConfig
    from steersman.runs import OpenRun
    from steersman.types import Message


def chat(
    run: RunFolder,
    prompt: Annotated[str | None, typer.Argument(help="One question. Default: an interactive conversation.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show the raw and the aligned model side by side.")
    ] = False,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 160,
    seed: Annotated[int, typer.Option(help="Random seed of sampling.")] = 0,
    deployment: Deployment = None,
    choose: Annotated[
        list[str] | None,
        typer.Option(metavar="PRINCIPLE=CHOICE", help="A choice of the user, where the constitution allows it."),
    ] = None,
) -> None:
    """Chat with the aligned model of a run."""
    from steersman.lm.sampling import SamplingConfig

    config = SamplingConfig(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    effective = effective_of(run, deployment, choose or ()) if deployment or choose else None
    converse(run, prompt, config, compare=compare, effective=effective)


def export(
    run: RunFolder,
    to: Annotated[Path, typer.Option(help="A new or empty folder.")],
    merged: Annotated[bool, typer.Option("--merged", help="Write a full model instead of a PEFT adapter.")] = False,
    stage: Annotated[str | None, typer.Option(help="Another stage's model, e.g. sft or reward_model.")] = None,
    gguf: Annotated[
        Path | None,
        typer.Option(help="A GGUF file too; give llama.cpp's folder, or its convert_hf_to_gguf.py."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Upload the folder to the Hub, by HF_TOKEN or `hf auth login`."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make the new repository public.")] = False,
) -> None:
    """Copy the aligned model, with a model card, to a folder that plain transformers and peft load.

    With --gguf to a GGUF file too, with --push to the Hub.
    """
    from steersman.runs import open_run

    opened = open_run(run)
    typer.echo(opened.export(to, merged=merged, stage=stage, gguf=gguf, push=push, public=public))
    if gguf is not None:
        typer.echo(to / f"{opened.path.name}.gguf")


# ── who decides what ─────────────────────────────────────────────────────────────────────────────────────────────────
def effective_of(run: Path, deployment: Path | None, choices: Sequence[str]) -> Effective:
    """The constitution of a run as it holds in a deployment, for a user's choices; what is refused goes to stderr.

    Raises:
        UserError: a choice is no PRINCIPLE=CHOICE; the deployment has a setting that the constitution refuses to it.
    """
    from steersman.constitution.layers import load_deployment, resolve
    from steersman.runs import open_run

    if wrong := [choice for choice in choices if not all(choice.partition("="))]:
        raise UserError(
            f"found {wrong[0]!r}", where="--choose", expected="PRINCIPLE=CHOICE, such as eating-meat=animals"
        )
    constitution = open_run(run).constitution
    declared = load_deployment(deployment, constitution) if deployment else None
    found = resolve(constitution, declared, {key: value for key, _, value in (c.partition("=") for c in choices)})
    if forbidden := [refusal.sentence for refusal in found.refused if refusal.layer == "publisher"]:
        raise UserError(
            " ".join(forbidden), where=str(deployment), do="leave the setting out, or change the constitution"
        )
    for refusal in found.refused:
        print(f"refused: {refusal.sentence}", file=sys.stderr)
    return found


# ── models of a run ──────────────────────────────────────────────────────────────────────────────────────────────────
class Speaker(NamedTuple):
    """A loaded model with a name for the screen."""

    name: str
    model: LanguageModel


def speaker(run: OpenRun, *, aligned: bool) -> Speaker:
    """Load the raw or the aligned model of a run."""
    return Speaker("aligned", run.aligned()) if aligned else Speaker("raw", run.raw())


# ── a conversation ───────────────────────────────────────────────────────────────────────────────────────────────────
def reply(speaker: Speaker, conversation: list[Message], config: SamplingConfig, on_text: OnText | None = None) -> str:
    """One answer; ``on_text`` gets the text so far after every token."""
    from steersman.lm.sampling import Request

    (answer,) = speaker.model.answers(Request([tuple(conversation)], config, on_text=on_text))
    if answer.truncated_prompt_tokens:
        print(
            f"note: {answer.truncated_prompt_tokens} tokens of the conversation were cut: its oldest turns first",
            file=sys.stderr,
        )
    return answer.text


def converse(
    run: Path,
    prompt: str | None,
    config: SamplingConfig,
    *,
    compare: bool = False,
    effective: Effective | None = None,
) -> None:
    """Answer one prompt, or hold a conversation line by line until end of file.

    Args:
        effective: what the models are told of, before the conversation.

    Raises:
        UserError: the prompt is empty.
    """
    from rich.console import Console

    from steersman.runs import open_run

    if prompt is not None and not prompt.strip():
        raise UserError("the prompt is empty", do='give a question, e.g. steersman chat RUN "What is tar?"')
    opened = open_run(run)
    _ = opened.policy  # refuses a run without one before a second is spent on loading
    if compare and not opened.trains_a_policy:
        print("note: this run trains no policy, so there is one model: the raw one", file=sys.stderr)
        compare = False
    speakers = [speaker(opened, aligned=aligned) for aligned in ((False, True) if compare else (True,))]
    trained = opened.trains_a_policy
    histories = [_told(effective, trained=trained and speaker.name == "aligned") for speaker in speakers]
    console = Console(highlight=False)
    if prompt is not None:
        _turn(speakers, histories, prompt, config, console)
        return
    if sys.stdin.isatty():
        console.print("One line is one message. Ctrl-D ends the conversation.")
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip():
            _turn(speakers, histories, line, config, console)


def _told(effective: Effective | None, *, trained: bool) -> list[Message]:
    """The beginning of a conversation."""
    from steersman.types import Message

    return [Message(role="system", content=effective.system_text(trained=trained))] if effective else []


def _turn(
    speakers: list[Speaker], histories: list[list[Message]], prompt: str, config: SamplingConfig, console: Console
) -> None:
    """One question to every speaker, streamed into columns on a terminal, printed whole elsewhere."""
    from rich.live import Live

    from steersman.types import Message

    texts = [""] * len(speakers)
    for history in histories:
        history.append(Message(role="user", content=prompt))
    with Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else nullcontext() as live:
        for i, speaker in enumerate(speakers):

            def show(_: int, text: str, i: int = i) -> None:
                texts[i] = text
                if live:
                    live.update(_columns(speakers, texts), refresh=True)

            texts[i] = reply(speaker, histories[i], config, show if live else None)
            histories[i].append(Message(role="assistant", content=texts[i]))
        if live:
            live.update(_columns(speakers, texts), refresh=True)
    if not console.is_terminal:
        for speaker, text in zip(speakers, texts, strict=True):
            print(f"{speaker.name}: {printable(text)}" if len(speakers) > 1 else printable(text))


def printable(text: str) -> str:
    """Strip control characters: model output must not drive the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def _columns(speakers: list[Speaker], texts: list[str]) -> Table:
    from rich.table import Table
    from rich.text import Text as RichText

    table = Table(show_header=len(speakers) > 1, box=None, expand=True, padding=(0, 2))
    for speaker in speakers:
        table.add_column(speaker.name, ratio=1)
    table.add_row(*(RichText(printable(text)) for text in texts))  # not markup: it is model output
    return table
