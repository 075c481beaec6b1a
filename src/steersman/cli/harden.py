"""`steersman harden`: train a run's aligned model under an intervention, and compare it before and after."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from steersman.cli.options import Json, RunFolder, print_json
from steersman.cli.tampering import DEFAULT, steps_of

if TYPE_CHECKING:
    from steersman.interp.hardening.measure import Measured, Prompts
    from steersman.interp.hardening.rows import Rows
    from steersman.interp.hardening.tamper import TamperConfig
    from steersman.runs import OpenRun
    from steersman.types import Record

HARDENING = "hardening.json"
COPIED = ("recipe.yaml", "constitution.json")
FINDING = 64  # training prompts of each kind, with which an attacker finds directions
Method = Literal["refat", "rerouting", "preventative"]


def harden(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="A new or empty folder: a run with the hardened model in it.")],
    method: Annotated[
        Method, typer.Option(help="ReFAT, representation rerouting, or preventative steering.")
    ] = "refat",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the method, e.g. steps=300. Repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Evaluation prompts of each kind that are asked, at most.")] = 100,
    tokens: Annotated[int, typer.Option(min=1, help="Length of their answers.")] = 24,
    tamper: Annotated[str, typer.Option(help="Steps of fine-tuning after which refusals are counted.")] = DEFAULT,
    json: Json = False,
) -> None:
    """Train the aligned model to refuse under an intervention; the result is a run, for chat, serve and export."""
    from steersman.interp.hardening.tamper import TamperConfig
    from steersman.runs import open_run
    from steersman.store import read_json, write_json

    opened = open_run(run)
    rows, prompts = _inputs(opened, limit)
    config = _settings(method, set_ or [])
    curve = TamperConfig(at=steps_of(tamper))
    stage = _prepare(opened, out)
    with opened.on_its_hardware():
        before, curves = _figures(opened, opened.policy, rows, prompts, curve, tokens)
        _train(method, config, opened, rows, stage)
        after, later = _figures(opened, stage, rows, prompts, curve, tokens)
    _finish(opened, stage, method, config)
    found = _found(before, after, curves, later)
    write_json(out / HARDENING, {"method": method, "config": config.model_dump(mode="json"), **found})
    if json:
        print_json(read_json(out / HARDENING))
        return
    _show(found)
    typer.echo(f"the hardened model: steersman chat {out}")


def _inputs(run: OpenRun, limit: int) -> tuple[Rows, Prompts]:
    """The rows to learn from, and the prompts to measure with: of topics that no training row has.

    Raises:
        UserError: the run trains no policy. DataError: it has no rows or prompts of a kind.
    """
    from steersman.errors import DataError, UserError
    from steersman.evals.forms import HARMFUL, kind_of
    from steersman.interp.hardening.measure import Prompts
    from steersman.interp.hardening.rows import drawn, drawn_evenly, rows_of
    from steersman.stages.inputs import COMPARISONS, EVALUATION, TRAIN

    if not run.trains_a_policy:
        raise UserError(
            "this run trains no policy, so there is no aligned model to harden",
            where=str(run.path),
            do="give the folder of a run with sft",
        )
    rows = rows_of(run[TRAIN], run[COMPARISONS])
    asked = run[EVALUATION]
    harmful = [row.prompt for row in asked if kind_of(row.tags) == HARMFUL][:limit]
    harmless = [row.prompt for row in asked if "complies" in row.expect][:limit]
    if not harmful or not harmless:
        raise DataError(
            f"{len(harmful)} evaluation prompts have the tag `{HARMFUL}`, and {len(harmless)} expect `complies`",
            where=str(run.path),
            expected="some of each, to count refusals and needless refusals",
            do="add them to evaluation.jsonl",
        )
    finding = [drawn(rows.harmful, FINDING, 0), drawn_evenly(rows.utility, FINDING, 0)]
    return rows, Prompts(harmful, harmless, *([row.prompt for row in some] for some in finding))


def _settings(method: Method, settings: Sequence[str]) -> Record:
    """The method's configuration.

    Raises:
        UserError: a setting that it has not, or a wrong value.
    """
    import yaml
    from pydantic import ValidationError

    from steersman.errors import UserError

    kind, _ = _method(method)
    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not key.strip():
            raise UserError(f"no setting: {setting[:80]!r}", where="--set", expected="KEY=VALUE, such as steps=300")
        place = given
        *sections, last = key.strip().split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = parsed
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(kind.model_fields)
        raise UserError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            where="--set",
            expected=f"settings of {method}: {known}",
        ) from error


def _method(method: Method) -> tuple[type[Record], Callable[..., None]]:
    """A method's configuration and its `run`."""
    from steersman.interp.hardening import preventative, refat, rerouting

    methods: dict[Method, tuple[type[Record], Callable[..., None]]] = {
        "refat": (refat.RefatConfig, refat.run),
        "rerouting": (rerouting.ReroutingConfig, rerouting.run),
        "preventative": (preventative.PreventativeConfig, preventative.run),
    }
    return methods[method]


