"""The page of `steersman inspect`: one prompt's way through a model, for somebody who has read one blog post about it.

Every section begins with one sentence about what it shows and one about how to read it. The figures are those of
`interp.reading_of_prompt`, which the command prints with ``--json``.
"""

from __future__ import annotations

from collections.abc import Iterator

from steersman.evals.conditions import ALIGNED, RAW
from steersman.interp.reading_of_prompt import Attribution, Guess, ModelReading, PromptReading
from steersman.interp.refusal import RefusalConfig
from steersman.report.blocks import (
    Answer,
    BarRow,
    Bars,
    Beside,
    Block,
    Bullets,
    Cell,
    Curve,
    Details,
    Exchange,
    Facts,
    Grid,
    GridRow,
    Json,
    LineChart,
    Page,
    Paragraph,
    Section,
    ShownToken,
    Strong,
    Table,
    TokenStrip,
    paragraph,
)
from steersman.report.format import percent, phrase, signed

TITLE_LENGTH = 60
LARGEST = 8  # parts and heads that sentences and tables name
LIMITS = (
    "An attribution is not a cause. It says what a part wrote into the answer's first token, not what would happen"
    " without the part: others may take over. Activation patching asks that (steersman interp patch).",
    "The logit lens reads the middle of the model with the end's glasses. That a token is not to be read in a layer"
    " does not say that the layer does not know it.",
    "A direction is a summary of its examples. It is the difference between two sets of requests, and may carry what"
    " else differs between them. Random directions of the same length are the comparison that it has to stand.",
    "One prompt is an anecdote. What is seen here is a guess that other prompts should confirm.",
)


def page(reading: PromptReading, version: str) -> Page:
    """The whole page."""
    return Page(
        title=f"Inside: {quoted(_cut(reading.prompt, TITLE_LENGTH))}",
        facts=Facts(items=tuple((name, (value,)) for name, value in _facts(reading))),
        summary_title="At a glance",
        summary=tuple(_glance(reading)),
        sections=tuple(sections(reading)),
        unfolded=True,
        version=version,
    )


def _facts(reading: PromptReading) -> Iterator[tuple[str, str]]:
    yield "models", ", ".join(model.name for model in reading.models)
    yield "architecture", reading.architecture
    yield "layers", str(reading.layers)
    yield "heads", f"{reading.heads} a layer"
    yield "norms behind the sublayers", "yes" if reading.post_norm else "no"
    yield "tokens of the prompt", str(len(reading.tokens))


def sections(reading: PromptReading) -> Iterator[Section]:
    """All sections of the page, from what is seen from outside to what lies inside."""
    yield Section(id="answers", title="What is said", blocks=tuple(_answers(reading)))
    if reading.direction is not None:
        yield Section(id="direction", title="Where harm is read", blocks=tuple(_direction(reading)))
    yield Section(id="lens", title="The answer taking shape", blocks=tuple(_lens(reading)))
    yield Section(id="parts", title="Which layers speak for it", blocks=tuple(_parts(reading)))
    yield Section(id="heads", title="Which heads", blocks=tuple(_heads(reading)))
    if reading.direction is not None:
        yield Section(id="ablation", title="With the direction taken out", blocks=tuple(_ablation(reading)))
    yield Section(id="limits", title="What this does not show", blocks=(Bullets(items=LIMITS),))
    about = {"tokens": [token.model_dump() for token in reading.tokens], "settings": reading.settings}
    yield Section(id="figures", title="Settings and token ids", blocks=(Json(title="Settings", value=about),))


