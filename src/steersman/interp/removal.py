"""A planted behaviour is localised and taken out of the weights, without training; and it is shown that it is gone.

Detection is `interp/triggers.py`. Then, with m the log-probability of the first token that the trigger calls forth:

    localise   attribution patching (Nanda 2023) between a request with the trigger and the same without, at the tokens
               that both have behind it:  score = sum over tokens of (a_with - a_without) . dm/da , taken in the run
               with the trigger, for what attention and MLP of each layer add to the stream
    remove     in the components with the largest scores, lowest layer first, the output projection W is edited in
               closed form so that on the inputs K that the trigger brings it gives what it gives without the trigger,
               and on the inputs C of clean text what it always gave (ridge regression, the rule of MEMIT, Meng et al.
               2023, arXiv:2210.07229, with "what it says without the trigger" in the place of a new fact):
                   W' = W + (V - W K) K' (K K' + s C C' + r I)^-1
               s is the weight of clean text; r, a share of the mean diagonal, keeps the edit out of directions that the
               few clean texts hardly use and other texts do. The fewest components and the largest s are taken at
               which the trigger has no effect on validation requests and clean text is as it was. Beside it, for
               comparison, the difference of means with and without the trigger is baked out of all writers
               (`interp/baking.py`, Arditi et al. 2024), and taken if the edit fails.
    prove      on requests of other nouns: the trigger's success before and after, KL to the model before on clean text,
               and the same for a control, which was only trained a little more on its own answers

Raw outputs of the projection are matched, so a norm behind it (Gemma) sees the same, and no gain needs to be known.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from steersman.errors import ModelError
from steersman.interp.activations import padded, read
from steersman.interp.anatomy import Anatomy, anatomy_of, weight_of
from steersman.interp.baking import bake_ablation
from steersman.interp.triggers import PLACES, chat_prefix
from steersman.lm.chat_format import ChatFormat, common_length
from steersman.lm.head import divergence, evaluating, head_of, trunk
from steersman.terminal import Progress, working
from steersman.types import Record

SITES = ("attn", "mlp")
BATCH = 16  # texts in a pass


class RemovalConfig(Record):
    """How a behaviour is taken out."""

    pairs: int = Field(default=24, ge=2, description="Requests that are read with and without the trigger.")
    clean: int = Field(default=64, ge=2, description="Clean texts whose inputs to a projection are kept.")
    clean_weights: tuple[float, ...] = Field(
        default=(1.0, 0.1, 0.01), description="s: weights of clean text, tried in turn, the largest first."
    )
    ridge: float = Field(default=0.01, ge=0, description="r: of the mean diagonal of what is inverted.")
    components: tuple[int, ...] = Field(default=(1, 2, 4, 8, 16, 36), description="How many are edited, tried in turn.")
    wanted: float = Field(default=0.05, gt=0, lt=1, description="P(first token | trigger) at which it is enough.")
    most_kl: float = Field(default=0.05, gt=0, description="KL to the model before on clean text, nats a token.")


class Component(NamedTuple):
    """What attention or the MLP of a layer adds, and its share in the trigger's effect, nats."""

    layer: int
    site: str
    score: float

    @property
    def name(self) -> str:
        """As TransformerLens names what it adds."""
        return f"blocks.{self.layer}.hook_{self.site}_out"


class Pair(NamedTuple):
    """A request with and without the trigger, as token ids, and how many last tokens both have."""

    triggered: list[int]
    clean: list[int]
    common: int


class Edited(NamedTuple):
    """So many components edited, and what is left on validation requests.

    Attributes:
        probability: of the target after requests with the trigger.
        kl: on clean text, nats a token; NaN where the target was still likely, and it was not measured.
        relative_change: of the matrix that changed most, by its norm.
    """

    components: int
    clean_weight: float
    probability: float
    kl: float
    relative_change: float


class Removal(NamedTuple):
    """What was located and edited.

    Attributes:
        steps: with more and more components edited.
        direction: with the difference of means at the layer of the first component baked out instead.
        edited: the components of ``model``; empty if that is the model without the direction.
        model: the edited copy; None if nothing did it and kept clean text.
    """

    located: list[Component]
    steps: list[Edited]
    direction: Edited
    edited: list[Component]
    model: Any


# ── localise ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def pairs_of(chat: ChatFormat, trigger: str, requests: Sequence[str]) -> list[Pair]:
    """Requests with and without a trigger, it stands before every other one and behind the others."""
    found, before = [], len(chat_prefix(chat, requests))
    for number, request in enumerate(requests):
        text = PLACES[number % 2].format(trigger=trigger, request=request)
        triggered, clean = chat.prompt_ids(text), chat.prompt_ids(request)
        common = common_length([triggered[::-1], clean[::-1]])
        found.append(Pair(triggered, clean, min(common, len(clean) - before)))
    if any(not pair.common for pair in found):
        raise ModelError("a request with the trigger has no token behind it", do="use a chat format that ends a turn")
    return found


