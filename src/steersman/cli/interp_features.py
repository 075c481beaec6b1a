"""`steersman interp sae`: the features of a sparse autoencoder on a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from steersman.cli.options import Json, print_json
from steersman.cli.subjects import Prompt, Target, load_subjects, said

WORDS = 5  # that a feature raises, as shown


def interp_sae(
    target: Target,
    folder: Annotated[Path, typer.Argument(help="Of an autoencoder: Gemma Scope 2, SAELens or sparsify.")],
    prompt: Prompt,
    positions: Annotated[int, typer.Option(min=1, help="Tokens at the prompt's end that are looked at.")] = 4,
    top: Annotated[int, typer.Option(min=1, help="Features of a token, the most active first.")] = 5,
    site: Annotated[str, typer.Option(help="What it reads, where its folder does not say.")] = "",
    json: Json = False,
) -> None:
    """Features of a sparse autoencoder at a prompt's last tokens, and the words whose logits they raise."""
    from steersman.interp.reading_of_prompt import token_text
    from steersman.interp.sae import direction_words, features, fitted
    from steersman.interp.sae_formats import load_sae
    from steersman.report.blocks import Table
    from steersman.report.inside import quoted
    from steersman.report.terminal import render
    from steersman.terminal import results

    text, sae = said(prompt), load_sae(folder, site)
    model = load_subjects(target).main
    inner, chat = model.sampler.model, model.sampler.chat
    sae, ids = fitted(inner, sae), chat.prompt_ids(text)
    values = features(inner, sae, [ids]).values[0]
    rows: list[dict[str, Any]] = []
    for place in range(max(0, len(ids) - positions), len(ids)):
        best = values[place].topk(min(top, sae.d_sae))
        active = [(int(i), float(v)) for i, v in zip(best.indices, best.values, strict=True) if v > 0]
        rows.append({"position": place, "token": token_text(chat, ids[place]), "features": active})
    shown = sorted({number for row in rows for number, _ in row["features"]})
    in_stream = not sae.writes.endswith(("hook_z", "hook_q", "hook_k", "hook_v")) and sae.decoder.shape[1] == _width(
        inner
    )
    raised = (
        dict(zip(shown, direction_words(inner, sae.decoder[shown], chat.tokenizer.decode, WORDS), strict=True))
        if shown and in_stream
        else {}
    )
    for row in rows:
        row["features"] = [
            {"feature": number, "activation": value, "raises": list(raised[number][0]) if number in raised else []}
            for number, value in row["features"]
        ]
    if json:
        print_json({"site": sae.site, "features": sae.d_sae, "tokens": rows})
        return
    table = Table(
        caption=f"Features at {sae.site} ({sae.d_sae:,} of them)",
        columns=("token", "feature", "activation", "raises"),
        rows=tuple(
            (
                quoted(row["token"]),
                str(one["feature"]),
                f"{one['activation']:.3g}",
                " ".join(map(quoted, one["raises"])),
            )
            for row in rows
            for one in row["features"]
        ),
    )
    results().print(render([table]))


def _width(model: Any) -> int:
    from steersman.interp.anatomy import anatomy_of

    return anatomy_of(model).width