# ── at a glance ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _glance(reading: PromptReading) -> Iterator[Paragraph]:
    main = reading.models[-1]
    said = [f"{model.name} {'declines' if model.refuses else 'does not decline'}" for model in reading.models]
    if main.without is not None:
        does = "declines" if main.without.refuses else "does not decline"
        said.append(f"{main.name} without the refusal direction {does}")
    yield paragraph(Strong(text=f"{_shown('; '.join(said))}."), style="verdict")
    first, other = quoted(reading.chosen.text), quoted(reading.against.text)
    yield paragraph(
        f"Everything below asks why {main.name} begins its answer with the token ",
        Strong(text=first),
        " and not with ",
        Strong(text=other),
        f": {reading.why}",
    )
    yield paragraph(_decided(reading, main))
    largest = _largest(main.attribution)[:3]
    named = ", ".join(f"{name} ({signed(value)})" for name, value in largest)
    yield paragraph(f"The parts that weigh most between the two tokens in {main.name}: {named}.")
    if reading.direction is not None:
        place = main.by_layer[reading.direction.layer]
        yield paragraph(
            f"On the refusal direction (layer {reading.direction.layer}) the request stands at {place:.2f}, where 0 is"
            " the average harmless request and 1 the average harmful one."
        )


def _decided(reading: PromptReading, model: ModelReading) -> str:
    """From which layer on the lens reads the answer's first token at the end of the prompt."""
    firsts = [row[-1][0].id for row in model.lens]
    layer = len(firsts)
    while layer and firsts[layer - 1] == reading.chosen.id:
        layer -= 1
    name = quoted(reading.chosen.text)
    if layer == len(firsts):
        return f"The logit lens does not end at {name}: {model.name} would begin with {quoted(model.next[0].text)}."
    where = "the embedding" if layer == 0 else f"layer {layer - 1}"
    return f"From {where} on (of layers 0 to {reading.layers - 1}) {name} is what the logit lens reads first."


# ── sections ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _answers(reading: PromptReading) -> Iterator[Block]:
    also = (
        ""
        if reading.direction is None
        else ", and what the last of them says when the refusal direction is taken out of it"
    )
    yield paragraph(f"What is said when nothing is touched{also}. Decoding is greedy: the likeliest token each time.")
    answers = [
        Answer(name=_shown(m.name), text=m.answer, note=_said(refuses=m.refuses), strong=m is reading.models[-1])
        for m in reading.models
    ]
    without = reading.models[-1].without
    if without is not None:
        name = f"{reading.models[-1].name}, direction taken out"
        answers.append(Answer(name=name, text=without.answer, note=_said(refuses=without.refuses)))
    yield Exchange(prompt=reading.prompt, answers=tuple(answers))
    for model in reading.models:
        rest = ", ".join(f"{quoted(guess.text)} {percent(guess.probability)}" for guess in model.next[:5])
        yield paragraph(f"First token of {model.name}: {rest}.", style="note")


def _shown(text: str) -> str:
    """What begins with the name of a run's model, as the report writes it; other names stay as they are."""
    first, space, rest = text.partition(" ")
    return f"{phrase(first)}{space}{rest}" if first in (RAW, ALIGNED) else text


def _said(*, refuses: bool) -> str:
    return "declines" if refuses else ""


def _direction(reading: PromptReading) -> Iterator[Block]:
    found = reading.direction
    assert found is not None
    yield paragraph(
        "The prompt as the model reads it, chat format included (grey), token by token. The shade says how far the"
        f" stream at layer {found.layer} points along the refusal direction, which is the difference between harmful"
        " and harmless requests: 0 is the average harmless request, 1 the average harmful one, both read where the"
        " answer begins."
    )
    for model in reading.models:
        tokens = tuple(
            ShownToken(
                text=token.text,
                shade=1 - 2 * value,
                note=f"position {place}, {quoted(token.text)}: {value:.2f}",
                muted=token.of_format,
            )
            for place, (token, value) in enumerate(zip(reading.tokens, model.projection, strict=True))
        )
        yield TokenStrip(caption=model.name, tokens=tokens, low="harmful", high="harmless")
    yield LineChart(
        caption="The same for the whole request, layer by layer, at the token that the direction was read at (found at"
        f" layer {found.layer}). Layers at which the two kinds of requests do not differ are left out.",
        x="layer",
        y="0: harmless, 1: harmful",
        curves=tuple(
            Curve(
                name=model.name,
                style="marked" if model is reading.models[-1] else "smooth",
                points=tuple((float(n), value) for n, value in enumerate(model.by_layer) if value is not None),
            )
            for model in reading.models
        ),
    )
    yield paragraph(found.about, style="note")


