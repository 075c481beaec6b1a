"""Sparse autoencoders at a site: what a model computes there, as a sum of few directions out of many.

    f = act((x - b_dec) W_enc + b_enc),    x' = f W_dec + b_dec          (Bricken et al. 2023; Cunningham et al. 2023)

with act ReLU, TopK (Gao et al. 2024, arXiv:2406.04093), JumpReLU (Rajamanoharan et al. 2024, arXiv:2407.14435) or gated
(arXiv:2404.16014). A *transcoder* reads one site and writes another. Folders are read by `sae_formats`, small ones are
trained by `sae_training`.

What is read off one is a description, not a cause: an intervention (`edits`) shows whether the model uses a feature.
A dictionary's own measures (share of the variance, L0) say little; so `measure` also runs the model on reconstructions,
and `random_dictionary` is what the same arithmetic reaches with directions that know nothing of the model. The first
position of every text and tokens of outlying norm are left out, and counted: a few massive activations (Sun et al.
2024, arXiv:2402.17762) would be most of the variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from steersman.errors import DataError, ModelError
from steersman.interp.activations import Edit, hooks, padded, read
from steersman.interp.anatomy import anatomy_of, norm_form
from steersman.lm.head import Head, evaluating, head_of, probe_ids, token_logprobs, trunk
from steersman.lm.sampling import random_stream

Activation = Literal["relu", "topk", "jumprelu", "gated"]
Normalise = Literal["none", "layer_norm", "constant_norm_rescale"]
Change = Callable[[Tensor], Tensor]
"""Given feature activations, [..., d_sae], what they shall be instead."""

OUTLIER = 10.0  # times the median norm: tokens above are left out, as in dictionary_learning
BATCH_TOKENS = 2048
_BY_HEAD = ("hook_q", "hook_k", "hook_v", "hook_z")


@dataclass(frozen=True)
class SparseAutoencoder:
    """Weights, and what is done with them.

    Attributes:
        site: what it reads (see `activations`), and what it writes if it has no ``output_site``.
        encoder: [d_in, d_sae]; encoder_bias: [d_sae], of a gated one that of the gate.
        decoder: [d_sae, d_out]; decoder_bias: [d_out].
        k: of TopK, how many features are active at a token.
        threshold: of JumpReLU, [d_sae]: a feature is active above it.
        magnitude: of a gated one, [2, d_sae]: logarithm of the encoder's scale, and bias, of the magnitudes.
        subtract_bias: whether the decoder's bias is taken off the input.
        normalise: what is done to each input before, and undone after.
        skip: of a transcoder, [d_in, d_out]: a linear map beside the features.
        about: what the folder says further, as JSON values.
    """

    site: str
    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    activation: Activation = "relu"
    k: int = 0
    threshold: Tensor | None = None
    magnitude: Tensor | None = None
    subtract_bias: bool = True
    normalise: Normalise = "none"
    skip: Tensor | None = None
    output_site: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def d_in(self) -> int:
        """Width of what it reads."""
        return self.encoder.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.encoder.shape[1]

    @property
    def writes(self) -> str:
        """The site that it reconstructs."""
        return self.output_site or self.site

    def encode(self, x: Tensor) -> Tensor:
        """Feature activations, [..., d_sae], of activations, [..., d_in]."""
        x = self._normalised(x.float())[0]
        x = x - self.decoder_bias if self.subtract_bias else x
        before: Tensor = x @ self.encoder + self.encoder_bias
        if self.activation == "topk":
            return topk(before, self.k)
        if self.activation == "jumprelu":
            assert self.threshold is not None
            return before.relu() * (before > self.threshold)
        if self.activation == "gated":
            assert self.magnitude is not None
            scale, bias = self.magnitude
            size: Tensor = x @ self.encoder * scale.exp() + bias
            return size.relu() * (before > 0)
        return before.relu()

    def decode(self, features: Tensor, x: Tensor) -> Tensor:
        """The reconstruction, [..., d_out], from features, [..., d_sae], of x, [..., d_in].

        x counts only where inputs are normalised or skipped past the features.
        """
        made = features @ self.decoder + self.decoder_bias
        if self.skip is not None:
            made = made + x.float() @ self.skip
        _, scale, shift = self._normalised(x.float())
        return made * scale + shift

    def _normalised(self, x: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """X as the encoder wants it, and what undoes it: a factor and a summand."""
        if self.normalise == "layer_norm":  # as SAELens: the deviation with n - 1, and epsilon on one way only
            mean = x.mean(-1, keepdim=True)
            deviation = (x - mean).std(-1, keepdim=True)
            return (x - mean) / (deviation + 1e-5), deviation, mean
        if self.normalise == "constant_norm_rescale":
            scale = self.d_in**0.5 / x.norm(dim=-1, keepdim=True)
            return x * scale, 1 / scale, 0.0
        return x, 1.0, 0.0


def topk(before: Tensor, k: int) -> Tensor:
    """The k largest of each row, [..., d_sae], where they are positive; the rest is 0."""
    values, places = before.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(before).scatter(-1, places, values.relu())


# ── at a model's site ────────────────────────────────────────────────────────────────────────────────────────────────
class Features(NamedTuple):
    """Feature activations of some texts.

    Attributes:
        values: [B, T, d_sae]; mask: [B, T], True at tokens that are no padding.
    """

    values: Tensor
    mask: Tensor


def fitted(model: Any, sae: SparseAutoencoder) -> SparseAutoencoder:
    """The autoencoder with the names of its sites as this model has them, and its weights on the model's device.

    Raises:
        ModelError: the model has no such site, or one of another width.
    """
    found = replace(sae, site=_own_name(model, sae.site), output_site=_own_name(model, sae.output_site))
    ids = [probe_ids(model, 3)]
    widths = {
        name: by_columns(x, name).shape[-1] for name, x in read(model, ids, [found.site, found.writes]).sites.items()
    }
    wanted = {found.site: sae.d_in, found.writes: sae.decoder.shape[1]}
    if widths != wanted:
        raise ModelError(
            f"the autoencoder is for {_widths(wanted)}, and {type(model).__name__} has {_widths(widths)}",
            expected="an autoencoder that was trained on this model",
        )
    weights: dict[str, Any] = {
        name: value.to(model.device) for name, value in vars(found).items() if isinstance(value, Tensor)
    }
    return replace(found, **weights)


def _widths(found: Mapping[str, int]) -> str:
    return " and ".join(f"{name} with {width} columns" for name, width in found.items())


def _own_name(model: Any, name: str) -> str:
    """A path below the trunk, as sparsify writes it, from the model on."""
    below = f"{model.base_model_prefix}.{name}"
    modules = dict(model.named_modules())
    return below if name and name not in modules and below in modules else name


def features(model: Any, sae: SparseAutoencoder, rows: Sequence[Sequence[int]]) -> Features:
    """Feature activations at each token of some texts, given as token ids, in one forward pass."""
    sae = fitted(model, sae)
    found = read(model, rows, [sae.site])
    return Features(sae.encode(by_columns(found.sites[sae.site], sae.site)), found.mask)


def ablating(*which: int) -> Change:
    """A change that takes features away."""
    return lambda values: values.index_fill(-1, torch.tensor(which, device=values.device), 0.0)


def steering(feature: int, amount: float) -> Change:
    """A change that adds to a feature at every token, in the units of its activations."""

    def change(values: Tensor) -> Tensor:
        values = values.clone()
        values[..., feature] += amount
        return values

    return change


def edits(
    model: Any, sae: SparseAutoencoder, change: Change | None = None, *, error: bool = True
) -> list[tuple[str, Edit]]:
    """Edits for `activations.hooks` that put the reconstruction from changed features in a site's place.

    Args:
        change: what becomes of the features; None leaves them.
        error: add what the reconstruction misses. Then what is changed is the features alone; without a change this is
            the identity. Without it, the model runs on what the autoencoder knows of the site.
    """
    sae = fitted(model, sae)
    given: list[Tensor] = []

    def seen(x: Tensor) -> None:
        given[:] = [by_columns(x, sae.site).float()]

    def put(x: Tensor) -> Tensor:
        flat, source = by_columns(x, sae.writes), given[0]
        before = sae.encode(source)
        after = before if change is None else change(before)
        new = sae.decode(after, source)
        if error:
            new = flat.float() + (new - sae.decode(before, source))
        return new.to(x.dtype).view(x.shape)

    return [(sae.site, seen), (sae.writes, put)]


def by_columns(x: Tensor, site: str) -> Tensor:
    """A site's activations as [..., width]: those of heads side by side."""
    return x.flatten(-2) if site.endswith(_BY_HEAD) else x


