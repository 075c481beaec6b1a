"""Training a small sparse autoencoder: TopK (Gao et al. 2024, arXiv:2406.04093) or BatchTopK (Bussmann et al. 2024,
arXiv:2412.06410).

    loss = |x - x'|² / |x - mean|²  +  aux_weight * |e - e'|² / |x - mean|²,    e = x - x', held fixed

where e' is what the largest pre-activations of *dead* features make of the error, half as many as the width: without
it most features of a large dictionary never come back (AuxK). BatchTopK keeps the k·N largest of a batch of N tokens; a
running mean of the smallest of them becomes the threshold of a JumpReLU, so that a token's features do not depend on
its neighbours afterwards. Inputs are scaled to a mean norm of sqrt(d) and weights are folded back, with directions of
length 1: a feature's activation is in the units of the residual stream.

It differs from the paper: the bias begins at the mean and not at the geometric median; both losses are divided by the
batch's variance, as sparsify does; dead features' pre-activations are used as they are, as SAELens does, and not where
positive alone; a feature is dead after tens of thousands of tokens, and not ten million, which nothing here reads.

All activations are held in memory, 4 bytes a number: 200,000 tokens of gemma-3-270m are 0.5 GB. It keeps no checkpoint.
Published dictionaries are trained on a thousand times as many tokens or more: expect frequent features, mostly lexical,
of one trained here (docs/interp.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from steersman.errors import DataError, TrainingFailed
from steersman.interp.activations import read
from steersman.interp.sae import BATCH_TOKENS, OUTLIER, SparseAutoencoder, batches, by_columns, topk
from steersman.lm.sampling import random_stream
from steersman.terminal import Progress
from steersman.types import Record

KEEP = 0.99  # of the running threshold, a step
_WARM_UP, _DECAY = 0.05, 0.2  # shares of the steps


class DictionaryConfig(Record):
    """How a sparse autoencoder is trained."""

    features: int = Field(default=2048, ge=2, description="Number of features.")
    k: int = Field(default=32, ge=1, description="Features that are active at a token; on average, with batchtopk.")
    selection: Literal["topk", "batchtopk"] = Field(
        default="batchtopk", description="The k largest of each token, or as many of each batch."
    )
    epochs: int = Field(default=3, ge=1, description="How often each token is seen.")
    batch_tokens: int = Field(default=512, ge=1, description="Tokens of a step.")
    learning_rate: float | None = Field(
        default=None, gt=0, description="Of Adam; null: 2e-4 / sqrt(features / 16384), as sparsify has it."
    )
    aux_weight: float = Field(default=1 / 32, ge=0, description="Weight of the loss that revives dead features.")
    dead_after_tokens: int = Field(default=50_000, ge=1, description="Tokens without it after which a feature is dead.")
    seed: int = Field(default=0, description="Of the first weights and the order.")


class Weights(NamedTuple):
    """What is learnt, as in `SparseAutoencoder`; of inputs scaled to a mean norm of sqrt(d)."""

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor


class Trained(NamedTuple):
    """An autoencoder, and how it was trained.

    Attributes:
        losses: unexplained share of the variance (FVU) at each step.
        dead: share of the features that were dead at the end.
        tokens, left_out: on how many tokens; how many were first in a text or of outlying norm.
    """

    sae: SparseAutoencoder
    losses: list[float]
    dead: float
    tokens: int
    left_out: int


def train(config: DictionaryConfig, model: Any, site: str, rows: Sequence[Sequence[int]]) -> Trained:
    """Train on what a model computes at a site on some texts, given as token ids.

    Raises:
        DataError: there are fewer tokens than a step takes.
        TrainingFailed: the loss is not finite.
    """
    x, left_out = collect(model, site, rows)
    found = fit(config, x, site)
    about = {"model_name": str(getattr(model.config, "_name_or_path", "")), "trained_tokens": len(x)}
    sae = SparseAutoencoder(**{**vars(found.sae), "about": about})
    return found._replace(sae=sae, left_out=left_out)


def collect(model: Any, site: str, rows: Sequence[Sequence[int]]) -> tuple[Tensor, int]:
    """What a model computes at a site, [N, d], and how many tokens were first in a text or of outlying norm."""
    found = []
    with Progress("reading activations", len(rows)) as progress:
        for batch in batches(rows, BATCH_TOKENS):
            one = read(model, batch, [site])
            found.append(by_columns(one.sites[site], site)[:, 1:][one.mask[:, 1:]].float())
            progress.advance(len(batch))
    x = torch.cat(found) if found else torch.zeros(0, 1)
    norms = x.norm(dim=-1)
    kept = norms <= OUTLIER * norms.median() if len(x) else norms > 0
    return x[kept], len(rows) + int((~kept).sum())


def fit(config: DictionaryConfig, x: Tensor, site: str) -> Trained:
    """Train on activations, [N, d]."""
    if len(x) < config.batch_tokens:
        raise DataError(
            f"{len(x)} tokens to train a sparse autoencoder on",
            expected=f"{config.batch_tokens} or more: dictionary.batch_tokens",
            do="give more or longer texts",
        )
    scale = float(x.shape[1] ** 0.5 / x.norm(dim=-1).mean())
    weights = start(config, scale * x.mean(0))
    rate = config.learning_rate or 2e-4 / (config.features / 2**14) ** 0.5
    adam = torch.optim.Adam(weights, lr=rate, eps=6.25e-10)
    per_epoch = len(x) // config.batch_tokens
    total, losses = config.epochs * per_epoch, list[float]()
    threshold: float | None = None  # begins at the first batch's: from 0, a training of few steps ends too low
    silent = torch.zeros(config.features, dtype=torch.long, device=x.device)
    with Progress("sparse autoencoder", total) as progress:
        for step in range(total):
            if step % per_epoch == 0:
                order = torch.randperm(len(x), generator=random_stream(config.seed, step)).to(x.device)
            first = step % per_epoch * config.batch_tokens
            batch = scale * x[order[first : first + config.batch_tokens]]
            unexplained, aux, values = losses_of(config, weights, batch, silent >= config.dead_after_tokens)
            loss = unexplained + config.aux_weight * aux
            if not bool(loss.isfinite()):
                raise TrainingFailed(
                    f"the loss of the sparse autoencoder is not finite at step {step}", do="lower the learning rate"
                )
            adam.param_groups[0]["lr"] = rate * _share(step, total)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            _stay_unit(adam, weights.decoder)
            active = values.detach() > 0
            silent = torch.where(active.any(0), 0, silent + len(batch))
            if bool(active.any()):
                least = float(values.detach()[active].min())
                threshold = least if threshold is None else KEEP * threshold + (1 - KEEP) * least
            losses.append(float(unexplained.detach()))
            progress.advance(loss=losses[-1])
    dead = float((silent >= config.dead_after_tokens).float().mean())
    return Trained(_folded(config, weights, site, scale, threshold or 0.0), losses, dead, len(x), 0)


def start(config: DictionaryConfig, mean: Tensor) -> Weights:
    """First weights: random directions of length 1, the encoder their transpose, the bias the inputs' mean."""
    directions = torch.randn(config.features, len(mean), generator=random_stream(config.seed, config.features))
    directions = (directions / directions.norm(dim=1, keepdim=True)).to(mean)
    first = Weights(directions.T.contiguous(), mean.new_zeros(config.features), directions.clone(), mean.clone())
    return Weights(*(weight.requires_grad_() for weight in first))


