"""`steersman interp diff`: what changed between a run's base and its aligned model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from steersman.cli.options import Json, print_json
from steersman.cli.subjects import Target, load_subjects

if TYPE_CHECKING:
    from steersman.lm.chat_format import ChatFormat

TEXTS, TOKENS = 32, 32  # neutral passages that the lens reads the beginnings of, and prompts whose KL is taken
SHOWN = 10
CONTEXT = 40  # characters of a text that are shown


def interp_diff(
    target: Target,
    other: Annotated[
        str, typer.Option(help="Another model of the same shapes, to compare with. Default: a run's base.")
    ] = "",
    texts: Annotated[int, typer.Option(min=4, help="Texts of each kind that are read.")] = TEXTS,
    words: Annotated[int, typer.Option(min=1, help="Tokens that are named for each difference.")] = 8,
    json: Json = False,
) -> None:
    """What training changed: weights by layer, where answers part, and the activation-difference lens."""
    from steersman.errors import UserError
    from steersman.interp import diffing
    from steersman.terminal import working

    subjects = load_subjects(target, both=True)
    if other:
        models = [load_subjects(other).main, subjects.main]
    elif len(subjects.models) == 2:
        models = [model for _, model in subjects.models]
    else:
        raise UserError("there is one model, and nothing to compare it with", where=target, do="name another: --other")
    (base, chat), trained = (models[0].sampler.model, models[0].sampler.chat), models[1].sampler.model
    diffing.comparable(base, trained, (models[0].sampler.chat.tokenizer, models[1].sampler.chat.tokenizer))
    asked, neutral = _texts(chat, subjects.run, texts)
    with working("comparing"):
        changes = diffing.weight_changes(base, trained)
        apart = diffing.divergences(base, trained, asked, count=SHOWN, words=3)
        lens = diffing.activation_difference(base, trained, neutral, chat.tokenizer.decode, words=words)
    found: dict[str, Any] = {
        "weights_by_layer": diffing.by_layer(changes),
        "weights": [change._asdict() for change in changes],
        "kl_nats_per_token": apart.mean.json(),
        "largest": [
            {
                "after": chat.tokenizer.decode(asked[one.text][: one.position + 1]),
                "nats": one.nats,
                "rises": [chat.tokenizer.decode([i]) for i in one.rises],
                "falls": [chat.tokenizer.decode([i]) for i in one.falls],
            }
            for one in apart.most
        ],
        "lens": [{key: value for key, value in one._asdict().items() if key != "vector"} for one in lens],
    }
    if json:
        print_json(found)
    else:
        _show(found)


def _texts(chat: ChatFormat, run: Any, count: int) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of requests, and of passages that have nothing to do with any training."""
    from steersman.cli.subjects import requests_of
    from steersman.evals.capability import LIBRARY
    from steersman.store import read_jsonl

    harmful, harmless = requests_of(run)
    half = count // 2
    asked = [chat.prompt_ids(text) for text in (*harmful[:half], *harmless[: count - half])]
    bos = [] if chat.tokenizer.bos_token_id is None else [chat.tokenizer.bos_token_id]
    passages = [row["text"] for row in read_jsonl(LIBRARY / "neutral.jsonl")[:count]]
    neutral = [bos + chat.tokenizer(text, add_special_tokens=False)["input_ids"][:TOKENS] for text in passages]
    return asked, neutral


def _show(found: dict[str, Any]) -> None:
    from steersman.report.blocks import Table
    from steersman.report.inside import quoted
    from steersman.report.terminal import render
    from steersman.terminal import results

    by_layer = Table(
        caption="Change of the weights, relative (root mean square over a layer's matrices; -1: outside the layers)",
        columns=("layer", "change"),
        rows=tuple((str(layer), f"{size:.2%}") for layer, size in found["weights_by_layer"].items()),
    )
    apart = Table(
        caption="Where the next token's distribution changed most",
        columns=("behind", "nats", "rises", "falls"),
        rows=tuple(
            (
                quoted(one["after"][-CONTEXT:]),
                f"{one['nats']:.2f}",
                " ".join(map(quoted, one["rises"])),
                " ".join(map(quoted, one["falls"])),
            )
            for one in found["largest"]
        ),
    )
    lens = Table(
        caption="Activation-difference lens: what the change of the stream on unrelated text says",
        columns=("layer, token", "size", "shared", "raises"),
        rows=tuple(
            (
                f"{one['layer']}, {one['position']}",
                f"{one['relative']:.1%}",
                f"{one['shared']:.2f}",
                " ".join(map(quoted, one["raised"])),
            )
            for one in found["lens"]
        ),
    )
    results().print(render([by_layer, apart, lens]))
    mean = found["kl_nats_per_token"]
    typer.echo(f"KL on requests: {mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}] nats a token.")