# ── how good it is ───────────────────────────────────────────────────────────────────────────────────────────────────
class Quality(NamedTuple):
    """What `measure` found; losses are nats per token.

    Attributes:
        unexplained: sum of the squared error over that of the deviations from the mean (FVU).
        active: features at a token (L0), on average; dead: share of the features that no token had.
        loss, loss_without, loss_replaced: of the model; with zeros at the site; with reconstructions there.
        tokens, left_out: on how many tokens the first three are; how many were first in a text or of outlying norm.
            These keep what they have when the site is replaced.
    """

    unexplained: float
    active: float
    dead: float
    loss: float
    loss_without: float
    loss_replaced: float
    tokens: int
    left_out: int

    @property
    def recovered(self) -> float:
        """Share of the loss that zeros cost and reconstructions do not; NaN where zeros cost nothing."""
        cost = self.loss_without - self.loss
        return (self.loss_without - self.loss_replaced) / cost if cost > 0 else float("nan")


def measure(model: Any, sae: SparseAutoencoder, rows: Sequence[Sequence[int]], scored: int | None = None) -> Quality:
    """How well an autoencoder stands for a site on texts that it was not trained on, given as token ids.

    Args:
        scored: on how many of the first texts the model is run three times for its losses: with Gemma's vocabulary the
            output layer takes nearly all of the time. None: on all.

    Raises:
        DataError: no text has two tokens.
    """
    sae, head = fitted(model, sae), head_of(model)
    rows = [row for row in rows if len(row) > 1]
    if not rows or scored == 0:
        raise DataError("no text of two tokens or more to measure an autoencoder on")
    limit = OUTLIER * _median_norm(model, sae, rows)
    errors, count, left_out = torch.zeros(2, dtype=torch.float64), torch.zeros(sae.d_sae, dtype=torch.float64), 0
    total, squares = torch.zeros(sae.decoder.shape[1], dtype=torch.float64), 0.0
    losses, texts, scored = torch.zeros(3, dtype=torch.float64), 0, len(rows) if scored is None else scored
    with torch.no_grad(), evaluating(model):
        for batch in batches(rows, BATCH_TOKENS):
            found = read(model, batch, [sae.site, sae.writes])
            x, y = (by_columns(found.sites[name], name).float() for name in (sae.site, sae.writes))
            kept = usable(x, found.mask, limit)
            left_out += int(found.mask.sum() - kept.sum())
            values = sae.encode(x[kept])
            errors[0] += (y[kept] - sae.decode(values, x[kept])).double().square().sum().cpu()
            total += y[kept].double().sum(0).cpu()
            squares += float(y[kept].double().square().sum())
            count += (values > 0).double().sum(0).cpu()
            errors[1] += len(values)
            if texts < scored:
                losses += _losses(model, sae, head, batch[: scored - texts], kept)
            texts += len(batch)
    tokens, targets = int(errors[1]), sum(len(row) - 1 for row in rows[:scored])
    if not tokens:
        raise DataError(f"none of {left_out} tokens is left to measure an autoencoder on")
    variance = squares - float(total.square().sum()) / tokens
    plain, without, replaced = (losses / targets).tolist()
    active, dead = float(count.sum()) / tokens, float((count == 0).double().mean())
    return Quality(float(errors[0]) / variance, active, dead, plain, without, replaced, tokens, left_out)


