"""Direct logit attribution, exact to rounding, and attribution patching.

**Direct logit attribution** (Elhage et al. 2021; nostalgebraist 2020; TransformerLens' ``logit_attrs``). The stream
behind the last layer is a sum of writes c, and with its scale held fixed the final norm is linear, so that

    m = logit(y) - logit(y') = sum over c of  (g * c / rms(x)) . (W_U[y] - W_U[y'])  + biases

Behind post-norms (Gemma 2 and 3, OLMo 2) a head's write is c_h = g_post * W_O^h z_h / rms(W_O z), see `writes.py`; the
product W_O^h z_h alone, which other tools take, does not add up. Biases of output projections and of norms have terms
of their own (an MLP's is part of its write), and the sum is checked on every call. A soft cap on the logits (Gemma 2)
is no sum: there, the difference of the logits *in front of* the cap is attributed.

**Attribution patching** (Nanda 2023): the effect of putting one activation of the corrupted text into the run on the
clean one, for all sites at once by one forward and one backward pass, to first order:

    noising      (a_corrupt - a_clean) . dm/da on the clean text       estimates m(clean, a from corrupt) - m_clean
    denoising    (a_clean - a_corrupt) . dm/da on the corrupted text   estimates m(corrupt, a from clean) - m_corrupt

EAP's papers take the first, TransformerLens the second. First order fails where a softmax or a norm saturates:
`patching.py` has the exact effects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from steersman.errors import DataError, ModelError
from steersman.interp.activations import read
from steersman.interp.anatomy import anatomy_of, norm_form
from steersman.interp.pairs import FINAL, Pairs, Side, contrast
from steersman.interp.writes import graph_of, written
from steersman.lm.head import evaluating

SUM_ERROR = 1e-3  # logits, of a difference up to 1; of a larger one, relative
TOKENS = 1024  # of texts that are worked on at once
Direction = Literal["noising", "denoising"]


class Attribution(NamedTuple):
    """Who made the logit difference.

    Attributes:
        names: [N], all writers (`writes.py`), ``a3.bias`` of each layer's attention, ``final norm`` and ``logits`` for
            the biases there.
        values: [B, N] logits, float64.
        difference: [B] the model's logit difference, in front of a soft cap; values sum up to it.
        error: the largest |sum - difference| of these texts.
    """

    names: tuple[str, ...]
    values: Tensor
    difference: Tensor
    error: float

    def by_layer(self) -> tuple[tuple[str, ...], Tensor]:
        """Sums over attention and over MLP of each layer: names ``a3``, ``m3`` and the rest, and [B, n]."""
        labels = [name.split(".")[0] for name in self.names]
        names = tuple(dict.fromkeys(labels))
        sums = [self.values[:, [i for i, label in enumerate(labels) if label == name]].sum(1) for name in names]
        return names, torch.stack(sums, 1)


def logit_attribution(
    model: Any,
    rows: Sequence[Sequence[int]],
    right: Sequence[Sequence[int]],
    wrong: Sequence[Sequence[int]],
    positions: Sequence[int] | None = None,
) -> Attribution:
    """Direct logit attribution of each text's logit difference.

    Args:
        rows: token ids of each text.
        right, wrong: of each text, token ids; means are taken over several.
        positions: where the next token is predicted, from the end if negative; None for each text's last token.

    Raises:
        ModelError: the parts do not sum up to the model's logit difference.
        DataError: no right or wrong tokens, or a position outside of its text.
    """
    anatomy, graph, metric = anatomy_of(model), graph_of(model), contrast(model, right, wrong)
    norm = norm_form(anatomy.final_norm, anatomy.width)
    ends_at = [-1] * len(rows) if positions is None else positions
    if wrong_places := [p for p, row in zip(ends_at, rows, strict=True) if not -len(row) <= p < len(row)]:
        raise DataError(
            f"position {wrong_places[0]} is outside of its text", expected="0 to its length, or -1 from its end"
        )
    lengths = [p % len(row) + 1 for p, row in zip(ends_at, rows, strict=True)]
    values, differences = [], []
    with torch.no_grad(), evaluating(model):
        size = max(1, TOKENS // max(map(len, rows)))
        for start in range(0, len(rows), size):
            some, part = rows[start : start + size], metric.part(slice(start, start + size))
            ends = lengths[start : start + size]
            place = torch.tensor(ends, device=model.device) - 1
            found = written(model, [row[:end] for row, end in zip(some, ends, strict=True)], place)
            scale, direction = norm.scale(found.stream), part.direction[:, None]
            # Through the norm in double: parts of a long stream cancel.
            parts = torch.cat([found.writes, found.biases]).double()
            terms = (norm.linear(parts, scale.double()) * direction).sum(-1)[..., 0]
            constants = torch.stack([(norm.bias.double() * direction[:, 0]).sum(-1), part.bias])
            values.append(torch.cat([terms, constants]).T)
            hidden = anatomy.final_norm(found.stream)[:, 0].double()
            differences.append((hidden * direction[:, 0]).sum(-1) + part.bias)
    total, difference = torch.cat(values), torch.cat(differences)
    error = float((total.sum(1) - difference).abs().max())
    tolerance = SUM_ERROR if next(model.parameters()).dtype == torch.float32 else 5e-2
    if not error <= tolerance * max(1.0, float(difference.abs().max())):
        raise ModelError(
            f"what the parts of {type(model).__name__} write does not sum up to its logit difference"
            f" (off by {error:.2g} logits)",
            do="load the model in float32, or mend interp/writes.py",
        )
    names = (*graph.writers, *(f"a{layer}.bias" for layer in range(anatomy.layers)), "final norm", "logits")
    return Attribution(names, total, difference, error)


def attribution_patching(
    model: Any, pairs: Pairs, names: Sequence[str], direction: Direction = "noising"
) -> dict[str, Tensor]:
    """First-order effect on the metric of exchanging each site, position by position.

    Args:
        names: sites (`activations.py`); of ``attn.hook_z`` and other sites by head, effects are by head.

    Returns:
        By name, [B, T] or [B, T, heads], in units of the metric; 0 at padding.
    """
    sides: tuple[Side, Side] = ("clean", "corrupt") if direction == "noising" else ("corrupt", "clean")
    base, other = sides
    given = read(model, pairs.rows(other), list(names)).sites
    kept = read(model, pairs.rows(base), [*names, FINAL], gradients=True).sites
    gradients = torch.autograd.grad(pairs.measured(kept[FINAL]).sum(), [kept[name] for name in names])
    effects = {}
    for name, gradient in zip(names, gradients, strict=True):
        effect = ((given[name] - kept[name].detach()) * gradient).sum(-1)
        effects[name] = effect * pairs.mask.view(*pairs.mask.shape, *[1] * (effect.ndim - 2))
    return effects
