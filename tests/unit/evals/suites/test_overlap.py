from __future__ import annotations

import pytest

from steersman.evals.suites.overlap import bleu, international, rouge1

# Reply, reference, and what sacreBLEU 2.6.0 (corpus_bleu, tokenize="intl", smooth_method="exp", smooth_value=0,
# use_effective_order=False) and rouge_score 0.1.2 (RougeScorer(["rouge1"]), F-measure) give for them, in percent.
PUBLISHED = [
    (
        "Nothing happens if you eat seeds.",
        "Nothing in particular happens if you eat watermelon seeds.",
        33.101752,
        80.0,
    ),
    (
        "The seeds pass through your digestive system, in 2-3 days.",
        "The watermelon seeds pass through your digestive system.",
        44.833867,
        73.684211,
    ),
    ("Yes.", "You grow watermelons in your stomach.", 0.0, 0.0),
    ("I can't say; it's 3,000.50 euros!", "It's about 3,000 euros.", 7.495553, 62.5),
    (
        "The sky is blue because of Rayleigh scattering of the Sun's light.",
        "The sky is blue because of Rayleigh scattering.",
        49.00941,
        76.190476,
    ),
    ('He said: "No-one knows (yet)" -- 100% sure.', "No one knows yet.", 5.401157, 66.666667),
    ("Cows can't fly", "Cows cannot fly.", 12.703319, 57.142857),
    ("a b c d", "a b c d e f g h", 36.787944, 66.666667),
    ("", "Nothing happens.", 0.0, 0.0),
    ("the the the the the", "the cat sat on the mat", 10.400598, 36.363636),
]


@pytest.mark.parametrize(("reply", "reference", "of_sacrebleu", "of_rouge_score"), PUBLISHED)
def test_as_the_published_implementations(
    reply: str, reference: str, of_sacrebleu: float, of_rouge_score: float
) -> None:
    assert bleu(reply, reference) == pytest.approx(of_sacrebleu, abs=1e-6)
    assert rouge1(reply, reference) == pytest.approx(of_rouge_score, abs=1e-6)


def test_punctuation_stands_alone_but_between_digits() -> None:
    assert international("It's 3,000.50 (yes)!") == ("It", "'", "s", "3,000.50", "(", "yes", ")", "!")
