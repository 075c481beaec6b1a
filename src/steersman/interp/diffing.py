"""What changed between two models of one architecture, seen from three sides.

- `activation_difference`: the activation-difference lens (Minder et al. 2025, arXiv:2510.13900). The mean difference of
  the residual stream at the first tokens of texts that have nothing to do with the training is read by the logit lens,
  and added to the trained model (`adding`): narrow fine-tuning writes its subject everywhere.
- `divergences`: KL(trained || base) in nats at each token of given texts, and which tokens moved most.
- `weight_changes`: relative Frobenius norm and rank of the change of each matrix.

Each comes with its null. `perturbed` gives the base model random noise of the same norm in each matrix, so that what is
only the size of a change can be told from its direction; and where texts are averaged, halves of them are compared.

It differs from the paper in these: no Patchscope and no grader; steering has the strengths that are asked for, in
multiples of the trained model's mean norm, and no search for the largest coherent one. On the first position of a text
nearly all of the norm is one massive activation; its difference is read like the others', and said apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from steersman.errors import DataError, ModelError
from steersman.interp.activations import Edit, padded, read
from steersman.interp.anatomy import anatomy_of
from steersman.interp.sae import BATCH_TOKENS, batches, direction_words
from steersman.lm.head import Head, evaluating, head_of, tile_rows, trunk
from steersman.lm.sampling import random_stream
from steersman.stats import Estimate, clustered_mean

FIRST = 5  # tokens of each text: k in the paper
RANK_SHARE = 0.99  # of a change's squared norm


def comparable(base: Any, trained: Any, tokenizers: tuple[Any, Any] | None = None) -> None:
    """Check that two models differ in the values of their weights alone.

    Args:
        tokenizers: theirs; then they must have the same vocabulary too.

    Raises:
        ModelError: they have other parts, shapes or tokens.
    """
    ours, theirs = ({name: tuple(value.shape) for name, value in model.named_parameters()} for model in (base, trained))
    rows = tuple(len(model.get_input_embeddings().weight) for model in (base, trained))
    wrong = next((name for name in [*ours, *theirs] if ours.get(name) != theirs.get(name)), None)
    if rows[0] != rows[1]:
        found = f"vocabularies of {rows[0]} and {rows[1]} tokens"
    elif wrong is not None:
        found = f"{wrong} is {_shape(ours, wrong)} in one and {_shape(theirs, wrong)} in the other"
    elif tokenizers is not None and tokenizers[0].get_vocab() != tokenizers[1].get_vocab():
        found = "tokenizers with other tokens"
    else:
        return
    raise ModelError(
        f"two models that cannot be compared: {found}",
        expected="one architecture, size and vocabulary; adapters merged into the weights",
        do="give a model and what was trained from it",
    )


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return "x".join(map(str, shapes[name])) if name in shapes else "missing"


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class WeightChange(NamedTuple):
    """The change of one tensor.

    Attributes:
        layer: -1 outside the blocks.
        module: its name within the block, or in the model.
        relative: Frobenius norm of the change over that of what was there.
        rank: how many singular values of the change hold 99 % of its squared norm; 0 of vectors and of no change.
        full_rank: how many there are.
    """

    layer: int
    module: str
    relative: float
    rank: int
    full_rank: int


def weight_changes(base: Any, trained: Any) -> list[WeightChange]:
    """Every tensor's change, those that changed most first. A LoRA of rank r has a rank of at most r.

    Tied weights count once. Of an embedding the rank is found from its Gram matrix.
    """
    comparable(base, trained)
    theirs = dict(trained.named_parameters())
    blocks = enumerate(anatomy_of(base).blocks)
    layers = {id(value): layer for layer, block in blocks for value in block.module.parameters()}
    found = []
    with torch.no_grad():
        for name, value in base.named_parameters():
            change, layer = theirs[name].float() - value.float(), layers.get(id(value), -1)
            size, moved = (float(torch.linalg.vector_norm(one, dtype=torch.float64)) for one in (value, change))
            full = min(change.shape) if change.ndim == 2 else 0
            module = name.partition(f".{layer}.")[2] if layer >= 0 else name
            relative = moved / size if size else float(moved > 0)
            found.append(WeightChange(layer, module, relative, _rank(change) if full and moved else 0, full))
    return sorted(found, key=lambda one: -one.relative)


def _rank(change: Tensor) -> int:
    """From the smaller Gram matrix, in double precision, a part of the longer side at a time."""
    long = change if change.shape[0] >= change.shape[1] else change.T
    gram = torch.zeros(long.shape[1], long.shape[1], dtype=torch.float64, device=change.device)
    for part in torch.split(long, 16384):
        gram += part.double().T @ part.double()
    held = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).cumsum(0)
    return int((held < RANK_SHARE * held[-1]).sum()) + 1


def by_layer(changes: Sequence[WeightChange]) -> dict[int, float]:
    """Root mean square of the relative changes of each layer's matrices; -1: outside the blocks."""
    layers = sorted({one.layer for one in changes})
    squares = {layer: [one.relative**2 for one in changes if one.layer == layer and one.full_rank] for layer in layers}
    return {layer: (sum(some) / len(some)) ** 0.5 for layer, some in squares.items() if some}


