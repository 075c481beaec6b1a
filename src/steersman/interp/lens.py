"""The logit lens: what a model would say if it stopped after each layer.

nostalgebraist 2020, "interpreting GPT: the logit lens". The residual stream before every layer, and behind the last,
is put through the final norm and the output layer:

    lens_l = softcap(W_U norm(x_l))          norm(x_l) = g * x_l / rms(x_l): with the scale of *that* layer's stream

Two faults are common. With the last layer's scale, early layers look flat or sharp as their stream is shorter or
longer. And ``hidden_states[-1]`` of Hugging Face is behind the final norm already, so that a lens on it norms twice.
Here nobody passes states in: they are read by hooks in front of the norm, and the lens of the last row must give the
model's own final states, or it is refused.

Logits of one position and layer take a megabyte at 262,144 tokens, so that the lens looks only where it is asked to,
and keeps the few tokens on top and those that are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steersman.errors import DataError, ModelError
from steersman.interp.activations import read
from steersman.interp.anatomy import anatomy_of
from steersman.lm.head import evaluating, head_of, same_states, tile_rows

FINAL = "ln_final.hook_normalized"


class Lens(NamedTuple):
    """What the lens shows of one text. Row l of the first axis is the stream before layer l, the last one behind all.

    Attributes:
        positions: [P] indices into the text.
        top: [L + 1, P, top] token ids, the likeliest first; top_logprobs: their log-probabilities in nats.
        rank: [L + 1, P, C] of the chosen tokens, 1 for the likeliest; logprob: theirs, in nats.
        entropy: [L + 1, P] of the distribution, in nats.
    """

    positions: tuple[int, ...]
    top: Tensor
    top_logprobs: Tensor
    rank: Tensor
    logprob: Tensor
    entropy: Tensor


def logit_lens(
    model: Any, row: Sequence[int], positions: Sequence[int] = (-1,), chosen: Sequence[int] = (), top: int = 5
) -> Lens:
    """Look at one text through the lens.

    Args:
        row: the text's token ids.
        positions: where to look, -1 for the last token.
        chosen: tokens whose rank and log-probability are wanted everywhere.
        top: how many of the likeliest tokens are kept.

    Raises:
        DataError: a position outside the text, or no token.
        ModelError: the lens of the last row is not what the model says.
    """
    places = _places(len(row), positions)
    anatomy, head = anatomy_of(model), head_of(model)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(anatomy.layers)]
    names += [f"blocks.{anatomy.layers - 1}.hook_resid_post", FINAL]
    with torch.no_grad(), evaluating(model):
        sites = read(model, [row], names).sites
        hidden = torch.stack([anatomy.final_norm(sites[name][0, places]) for name in names[:-1]])
        if not same_states(hidden[-1], sites[FINAL][0, places]):
            raise ModelError(
                f"the stream behind {type(model).__name__}'s last layer, through the final norm, is not what the output"
                " layer reads",
                do="choose another model, or mend interp/anatomy.py",
            )
        tiles = torch.split(hidden.flatten(0, 1), tile_rows(head.weight))
        found = [_look(head.logits(tile).float(), chosen, top) for tile in tiles]
    shape = (anatomy.layers + 1, len(places))
    parts = [torch.cat(part).view(*shape, *part[0].shape[1:]) for part in zip(*found, strict=True)]
    return Lens(tuple(places), *parts)


def _look(logits: Tensor, chosen: Sequence[int], top: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """[N, V] -> top ids and log-probs, [N, top]; ranks and log-probs of the chosen, [N, C]; entropy, [N]."""
    logprobs = torch.log_softmax(logits, -1)
    best = logprobs.topk(min(top, logprobs.shape[-1]), -1)
    wanted = logprobs[:, torch.tensor(list(chosen), dtype=torch.long, device=logits.device)]
    ranks = [1 + (logprobs > wanted[:, [column]]).sum(-1) for column in range(wanted.shape[1])]
    rank = torch.stack(ranks, -1) if ranks else torch.zeros(len(logits), 0, dtype=torch.long, device=logits.device)
    return best.indices, best.values, rank, wanted, -(logprobs.exp() * logprobs).sum(-1)


def _places(length: int, positions: Sequence[int]) -> list[int]:
    places = [position + length if position < 0 else position for position in positions]
    if not places or not all(0 <= place < length for place in places):
        raise DataError(
            f"positions {list(positions)} of a text of {length} tokens", expected=f"from {-length} to {length - 1}"
        )
    return places
