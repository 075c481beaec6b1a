"""Probes on tiny models: a direction that was planted is found, noise is called noise, leaks are errors."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from decoder_families import VOCABULARY, family
from steersman.errors import DataError
from steersman.interp.activations import read
from steersman.interp.anatomy import anatomy_of
from steersman.interp.probe_evidence import Evidence, auroc
from steersman.interp.probes import (
    Example,
    Probe,
    Sets,
    causal_check,
    features,
    fit,
    gather,
    log_odds,
    middle_sites,
    parted,
    splits,
)

MARKED = range(VOCABULARY // 2, VOCABULARY)  # tokens that carry the planted direction
SIGNAL = 3.0  # length of what is planted; a token's own embedding has one of about 2
WORDS = [f"word{i}" for i in range(VOCABULARY)]


@cache
def planted() -> tuple[Any, torch.Tensor]:
    """A model whose marked tokens carry a direction in the stream, and the direction."""
    model = family("Llama")
    direction = torch.randn(anatomy_of(model).width, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        model.model.embed_tokens.weight[list(MARKED)] += SIGNAL * direction / direction.norm()
    return model, direction / direction.norm()


def rows(count: int, start: int, *, signal: bool = True, label: bool | None = None) -> list[Example]:
    """Rows whose last token is a marked one, if they are positive; with no signal, labels are of nothing."""
    found = []
    for number in range(start, start + count):
        generator = np.random.default_rng(number)
        truth = bool(number % 2) if label is None else label
        marked = truth if signal else generator.random() < 0.5
        last = int(generator.integers(VOCABULARY // 2, VOCABULARY) if marked else generator.integers(3, 32))
        ids = (1, *generator.integers(3, 32, 4).tolist(), last)
        # The baseline of words does not see the last one.
        found.append(Example(ids, 1, truth, number, " ".join(WORDS[i] for i in ids[1:-1])))
    return found


def sets(*, signal: bool = True) -> Sets:
    return Sets(
        fit=rows(60, 0, signal=signal),
        layer=rows(40, 100, signal=signal),
        threshold=rows(100, 200, label=False),
        test=rows(120, 400, signal=signal),
        style=rows(40, 600, signal=signal),
        chat=rows(100, 700, label=False),
    )


def behaviour(model: Any) -> Any:
    return log_odds(model, [(1, 4, 9), (1, 30, 8, 6)], yes=[5], no=[7])


@cache
def found(kind: Any) -> tuple[Probe, Evidence]:
    model, _ = planted()
    probe = fit(model, sets(), name="marked", kind=kind, sites=["blocks.0.hook_resid_pre"])
    return probe, gather(model, probe, sets(), behaviour(model))


@pytest.mark.parametrize("kind", ["logistic", "mean_difference"])
def test_a_planted_direction_is_found(kind: Any) -> None:
    _, direction = planted()
    probe, evidence = found(kind)
    seen = probe.report(evidence).evidence
    assert seen.separation is not None
    assert seen.separation.auroc.value > 0.99
    assert seen.random_directions is not None
    assert seen.random_directions.percentile > 0.99
    assert seen.text_only is not None
    assert 0.3 < seen.text_only.auroc < 0.7
    if kind == "mean_difference":
        assert float(probe.direction @ direction) > 0.9
        assert probe.distance == pytest.approx(SIGNAL, rel=0.3)


def test_noise_is_called_noise() -> None:
    model, _ = planted()
    nothing = sets(signal=False)
    probe = fit(model, nothing, name="nothing", sites=["blocks.0.hook_resid_pre"])
    found = probe.report(gather(model, probe, nothing, behaviour(model)))
    assert found.evidence.separation is not None
    assert 0.35 < found.evidence.separation.auroc.value < 0.65
    assert not found.deployable
    assert "no better than random directions" in " ".join(found.faults)


def test_a_report_needs_its_own_evidence() -> None:
    (one, seen), (other, _) = found("logistic"), found("mean_difference")
    with pytest.raises(DataError, match="another probe's"):
        other.report(seen)
    with pytest.raises(DataError, match="style_shift not measured"):
        one.report(seen.model_copy(update={"style_shift": None}))
    model, _ = planted()
    with pytest.raises(DataError, match="no rows for style, chat"):
        gather(model, one, sets()._replace(style=(), chat=()), behaviour(model))


@pytest.mark.parametrize("pair", [("fit", "test"), ("fit", "layer"), ("threshold", "chat"), ("layer", "style")])
def test_a_group_on_both_sides_is_an_error(pair: tuple[str, str]) -> None:
    good = sets()
    splits(good)
    one, other = pair
    leaked = getattr(good, other)[0]._replace(group=getattr(good, one)[3].group)
    with pytest.raises(DataError, match=f"for {one} and for {other}"):
        splits(good._replace(**{other: [*getattr(good, other), leaked]}))
    copied = getattr(good, one)[3]._replace(group="another name")
    with pytest.raises(DataError, match="1 texts are among"):
        splits(good._replace(**{other: [*getattr(good, other), copied]}))
    model, _ = planted()
    with pytest.raises(DataError, match=f"for {one} and for {other}"):
        fit(model, good._replace(**{other: [leaked]}), name="leak", sites=["hook_embed"])


def test_parts_hold_whole_groups() -> None:
    pairs = [row._replace(group=place // 3) for place, row in enumerate(rows(90, 0))]
    parts = parted(pairs, {"fit": 0.5, "layer": 0.2, "test": 0.3})
    assert [len(part) for part in parts.values()] == [45, 18, 27]
    groups = [{row.group for row in part} for part in parts.values()]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert parts == parted(pairs, {"fit": 0.5, "layer": 0.2, "test": 0.3})


def test_tokens_are_pooled_as_the_probe_says() -> None:
    model, site = family("GPT2"), "blocks.1.hook_resid_post"
    long, short = Example((1, 5, 6, *range(7, 16)), 3, True, 0, ""), Example((1, 8, 9, 4), 1, False, 1, "")
    whole = [read(model, [row.ids], [site]).sites[site][0].numpy() for row in (long, short)]
    last = features(model, [long, short], [site], "last")[site]
    np.testing.assert_allclose(last, [states[-1] for states in whole], atol=1e-4)
    mean = features(model, [long, short], [site], "response")[site]
    np.testing.assert_allclose(mean, [whole[0][3:7].mean(0), whole[1][1]], atol=1e-4)  # nine tokens less five; one
    with pytest.raises(DataError, match="without a response"):
        features(model, [long._replace(response=12)], [site], "response")


def test_the_site_is_chosen_on_its_own_rows() -> None:
    model, _ = planted()
    nothing = sets(signal=False)  # so that sites differ
    sites = ["hook_embed", "blocks.0.hook_attn_out", "blocks.1.hook_mlp_out", "blocks.2.hook_resid_post"]
    truth = [row.label for row in nothing.layer]
    alone = [fit(model, nothing, name="x", sites=[site]) for site in sites]
    quality = [auroc(probe.scores(model, nothing.layer), truth) for probe in alone]
    assert len(set(quality)) == 4
    assert fit(model, nothing, name="x", sites=sites).site == sites[int(np.argmax(quality))]
    flipped = nothing._replace(layer=[row._replace(label=not row.label) for row in nothing.layer])
    assert fit(model, flipped, name="x", sites=sites).site == sites[int(np.argmin(quality))]
    with pytest.raises(DataError, match="no rows to choose by"):
        fit(model, nothing._replace(layer=()), name="x", sites=sites)
    assert middle_sites(model) == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


def test_the_threshold_is_that_of_its_own_chat() -> None:
    model, _ = planted()
    probe = fit(model, sets(), name="marked", sites=["blocks.1.hook_resid_post"])
    scores = probe.scores(model, sets().threshold)
    assert sum(score > probe.threshold for score in scores) == 1  # of a hundred
    assert probe.threshold == pytest.approx(sorted(scores)[-2])
    assert np.isnan(fit(model, sets()._replace(threshold=()), name="x", sites=["hook_embed"]).threshold)


@pytest.mark.parametrize("name", ["Gemma3", "GPTNeoX"])
def test_steering_and_ablation_are_those_of_the_formulas(name: str) -> None:
    """The behaviour is the site's own component along a direction: adding d moves it by 2 d, projecting out by all."""
    model, site = family(name), "blocks.1.hook_resid_post"
    weight = torch.randn(anatomy_of(model).width, generator=torch.Generator().manual_seed(1))
    probe = Probe("x", "logistic", site, "last", weight, 0.0, 0.0, 3.0, torch.ones_like(weight))

    def component() -> float:
        return float(read(model, [(1, 4, 9)], [site]).at(site)[0] @ probe.direction)

    found = causal_check(model, probe, component)
    assert found.steered == pytest.approx(6, abs=1e-3)
    assert found.ablated == pytest.approx(-found.plain, abs=1e-3)
    assert max(map(abs, found.steered_random)) < 6
    assert found.p == pytest.approx(1 / 21)