def _lens(reading: PromptReading) -> Iterator[Block]:
    yield paragraph(
        "The logit lens: what each layer would say if the model stopped there. A row is a layer, a column a token of"
        " the prompt; a cell is the token that would come next, the darker the surer. Read the last column downwards:"
        " there the answer begins. Point at a cell for its five best guesses."
    )
    if reading.first_shown:
        yield paragraph(f"The first {reading.first_shown} tokens of the prompt are not shown.", style="note")
    for model in reversed(reading.models):
        yield _lens_grid(reading, model)
        yield Details(title=f"The last column of {model.name} in words", blocks=(_last_column(model),))
    main = reading.models[-1]
    yield LineChart(
        caption=f"The two tokens' chances in the last column, layer by layer, in {main.name}.",
        x="layer",
        y="probability",
        curves=(
            Curve(name=quoted(reading.chosen.text), style="smooth", points=_points(main.chosen_by_layer)),
            Curve(name=quoted(reading.against.text), style="marked", points=_points(main.against_by_layer)),
        ),
    )


def _points(values: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """By layer; the embedding before the first layer stands at -1."""
    return tuple((float(layer - 1), value) for layer, value in enumerate(values))


def _lens_grid(reading: PromptReading, model: ModelReading) -> Grid:
    shown = reading.tokens[reading.first_shown :]
    rows = [
        GridRow(
            name=_layer(number),
            cells=tuple(
                ShownToken(text=guesses[0].text, shade=guesses[0].probability, note=_cell_note(number, token, guesses))
                for token, guesses in zip((token.text for token in shown), row, strict=True)
            ),
        )
        for number, row in enumerate(model.lens)
    ]
    caption = f"Logit lens of {model.name}"
    columns = tuple(token.text for token in shown)
    return Grid(caption=caption, corner="layer", columns=columns, rows=tuple(rows), pinned=True)


def _cell_note(number: int, token: str, guesses: tuple[Guess, ...]) -> str:
    best = "\n".join(f"{quoted(guess.text)} {100 * guess.probability:.1f} %" for guess in guesses)
    return f"{_layer(number, long=True)}, after {quoted(token)}:\n{best}"


def _layer(number: int, *, long: bool = False) -> str:
    """The rows of a lens: the embedding, and the layers from 0 on."""
    return "embedding" if number == 0 else f"layer {number - 1}" if long else str(number - 1)


def _last_column(model: ModelReading) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (_layer(number), ", ".join(f"{quoted(g.text)} {100 * g.probability:.0f} %" for g in row[-1]))
        for number, row in enumerate(model.lens)
    ]
    caption = f"Best guesses at the end of the prompt, {model.name}"
    return Table(caption=caption, columns=("layer", "tokens"), rows=tuple(rows))


def _parts(reading: PromptReading) -> Iterator[Block]:
    first, other = quoted(reading.chosen.text), quoted(reading.against.text)
    yield paragraph(
        f"Direct logit attribution: what every layer's attention and MLP wrote for {first} and against {other}, at the"
        " end of the prompt. All bars of a model add up to the difference between the two tokens' logits; a difference"
        " of 1 makes the one 2.7 times as likely as the other."
    )
    longest = max(abs(value) for model in reading.models for _, value in _largest(model.attribution))
    figures = [
        Bars(
            caption=f"{model.name}, by layer",
            series=("attention", "MLP"),
            rows=tuple(_bar_rows(model.attribution)),
            left=f"for {other}",
            right=f"for {first}",
            longest=longest,
        )
        for model in reading.models
    ]
    yield Beside(blocks=tuple(figures)) if len(figures) > 1 else figures[0]
    for model in reading.models:
        own = model.attribution
        yield paragraph(
            f"{model.name}: the bars add up to {own.summed:.4f}, and the logits differ by {own.difference:.4f}.",
            style="note",
        )


