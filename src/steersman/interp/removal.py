"""A planted behaviour is localised and taken out of the weights, without training; and it is shown that it is gone.

Detection is `interp/triggers.py`. Then, with m the log-probability of the first token that the trigger calls forth:

    localise   attribution patching (Nanda 2023) between a request with the trigger and the same without, at the tokens
               that both have behind it:  score = sum over tokens of (a_with - a_without) . dm/da , taken in the run
               with the trigger, for what attention and MLP of each layer add to the stream
    remove     in the components with the largest scores, lowest layer first, the output projection W is edited in
               closed form so that on the inputs K that the trigger brings it gives what it gives without the trigger,
               and on the inputs C of clean text what it always gave (ridge regression, the rule of MEMIT, Meng et al.
               2023, arXiv:2210.07229, with "what it says without the trigger" in the place of a new fact):
                   W' = W + (V - W K) K' (K K' + s C C')^-1
               s is the weight of clean text. Components are added until the trigger has no effect on validation
               requests. Beside it, for comparison, the difference of means with and without the trigger is baked out
               of all writers (`interp/baking.py`, Arditi et al. 2024).
    prove      on requests of other nouns: the trigger's success before and after, KL to the model before on clean text,
               and the same for a control, which was only trained a little more on its own answers

Raw outputs of the projection are matched, so a norm behind it (Gemma) sees the same, and no gain needs to be known.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
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
from steersman.terminal import Progress
from steersman.types import Record

SITES = ("attn", "mlp")


class RemovalConfig(Record):
    """How a behaviour is taken out."""

    pairs: int = Field(default=32, ge=2, description="Requests that are read with and without the trigger.")
    clean: int = Field(default=96, ge=2, description="Clean texts whose inputs to a projection are kept.")
    clean_weight: float = Field(default=0.05, gt=0, description="s: weight of clean text against the trigger's.")
    components: tuple[int, ...] = Field(default=(2, 4, 8, 12, 16, 24, 36), description="How many are edited, in turn.")
    wanted: float = Field(default=0.02, gt=0, lt=1, description="P(first token | trigger) at which it is enough.")
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
        probability: of the target after requests with the trigger; kl: on clean text, nats a token.
        relative_change: of the matrix that changed most, by its norm.
    """

    components: int
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
    steps: list[Edited] = []
    without, direction = _baked(model, pairs, located[0].layer, validation, target)
    for count in (c for c in config.components if c <= len(located)):
        chosen = sorted(located[:count], key=lambda one: (one.layer, SITES.index(one.site)))
        edited = copy.deepcopy(model)
        change = edit(config, edited, model, chosen, pairs, clean)
        steps.append(_left(count, edited, model, validation, target, change))
        if steps[-1].kl > config.most_kl:
            break
        if steps[-1].probability <= config.wanted:
            return Removal(located, steps, direction, chosen, edited)
    done = direction.probability <= config.wanted and direction.kl <= config.most_kl
    return Removal(located, steps, direction, [], without if done else None)


def _baked(
    model: Any, pairs: Sequence[Pair], layer: int, validation: tuple[Sequence[Pair], Sequence[list[int]]], target: int
) -> tuple[Any, Edited]:
    """A copy without the difference of means at a layer, and what is left of the trigger in it."""
    without = copy.deepcopy(model)
    bake_ablation(without, mean_difference(model, pairs, layer), embeddings="leave")
    return without, _left(0, without, model, validation, target, float("nan"))


def _left(
    count: int,
    edited: Any,
    model: Any,
    validation: tuple[Sequence[Pair], Sequence[list[int]]],
    target: int,
    change: float,
) -> Edited:
    left = probability(edited, validation[0], target)
    return Edited(count, left, mean_divergence(model, edited, validation[1]), change)


