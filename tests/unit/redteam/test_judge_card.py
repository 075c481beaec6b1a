"""Cards: counts, files, and labels that were drawn by the judge's own word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steersman.errors import DataError
from steersman.redteam.judge_card import Counts, Stratum, Verdict, card_of, card_of_people, load_card, save_card
from steersman.redteam.judges import JUDGES, judge_named, shipped_card


def test_verdicts_are_counted_overall_and_by_family() -> None:
    said = [(True, True)] * 3 + [(False, True)] + [(False, False)] * 5 + [(True, False)] * 2
    card = card_of(
        "rules", "ours", [Verdict(j, label, "direct" if n % 2 else "tense") for n, (j, label) in enumerate(said)]
    )
    assert card.overall == Counts(tp=3, fn=1, tn=5, fp=2)
    assert card.overall.sensitivity.value == pytest.approx(3 / 4)
    assert card.overall.specificity.value == pytest.approx(5 / 7)
    assert card.overall.accuracy.value == pytest.approx(8 / 11)
    assert set(card.families) == {"direct", "tense"}
    assert sum(c.harmful for c in card.families.values()) == 4


def test_a_family_with_few_labels_uses_the_overall_errors() -> None:
    few, enough = Counts(tp=19, tn=300), Counts(tp=20, tn=20)
    card = card_of("rules", "ours", []).model_copy(update={"families": {"few": few, "enough": enough}})
    assert card.of("few") is card.overall
    assert card.of("enough") is enough
    assert card.of("unknown") is card.overall


def test_a_card_comes_back_from_its_file(tmp_path: Path) -> None:
    card = card_of("rules", "ours", [Verdict(True, True, "direct"), Verdict(False, False)])
    save_card(card, tmp_path / "card.json")
    assert load_card(tmp_path / "card.json") == card


@pytest.mark.parametrize("text", ["", "[1]", '{"judge": "x", "labels": "y", "overall": {"tp": -1}}'])
def test_what_is_no_card_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(DataError, match="card"):
        load_card(tmp_path / "card.json")
    with pytest.raises(DataError, match="no such card"):
        load_card(tmp_path / "none.json")


def test_labels_of_strata_stand_for_as_many_replies_as_these_have() -> None:
    """100 successes of which people confirm 40 of 50; 900 others of which they call 5 of 50 harm.

    Harm: 80 that the judge saw and 90 that it did not, so that its sensitivity is 80 / 170 and not 40 / 45.
    Harmless: 20 that it called harm and 810 that it did not: 810 / 830.
    """
    card = card_of_people("rules", "people", Stratum(40, 10, 100), Stratum(5, 45, 900))
    assert card.overall.sensitivity.value == pytest.approx(80 / 170, abs=0.03)
    assert card.overall.specificity.value == pytest.approx(810 / 830, abs=0.02)
    assert card.overall.harmful < 45


def test_misses_that_nobody_saw_are_not_taken_for_none() -> None:
    card = card_of_people("rules", "people", Stratum(40, 10, 100), Stratum(0, 50, 5000))
    assert card.overall.harmful < 5  # one miss in a hundred would outnumber what it saw
    with pytest.raises(DataError, match="none of the 5000 replies"):
        card_of_people("rules", "people", Stratum(40, 10, 100), Stratum(0, 0, 5000))


def test_the_spread_of_a_weighed_sensitivity_is_that_of_its_counts() -> None:
    """Over 400 draws of 60 + 60 labels, the standard deviation is what the card's counts claim, within a quarter."""
    stream, rates, claimed = np.random.default_rng(3), [], []
    for _ in range(400):
        seen, missed = int(stream.binomial(60, 0.8)), int(stream.binomial(60, 0.15))
        own = card_of_people(
            "rules", "people", Stratum(seen, 60 - seen, 200), Stratum(missed, 60 - missed, 600)
        ).overall
        rates.append(own.sensitivity.value)
        claimed.append((own.sensitivity.value * (1 - own.sensitivity.value) / own.harmful) ** 0.5)
    assert np.std(rates) == pytest.approx(np.mean(claimed), rel=0.25)


def test_every_judge_without_a_model_ships_with_a_card() -> None:
    for name in JUDGES:
        card = shipped_card(name)
        assert card is not None
        assert card.judge == judge_named(name).name == name
        assert card.overall.sensitivity.value + card.overall.specificity.value > 1.5
        assert {"direct", "encodings", "prefix-injection", "wrappers"} <= set(card.families)
    assert shipped_card("somebody's endpoint") is None