def perturbed(base: Any, trained: Any, seed: int = 0) -> Any:
    """A copy of the base model whose tensors changed as much as the trained model's, in random directions."""
    import copy

    comparable(base, trained)
    noisy = copy.deepcopy(base)
    theirs = dict(trained.named_parameters())
    with torch.no_grad():
        for number, (name, value) in enumerate(noisy.named_parameters()):
            size = float((theirs[name].double() - value.double()).norm())
            if size:
                noise = torch.randn(value.shape, generator=random_stream(seed, number)).to(value)
                value += size / noise.norm() * noise
    return noisy


# ── KL at each token ─────────────────────────────────────────────────────────────────────────────────────────────────
class Moved(NamedTuple):
    """A token at which the two models differ.

    Attributes:
        text, position: where the prediction is made.
        nats: KL(trained || base) of the next token there.
        rises, falls: tokens whose probability changed most, either way.
    """

    text: int
    position: int
    nats: float
    rises: tuple[int, ...]
    falls: tuple[int, ...]


@dataclass(frozen=True)
class Divergences:
    """KL(trained || base) of the next token, at each token of some texts.

    Attributes:
        nats: for each text, one number a token.
        mean: over all tokens; the interval is over texts.
        most: where it is largest.
    """

    nats: list[list[float]]
    mean: Estimate
    most: list[Moved]