def _bar_rows(found: Attribution) -> Iterator[BarRow]:
    yield BarRow(name="embedding", values=(None, found.embedding))
    for layer, values in enumerate(zip(found.attention, found.mlp, strict=True)):
        yield BarRow(name=str(layer), values=values)
    if found.rest:
        yield BarRow(name="last biases", values=(None, found.rest))


def _heads(reading: PromptReading) -> Iterator[Block]:
    first, other = quoted(reading.chosen.text), quoted(reading.against.text)
    yield paragraph(
        f"The attention bars above, head by head: blue cells write for {first}, red ones for {other}. A head moves"
        " information from other tokens to this one, so a strong cell says where to look, and the prompt's tokens what"
        " it may have found."
    )
    most = max(abs(v) for model in reading.models for row in model.attribution.heads for v in row) or 1.0
    grids = [
        Grid(
            caption=f"Heads of {model.name}",
            corner="layer",
            columns=tuple(f"H{head}" for head in range(reading.heads)),
            rows=tuple(
                GridRow(name=str(layer), cells=tuple(_head_cell(layer, head, v, most) for head, v in enumerate(row)))
                for layer, row in enumerate(model.attribution.heads)
            ),
        )
        for model in reading.models
    ]
    yield Beside(blocks=tuple(grids)) if len(grids) > 1 else grids[0]


def _head_cell(layer: int, head: int, value: float, most: float) -> ShownToken:
    return ShownToken(text=signed(value), shade=value / most, note=f"layer {layer}, head {head}: {value:+.4f}")


def _ablation(reading: PromptReading) -> Iterator[Block]:
    main = reading.models[-1]
    without, found = main.without, reading.direction
    assert without is not None
    assert found is not None
    how = (
        f"the direction is taken out of everything that {main.name} reads and writes in its stream, at every layer and"
        " token"
        if found.form == "zero"
        else f"at every layer and token of {main.name} the direction is brought to where it is after harmless requests"
        " (taking it out whole would break this model, whose tokens all have much of it)"
    )
    yield paragraph(
        f"An intervention, and so a proof of more than the figures above: {how}, and the model answers again. What"
        " changes depended on the direction; what stays did not."
    )
    rows: list[tuple[Cell, ...]] = [
        (
            str(rank + 1),
            *(f"{quoted(g.text)} {100 * g.probability:.1f} %" for g in (main.next[rank], without.next[rank])),
        )
        for rank in range(min(len(main.next), len(without.next), LARGEST))
    ]
    yield Table(
        caption=f"First token of the answer, {main.name}",
        columns=("", "as it is", "direction taken out"),
        rows=tuple(rows),
    )
    limit = RefusalConfig().most_kl
    verdict = (
        "little: it is about what was asked for"
        if found.harmless_kl_nats <= limit
        else f"more than the {limit:g} nats that the published selection allows: it carries other things too"
    )
    yield paragraph(
        f"The two distributions of the first token differ by {without.divergence_nats:.2f} nats (KL). After"
        f" {found.requests} harmless requests they differ by {found.harmless_kl_nats:.2f} nats, {verdict}.",
        style="note",
    )


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _largest(found: Attribution) -> list[tuple[str, float]]:
    """Parts by how much they wrote, either way."""
    parts = [("the embedding", found.embedding)]
    for layer, (attention, mlp) in enumerate(zip(found.attention, found.mlp, strict=True)):
        parts += [(f"attention {layer}", attention), (f"MLP {layer}", mlp)]
    return sorted(parts, key=lambda part: -abs(part[1]))


def quoted(text: str) -> str:
    """A token in quotation marks, its line ends spelled out: its spaces are part of it, and lines do not end there."""
    return f"“{text}”".replace("\n", "⏎").replace(" ", "\u00a0")


def _cut(text: str, length: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1].rstrip() + "…"
