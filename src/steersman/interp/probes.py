"""Linear probes on a model's activations: fitted, given a threshold, and tested before they may speak.

A probe is a direction at one site (`interp/activations.py`), a bias and a threshold. Two kinds: a logistic regression
with L2 on standardised activations (Alain & Bengio 2016, arXiv:1610.01644), and the difference of the classes' means
(as in MacDiarmid et al. 2024). How tokens become one vector is part of the probe: the ``last`` token, or the mean over
the ``response`` without its last five tokens (Goldowsky-Dill et al. 2025, arXiv:2502.03407), where what is said is
nearly over. They fit on single tokens of responses; here a response is one row, its mean, so that long ones weigh no
more. A linear score of the mean is the mean of the tokens' scores.

    sets  = Sets(fit=..., layer=..., threshold=..., test=..., style=..., chat=...)   # no group in two of the first four
    probe = fit(model, sets, sites=[f"blocks.{i}.hook_resid_post" for i in range(4, 14)])
    print(probe.report(gather(model, probe, sets, behaviour)))                     # refuses where a part is missing

The site is chosen on rows of its own, the threshold set by unrelated chat of its own, and figures are of other rows
again. A fact and its paraphrases, or both sides of a pair, are a group and never split.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from steersman.errors import DataError
from steersman.interp import probe_evidence as measured
from steersman.interp.activations import hooks, read, site_names
from steersman.interp.probe_evidence import L2, Evidence, Floats, Report, auroc, threshold_at
from steersman.lm.chat_format import ChatFormat
from steersman.lm.head import Head, head_of
from steersman.stats import wilson
from steersman.store import canonical, sha256_text
from steersman.types import Text, plain_text

VERSION = 1
Kind = Literal["logistic", "mean_difference"]
Pooling = Literal["last", "response"]
LAST_DROPPED = 5  # tokens of a response that its mean leaves out; of one with fewer, all but the first
BATCH_TOKENS = 2048
SHUFFLES = 20
RANDOM_STEERED = 20


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Example(NamedTuple):
    """A text with its label.

    Attributes:
        ids: from BOS on.
        response: index of the response's first token; 0 where the whole text is read.
        group: what may not be split: a fact with its paraphrases, both sides of a pair.
        text: what the baseline of words reads: all that the model does.
    """

    ids: tuple[int, ...]
    response: int
    label: bool
    group: Hashable
    text: str


def of_prompt(chat: ChatFormat, prompt: Text, label: bool, group: Hashable) -> Example:
    """A request, up to the place where the answer begins."""
    ids = tuple(chat.prompt_ids(prompt))
    return Example(ids, len(ids) - 1, label, group, plain_text(prompt))


def of_reply(chat: ChatFormat, prompt: Text, reply: str, label: bool, group: Hashable) -> Example:
    """A request with its answer, without the token that ends the turn."""
    start, ids = chat.prompt_ids(prompt), chat.completion_ids(reply, prompt)
    kept = ids[:-1] if ids[-1] in chat.stop_ids else ids
    return Example((*start, *kept), len(start), label, group, f"{plain_text(prompt)}\n{reply}")


def of_text(chat: ChatFormat, text: str, label: bool, group: Hashable) -> Example:
    """A plain text that nobody says to anybody."""
    bos = chat.tokenizer.bos_token_id
    ids = tuple([] if bos is None else [bos]) + tuple(chat.tokenizer(text, add_special_tokens=False)["input_ids"])
    return Example(ids, 0 if bos is None else 1, label, group, text)


class Sets(NamedTuple):
    """Rows by what they are for.

    Attributes:
        fit, layer: for the weights, and for the choice among sites.
        threshold: unrelated chat, all negative, of which 1 % shall lie above the threshold.
        test: for the figures.
        style: the test's content, or more, in styles that occur nowhere else.
        chat: unrelated chat that set no threshold, all negative.
    """

    fit: Sequence[Example]
    layer: Sequence[Example]
    threshold: Sequence[Example]
    test: Sequence[Example]
    style: Sequence[Example]
    chat: Sequence[Example]


def splits(sets: Sets) -> measured.Splits:
    """Count the rows of each set.

    Raises:
        DataError: a group, or a text, is in two sets that have to be disjoint.
    """
    learnt = ("fit", "layer", "threshold")
    held_out = ("test", "style", "chat")
    pairs = [(one, other) for i, one in enumerate(learnt) for other in (*learnt[i + 1 :], *held_out)]
    for one, other in [*pairs, ("test", "chat"), ("style", "chat")]:
        for what in ("group", "ids"):
            mine, theirs = ({getattr(row, what) for row in getattr(sets, name)} for name in (one, other))
            if both := mine & theirs:
                example = next(row for row in getattr(sets, other) if getattr(row, what) in both)
                raise DataError(
                    f"{len(both)} {'groups' if what == 'group' else 'texts'} are among the rows for {one} and for"
                    f" {other}: {example.group!r}: {example.text[:80]!r}",
                    expected="a fact with its paraphrases, and both sides of a pair, on one side",
                    do="split by group, for example with interp.probes.parted",
                )
    names = [name for name in Sets._fields if getattr(sets, name)]
    return measured.Splits(
        rows={name: len(getattr(sets, name)) for name in names},
        groups={name: len({row.group for row in getattr(sets, name)}) for name in names},
    )


def parted(rows: Sequence[Example], shares: dict[str, float], seed: int = 0) -> dict[str, list[Example]]:
    """Rows split into named parts, whole groups by a digest of their name: the same groups always go the same way.

    Args:
        shares: of the groups, adding up to 1.
    """
    groups = sorted({row.group for row in rows}, key=lambda group: sha256_text(f"{seed} {group!r}"))
    part_of: dict[Hashable, str] = {}
    reached = 0.0
    for name, share in shares.items():
        start, reached = round(reached * len(groups)), reached + share
        part_of |= dict.fromkeys(groups[start : round(reached * len(groups))], name)
    return {name: [row for row in rows if part_of.get(row.group) == name] for name in shares}


def features(model: Any, rows: Sequence[Example], sites: Sequence[str], pooling: Pooling) -> dict[str, Floats]:
    """Pooled activations of some rows at each site, [N, H].

    Raises:
        DataError: a row without tokens to pool.
    """
    for row in rows:
        if not 0 <= row.response < len(row.ids):
            raise DataError(f"a row without a response to read: {row.text[:80]!r}", expected="at least one token")
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    found: dict[str, Floats] = {}
    while order:
        count = max(1, BATCH_TOKENS // len(rows[order[-1]].ids))
        chosen, order = order[-count:], order[:-count]
        seen = read(model, [rows[i].ids for i in chosen], sites)
        for site in sites:
            values = seen.sites[site].flatten(2).float()
            kept = found.setdefault(site, np.zeros((len(rows), values.shape[-1])))
            kept[chosen] = (values * _weights(values, [rows[i] for i in chosen], pooling)).sum(1).cpu().numpy()
    return found


def _weights(values: Tensor, rows: Sequence[Example], pooling: Pooling) -> Tensor:
    """How much each token counts, [B, T, 1]."""
    found = torch.zeros(*values.shape[:2], 1)
    for place, row in enumerate(rows):
        start, end = row.response, len(row.ids)
        end = max(start + 1, end - LAST_DROPPED) if pooling == "response" else end
        start = start if pooling == "response" else end - 1
        found[place, start:end] = 1 / (end - start)
    return found.to(values.device)


# ── the probe ────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Probe:
    """A direction at a site, with a threshold.

    Attributes:
        weight: [H], float32, of the activations as they are; what was standardised for the fit is folded in.
        threshold: the score above which at most 1 % of the chat that set it lies; NaN where there was none.
        distance: between the means of the two classes at the site, on the rows of the fit: the step of the causal
            check.
        scale: [H], standard deviations on the rows of the fit.
        provenance: where it comes from: digests of rows, sizes, the sites that it was chosen from.
    """

    name: str
    kind: Kind
    site: str
    pooling: Pooling
    weight: Tensor
    bias: float
    threshold: float
    distance: float
    scale: Tensor
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of what decides its scores."""
        numbers = [*self.weight.tolist(), self.bias, self.threshold]
        return sha256_text(canonical([self.kind, self.site, self.pooling, numbers]))

    @property
    def direction(self) -> Tensor:
        """The weight at length 1, [H]."""
        unit: Tensor = self.weight / self.weight.norm()
        return unit

    def score(self, activations: Tensor) -> Tensor:
        """Scores, [...], of activations, [..., H]: log-odds of a logistic probe."""
        scores: Tensor = activations.float() @ self.weight.to(activations.device) + self.bias
        return scores

    def scores(self, model: Any, rows: Sequence[Example]) -> list[float]:
        """The score of each row, pooled as the probe pools."""
        found: list[float] = self.of_features(features(model, rows, [self.site], self.pooling)[self.site]).tolist()
        return found

    def of_features(self, found: Floats) -> Floats:
        """Scores, [N], of pooled activations, [N, H]."""
        return np.asarray(found @ self.weight.double().numpy() + self.bias)

    def report(self, evidence: Evidence) -> Report:
        """Its figures, all of them or none.

        Raises:
            DataError: a part of the evidence is missing, or it is another probe's.
        """
        if evidence.probe != self.digest:
            raise DataError(f"the evidence is another probe's than {self.name!r}", do="measure this probe")
        return measured.report(self.name, self.site, evidence)