def divergences(
    base: Any, trained: Any, rows: Sequence[Sequence[int]], *, count: int = 20, words: int = 5
) -> Divergences:
    """How far the next-token distributions of two models lie apart on some texts, given as token ids.

    Raises:
        DataError: there is no text.
    """
    comparable(base, trained)
    if not any(rows):
        raise DataError("no text to compare two models on")
    heads, nats, most = (head_of(base), head_of(trained)), list[list[float]](), list[Moved]()
    with torch.no_grad(), evaluating(base), evaluating(trained):
        for batch in batches(rows, BATCH_TOKENS):
            ids, mask = padded(base, batch)
            states = [
                trunk(model)(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state[mask]
                for model in (base, trained)
            ]
            found, rises, falls = _apart(states[0], states[1], *heads, words)
            places = [(len(nats) + text, place) for text, row in enumerate(batch) for place in range(len(row))]
            first = 0
            for row in batch:
                nats.append(found[first : first + len(row)].tolist())
                first += len(row)
            for at in found.topk(min(count, len(found))).indices.tolist():
                text, place = places[at]
                most.append(Moved(text, place, float(found[at]), tuple(rises[at].tolist()), tuple(falls[at].tolist())))
            most = sorted(most, key=lambda one: -one.nats)[:count]
    texts = [text for text, some in enumerate(nats) for _ in some]
    return Divergences(nats, clustered_mean([value for some in nats for value in some], texts).estimate, most)


def _apart(ours: Tensor, theirs: Tensor, base: Head, trained: Head, words: int) -> tuple[Tensor, Tensor, Tensor]:
    """KL(trained || base), [N], and the tokens that rise and fall most, [N, words] each, from hidden states [N, H]."""
    nats, rises, falls = [], [], []
    tile = max(8, tile_rows(base.weight) // 3)
    for h, g in zip(torch.split(ours, tile), torch.split(theirs, tile), strict=True):
        before, after = base.logits(h).float().log_softmax(-1), trained.logits(g).float().log_softmax(-1)
        probability = after.exp()
        nats.append((probability * (after - before)).sum(-1).clamp(min=0))
        moved = probability - before.exp()
        rises.append(moved.topk(words).indices)
        falls.append((-moved).topk(words).indices)
    return torch.cat(nats), torch.cat(rises), torch.cat(falls)


# ── the activation-difference lens ───────────────────────────────────────────────────────────────────────────────────
class Difference(NamedTuple):
    """The mean difference of the residual stream behind one layer, at one position of unrelated texts.

    Attributes:
        layer, position: 0 is a text's first token.
        vector: [H], trained minus base.
        relative: its norm over the mean norm of the trained model's stream there.
        shared: its squared norm over the mean squared norm of single texts' differences: 1 if all are the same.
        halves: cosine of the means of the two halves of the texts.
        raised, lowered: tokens whose logits it raises and lowers most.
    """

    layer: int
    position: int
    vector: Tensor
    relative: float
    shared: float
    halves: float
    raised: tuple[str, ...]
    lowered: tuple[str, ...]


def activation_difference(
    base: Any,
    trained: Any,
    rows: Sequence[Sequence[int]],
    decode: Callable[[Sequence[int]], str],
    *,
    layers: Sequence[int] | None = None,
    positions: int = FIRST,
    words: int = 20,
) -> list[Difference]:
    """The activation-difference lens, at each of some layers and of the first positions.

    Args:
        rows: token ids of texts that have nothing to do with the training, each with the token that begins texts.
        layers: None for the middle one, as in the paper.
        positions: how many first tokens are read; shorter texts are an error.

    Raises:
        DataError: fewer than four texts, or one that is too short.
    """
    comparable(base, trained)
    if len(rows) < 4 or min(map(len, rows)) < positions:
        raise DataError(
            f"{len(rows)} texts, the shortest of {min(map(len, rows), default=0)} tokens",
            expected=f"four or more, each of {positions} tokens or more",
        )
    chosen = [anatomy_of(base).layers // 2] if layers is None else list(layers)
    names, starts = [f"blocks.{layer}.hook_resid_post" for layer in chosen], [row[:positions] for row in rows]
    kept: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    for batch in batches(starts, BATCH_TOKENS):
        ours, theirs = (read(model, batch, names).sites for model in (base, trained))
        for name in names:
            kept[name].append((theirs[name].double() - ours[name].double(), theirs[name].double().norm(dim=-1)))
    found = []
    for layer, name in zip(chosen, names, strict=True):
        change, norms = (torch.cat(some) for some in zip(*kept[name], strict=True))  # [texts, positions, H], [.., ..]
        means, halves = change.mean(0), [change[half::2].mean(0) for half in (0, 1)]
        lens = direction_words(trained, means.float(), decode, words)
        squares = change.square().sum(-1).mean(0)
        for place in range(positions):
            size = float(means[place].norm())
            agreed = float(nn.functional.cosine_similarity(halves[0][place], halves[1][place], dim=0))
            shared = size**2 / float(squares[place]) if float(squares[place]) else 0.0
            relative = size / float(norms[:, place].mean())
            found.append(Difference(layer, place, means[place].float(), relative, shared, agreed, *lens[place]))
    return found


def adding(vector: Tensor, norm: float, strength: float) -> Edit:
    """An edit for `activations.hooks` that adds a difference at each token, ``strength`` times as long as a norm.

    Args:
        norm: the mean norm of the stream at the site (`stream_norm`).
    """
    push = strength * norm * vector / vector.norm()
    return lambda x: x + push.to(x)


def stream_norm(model: Any, rows: Sequence[Sequence[int]], layer: int) -> float:
    """Mean norm of the residual stream behind a layer, without the first position of the texts."""
    name = f"blocks.{layer}.hook_resid_post"
    found = [read(model, batch, [name]) for batch in batches(rows, BATCH_TOKENS)]
    return float(torch.cat([one.sites[name][:, 1:][one.mask[:, 1:]].float().norm(dim=-1) for one in found]).mean())
