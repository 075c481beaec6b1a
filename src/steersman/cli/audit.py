"""`steersman audit`: what a model's behaviour may hide; the exit code is the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from steersman.interp.audit.settings import AuditConfig
    from steersman.interp.audit.subject import Subject
    from steersman.interp.audit.verdict import Audit


def audit(
    target: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="Folder of a run, or a model's folder or name.")],
    base: Annotated[
        str, typer.Option(help="What a model was trained from: a folder or a name. Of a run: the run's own.")
    ] = "",
    tier: Annotated[int, typer.Option(min=1, max=2, help="1: about three minutes; 2: at most twenty.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of free samples, noise and permutations.")] = 0,
    json: Annotated[Path | None, typer.Option(help="File that gets the whole audit as JSON.")] = None,
) -> None:
    """Look for what behaviour hides. Exit code 0: pass; 1: fail; 3: cannot tell."""
    from steersman.interp.audit import audit as gate
    from steersman.interp.audit.settings import AuditConfig
    from steersman.store import write_json
    from steersman.terminal import Progress

    config = AuditConfig.model_validate({"tier": tier, "seed": seed})
    subject = _subject(target, base, config)
    with Progress("audit", len(gate.of_tier(tier))) as bar:
        checks = gate.run(subject, tell=lambda **_: bar.advance())
    found = gate.conclude(checks, subject)
    if json is not None:
        write_json(json, found.model_dump(mode="json"))
    _show(found)
    raise typer.Exit(found.exit_code)


def _subject(target: str, base: str, config: AuditConfig) -> Subject:
    """A run's aligned model with its base, or a plain model with the base that was named.

    Raises:
        UserError: a run that trains no policy, or a model that does not exist.
    """
    from steersman.errors import UserError
    from steersman.interp.audit.subject import Subject, load
    from steersman.lm import pretrained

    folder = Path(target)
    if not (folder / "run.json").exists():
        own = load(pretrained.resolve(target))
        reference = load(pretrained.resolve(base)) if base else None
        return Subject(own, reference, tier=config.tier, seed=config.seed, limit=config.limit)
    from steersman.runs import open_run
    from steersman.stages.audit import subject_of
    from steersman.stages.inputs import EVALUATION, POLICY, PROMPTS

    run = open_run(folder)
    if not run.trains_a_policy:
        raise UserError(
            "this run trains no policy, so there is nothing to compare with its base",
            where=target,
            do="audit a model's folder: steersman audit MODEL --base MODEL",
        )
    stages = [name for name in POLICY.names if name in run.present and run.path / name != run.policy]
    before = run.path / stages[-1] if stages else None
    with run.on_its_hardware():
        topics = (run[PROMPTS], run[EVALUATION])
        return subject_of(pretrained.resolve(base) if base else run.base, run.policy, before, config, topics)


def _show(found: Audit) -> None:
    from steersman.report.blocks import Details
    from steersman.report.terminal import render
    from steersman.stages.audit import blocks
    from steersman.terminal import results

    shown = [block for block in blocks(found.model_dump(mode="json")) if not isinstance(block, Details)]
    results().print(render(shown))
