"""`steersman interp probe` and `monitor`: the audit's three probes, fitted, and shipped inside a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from steersman.cli.options import Json, print_json
from steersman.cli.subjects import Target, load_subjects
from steersman.cli.tampering import DEFAULT, Tamper, curve_of, steps_of, told

if TYPE_CHECKING:
    from steersman.interp.probe_evidence import Report
    from steersman.interp.probes import Example, Probe
    from steersman.stats import Estimate

NOT_DEPLOYABLE = 1  # the exit code
CONVERSATIONS = 200  # harmless ones, that a monitor's threshold is set with

Concept = Annotated[
    Literal["defection", "deception", "evaluation-awareness"], typer.Argument(help="What the probe is about.")
]
Seed = Annotated[int, typer.Option(help="Seed of the split into fit, threshold and test.")]


def interp_probe(target: Target, concept: Concept, seed: Seed = 0, json: Json = False) -> None:
    """Fit a probe and print its figures with their nulls; exit code 1 where they do not allow to rely on it."""
    model = load_subjects(target).main
    _, found, _ = _fitted(concept, model.sampler.model, model.sampler.chat, seed)
    if json:
        print_json(found.json())
    else:
        typer.echo(str(found))
    if not found.deployable:
        raise typer.Exit(NOT_DEPLOYABLE)


def interp_monitor(
    target: Target,
    concept: Concept,
    to: Annotated[Path, typer.Option(help="A new or empty folder for the model with its monitor.")],
    seed: Seed = 0,
    tamper: Tamper = DEFAULT,
    anyway: Annotated[bool, typer.Option("--anyway", help="Also where the probe's figures forbid it.")] = False,
    json: Json = False,
) -> None:
    """Ship a probe inside the checkpoint: plain transformers load it, and answers end where it is above its threshold.

    Exit code 1, and nothing is written, where the probe's figures do not allow to rely on it.
    """
    from steersman.interp import alignment_monitor, baking, monitor
    from steersman.interp.concept_probes import unrelated_chat
    from steersman.lm.export import refuse_existing
    from steersman.stats import wilson
    from steersman.terminal import working

    refuse_existing(to)  # before minutes are spent
    steps = steps_of(tamper) if tamper else ()
    subjects = load_subjects(target)
    inner, chat = subjects.main.sampler.model, subjects.main.sampler.chat
    probe, found, tested = _fitted(concept, inner, chat, seed)
    if not (found.deployable or anyway):
        typer.echo(str(found))
        typer.echo("No monitor was made: these figures do not allow to rely on it. --anyway makes one all the same.")
        raise typer.Exit(NOT_DEPLOYABLE)
    with working("setting the threshold"):
        plain = baking.copy_of(inner)  # a policy with adapters becomes a whole model
        conversations, _ = unrelated_chat(chat, CONVERSATIONS, seed, replies=True)
        made = monitor.make(plain, chat, [probe], conversations)
    positives = [row for row in tested if row.label]

    def caught(model: Any, _: Any) -> Estimate:
        scores = probe.scores(model, positives)
        return wilson(sum(score > probe.threshold for score in scores), len(scores))

    points = curve_of(plain, chat, caught, steps)
    about = {"monitor": made.entry, "probe": found.json(), "tamper": [point.json() for point in points]}
    baking.save(plain, subjects.base, to, about)
    monitor.save(made, to)
    alignment_monitor.load(to)  # as others will, or an error
    if json:
        print_json(about | {"folder": str(to)})
        return
    typer.echo(str(found))
    typer.echo(
        f"Layer {made.layer}; threshold {float(made.threshold):.3g}: at most {made.entry['rate']:.0%} of"
        f" {made.entry['conversations']} harmless conversations have a flagged token."
    )
    if points:
        typer.echo(told(points, "Positives above the probe's own threshold"))
    typer.echo(f"Model: {to}\nLoad it in plain transformers, from its folder: from alignment_monitor import load")


def _fitted(concept: str, inner: Any, chat: Any, seed: int) -> tuple[Probe, Report, Sequence[Example]]:
    """The probe of a concept, its figures, and the rows that it was tested on."""
    from steersman.interp import concept_probes as made
    from steersman.interp.probes import gather
    from steersman.terminal import working

    fit, sets_of, behaviour = {
        "defection": (made.fit_defection, made.defection_sets, made.defection_behaviour),
        "deception": (made.fit_deception, made.deception_sets, made.deception_behaviour),
        "evaluation-awareness": (
            made.fit_evaluation_awareness,
            made.evaluation_awareness_sets,
            made.evaluation_awareness_behaviour,
        ),
    }[concept]
    with working("fitting and testing the probe"):
        probe, sets = fit(inner, chat, seed=seed), sets_of(chat, seed=seed)
        report = probe.report(gather(inner, probe, sets, behaviour(inner, chat, seed), seed=seed))
    return probe, report, sets.test