def fit(
    model: Any,
    sets: Sets,
    *,
    name: str,
    sites: Sequence[str] | None = None,
    kind: Kind = "logistic",
    pooling: Pooling = "last",
    l2: float = L2,
) -> Probe:
    """A probe fitted on ``sets.fit`` at the site that separates ``sets.layer`` best, with the threshold's chat.

    Args:
        sites: that it is chosen from; None: the stream behind each layer of the middle half. With one, nothing is
            chosen, and ``sets.layer`` may be empty. Of equally good ones the lowest is taken.

    Raises:
        DataError: sets that are not disjoint, or that lack a class.
    """
    sizes = splits(sets)
    sites = middle_sites(model) if sites is None else sites
    if len(sites) > 1 and not sets.layer:
        raise DataError(f"{len(sites)} sites and no rows to choose by", expected="rows for Sets.layer, or one site")
    seen = features(model, [*sets.fit, *sets.layer], sites, pooling)
    labels, n = [row.label for row in sets.fit], len(sets.fit)
    found = {site: _fitted(name, kind, site, pooling, seen[site][:n], labels, l2) for site in sites}
    chosen = sites[0]
    if len(sites) > 1:
        truth = [row.label for row in sets.layer]
        measured.check_scores([0.0] * len(truth), truth)
        quality = {site: auroc(found[site].of_features(seen[site][n:]), truth) for site in sites}
        chosen = max(sites, key=lambda site: (quality[site], -sites.index(site)))
    probe = found[chosen]
    chat = features(model, sets.threshold, [chosen], pooling)[chosen] if sets.threshold else None
    return replace(
        probe,
        threshold=float("nan") if chat is None else threshold_at(probe.of_features(chat)),
        provenance={
            "version": VERSION,
            "rows": sizes.model_dump(),
            "fit": _digest(sets.fit),
            "sites": list(sites),
            "l2": l2 if kind == "logistic" else None,
        },
    )