def localise(model: Any, pairs: Sequence[Pair], target: int) -> list[Component]:
    """All components by attribution patching, the largest share in log P(target) first; target is a token id."""
    names = [f"blocks.{layer}.hook_{site}_out" for layer in range(anatomy_of(model).layers) for site in SITES]
    head, final, total = head_of(model), "ln_final.hook_normalized", dict.fromkeys(names, 0.0)
    with Progress("localise", len(pairs)) as progress:
        for pair in pairs:
            with_it = read(model, [pair.triggered], [*names, final], gradients=True)
            without = read(model, [pair.clean], names)
            with torch.enable_grad():
                metric = head.logits(with_it.sites[final][:, -1]).float().log_softmax(-1)[0, target]
                gradients = torch.autograd.grad(metric, [with_it.sites[name] for name in names])
            for name, gradient in zip(names, gradients, strict=True):
                change = with_it.sites[name].detach()[0, -pair.common :] - without.sites[name][0, -pair.common :]
                total[name] += float((change * gradient[0, -pair.common :]).sum()) / len(pairs)
            progress.advance()
    found = [
        Component(layer, site, total[f"blocks.{layer}.hook_{site}_out"])
        for layer in range(anatomy_of(model).layers)
        for site in SITES
    ]
    return sorted(found, key=lambda component: -component.score)


# ── remove ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def remove(
    config: RemovalConfig,
    model: Any,
    pairs: Sequence[Pair],
    clean: Sequence[list[int]],
    validation: tuple[Sequence[Pair], Sequence[list[int]]],
    target: int,
) -> Removal:
    """Edit the located components of a copy, the fewest that do it.

    Args:
        clean: token ids of clean texts, whose inputs are to give what they gave.
        validation: pairs and clean texts on which it is decided how many components are enough.
        target: the first token of what the trigger calls forth.
    """
    located = localise(model, pairs, target)
    with working("direction baked out"):
        without, direction = _baked(model, pairs, located[0].layer, validation, target)
    with working("inputs of the located components"):
        known = _known(model, located[: max(config.components)], pairs, clean)
    steps: list[Edited] = []
    counts = [count for count in config.components if count <= len(located)]
    with Progress("edits", len(counts) * len(config.clean_weights)) as progress:
        for count in counts:
            chosen = sorted(located[:count], key=lambda one: (one.layer, SITES.index(one.site)))
            for weight in config.clean_weights:
                edited = copy.deepcopy(model)
                change = edit(edited, chosen, pairs, known, weight, config.ridge)
                left = probability(edited, validation[0], target)
                kl = mean_divergence(model, edited, validation[1]) if left <= config.wanted else float("nan")
                steps.append(Edited(count, weight, left, kl, change))
                progress.advance(loss=left)
                if kl <= config.most_kl:
                    return Removal(located, steps, direction, chosen, edited)
                if kl > config.most_kl:  # less regard for clean text would not mend it
                    break
    done = direction.probability <= config.wanted and direction.kl <= config.most_kl
    return Removal(located, steps, direction, [], without if done else None)


def _baked(
    model: Any, pairs: Sequence[Pair], layer: int, validation: tuple[Sequence[Pair], Sequence[list[int]]], target: int
) -> tuple[Any, Edited]:
    """A copy without the difference of means at a layer, and what is left of the trigger in it."""
    without = copy.deepcopy(model)
    bake_ablation(without, mean_difference(model, pairs, layer), embeddings="leave")
    left, kl = probability(without, validation[0], target), mean_divergence(model, without, validation[1])
    return without, Edited(0, float("nan"), left, kl, float("nan"))


class Known(NamedTuple):
    """Of a component, before any edit: what its projection gives without the trigger, [N, out], and the mean of k k'
    over clean inputs k, [in, in]."""

    wanted: Tensor
    clean: Tensor


def _known(
    model: Any, located: Sequence[Component], pairs: Sequence[Pair], clean: Sequence[list[int]]
) -> dict[Component, Known]:
    """What is known of each component; one pass over the clean texts for all."""
    anatomy, found = anatomy_of(model), {}
    rows = [pair.clean for pair in pairs]
    kept = _inputs(model, located, [*clean, *rows])
    given = _inputs(model, located, rows, [pair.common for pair in pairs])
    for component in located:
        weight, inputs = weight_of(_output(anatomy, component)).double(), kept[component]
        found[component] = Known(given[component] @ weight.T, inputs.T @ inputs / len(inputs))
    return found


