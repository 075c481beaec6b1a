"""`steersman interp`: the laboratory's methods as verbs. This file has those that ask where an answer comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from steersman.cli.interp_diff import interp_diff
from steersman.cli.interp_directions import interp_bake, interp_direction, interp_steer
from steersman.cli.interp_features import interp_sae
from steersman.cli.interp_probe import interp_monitor, interp_probe
from steersman.cli.options import Json, print_json
from steersman.cli.subjects import Prompt, Target, first_token, load_subjects, said

if TYPE_CHECKING:
    from steersman.interp.pairs import Pairs
    from steersman.lm.language_model import LocalModel

interp_app = typer.Typer(
    help="Look into a model: lens, attributions, patching, circuits, directions, probes.", no_args_is_help=True
)
EDGES_SHOWN = 12

For = Annotated[str, typer.Option("--for", help="Beginning of the answer that is explained. Default: the model's own.")]
Against = Annotated[
    str,
    typer.Option("--against", help="Beginning of the answer that it is held against. Default: the second likeliest."),
]


@interp_app.command("lens")
def interp_lens(
    target: Target,
    prompt: Prompt,
    positions: Annotated[int, typer.Option(min=1, help="Tokens at the prompt's end that are looked at.")] = 1,
    top: Annotated[int, typer.Option(min=1, help="Likeliest tokens of each layer.")] = 5,
    token: Annotated[
        list[str] | None,
        typer.Option(help="A word whose first token is followed through the layers; repeat for several."),
    ] = None,
    json: Json = False,
) -> None:
    """Logit lens: what the model would say if it stopped after each layer."""
    from steersman.interp.lens import logit_lens
    from steersman.interp.reading_of_prompt import token_text
    from steersman.report.blocks import Table
    from steersman.report.inside import quoted

    text, model = said(prompt), load_subjects(target).main
    chat, ids = model.sampler.chat, model.sampler.chat.prompt_ids(text)
    chosen = [first_token(model, word, "--token") for word in token or []]
    places = range(max(0, len(ids) - positions), len(ids))
    found = logit_lens(model.sampler.model, ids, places, chosen, top)
    rows = [
        {
            "layer": layer - 1,
            "position": place,
            "after": token_text(chat, ids[place]),
            "top": [
                {"id": i, "token": token_text(chat, i), "logprob_nats": p}
                for i, p in zip(found.top[layer, n].tolist(), found.top_logprobs[layer, n].tolist(), strict=True)
            ],
            "chosen": [
                {"token": token_text(chat, i), "rank": int(rank), "logprob_nats": float(p)}
                for i, rank, p in zip(chosen, found.rank[layer, n], found.logprob[layer, n], strict=True)
            ],
            "entropy_nats": float(found.entropy[layer, n]),
        }
        for layer in range(len(found.top))
        for n, place in enumerate(found.positions)
    ]
    if json:
        print_json(rows)
        return
    last: list[dict[str, Any]] = [row for row in rows if row["position"] == len(ids) - 1]
    followed = [f"rank of {quoted(token_text(chat, i))}" for i in chosen]
    _print_table(
        Table(
            caption=f"Logit lens behind the last of {len(ids)} tokens (layer -1: the embedding)",
            columns=("layer", "likeliest", *followed),
            rows=tuple(
                (
                    str(row["layer"]),
                    "  ".join(f"{quoted(t['token'])} {_percent(t['logprob_nats'])}" for t in row["top"]),
                    *(c["rank"] for c in row["chosen"]),
                )
                for row in last
            ),
        )
    )


@interp_app.command("attribute")
def interp_attribute(
    target: Target,
    prompt: Prompt,
    for_: For = "",
    against: Against = "",
    top: Annotated[int, typer.Option(min=1, help="Parts that are shown; JSON has all.")] = 15,
    json: Json = False,
) -> None:
    """Direct logit attribution: what each head and MLP writes for one token and against another."""
    from steersman.interp.attribution import logit_attribution
    from steersman.interp.reading_of_prompt import token_text
    from steersman.report.blocks import Number, Table
    from steersman.report.inside import quoted

    text, model = said(prompt), load_subjects(target).main
    chat, ids = model.sampler.chat, model.sampler.chat.prompt_ids(text)
    one, other = _two_tokens(model, ids, for_, against)
    found = logit_attribution(model.sampler.model, [ids], [[one]], [[other]])
    values = dict(zip(found.names, found.values[0].tolist(), strict=True))
    names = token_text(chat, one), token_text(chat, other)
    if json:
        print_json(
            {
                "for": {"id": one, "token": names[0]},
                "against": {"id": other, "token": names[1]},
                "logit_difference": float(found.difference[0]),
                "sum": float(found.values[0].sum()),
                "parts": values,
            }
        )
        return
    largest = sorted(values.items(), key=lambda item: -abs(item[1]))[:top]
    _print_table(
        Table(
            caption=f"For {quoted(names[0])} and against {quoted(names[1])}: {float(found.difference[0]):+.3f} logits",
            columns=("part", "logits"),
            rows=tuple((name, Number(value=value, digits=3)) for name, value in largest),
        )
    )
    rest = sum(values.values()) - sum(value for _, value in largest)
    typer.echo(f"The other {len(values) - len(largest)} parts together: {rest:+.3f}. Sum: {sum(values.values()):+.3f}.")


@interp_app.command("patch")
def interp_patch(
    target: Target,
    clean: Prompt,
    corrupt: Annotated[str, typer.Argument(help="The same request with one thing changed, of as many tokens.")],
    for_: For = "",
    against: Against = "",
    site: Annotated[
        Literal["resid_pre", "attn_out", "mlp_out", "heads"], typer.Option(help="What is exchanged in every layer.")
    ] = "resid_pre",
    mode: Annotated[
        Literal["denoising", "noising"],
        typer.Option(help="Clean states into the corrupted run, or the other way round."),
    ] = "denoising",
    json: Json = False,
) -> None:
    """Activation patching: which states carry the difference between two requests from one run into the other."""
    from steersman.interp.patching import sweep
    from steersman.interp.reading_of_prompt import token_text
    from steersman.report.blocks import Table
    from steersman.report.inside import quoted

    model = load_subjects(target).main
    chat = model.sampler.chat
    rows = [chat.prompt_ids(said(text)) for text in (clean, corrupt)]
    own = _first_choices(model, rows)
    one, other = _two_tokens(model, rows[0], for_, against, default_other=own[1] if own[0] != own[1] else None)
    pairs = _pairs(model, [(rows[0], rows[1], [one], [other])])
    by: Literal["position", "head"] = "head" if site == "heads" else "position"
    effects = sweep(model.sampler.model, pairs, "attn.hook_z" if site == "heads" else f"hook_{site}", by, mode)
    heads = [f"H{head}" for head in range(effects.shape[1])]
    names = [token_text(chat, i) for i in rows[0]] if by == "position" else heads
    about = {
        "for": token_text(chat, one),
        "against": token_text(chat, other),
        "clean": float(pairs.at_clean[0]),
        "corrupt": float(pairs.at_corrupt[0]),
        "site": site,
        "mode": mode,
        "columns": names,
        "effect": effects.tolist(),
    }
    if json:
        print_json(about)
        return
    flat = effects.flatten().abs().argsort(descending=True)[:EDGES_SHOWN].tolist()
    places = [divmod(index, effects.shape[1]) for index in flat]
    shown = [quoted(name) for name in names] if by == "position" else heads
    _print_table(
        Table(
            caption=f"{mode} {site}: the share that comes back (1: all; logit difference {about['clean']:+.2f} on the"
            f" clean request, {about['corrupt']:+.2f} on the corrupted one)",
            columns=("layer", "token" if by == "position" else "head", by, "effect"),
            rows=tuple((str(n), shown[p], str(p), f"{float(effects[n, p]):+.3f}") for n, p in places),
        )
    )


@interp_app.command("circuit")
def interp_circuit(
    target: Target,
    pairs: Annotated[
        Path, typer.Argument(help="JSON Lines with clean, corrupt, right and wrong: requests and answers.")
    ],
    size: Annotated[int, typer.Option(min=1, help="Edges of the circuit.")] = 50,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the integrated gradients.")] = 5,
    randoms: Annotated[int, typer.Option(min=1, help="Random circuits of equal size beside it.")] = 10,
    json: Json = False,
) -> None:
    """The circuit of a behaviour by EAP-IG: its edges, how faithful it is, and random circuits of equal size."""
    from steersman.interp.circuits import circuit, edge_scores, evaluate, random_circuit
    from steersman.interp.writes import graph_of
    from steersman.report.blocks import Table
    from steersman.terminal import working

    model = load_subjects(target).main
    batch = _read_pairs(model, pairs)
    graph = graph_of(model.sampler.model)
    with working("scoring edges"):
        scores = edge_scores(model.sampler.model, batch, steps)
        chosen = circuit(graph, scores, size)
        others = [random_circuit(graph, int(chosen.sum()), seed) for seed in range(randoms)]
        faithful = [batch.faithfulness(m) for m in evaluate(model.sampler.model, batch, [chosen, *others])]
    edges = sorted(
        ((graph.name(w, r), float(scores[w, r])) for w, r in chosen.nonzero().tolist()), key=lambda edge: -abs(edge[1])
    )
    if json:
        print_json(
            {
                "pairs": len(batch),
                "dropped": batch.dropped,
                "edges_of_the_model": int(graph.edges.sum()),
                "faithfulness": faithful[0],
                "random_faithfulness": faithful[1:],
                "random_edges": [int(other.sum()) for other in others],
                "edges": [{"edge": name, "score": score} for name, score in edges],
            }
        )
        return
    _print_table(
        Table(
            caption=f"{len(edges)} of {int(graph.edges.sum())} edges, {len(batch)} pairs",
            columns=("edge", "score"),
            rows=tuple((name, f"{score:+.4f}") for name, score in edges[:EDGES_SHOWN]),
        )
    )
    typer.echo(
        f"Faithfulness {faithful[0]:.2f}; {randoms} random circuits of equal size: {min(faithful[1:]):.2f} to"
        f" {max(faithful[1:]):.2f}."
    )
    if left_out := [f"{count} {reason}" for reason, count in batch.dropped.items() if count]:
        typer.echo(f"Left out: {', '.join(left_out)}.")


interp_app.command("direction")(interp_direction)
interp_app.command("steer")(interp_steer)
interp_app.command("bake")(interp_bake)
interp_app.command("sae")(interp_sae)
interp_app.command("probe")(interp_probe)
interp_app.command("monitor")(interp_monitor)
interp_app.command("diff")(interp_diff)


# ── what several verbs share ─────────────────────────────────────────────────────────────────────────────────────────
def _print_table(table: Any) -> None:
    from steersman.report.terminal import render
    from steersman.terminal import results

    results().print(render([table]))


def _percent(logprob: float) -> str:
    import math

    return f"{100 * math.exp(logprob):.0f} %"


def _first_choices(model: LocalModel, rows: list[list[int]]) -> list[int]:
    """The likeliest first token of the answer to each prompt."""
    from steersman.interp.refusal import first_logprobs
    from steersman.lm.head import evaluating, head_of

    with evaluating(model.sampler.model):
        logprobs = first_logprobs(model.sampler.model, head_of(model.sampler.model), rows)
    return [int(token) for token in logprobs.argmax(-1)]


def _two_tokens(
    model: LocalModel, ids: list[int], for_: str, against: str, default_other: int | None = None
) -> tuple[int, int]:
    """The token that is explained and the one that it is held against.

    Raises:
        UserError: they are the same.
    """
    from steersman.errors import UserError
    from steersman.interp.refusal import first_logprobs
    from steersman.lm.head import evaluating, head_of

    with evaluating(model.sampler.model):
        logprobs = first_logprobs(model.sampler.model, head_of(model.sampler.model), [ids])[0]
    likeliest = [int(token) for token in logprobs.topk(2).indices]
    one = first_token(model, for_, "--for") if for_ else likeliest[0]
    fallback = default_other if default_other not in (None, one) else next(t for t in likeliest if t != one)
    other = first_token(model, against, "--against") if against else fallback
    assert other is not None
    if one == other:
        raise UserError("both answers begin with the same token", where="--for, --against", expected="two beginnings")
    return one, other


def _pairs(model: LocalModel, rows: list[tuple[list[int], list[int], list[int], list[int]]]) -> Pairs:
    from steersman.interp.pairs import Pair, pairs_of

    return pairs_of(model.sampler.model, [Pair(*row) for row in rows])


def _read_pairs(model: LocalModel, file: Path) -> Pairs:
    """Pairs of a file.

    Raises:
        DataError: a line without one of the four texts.
    """
    from steersman.errors import DataError, UserError
    from steersman.store import read_jsonl

    if not file.is_file():
        raise UserError("no such file", where=str(file), expected="JSON Lines with clean, corrupt, right and wrong")
    found = []
    for number, row in enumerate(read_jsonl(file), start=1):
        if not isinstance(row, dict):
            raise DataError("no object", where=f"{file}, line {number}", expected="clean, corrupt, right and wrong")
        missing = [key for key in ("clean", "corrupt", "right", "wrong") if not str(row.get(key) or "").strip()]
        if missing:
            raise DataError(f"no {' and no '.join(missing)}", where=f"{file}, line {number}", expected="four texts")
        texts = [model.sampler.chat.prompt_ids(str(row[key])) for key in ("clean", "corrupt")]
        ends = [[first_token(model, str(row[key]), f"{file}, line {number}")] for key in ("right", "wrong")]
        found.append((texts[0], texts[1], ends[0], ends[1]))
    return _pairs(model, found)