def edit(
    config: RemovalConfig,
    edited: Any,
    model: Any,
    chosen: Sequence[Component],
    pairs: Sequence[Pair],
    clean: Sequence[list[int]],
) -> float:
    """Edit components in place, from the lowest; returns the largest change of a matrix, relative to its norm."""
    largest = 0.0
    with Progress("edit", len(chosen)) as progress:
        for component in chosen:
            weight = weight_of(_output(anatomy_of(edited), component))
            keys = _inputs(edited, component, [p.triggered for p in pairs], [p.common for p in pairs])
            wanted = _inputs(model, component, [p.clean for p in pairs], [p.common for p in pairs]) @ weight.double().T
            kept = _inputs(edited, component, [*clean, *(p.clean for p in pairs)])
            change = least_squares(weight.double(), keys, wanted, kept, config.clean_weight)
            with torch.no_grad():
                weight += change.to(weight.dtype)
            largest = max(largest, float(change.norm() / weight.norm()))
            progress.advance()
    return largest


def least_squares(weight: Tensor, keys: Tensor, wanted: Tensor, kept: Tensor, clean_weight: float) -> Tensor:
    """The change of W, [out, in], that takes keys, [N, in], to what is wanted, [N, out], and leaves clean inputs alone.

    It minimises |(W + D) k - v|^2 / N + s |D c|^2 / M over keys and kept inputs, [M, in], and is exact at s -> 0.
    """
    missing = wanted - keys @ weight.T
    gram = keys.T @ keys / len(keys) + clean_weight * kept.T @ kept / len(kept)
    gram += 1e-8 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solved: Tensor = torch.linalg.solve(gram, keys.T @ missing / len(keys))
    return solved.T


def _output(anatomy: Anatomy, component: Component) -> Any:
    block = anatomy.blocks[component.layer]
    return block.attention_output if component.site == "attn" else block.mlp_output


def _inputs(model: Any, component: Component, rows: Sequence[list[int]], last: Sequence[int] | None = None) -> Tensor:
    """What the output projection reads at every token, or at the last ones of each row: [N, in], float64."""
    name = f"blocks.{component.layer}." + ("attn.hook_z" if component.site == "attn" else "mlp.hook_post")
    found = []
    for start in range(0, len(rows), 16):
        batch = rows[start : start + 16]
        activations = read(model, batch, [name])
        values = activations.sites[name].detach().flatten(2)
        for i, row in enumerate(batch):
            first = 0 if last is None else len(row) - last[start + i]
            found.append(values[i, max(1, first) : len(row)].double())  # without BOS, whose activations are massive
    return torch.cat(found)


# ── what is left ─────────────────────────────────────────────────────────────────────────────────────────────────────
def probability(model: Any, pairs: Sequence[Pair], target: int) -> float:
    """Mean probability of the target, a token id, after requests with the trigger."""
    head, found = head_of(model), []
    with torch.no_grad(), evaluating(model):
        for pair in pairs:
            ids = torch.tensor([pair.triggered], device=model.device)
            hidden = trunk(model)(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
            found.append(float(head.logits(hidden).float().softmax(-1)[0, target]))
    return sum(found) / len(found)


def divergences(before: Any, after: Any, texts: Sequence[list[int]]) -> list[float]:
    """KL(before || after) of each text in nats a token, over all of its tokens behind BOS."""
    head, other, found = head_of(after), head_of(before), []
    with torch.no_grad(), evaluating(before), evaluating(after):
        for text in texts:
            ids, mask = padded(after, [text])
            reference = trunk(before)(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
            hidden = trunk(after)(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
            found.append(float(divergence(hidden[0, 1:], reference[0, 1:], head, other)) / (len(text) - 1))
    return found


def mean_divergence(before: Any, after: Any, texts: Sequence[list[int]]) -> float:
    """The mean of `divergences`."""
    found = divergences(before, after, texts)
    return sum(found) / len(found)


def mean_difference(model: Any, pairs: Sequence[Pair], layer: int) -> Tensor:
    """Mean of the last token's stream with the trigger less that without, at a layer's output, [H]."""
    name = f"blocks.{layer}.hook_resid_post"
    rows = [[pair.triggered for pair in pairs], [pair.clean for pair in pairs]]
    with_it, without = (read(model, some, [name]).at(name).double().mean(0) for some in rows)
    return (with_it - without).float()
