"""`steersman interp probe`: the audit's three probes, fitted on a model, with all that a figure of theirs needs."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from steersman.cli.options import Json, print_json
from steersman.cli.subjects import Target, load_subjects

NOT_DEPLOYABLE = 1  # the exit code


def interp_probe(
    target: Target,
    concept: Annotated[
        Literal["defection", "deception", "evaluation-awareness"], typer.Argument(help="What the probe is about.")
    ],
    seed: Annotated[int, typer.Option(help="Seed of the split into fit, threshold and test.")] = 0,
    json: Json = False,
) -> None:
    """Fit a probe and print its figures with their nulls; exit code 1 where they do not allow to rely on it."""
    from steersman.interp import concept_probes as made
    from steersman.interp.probes import gather
    from steersman.terminal import working

    model = load_subjects(target).main
    inner, chat = model.sampler.model, model.sampler.chat
    fit, sets, behaviour = {
        "defection": (made.fit_defection, made.defection_sets, made.defection_behaviour),
        "deception": (made.fit_deception, made.deception_sets, made.deception_behaviour),
        "evaluation-awareness": (
            made.fit_evaluation_awareness,
            made.evaluation_awareness_sets,
            made.evaluation_awareness_behaviour,
        ),
    }[concept]
    with working("fitting and testing the probe"):
        probe = fit(inner, chat, seed=seed)
        found = probe.report(gather(inner, probe, sets(chat, seed=seed), behaviour(inner, chat, seed), seed=seed))
    if json:
        print_json(found.json())
    else:
        typer.echo(str(found))
    if not found.deployable:
        raise typer.Exit(NOT_DEPLOYABLE)
