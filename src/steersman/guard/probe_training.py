"""Train the heads of `rails/probe.py` on pooled activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steersman.guard.rails.probe import Probe

Floats = NDArray[np.float32]
HIDDEN, DROPOUT, INPUT_DROPOUT = 256, 0.5, 0.15
MIXED = 0.3  # of the beta distribution that mixes pairs of rows (Zhang et al. 2018, arXiv:1710.09412)
EPOCHS, BATCH, RATE, DECAY = 15, 128, 1e-3, 0.1
TOKEN_STRENGTH = 0.003  # inverse regularisation of the linear head, on standardised states


def fit(
    states: Floats,
    heads: Mapping[str, Sequence[bool]],
    weights: Sequence[Sequence[float]],
    middle: slice,
    seed: int,
) -> Probe:
    """One network for each row of weights (its bootstrap), and the linear head for single tokens.

    Args:
        states: [N, D], of the training rows. heads: the rows that are positive, by head; the first is for tokens too.
        middle: the columns of the layer that `TokenProbe` reads.
    """
    mean = states.mean(0)
    scale = 1 / (states.std(0) + 1e-3)
    inputs = (states - mean) * scale
    positive = np.stack([np.array(found, np.float32) for found in heads.values()], 1)
    members = [_network(inputs, positive, np.array(own), seed + place) for place, own in enumerate(weights)]
    arrays: dict[str, Floats] = {"mean": mean, "scale": scale}
    for place, name in enumerate(("in.weight", "in.bias", "out.weight", "out.bias")):
        arrays[name] = np.stack([member[place] for member in members])
    return Probe(tuple(heads), arrays | _token_head(inputs[:, middle], positive[:, 0], mean[middle], scale[middle]))


def _network(inputs: Floats, positive: Floats, weights: NDArray[np.float64], seed: int) -> list[Floats]:
    """Weights and biases of two layers, trained with dropout and balanced classes."""
    import torch
    from torch import nn

    kept = weights > 0
    x, y, w = (torch.tensor(np.ascontiguousarray(a[kept], np.float32)) for a in (inputs, positive, weights))
    generator, random = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Dropout(INPUT_DROPOUT), nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, y.shape[1]),
        )  # fmt: skip
        steps = EPOCHS * -(-len(x) // BATCH)
        optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps + 1)
        share = (w @ y / w.sum()).clamp(1e-3, 0.5)
        for _ in range(EPOCHS):
            order = torch.randperm(len(x), generator=generator)
            for start in range(0, len(x), BATCH):
                rows = order[start : start + BATCH]
                others, part = rows[torch.randperm(len(rows), generator=generator)], random.beta(MIXED, MIXED)
                mixed = network(part * x[rows] + (1 - part) * x[others])
                wanted = part * y[rows] + (1 - part) * y[others]
                counted = (part * w[rows] + (1 - part) * w[others])[:, None].expand_as(wanted)
                loss: Any = nn.functional.binary_cross_entropy_with_logits(
                    mixed, wanted, counted, pos_weight=(1 - share) / share
                )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    first, last = network[1], network[4]
    parts: list[Any] = [first.weight.T, first.bias, last.weight.T, last.bias]
    return [np.ascontiguousarray(part.detach().numpy()) for part in parts]


def _token_head(inputs: Floats, positive: Floats, mean: Floats, scale: Floats) -> dict[str, Floats]:
    """A linear head of mean states; what it says of a mean is the mean of what it says of the tokens."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=TOKEN_STRENGTH, class_weight="balanced", max_iter=300)
    model.fit(inputs, positive > 0.5)
    weight = model.coef_[0] * scale
    bias = float(model.intercept_[0] - weight @ mean)
    return {"token.weight": weight.astype(np.float32), "token.bias": np.array([bias], np.float32)}
