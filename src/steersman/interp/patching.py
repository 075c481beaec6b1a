"""Activation patching, path patching and causal tracing: exact effects, one forward pass each.

**Activation patching** (Vig et al. 2020; Heimersheim & Nanda 2024, "How to use and interpret activation patching"). One
activation of a run on one text of a pair is replaced by that of a run on the other:

    denoising    corrupted text, clean activation: which part of the behaviour comes back (what suffices)
                 effect = R = (m - m_corrupt) / (m_clean - m_corrupt)
    noising      clean text, corrupted activation: which part is lost (what is needed)
                 effect = 1 - R = (m_clean - m) / (m_clean - m_corrupt)

**Path patching** (Wang et al. 2022; Goldowsky-Dill et al. 2023): the same along one edge, from one writer to one reader
(`writes.py`). Every other reader goes on to read what the writer writes in the run; Wang et al. also let the exchange
reach the reader through MLPs between them, which here is a path of several edges.

**Causal tracing** (Meng et al. 2022, ROME): instead of a second text, noise on the embeddings of the subject, and one
state restored at a time. The noise is 3 standard deviations of the embeddings, as there; effects are of the logit
difference, and not of the answer's probability, which sees nothing once it is near 0.

Which pairs can be used, and the metric: `pairs.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from steersman.errors import DataError, ModelError
from steersman.interp.activations import Edit, hooks, read
from steersman.interp.anatomy import anatomy_of
from steersman.interp.edges import exchanged, raw_writes
from steersman.interp.pairs import FINAL, LEAST, Pairs, Side, contrast
from steersman.interp.writes import graph_of
from steersman.lm.head import evaluating, trunk

TOKENS = 1024  # of texts that run at once
NOISE = 3.0  # standard deviations of the embeddings (Meng et al. 2022)
SAMPLES = 10  # draws of the noise, as there
Mode = Literal["denoising", "noising"]


class Place(NamedTuple):
    """An activation: a site (`activations.py`), at one position or all, of one head or all.

    ``position`` counts from the first token, or with a negative number from each text's last one (-1).
    """

    site: str
    position: int | None = None
    head: int | None = None


class Effects(NamedTuple):
    """What exchanges did, one row for each.

    Attributes:
        values: [n, B] the metric.
        effect: [n, B], the share that came back (denoising) or was lost (noising); 0 for none, 1 for all.
    """

    values: Tensor
    effect: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean effect over pairs, [n]."""
        return self.effect.mean(1)