def losses_of(config: DictionaryConfig, weights: Weights, x: Tensor, dead: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The unexplained share of the variance, AuxK's loss, and the features, [N, d_sae], of inputs, [N, d].

    Args:
        dead: [d_sae], which features AuxK may use.
    """
    before = (x - weights.decoder_bias) @ weights.encoder + weights.encoder_bias
    values = topk(before, config.k) if config.selection == "topk" else batch_topk(before, config.k)
    error = x - (values @ weights.decoder + weights.decoder_bias)
    variance = (x - x.mean(0)).square().sum()
    count, few = int(dead.sum()), x.shape[1] // 2
    aux = x.new_zeros(())
    if config.aux_weight and count:
        largest, places = before.masked_fill(~dead, -torch.inf).topk(min(few, count), dim=-1, sorted=False)
        made = torch.zeros_like(before).scatter(-1, places, largest) @ weights.decoder
        aux = min(count / few, 1.0) * (error.detach() - made).square().sum() / variance
    return error.square().sum() / variance, aux, values


def batch_topk(before: Tensor, k: int) -> Tensor:
    """The k·N largest of all N rows together, [N, d_sae], where they are positive; the rest is 0."""
    return topk(before.flatten(), min(k * len(before), before.numel())).view_as(before)


def _share(step: int, total: int) -> float:
    """Of the learning rate: linear warm-up, then constant, then linear to 0."""
    return min(1.0, (step + 1) / (_WARM_UP * total), (total - step) / (_DECAY * total))


def _stay_unit(adam: torch.optim.Adam, directions: Tensor) -> None:
    """A step after which directions have length 1; what of the gradient only lengthens them is taken off first."""
    with torch.no_grad():
        assert directions.grad is not None
        directions.grad -= (directions.grad * directions).sum(1, keepdim=True) * directions
        adam.step()
        directions /= directions.norm(dim=1, keepdim=True)


def _folded(config: DictionaryConfig, weights: Weights, site: str, scale: float, threshold: float) -> SparseAutoencoder:
    """The autoencoder of unscaled inputs: with features f / scale its encoder and directions stay what they are."""
    encoder, encoder_bias, decoder, decoder_bias = (weight.detach() for weight in weights)
    encoder_bias, decoder_bias = encoder_bias / scale, decoder_bias / scale
    if config.selection == "topk":
        return SparseAutoencoder(site, encoder, encoder_bias, decoder, decoder_bias, "topk", config.k)
    level = torch.full_like(encoder_bias, threshold / scale)
    return SparseAutoencoder(site, encoder, encoder_bias, decoder, decoder_bias, "jumprelu", threshold=level)