def _prepare(run: OpenRun, out: Path) -> Path:
    """The new run's folder for the policy.

    Raises:
        UserError: there is something in the new run's folder.
    """
    from steersman.errors import UserError

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            "this folder is in use", where=str(out), expected="a new or empty one", do="choose another --out"
        )
    stage = out / run.policy.name
    stage.mkdir(parents=True)
    return stage


def _train(method: Method, config: Record, run: OpenRun, rows: Rows, stage: Path) -> None:
    """Train the run's policy into a folder; what happens goes to the new run's events."""
    from steersman.store import StageFolder, append_jsonl

    def emit(**row: Any) -> None:
        append_jsonl(stage.parent / "events.jsonl", [{"stage": method, **row}])

    _method(method)[1](config, run.base, run.policy, rows, StageFolder(stage, method, emit))


def _finish(run: OpenRun, stage: Path, method: Method, config: Record) -> None:
    """Make the folder a run: what the old one says of itself, its data, and the policy's manifest."""
    from steersman.store import MANIFEST, canonical, read_json, sha256_file, sha256_text, write_json

    for name in COPIED:
        shutil.copyfile(run.path / name, stage.parent / name)
    if (run.path / "data" / MANIFEST).exists():
        shutil.copytree(run.path / "data", stage.parent / "data")
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    hardened = {"method": method, "config": config.model_dump(mode="json"), "from": str(run.path)}
    manifest = read_json(run.policy / MANIFEST)
    manifest |= {
        "key": sha256_text(canonical([manifest["key"], method, hardened["config"]])),
        "outputs": {str(path.relative_to(stage)): sha256_file(path) for path in files},
        "hardened": hardened,
    }
    write_json(stage / MANIFEST, manifest)
    stages = [name for name in run.about["stages"] if name in ("data", stage.name)]
    write_json(stage.parent / "run.json", {**run.about, "stages": stages, "hardened": hardened})


def _figures(
    run: OpenRun, policy: Path, rows: Rows, prompts: Prompts, config: TamperConfig, tokens: int
) -> tuple[Measured, dict[str, Any]]:
    """What a policy refuses, and its tamper curves: of harmless rows, and of rows that give in if there are any."""
    from steersman.interp.hardening.measure import answers, measure
    from steersman.interp.hardening.rows import drawn
    from steersman.interp.hardening.tamper import tamper_curve
    from steersman.lm.language_model import LocalModel

    local = LocalModel.load(run.base, policy)
    model, chat = local.sampler.model, local.sampler.chat
    measured = measure(model, chat, prompts, tokens)
    curves = {}
    for name, taught in (("benign", drawn(rows.utility, config.rows, 1)), ("adversarial", rows.complying)):
        if taught:
            points = tamper_curve(config, model, chat, taught, lambda m, c: answers(m, c, prompts.harmful, tokens).rate)
            curves[name] = [point.json() for point in points]
    return measured, curves


def _found(before: Measured, after: Measured, curves: Any, later: Any) -> dict[str, Any]:
    """All figures, for the file."""
    from steersman.interp.hardening.measure import compared

    return {**compared(before, after), "tamper": {"before": curves, "after": later}}


def _show(found: Mapping[str, Any]) -> None:
    """The figures as lines: before, after."""

    def rate(one: Mapping[str, Any]) -> str:
        return f"{100 * one['value']:.0f} % [{100 * one['low']:.0f}, {100 * one['high']:.0f}], n={one['n']}"

    for name, about in (
        ("unattacked", "harmful requests refused"),
        ("ablated", "  without the refusal direction, found afresh"),
        ("harmless", "harmless requests refused"),
    ):
        pair = " -> ".join(rate(found[side][name]["refused"]) for side in ("before", "after"))
        typer.echo(f"{about}: {pair}")
    shares = [found["ablated_share_of_unattacked"][side] for side in ("before", "after")]
    typer.echo(
        f"refusals left by the ablation: {' -> '.join('none' if s is None else f'{100 * s:.0f} %' for s in shares)}"
    )
    for kind, rows in (("benign", "harmless rows"), ("adversarial", "rows that give in")):
        for side in ("before", "after"):
            points = found["tamper"][side].get(kind)
            if points is None:
                typer.echo(f"tampering with {rows}, {side}: no such rows in the run's comparisons")
                continue
            line = ", ".join(f"{p['steps']} steps {rate(p['left'])}" for p in points)
            typer.echo(f"tampering with {rows}, {side}: {line}")