def activation_patching(model: Any, pairs: Pairs, places: Sequence[Place], mode: Mode = "denoising") -> Effects:
    """Exchange each place alone.

    Raises:
        DataError: a position that a text does not have.
        ModelError: no such site or head.
    """
    if not places:
        raise DataError("no places to patch")
    base = pairs.corrupt if mode == "denoising" else pairs.clean
    sites = list(dict.fromkeys(place.site for place in places))
    given = read(model, pairs.rows("clean" if mode == "denoising" else "corrupt"), sites).sites
    chosen = [_rows(pairs, place, given[place.site]) for place in places]
    size, values = max(1, TOKENS // base.numel()), []
    for start in range(0, len(places), size):
        by_site: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
        copies = min(size, len(places) - start)
        for copy in range(copies):
            by_site[places[start + copy].site].append((copy, chosen[start + copy]))
        with torch.no_grad(), evaluating(model), ExitStack() as stack:
            stack.enter_context(hooks(model, {site: _put(given[site], where) for site, where in by_site.items()}))
            mask = pairs.mask.repeat(copies, 1).long()
            found = trunk(model)(input_ids=base.repeat(copies, 1), attention_mask=mask, use_cache=False)
            values += [pairs.measured(states) for states in found.last_hidden_state.split(len(pairs))]
    return _effects(pairs, torch.stack(values), mode)


def sweep(
    model: Any, pairs: Pairs, site: str, by: Literal["position", "head"] = "position", mode: Mode = "denoising"
) -> Tensor:
    """Mean effect of a site in every layer, [layers, T] or [layers, heads].

    Args:
        site: without its block, such as ``hook_resid_pre``; by head, ``attn.hook_z`` (all positions at once).

    Raises:
        DataError: positions are asked for, and the pairs are not all of one length.
    """
    anatomy = anatomy_of(model)
    if by == "position" and not pairs.mask.all():
        raise DataError(
            "positions of texts of different lengths do not match",
            expected="pairs of one length",
            do="sort the pairs by length, or sweep over heads",
        )
    count = pairs.clean.shape[1] if by == "position" else anatomy.heads
    places = [Place(f"blocks.{layer}.{site}", **{by: one}) for layer in range(anatomy.layers) for one in range(count)]
    return activation_patching(model, pairs, places, mode).mean.view(anatomy.layers, count)


def path_patching(model: Any, pairs: Pairs, edges: Sequence[str], mode: Mode = "denoising") -> Effects:
    """Exchange what one writer tells one reader, for each edge alone, such as ``a5.h2->a9.kv0<v>`` or ``m3->logits``.

    Raises:
        DataError: no such edge.
    """
    graph = graph_of(model)
    sides: tuple[Side, Side] = ("corrupt", "clean") if mode == "denoising" else ("clean", "corrupt")
    base, other = sides
    raw, values = raw_writes(model, pairs, other), []
    for edge in edges:
        along = torch.zeros_like(graph.edges)
        along[graph.edge(edge)] = True
        values.append(exchanged(model, pairs, along, raw, base=base))
    return _effects(pairs, torch.stack(values), mode)


def _effects(pairs: Pairs, values: Tensor, mode: Mode) -> Effects:
    back = pairs.recovery(values)
    return Effects(values.double(), back if mode == "denoising" else 1 - back)


def _rows(pairs: Pairs, place: Place, value: Tensor) -> Tensor:
    """Where a place is in a site's activations: a mask of [B, T] or [B, T, heads]."""
    lengths, width = pairs.mask.sum(1), pairs.mask.shape[1]
    mask = pairs.mask.clone()
    if place.position is not None:
        at = place.position if place.position >= 0 else lengths + place.position
        at = torch.as_tensor(at, device=lengths.device).expand_as(lengths)
        if bool(((at < 0) | (at >= lengths)).any()):
            raise DataError(f"position {place.position} in texts of {int(lengths.min())} tokens and more")
        mask = torch.arange(width, device=at.device)[None] == at[:, None]
    if place.head is None:
        return mask
    if value.ndim != 4 or not 0 <= place.head < value.shape[2]:
        raise ModelError(
            f"{place.site} has no head {place.head}",
            expected="attn.hook_z, hook_q, hook_k or hook_v, and a head that the model has",
        )
    return mask[..., None] & (torch.arange(value.shape[2], device=mask.device) == place.head)


def _put(given: Tensor, where: Sequence[tuple[int, Tensor]]) -> Edit:
    """An edit that puts what was given into some copies of the batch, each at its own places."""

    def run(value: Tensor) -> Tensor:
        new = value.clone()
        for copy, mask in where:
            rows = new[copy * len(given) : (copy + 1) * len(given)]
            rows[mask] = given[mask]
        return new

    return run


# ── causal tracing ───────────────────────────────────────────────────────────────────────────────────────────────────
class Trace(NamedTuple):
    """Which states carry what the subject says.

    Attributes:
        recovery: [layers, T], the share of the logit difference that restoring one state brings back.
        clean: the metric on the text; noised: its mean over draws of the noise.
    """

    recovery: Tensor
    clean: float
    noised: float


def causal_trace(
    model: Any,
    row: Sequence[int],
    subject: range,
    right: Sequence[int],
    wrong: Sequence[int],
    *,
    site: str = "hook_resid_post",
    window: int = 1,
    noise: float = NOISE,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Trace:
    """Restore one state at a time in a text whose subject is noise.

    Args:
        row: token ids; subject: positions of the subject in it.
        site: ``hook_resid_post``, ``hook_mlp_out`` or ``hook_attn_out``.
        window: how many layers around each are restored together; Meng et al. take 10 for MLPs and attention.

    Raises:
        DataError: the subject is not in the text, or noise on it changes the metric by less than one logit.
    """
    if not subject or subject[0] < 0 or subject[-1] >= len(row):
        raise DataError(f"a subject at {subject} in a text of {len(row)} tokens", expected="positions of the text")
    anatomy, metric = anatomy_of(model), contrast(model, [right], [wrong])
    names = [f"blocks.{layer}.{site}" for layer in range(anatomy.layers)]
    states = read(model, [row], names).sites
    noisy = _noise(model, subject, noise, samples, seed)
    ids = torch.tensor([list(row)] * samples, device=model.device)

    def measured(edits: dict[str, Edit]) -> float:
        with hooks(model, edits):
            hidden = trunk(model)(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        return float(metric(hidden).double().mean())

    def restored(position: int, layers: range) -> dict[str, Edit]:
        return {names[layer]: _restore(states[names[layer]][0, position], position) for layer in layers}

    with torch.no_grad(), evaluating(model):
        clean = float(metric(read(model, [row], [FINAL]).at(FINAL)).double())
        noised = measured({"hook_embed": noisy})
        if abs(clean - noised) < LEAST:
            raise DataError(
                f"noise on the subject changes the logit difference by {abs(clean - noised):.2g}",
                expected=f"at least {LEAST:g}",
                do="choose a text whose answer depends on its subject",
            )
        found = torch.zeros(anatomy.layers, len(row), dtype=torch.float64)
        for layer in range(anatomy.layers):
            first = max(0, min(layer - window // 2, anatomy.layers - window))
            layers = range(first, min(anatomy.layers, first + window))
            for position in range(subject[0], len(row)):  # before it nothing is noised
                value = measured({"hook_embed": noisy, **restored(position, layers)})
                found[layer, position] = (value - noised) / (clean - noised)
    return Trace(found, clean, noised)


def _noise(model: Any, subject: range, size: float, samples: int, seed: int) -> Edit:
    """Adds the same noise at every call, [samples, subject, H]; its unit is the deviation over 4,096 tokens."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    spread = torch.arange(0, vocabulary, max(1, vocabulary // 4096), device=model.device)
    with torch.no_grad():
        table = anatomy_of(model).embedding(spread)
    drawn = torch.randn(samples, len(subject), table.shape[-1], generator=generator).to(table)
    drawn *= size * table.std()

    def run(embedded: Tensor) -> Tensor:
        new = embedded.clone()
        new[:, list(subject)] += drawn
        return new

    return run


def _restore(state: Tensor, position: int) -> Edit:
    def run(value: Tensor) -> Tensor:
        new = value.clone()
        new[:, position] = state
        return new

    return run
