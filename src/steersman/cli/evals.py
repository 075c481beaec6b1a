"""`steersman eval`: published suites, asked of a run, a model or an endpoint."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from steersman.cli.options import Json, print_json

if TYPE_CHECKING:
    from steersman.evals.suites.runner import Gathered, Guarded
    from steersman.lm.language_model import LanguageModel

FOLDER = "eval"  # of a run, or of the working directory
SUMMARY = "summary.json"
DEFAULT_LIMIT = 200


class Asked(NamedTuple):
    """Whom the suites are asked of: arms with what loads them, what identifies each, a guard, and where results go."""

    arms: Mapping[str, Callable[[], LanguageModel]]
    digests: Mapping[str, str]
    guarded: Callable[[], Guarded] | None
    out: Path


def evaluate(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A run, a model's name or folder, or an endpoint's address.")
    ] = "",
    suite: Annotated[
        str, typer.Option(help="Suites, separated by commas; ours: all that need no copy. Default: all that are found.")
    ] = "",
    listed: Annotated[bool, typer.Option("--list", help="List the suites and whether their files are found.")] = False,
    limit: Annotated[
        int, typer.Option(min=0, help="Most questions of a suite, the same ones every time; 0 for all.")
    ] = DEFAULT_LIMIT,
    data: Annotated[
        str | None, typer.Option(help="Folder with your copies of the sets. Default: STEERSMAN_PUBLIC_DATA.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help=f"Folder of the results. Default: RUN/{FOLDER}.")] = None,
    model: Annotated[str, typer.Option(help="The model's name at an endpoint.")] = "",
    key_variable: Annotated[
        str | None, typer.Option(help="Environment variable with the endpoint's key; without it, none is sent.")
    ] = None,
    json: Json = False,
) -> None:
    """Ask published suites: raw and aligned, with intervals, nulls and what got worse first.

    A finished suite is not asked again; one that was interrupted goes on where it stopped.
    """
    from steersman.data import public_files
    from steersman.errors import UserError
    from steersman.evals.suites import runner

    folder = public_files.locate(data, "--data")
    names = [name.strip() for name in suite.split(",") if name.strip()]
    if listed:
        _list(runner.available((), folder), json)
        return
    if not target:
        raise UserError("nothing to ask is named", expected="a run, a model or an address", do="steersman eval RUN")
    gathered = runner.gather(names, folder, limit or None, strict=bool(names))
    if not gathered.questions:
        raise UserError(
            "no suite has its files here", where=str(folder or "--data"), do="see `steersman eval --list` for the files"
        )
    with ExitStack() as held:
        asked = _asked(target, model, key_variable, out, held)
        summary = _measured(gathered, asked)
    _show(summary, asked.out, json)


# ── whom ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _asked(target: str, model: str, key_variable: str | None, out: Path | None, held: ExitStack) -> Asked:
    if re.match(r"https?://", target):
        return _of_endpoint(target, model, key_variable, out)
    if (Path(target) / "run.json").is_file():
        return _of_run(target, out, held)
    from steersman.evals.conditions import RAW
    from steersman.lm import pretrained
    from steersman.lm.language_model import LocalModel

    base = pretrained.resolve(target)
    load = functools.cache(functools.partial(LocalModel.load, base))
    return Asked({RAW: load}, {RAW: pretrained.digest(base)}, None, out or Path(FOLDER) / _slug(target))


def _of_run(path: str, out: Path | None, held: ExitStack) -> Asked:
    """The raw and the aligned model of a run, and its guard behind the aligned one."""
    from steersman.evals.conditions import ALIGNED, RAW
    from steersman.guard.guard import Guard
    from steersman.lm import pretrained
    from steersman.runs import open_run
    from steersman.stages.inputs import OPTIONAL_GUARD
    from steersman.stages.suites import behind
    from steersman.store import folder_digest

    run = open_run(path)
    held.enter_context(run.on_its_hardware())
    arms: dict[str, Callable[[], LanguageModel]] = {RAW: functools.cache(run.raw)}
    digests, policy = {RAW: pretrained.digest(run.base)}, run.policy if run.trains_a_policy else None
    if policy is not None:
        arms[ALIGNED], digests[ALIGNED] = functools.cache(run.aligned), folder_digest(policy)
    else:
        print("note: this run trains no policy, so there is one model: the raw one", file=sys.stderr)
    guard = run[OPTIONAL_GUARD]
    if guard is None:
        return Asked(arms, digests, None, out or run.path / FOLDER)
    load = functools.cache(lambda: behind(Guard.load(guard, base=run.base, policy=policy)))
    return Asked(arms, {**digests, "guard": folder_digest(guard)}, load, out or run.path / FOLDER)


def _of_endpoint(address: str, model: str, key_variable: str | None, out: Path | None) -> Asked:
    """A model at an endpoint: it answers freely, or chooses among letters."""
    from pydantic import ValidationError

    from steersman.errors import UserError
    from steersman.lm.endpoint.client import RemoteModel
    from steersman.lm.endpoint.settings import RemoteConfig
    from steersman.store import canonical, sha256_text

    if not model:
        raise UserError("no model is named", where="--model", expected="the model's name at the endpoint")
    try:
        config = RemoteConfig(base_url=address, model=model, key_variable=key_variable)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        raise UserError(str(wrong["msg"]), where=f"--{str(wrong['loc'][0]).replace('_', '-')}") from None
    folder = out or Path(FOLDER) / _slug(model)
    folder.mkdir(parents=True, exist_ok=True)
    load = functools.cache(lambda: RemoteModel(config, folder / "endpoint.jsonl"))
    return Asked({model: load}, {model: sha256_text(canonical(config.identity()))}, None, folder)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", Path(name).name.lower()).strip("-") or "model"


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _measured(gathered: Gathered, asked: Asked) -> dict[str, Any]:
    """The summary of all suites; each is a stage of its own, so that it is reused, or goes on after a kill."""
    from steersman.evals.detectors import behaviours
    from steersman.evals.suites import measure, runner
    from steersman.evals.suites.runner import SuitesConfig
    from steersman.store import Identity, Run, read_json, write_json

    run, sampling = Run(asked.out), SuitesConfig().sampling
    found = []
    with run.locked():
        for name, questions in gathered.questions.items():
            one = runner.Gathered({name: questions}, ())
            versions = {"evals.suites.runner": runner.VERSION, "evals.detectors.behaviours": behaviours.VERSION}
            inputs = {"questions": one.digest, **asked.digests}
            identity = Identity(name, versions, {"sampling": sampling.identity()}, inputs)
            artifact = run.finished(identity) or run.perform(
                identity, functools.partial(_ask_one, one, asked, sampling)
            )
            found.append(read_json(artifact.file(runner.SUMMARY)))
        suites = [suite for summary in found for suite in summary["suites"]]
        compared = list(asked.arms)[1:]
        summary = {
            "suites": suites,
            "arms": list(asked.arms),
            "missing": runner.described(gathered.missing),
            "changes": measure.verdicts(suites, compared[-1]) if compared else [],
        }
        write_json(asked.out / SUMMARY, summary)
    return summary


def _ask_one(one: Gathered, asked: Asked, sampling: Any, folder: Any) -> None:
    from steersman.evals.suites import runner

    runner.run(one, asked.arms, sampling, folder, asked.guarded)


# ── showing ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _show(summary: Mapping[str, Any], out: Path, json: bool) -> None:
    if json:
        print_json(summary)
        return
    from steersman.report import terminal
    from steersman.report.suites import blocks
    from steersman.terminal import results

    results().print(terminal.render(blocks(summary)))
    print(f"Written to {out}", file=sys.stderr)


def _list(found: list[str], json: bool) -> None:
    """Every suite with its paper, and the files that it reads."""
    from steersman.evals.suites import SUITES

    rows = [
        {
            "suite": suite.name,
            "title": suite.title,
            "paper": suite.paper,
            "about": suite.about,
            "found": suite.name in found,
            "files": list(suite.files),
            "expected": suite.expected or ("ours" if not suite.files else ""),
            "metrics": list(suite.metrics),
            "nulls": list(suite.nulls),
        }
        for suite in SUITES
    ]
    if json:
        print_json(rows)
        return
    for suite in SUITES:
        typer.echo(f"{'+' if suite.name in found else '-'} {suite.name:<20} {suite.title} ({suite.paper})")
        typer.echo(f"  {'':<20} {suite.about}")
        if suite.name not in found:
            typer.echo(f"  {'':<20} not found: {suite.expected or ' or '.join(suite.files)}")
