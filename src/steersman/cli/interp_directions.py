"""`steersman interp direction`, `steer` and `bake`: find a direction, use it at run time, write it into the weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steersman.cli.options import Json, print_json
from steersman.cli.subjects import INSIDE, REFUSAL, Prompt, Target, load_subjects, read_direction, requests_of, said
from steersman.cli.tampering import DEFAULT, Tamper, curve_of, steps_of, told

if TYPE_CHECKING:
    from steersman.interp.directions import Direction
    from steersman.interp.hardening.tamper import Point
    from steersman.interp.refusal import RefusalDirection
    from steersman.stats import Estimate

NOTHING = 1  # the exit code where there is no single direction
DirectionFile = Annotated[
    str, typer.Option("--direction", help="FILE or FILE#NAME: safetensors of ours, or a control vector (.gguf).")
]


def interp_direction(
    target: Target,
    out: Annotated[
        Path | None, typer.Option(help="Where it is saved (.safetensors). Default: RUN/inside, or here.")
    ] = None,
    gguf: Annotated[Path | None, typer.Option(help="A control vector for llama.cpp too.")] = None,
    harmful: Annotated[Path | None, typer.Option(help="Harmful requests, one a line. Default: the run's.")] = None,
    harmless: Annotated[Path | None, typer.Option(help="Harmless requests, one a line. Default: the run's.")] = None,
    fit: Annotated[int, typer.Option(min=4, help="Most requests of each kind that means are taken over.")] = 128,
    validation: Annotated[int, typer.Option(min=4, help="Most of each kind to compare candidates with.")] = 32,
    candidates: Annotated[int, typer.Option(min=1, help="Directions that are compared.")] = 12,
    most_kl: Annotated[float, typer.Option(min=0.001, help="Nats by which harmless answers may change.")] = 0.1,
    json: Json = False,
) -> None:
    """Find the refusal direction, by the published selection; exit code 1 where there is no single one."""
    from steersman.interp.refusal import RefusalConfig, refusal_direction
    from steersman.interp.saved_vectors import save_gguf, save_safetensors
    from steersman.terminal import working

    config = RefusalConfig(fit=fit, validation=validation, candidates=candidates, most_kl=most_kl)
    subjects = load_subjects(target)
    model, chat = subjects.main.sampler.model, subjects.main.sampler.chat
    bad, good = requests_of(subjects.run, harmful, harmless)
    with working("finding the refusal direction"):
        found = refusal_direction(model, chat, bad, good, config)
    file = out or (
        Path(f"{REFUSAL}.safetensors")
        if subjects.run is None
        else subjects.run.path / INSIDE / f"{REFUSAL}.safetensors"
    )
    if found.direction is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_safetensors(file, [found.direction])
        if gguf is not None:
            save_gguf(gguf, [found.direction], str(model.config.get_text_config().model_type))
    if json:
        print_json(_as_json(found, file))
    else:
        _show_search(found, chat)
        if found.direction is not None:
            typer.echo(f"Direction: {file}" + (f"\nControl vector: {gguf}" if gguf is not None else ""))
    if found.direction is None:
        if not json:
            typer.echo(f"No direction: {found.reason}.", err=True)
        raise typer.Exit(NOTHING)


def _as_json(found: RefusalDirection, file: Path) -> dict[str, Any]:
    one = found.direction
    return {
        "direction": None if one is None else _about(one) | {"file": str(file)},
        "reason": found.reason,
        "refusal_tokens": [{"id": i, "harmful": a, "harmless": b} for i, (a, b) in found.tokens.items()],
        "scores": {"harmful": found.harmful_score, "harmless": found.harmless_score},
        "candidates": [candidate._asdict() for candidate in found.candidates],
        "untried": found.untried,
        "dropped": {"harmful": found.dropped_harmful, "harmless": found.dropped_harmless},
        "fitted": found.fitted,
        "validated": found.validated,
    }


def _about(one: Direction) -> dict[str, Any]:
    return {"name": one.name, "layer": one.layer, "position": one.position, "norm": one.norm, "model": one.model}


def _show_search(found: RefusalDirection, chat: Any) -> None:
    from steersman.interp.reading_of_prompt import token_text
    from steersman.report.blocks import Table
    from steersman.report.inside import quoted
    from steersman.report.terminal import render
    from steersman.terminal import results

    begins = ", ".join(
        f"{quoted(token_text(chat, i))} ({100 * a:.0f} % of harmful, {100 * b:.0f} % of harmless)"
        for i, (a, b) in found.tokens.items()
    )
    typer.echo(f"Refusals begin with {begins or 'no token of their own'}.")
    typer.echo(
        f"Left out: {found.dropped_harmful} harmful requests that are answered, {found.dropped_harmless} harmless ones"
        f" that are declined. Means over {found.fitted[0]} and {found.fitted[1]}."
    )
    rows = tuple(
        (f"{c.layer}, {c.position}", f"{c.ablation:+.2f}", f"{c.steering:+.2f}", f"{c.kl:.3f}", c.out or "passes")
        for c in found.candidates
    )
    if rows:
        scores = f"harmful {found.harmful_score:+.2f}, harmless {found.harmless_score:+.2f}"
        caption = f"Candidates, best first (log-odds of a refusal: {scores})"
        columns = ("layer, token", "harmful without it", "harmless with it", "KL", "")
        results().print(render([Table(caption=caption, columns=columns, rows=rows)]))


def interp_steer(
    target: Target,
    prompt: Prompt,
    direction: DirectionFile,
    coefficient: Annotated[
        float | None, typer.Option(help="Add so many times the difference of means at its layer. Default: take it out.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 96,
    json: Json = False,
) -> None:
    """Answer with a direction taken out of the residual stream, or added to it, beside the plain answer."""
    from steersman.interp.directions import ablating, adding, answers

    text, vector = said(prompt), read_direction(direction)
    model = load_subjects(target).main
    inner, chat = model.sampler.model, model.sampler.chat
    (plain,) = answers(inner, chat, [text], max_new_tokens=max_new_tokens)
    if coefficient is None:
        change, name = ablating(inner, vector.vector), "taken out"
    else:
        change, name = adding(inner, vector.layer, vector.difference, coefficient), f"{coefficient:+g} times added"
    with change:
        (steered,) = answers(inner, chat, [text], max_new_tokens=max_new_tokens)
    if json:
        print_json({"direction": _about(vector), "coefficient": coefficient, "plain": plain, "steered": steered})
        return
    from steersman.cli.model import printable

    typer.echo(f"plain: {printable(plain)}\n\n{vector.name} {name}: {printable(steered)}")


def interp_bake(
    target: Target,
    direction: DirectionFile,
    to: Annotated[Path, typer.Option(help="A new or empty folder for the model.")],
    leave_embeddings: Annotated[
        bool, typer.Option("--leave-embeddings", help="Do not edit the embeddings: tied ones stay tied.")
    ] = False,
    tamper: Tamper = DEFAULT,
    json: Json = False,
) -> None:
    """Write the ablation of a direction into the weights, prove that nothing writes it, and save a plain checkpoint."""
    from steersman.interp import baking
    from steersman.lm.export import refuse_existing
    from steersman.stats import mean_estimate
    from steersman.terminal import working

    refuse_existing(to)  # before minutes are spent
    steps = steps_of(tamper) if tamper else ()
    vector = read_direction(direction)
    subjects = load_subjects(target)
    model, chat = subjects.main.sampler.model, subjects.main.sampler.chat
    rows = [chat.prompt_ids(text) for text in requests_of(subjects.run)[1][:32]]
    with working("baking"):
        baked = baking.copy_of(model)
        done = baking.bake_ablation(baked, vector.vector, embeddings="leave" if leave_embeddings else "untie")
        compared = baking.compare(model, baked, vector.vector, rows)
        leak_of_naive = _leak_of_the_naive_edit(model, vector.vector)

    def along(model: Any, _: Any) -> Estimate:
        return mean_estimate([leak.mean for leak in baking.sublayers(baking.leaks(model, vector.vector))])

    before, points = baking.sublayers(done.before), curve_of(baked, chat, along, steps)
    about = {
        "direction": _about(vector),
        "largest_leak": done.largest,
        "largest_leak_of_the_naive_edit": leak_of_naive,
        "largest_leak_before": max(leak.largest for leak in before),
        "embeddings_leak": done.leaks["hook_embed"].largest,
        "untied": done.untied,
        "edits_through_a_post_norm": done.gain_aware,
        "kl_hook_to_baked_nats": compared.kl,
        "largest_logprob_difference": compared.logprob,
        "mean_share_written_before": sum(leak.mean for leak in before) / len(before),
        "tamper": [point.json() for point in points],
    }
    with working("saving"):
        baking.save(baked, subjects.base, to, about)
    if json:
        print_json(about | {"folder": str(to)})
        return
    _tell_baked(about, points)
    typer.echo(f"Model: {to}")


def _tell_baked(about: Mapping[str, Any], points: Sequence[Point]) -> None:
    typer.echo(
        f"Of what any sublayer writes, {about['largest_leak']:.1e} at most is along {about['direction']['name']}"
        f" ({about['largest_leak_before']:.2g} before; {about['largest_leak_of_the_naive_edit']:.2g} after the edit"
        " without the norms' gains)."
    )
    typer.echo(f"Beside the ablation at run time: KL {about['kl_hook_to_baked_nats']:.2g} nats on harmless requests.")
    if points:
        line = told(points, "Of what sublayers write, the mean share along it", "{:.2%}")
        typer.echo(f"{line}. The unedited model: {about['mean_share_written_before']:.2%}.")
    if about["untied"]:
        print(
            "note: the output layer has weights of its own now; the file is larger by the embeddings", file=sys.stderr
        )


def _leak_of_the_naive_edit(model: Any, vector: Any) -> float:
    """What a sublayer still writes along the direction after the edit that ignores norms behind it."""
    from steersman.interp import baking

    naive = baking.copy_of(model)
    baking.bake_naively(naive, vector)
    return max(leak.largest for leak in baking.sublayers(baking.leaks(naive, vector)))