def _losses(model: Any, sae: SparseAutoencoder, head: Head, batch: Sequence[Sequence[int]], kept: Tensor) -> Tensor:
    """Sums of the negative log-likelihoods: plain, with zeros at the site, with reconstructions; [3]."""
    ids, mask = padded(model, batch)
    kept, replaced = kept[: ids.shape[0], : ids.shape[1]], edits(model, sae, error=False)

    def only(edit: Edit) -> Edit:
        def run(x: Tensor) -> Tensor | None:
            new = edit(x)
            return None if new is None else torch.where(kept.view(*kept.shape, *[1] * (x.ndim - 2)), new, x)

        return run

    ways: tuple[list[tuple[str, Edit]], ...] = (
        [],
        [(sae.writes, only(torch.zeros_like))],
        [(name, only(edit)) for name, edit in replaced],
    )
    sums = []
    for way in ways:
        with hooks(model, way):
            hidden = trunk(model)(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
        scored = mask[:, 1:]
        sums.append(-token_logprobs(hidden[:, :-1][scored], ids[:, 1:][scored], head).double().sum().cpu())
    return torch.stack(sums)


def _median_norm(model: Any, sae: SparseAutoencoder, rows: Sequence[Sequence[int]]) -> float:
    found = (read(model, batch, [sae.site]) for batch in batches(rows, BATCH_TOKENS))
    norms = [
        by_columns(one.sites[sae.site], sae.site)[:, 1:][one.mask[:, 1:]].float().norm(dim=-1).cpu() for one in found
    ]
    return float(torch.cat(norms).median())


def usable(x: Tensor, mask: Tensor, limit: float) -> Tensor:
    """Which tokens count, [B, T]: no padding, not first in a text, and of no larger norm than a limit."""
    kept: Tensor = mask & (x.float().norm(dim=-1) <= limit)
    kept[:, 0] = False
    return kept


def batches(rows: Sequence[Sequence[int]], tokens: int) -> Iterator[list[Sequence[int]]]:
    """Texts in their order, as many at a time as fill some tokens when padded; at least one."""
    batch: list[Sequence[int]] = []
    for row in rows:
        if batch and max(len(row), *map(len, batch)) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def random_dictionary(x: Tensor, d_sae: int, k: int, site: str, seed: int = 0) -> SparseAutoencoder:
    """What TopK reaches with random directions: the baseline of every figure about a trained dictionary.

    Its bias is the mean of x, [N, d], its encoder the decoder's transpose, and the length of its directions is fitted
    to x by least squares, without which their sum overshoots.
    """
    decoder = torch.randn(d_sae, x.shape[1], generator=random_stream(seed, d_sae)).to(x.device)
    decoder = decoder / decoder.norm(dim=1, keepdim=True)
    mean = x.mean(0)
    plain = SparseAutoencoder(site, decoder.T, torch.zeros(d_sae, device=x.device), decoder, mean, "topk", k)
    made = plain.encode(x) @ decoder
    length = float((made * (x - mean)).sum() / made.square().sum())
    return replace(plain, decoder=length * decoder)


# ── what its features are ────────────────────────────────────────────────────────────────────────────────────────────
class Example(NamedTuple):
    """Where a feature is active: a token, what stands before and behind it, and how much."""

    before: str
    token: str
    after: str
    activation: float


class Described(NamedTuple):
    """A feature by where it is active and by what it writes.

    Attributes:
        share: of the tokens at which it is active.
        examples: the largest activations, of different texts.
        promoted, suppressed: tokens whose logits its direction raises and lowers most; none of a site from which the
            output layer cannot be read.
    """

    feature: int
    share: float
    examples: tuple[Example, ...]
    promoted: tuple[str, ...]
    suppressed: tuple[str, ...]


def describe(
    model: Any,
    sae: SparseAutoencoder,
    rows: Sequence[Sequence[int]],
    decode: Callable[[Sequence[int]], str],
    which: Sequence[int],
    *,
    examples: int = 5,
    context: int = 8,
    words: int = 8,
) -> list[Described]:
    """Features by the texts, given as token ids, on which they are most active, and by their direct effect on logits.

    Args:
        decode: text of token ids.
        context: tokens before and after.
    """
    sae = fitted(model, sae)
    best: list[list[tuple[float, int, int]]] = [[] for _ in which]
    active, tokens, first = torch.zeros(len(which)), 0, 0
    for batch in batches(rows, BATCH_TOKENS):
        found = read(model, batch, [sae.site])
        values = sae.encode(by_columns(found.sites[sae.site], sae.site))[..., list(which)] * found.mask[..., None]
        values[:, 0] = 0
        active += (values > 0).sum((0, 1)).cpu()
        tokens += int(found.mask.sum()) - len(batch)
        largest, places = values.max(1)
        for number in range(len(which)):
            new = zip(largest[:, number].tolist(), places[:, number].tolist(), strict=True)
            best[number] += [(value, first + row, place) for row, (value, place) in enumerate(new) if value > 0]
            best[number] = sorted(best[number], reverse=True)[:examples]
        first += len(batch)

    def example(value: float, row: int, place: int) -> Example:
        ids = rows[row]
        before, after = ids[max(0, place - context) : place], ids[place + 1 : place + 1 + context]
        return Example(decode(before), decode(ids[place : place + 1]), decode(after), value)

    readable = sae.decoder.shape[1] == anatomy_of(model).width and not sae.writes.endswith(_BY_HEAD)
    lens = direction_words(model, sae.decoder[list(which)], decode, words) if readable else [((), ())] * len(which)
    shares = (active / max(1, tokens)).tolist()
    return [
        Described(feature, share, tuple(example(*one) for one in found), *words_of)
        for feature, share, found, words_of in zip(which, shares, best, lens, strict=True)
    ]


def direction_words(
    model: Any, directions: Tensor, decode: Callable[[Sequence[int]], str], count: int
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """For each direction in the residual stream, [N, H], the tokens whose logits it raises and lowers most.

    Through the final norm's gain and the output layer; the norm's divisor, which scales all logits, is left out, and so
    is a soft cap, which keeps their order.
    """
    norm = norm_form(anatomy_of(model).final_norm, anatomy_of(model).width)
    head = head_of(model)
    with torch.no_grad():
        seen = norm.linear(directions.float(), torch.ones(1, device=directions.device))
        logits = (head.weight @ seen.to(head.weight.dtype).T).float()  # [V, N]
        up, down = (end.topk(count, dim=0).indices.T.tolist() for end in (logits, -logits))
    return [
        (tuple(decode([one]) for one in most), tuple(decode([one]) for one in least))
        for most, least in zip(up, down, strict=True)
    ]