def _digest(rows: Sequence[Example]) -> str:
    return sha256_text(canonical([[list(row.ids), row.label] for row in rows]))


def middle_sites(model: Any) -> list[str]:
    """The residual stream behind each layer from a quarter to three quarters of the depth."""
    sites = [site for site in site_names(model) if site.endswith("hook_resid_post")]
    return sites[len(sites) // 4 : max(len(sites) // 4 + 1, (3 * len(sites)) // 4)]


def middle_site(model: Any) -> str:
    """The residual stream behind the middle layer."""
    sites = [site for site in site_names(model) if site.endswith("hook_resid_post")]
    return sites[(len(sites) - 1) // 2]


def _fitted(name: str, kind: Kind, site: str, pooling: Pooling, x: Floats, labels: Sequence[bool], l2: float) -> Probe:
    """A probe without a threshold, of pooled activations, [N, H]."""
    weight, bias = _weight(kind, x, labels, l2)
    truth = np.asarray(labels, bool)
    distance = float(np.linalg.norm(x[truth].mean(0) - x[~truth].mean(0)))
    scale = torch.tensor(_scale(x), dtype=torch.float32)
    folded = torch.tensor(weight, dtype=torch.float32)
    return Probe(name, kind, site, pooling, folded, bias, float("nan"), distance, scale)


def _weight(kind: Kind, x: Floats, labels: Sequence[bool], l2: float) -> tuple[Floats, float]:
    measured.check_scores([0.0] * len(labels), labels)
    truth, mean = np.asarray(labels, bool), x.mean(0)
    if kind == "mean_difference":
        positive, negative = x[truth].mean(0), x[~truth].mean(0)
        weight = positive - negative
        return weight, float(-weight @ (positive + negative) / 2)
    scale = _scale(x)
    weight, bias = measured.logistic((x - mean) / scale, truth, l2)
    weight = weight / scale
    return weight, float(bias - weight @ mean)


def _scale(x: Floats) -> Floats:
    """Standard deviations; a dimension that never changes is left as it is."""
    found = x.std(0)
    return np.where(found > 1e-6, found, 1.0)


# ── evidence ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def gather(
    model: Any, probe: Probe, sets: Sets, behaviour: Callable[[], float], *, l2: float = L2, seed: int = 0
) -> Evidence:
    """All that `Probe.report` asks for.

    Args:
        behaviour: measures, on the model as it is when called, what the probe's concept should drive; a few dozen
            short prompts, since it is called more than sixty times. `log_odds` makes one.

    Raises:
        DataError: a set is empty, the sets are not disjoint, or the probe was fitted on other rows.
    """
    if empty := [name for name in Sets._fields if name != "layer" and not getattr(sets, name)]:
        raise DataError(f"no rows for {', '.join(empty)}", expected="rows in every set", do="write them; see Sets")
    if probe.provenance.get("fit") != _digest(sets.fit):
        raise DataError(
            f"the probe {probe.name!r} was not fitted on these rows",
            expected="the sets that `fit` was given: what it was fitted on must not be tested",
        )
    counted = splits(sets)
    parts = {"fit": sets.fit, "test": sets.test, "style": sets.style, "chat": sets.chat}
    flat = features(model, [row for rows in parts.values() for row in rows], [probe.site], probe.pooling)[probe.site]
    ends = np.cumsum([len(rows) for rows in parts.values()])
    seen = dict(zip(parts, np.split(flat, ends[:-1]), strict=True))
    truth, groups = [row.label for row in sets.test], [row.group for row in sets.test]
    scores = probe.of_features(seen["test"]).tolist()
    found = measured.separation(scores, truth, groups, seed)
    words = measured.text_scores(
        [row.text for row in sets.fit], [row.label for row in sets.fit], [row.text for row in sets.test]
    )
    style = measured.interval(
        auroc,
        probe.of_features(seen["style"]).tolist(),
        [row.label for row in sets.style],
        [row.group for row in sets.style],
        seed,
    )
    above = int((probe.of_features(seen["chat"]) > probe.threshold).sum())
    return Evidence(
        probe=probe.digest,
        splits=counted,
        separation=found,
        random_directions=measured.random_directions(
            seen["test"], truth, probe.scale.double().numpy(), found.auroc.value, seed=seed
        ),
        shuffled_labels=_shuffled(probe, sets, seen, found.auroc.value, l2, seed),
        text_only=measured.TextOnly(auroc=auroc(words, truth), tpr=measured.true_positives_at(words, truth)),
        style_shift=measured.StyleShift(auroc=style, cost=found.auroc.value - style.value),
        unrelated_chat=measured.UnrelatedChat(rate=wilson(above, len(sets.chat))),
        causal=causal_check(model, probe, behaviour, seed=seed),
    )


def _shuffled(
    probe: Probe, sets: Sets, seen: dict[str, Floats], own: float, l2: float, seed: int
) -> measured.ShuffledLabels:
    """The probe fitted again on shuffled labels, and tested on true ones."""
    generator, truth = np.random.default_rng(seed), [row.label for row in sets.test]
    labels, groups = [row.label for row in sets.fit], [row.group for row in sets.fit]
    found: list[float] = []
    while len(found) < SHUFFLES:
        other = measured.shuffled(labels, groups, generator)
        if len(set(other)) == 2:
            weight, _ = _weight(probe.kind, seen["fit"], other, l2)
            found.append(auroc(seen["test"] @ weight, truth))
    p = (1 + sum(one >= own for one in found)) / (1 + len(found))
    return measured.ShuffledLabels(repeats=len(found), mean=float(np.mean(found)), highest=max(found), p=p)


def causal_check(
    model: Any, probe: Probe, behaviour: Callable[[], float], *, random: int = RANDOM_STEERED, seed: int = 0
) -> measured.Causal:
    """Steer along the probe's direction and project it out, at its site and every token, beside random directions.

    Steering adds or takes away the distance between the classes' means; all directions have length 1, so that all
    steps are as long. A logistic probe's direction is the one that separates best and need not be the one along which
    the classes differ (Haufe et al. 2014), so that it may read and not drive.
    """
    generator = torch.Generator().manual_seed(seed)
    others = torch.randn(random, len(probe.weight), generator=generator)

    def steered(direction: Tensor, step: float) -> float:
        def add(x: Tensor) -> Tensor:
            return x + (step * direction).to(x).view(x.shape[2:])

        with hooks(model, {probe.site: add}):
            return behaviour()

    def ablated(direction: Tensor) -> float:
        def project(x: Tensor) -> Tensor:
            flat, unit = x.flatten(2), direction.to(x)
            return (flat - (flat @ unit)[..., None] * unit).view(x.shape)

        with hooks(model, {probe.site: project}):
            return behaviour()

    plain = behaviour()
    directions = [probe.direction, *(other / other.norm() for other in others)]
    spans = [steered(one, probe.distance) - steered(one, -probe.distance) for one in directions]
    moved = [ablated(one) - plain for one in directions]
    return measured.Causal(
        plain=plain,
        steered=spans[0],
        steered_random=tuple(spans[1:]),
        ablated=moved[0],
        ablated_random=tuple(moved[1:]),
    )


def log_odds(model: Any, rows: Sequence[Sequence[int]], yes: Sequence[int], no: Sequence[int]) -> Callable[[], float]:
    """A behaviour for `causal_check`: log P(yes) - log P(no) of the next token, nats, averaged over some prompts.

    Args:
        rows: token ids of the prompts. yes, no: ids whose probabilities are added up.
    """
    whole = head_of(model)
    device = whole.weight.device
    head: Head = whole.rows(torch.tensor([*yes, *no], device=device))
    final = "ln_final.hook_normalized"

    def run() -> float:
        logits = head.logits(read(model, rows, [final]).at(final)).double()
        odds = logits[:, : len(yes)].logsumexp(-1) - logits[:, len(yes) :].logsumexp(-1)
        return float(odds.detach().mean())

    return run
