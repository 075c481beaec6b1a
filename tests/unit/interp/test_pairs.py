"""Pairs of texts: which are left out, and what the metrics are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from decoder_families import family, oriented
from steersman.errors import DataError
from steersman.interp.pairs import OPPOSITE, Pair, Pairs, contrast, pairs_of

CLEAN, CORRUPT = [5, 9, 11, 3, 8], [5, 9, 21, 3, 8]


def test_pairs_that_cannot_be_used_are_left_out_and_counted() -> None:
    model = family("GPT2")
    good, short = Pair([5, 9, 3], [5, 9, 1], [4], [6]), Pair(CLEAN, CORRUPT[:-1], [4], [6])
    flat = Pair(CLEAN, CORRUPT, [4], [6])
    found = pairs_of(model, [short, flat, good])
    assert found.kept == (2,)
    assert found.dropped == {"of unequal length": 1, "that differ by less than 1": 1, OPPOSITE: 0}
    assert found.clean.shape == (1, 3)  # no padding is left for a text that was dropped
    assert abs(float(found.swing[0])) >= 1
    with pytest.raises(DataError, match="1 of unequal length, 1 that differ by less than 1"):
        pairs_of(model, [short, flat])
    with pytest.raises(DataError, match="2 of unequal length"):
        pairs_of(model, [short, short])


def test_a_pair_whose_corrupted_text_is_right_does_not_cancel_another() -> None:
    model = family("Llama")
    (pair,) = [p for p in (Pair(CLEAN, CORRUPT, [4], [6]), Pair(CLEAN, CORRUPT, [6], [4])) if _usable(model, p)]
    other = pair._replace(right=pair.wrong, wrong=pair.right)
    found = pairs_of(model, [pair, other], least=0.01)
    assert found.dropped[OPPOSITE] == 1
    assert found.faithfulness(found.at_clean) == pytest.approx(1)


def _usable(model: Any, pair: Pair) -> bool:
    try:
        return len(pairs_of(model, [pair], least=0.01)) == 1
    except DataError:
        return False


def test_metrics_are_the_models_own_logits_and_divergence() -> None:
    model = family("Gemma2")  # with a soft cap
    pairs = [Pair(CLEAN, CORRUPT, [4, 7], [6]), Pair([5, 9, 3], [5, 9, 1], [2], [6, 8])]
    with torch.no_grad():
        clean, corrupt = (model(input_ids=torch.tensor([ids])).logits[0, -1] for ids in (CLEAN, CORRUPT))
    found = oriented(model, pairs, 0.01)
    sign = 1 if found.metric.weights[0][found.metric.ids == 6] < 0 else -1  # type: ignore[union-attr]
    assert sign * float(found.at_clean[0]) == pytest.approx(float(clean[[4, 7]].mean() - clean[6]), abs=1e-5)
    assert sign * float(found.at_corrupt[0]) == pytest.approx(float(corrupt[[4, 7]].mean() - corrupt[6]), abs=1e-5)
    kl = pairs_of(model, pairs, "kl", least=0.01)
    expected = torch.nn.functional.kl_div(
        corrupt.log_softmax(-1), clean.log_softmax(-1), log_target=True, reduction="sum"
    )
    assert float(kl.at_clean.abs().max()) < 1e-6
    assert float(kl.at_corrupt[0]) == pytest.approx(float(expected), abs=1e-5)
    parts = list(found.parts(5))
    assert [len(part) for part in parts] == [1, 1]
    assert parts[1].rows("corrupt") == [[5, 9, 1]]
    assert torch.equal(torch.cat([part.metric.weights for part in parts]), found.metric.weights)  # type: ignore[union-attr]


def test_recovery_is_0_at_the_corrupted_and_1_at_the_clean_text() -> None:
    found: Pairs = oriented(family("Llama"), [Pair(CLEAN, CORRUPT, [4], [6])], 0.01)
    assert found.recovery(found.at_corrupt).tolist() == [0.0]
    assert found.recovery(found.at_clean).tolist() == [1.0]
    assert found.faithfulness((found.at_clean + found.at_corrupt) / 2) == pytest.approx(0.5)


def test_tokens_that_make_no_difference_are_refused() -> None:
    model = family("Llama")
    with pytest.raises(DataError, match="none that is both"):
        contrast(model, [[4]], [[4, 5]])
    with pytest.raises(DataError, match="at least one of each"):
        contrast(model, [[4]], [[]])
    with pytest.raises(DataError, match="outside the vocabulary of 64"):
        contrast(model, [[4]], [[64]])
