"""Best-of-N against the published code's own outputs, and against the rates of the paper."""

from __future__ import annotations

import random

import pytest
from tests.unit.redteam.attacks.drive import GOAL, assert_resumes, play

from steersman.redteam.attack import Ask, Outcome
from steersman.redteam.attacks.best_of_n import BEST_OF_N, add_noise, augment, capitalise, scramble

KETTLE = "Describe in two sentences how a kettle knows that the water is boiling, please!"

# Written by `apply_word_scrambling`, `apply_random_capitalization` and `apply_ascii_noising` (sigma 0.4, in this order)
# of github.com/jplhughes/bon-jailbreaking, bon/attacks/run_text_bon.py at c118210, after `random.seed(seed)`.
PUBLISHED = {
    0: "DesCRIBe iN tWo SEnTenCEs HNv A KEslTE KMwOS tAhU tHE WEATR IS BoILjng, pelSEa!",
    1: "driSBcee iN twO SuCmeeNeS hNW a KlTtEe KoWns tHaT ThE wTE`R Is BOILjNG, PdLasE!",
    7: "dbCIERsE IN SwP sTCEeNNES HOW A KTlEtE KonWS ThAT ThE wTAeR is BgLNIOI, pSeALE!",
}


@pytest.mark.parametrize("seed", PUBLISHED)
def test_the_published_code_writes_the_same(seed: int) -> None:
    assert augment(KETTLE, random.Random(seed)) == PUBLISHED[seed]


def test_words_keep_their_ends_and_letters_and_two_thirds_are_scrambled() -> None:
    words = ["abcdefghijklmnopqrstuvwxyz", "cat", "an"] * 4000
    found = scramble("  ".join(words), random.Random(0)).split(" ")
    assert [sorted(word) for word in found] == [sorted(word) for word in words]
    assert all((word[0], word[-1]) == (old[0], old[-1]) for word, old in zip(found, words, strict=True))
    assert found[1::3] == words[1::3]  # words of three characters are left alone
    changed = sum(word != words[0] for word in found[::3]) / 4000
    assert changed == pytest.approx(0.4**0.5, abs=0.03)  # 4 standard errors of 4,000 draws


def test_letters_change_their_case_and_those_outside_ascii_stay() -> None:
    found = capitalise("aZ5é" * 4000, random.Random(0))
    assert len(found) == 16000
    assert found[2::4] == "5" * 4000
    assert found[3::4] == "é" * 4000
    for column, changed in ((0, "A"), (1, "z")):
        assert found[column::4].count(changed) / 4000 == pytest.approx(0.4**0.5, abs=0.03)


def test_noise_is_a_neighbour_in_printable_ascii() -> None:
    found = add_noise("m ~\n" * 8000, random.Random(0))
    assert set(found[::4]) == {"l", "m", "n"}
    assert set(found[1::4]) == {" ", "!"}  # 31 is no printable character
    assert set(found[2::4]) == {"}", "~"}
    assert set(found[3::4]) == {"\n"}
    assert 1 - found[::4].count("m") / 8000 == pytest.approx(0.4**3, abs=0.011)
    assert found[::4].count("l") == pytest.approx(found[::4].count("n"), rel=0.25)


def test_it_spends_its_budget_in_rounds_at_temperature_1_with_different_spellings() -> None:
    played = play(BEST_OF_N, budget=20)
    assert played.rounds == [8, 8, 4]
    assert {ask.temperature for ask in played.asks} == {1.0}
    assert len(set(played.texts())) == 20
    assert played.asks[-1].note == "spelling 20"


def test_it_stops_after_the_round_that_succeeds() -> None:
    def third(ask: Ask) -> Outcome:
        return Outcome("Lift the door off its hinges.", "", ask.note == "spelling 11", 0.9)

    assert play(BEST_OF_N, budget=40, answer=third).rounds == [8, 8]


def test_it_is_a_function_of_its_seed_and_resumes() -> None:
    whole = assert_resumes(BEST_OF_N, budget=20, seed=3)
    assert whole.texts() != play(BEST_OF_N, budget=20, seed=4).texts()
    assert GOAL.text not in whole.texts()