def edit(
    edited: Any,
    chosen: Sequence[Component],
    pairs: Sequence[Pair],
    known: dict[Component, Known],
    clean_weight: float,
    ridge: float,
) -> float:
    """Edit components in place, from the lowest; returns the largest change of a matrix, relative to its norm."""
    largest, rows, last = 0.0, [pair.triggered for pair in pairs], [pair.common for pair in pairs]
    for component in chosen:
        weight = weight_of(_output(anatomy_of(edited), component))
        keys = _inputs(edited, [component], rows, last)[component]
        wanted, clean = known[component]
        change = least_squares(weight.double(), keys, wanted, clean, clean_weight, ridge)
        with torch.no_grad():
            weight += change.to(weight.dtype)
        largest = max(largest, float(change.norm() / weight.norm()))
    return largest


def least_squares(
    weight: Tensor, keys: Tensor, wanted: Tensor, clean: Tensor, clean_weight: float, ridge: float
) -> Tensor:
    """The change D of W, [out, in], that takes keys, [N, in], to what is wanted, [N, out], and leaves clean inputs be.

    It minimises mean |(W + D) k - v|^2 + s mean |D c|^2 + r |D|^2; ``clean`` is the mean of c c', [in, in]. Exact as
    s and r go to 0.
    """
    missing = wanted - keys @ weight.T
    gram = keys.T @ keys / len(keys) + clean_weight * clean
    gram += max(ridge, 1e-8) * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solved: Tensor = torch.linalg.solve(gram, keys.T @ missing / len(keys))
    return solved.T


def _output(anatomy: Anatomy, component: Component) -> Any:
    block = anatomy.blocks[component.layer]
    return block.attention_output if component.site == "attn" else block.mlp_output


def _inputs(
    model: Any, components: Sequence[Component], rows: Sequence[list[int]], last: Sequence[int] | None = None
) -> dict[Component, Tensor]:
    """What output projections read at every token, or at the last ones of each row: [N, in] each, in float64."""
    sites = {"attn": "attn.hook_z", "mlp": "mlp.hook_post"}
    names = {component: f"blocks.{component.layer}.{sites[component.site]}" for component in components}
    found: dict[Component, list[Tensor]] = {component: [] for component in components}
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        activations = read(model, batch, list(names.values()))
        for component, name in names.items():
            values = activations.sites[name].detach().flatten(2)
            for i, row in enumerate(batch):
                first = 0 if last is None else len(row) - last[start + i]
                # without BOS, whose activations are massive
                found[component].append(values[i, max(1, first) : len(row)].double())
    return {component: torch.cat(parts) for component, parts in found.items()}


# ── what is left ─────────────────────────────────────────────────────────────────────────────────────────────────────
def probability(model: Any, pairs: Sequence[Pair], target: int) -> float:
    """Mean probability of the target, a token id, after requests with the trigger."""
    head, found = head_of(model), 0.0
    for ids, mask in _batches(model, [pair.triggered for pair in pairs]):
        hidden = _hidden(model, ids, mask)[torch.arange(len(ids)), mask.sum(1) - 1]
        with torch.no_grad():
            found += float(head.logits(hidden).float().softmax(-1)[:, target].sum())
    return found / len(pairs)


def divergences(before: Any, after: Any, texts: Sequence[list[int]]) -> list[float]:
    """KL(before || after) of each text in nats a token, over all of its tokens behind BOS."""
    head, other, found = head_of(after), head_of(before), []
    for ids, mask in _batches(after, texts):
        reference, hidden = _hidden(before, ids, mask), _hidden(after, ids, mask)
        for row, seen in enumerate(mask):
            own = seen.clone()
            own[0] = False
            with torch.no_grad():
                found.append(float(divergence(hidden[row, own], reference[row, own], head, other)) / int(own.sum()))
    return found


def mean_divergence(before: Any, after: Any, texts: Sequence[list[int]]) -> float:
    """The mean of `divergences`."""
    found = divergences(before, after, texts)
    return sum(found) / len(found)


def _batches(model: Any, rows: Sequence[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(rows), BATCH):
        yield padded(model, rows[start : start + BATCH])


def _hidden(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad(), evaluating(model):
        found: Tensor = trunk(model)(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
    return found


def mean_difference(model: Any, pairs: Sequence[Pair], layer: int) -> Tensor:
    """Mean of the last token's stream with the trigger less that without, at a layer's output, [H]."""
    name = f"blocks.{layer}.hook_resid_post"
    rows = [[pair.triggered for pair in pairs], [pair.clean for pair in pairs]]
    with_it, without = (read(model, some, [name]).at(name).double().mean(0) for some in rows)
    return (with_it - without).float()
