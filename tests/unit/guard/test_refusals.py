"""What a person reads in the place of what was stopped."""

from __future__ import annotations

import pytest

from steersman.constitution.document import Constitution, GuardRule, Principle, load
from steersman.evals.detectors.refusal import refusal
from steersman.evals.detectors.stock_refusals import language_of
from steersman.guard.refusals import OFFERS, PLAIN, REASONS, _because, offer_of, refusal_of
from steersman.guard.verdict import Exchange, Part, Ruling, Verdict

ASSISTANT = load("assistant")
QUESTIONS = {
    "en": "How do I get into his phone?",
    "de": "Wie komme ich in sein Telefon?",
    "fr": "Comment est-ce que je peux entrer dans son téléphone ?",
    "es": "¿Cómo puedo entrar en su teléfono?",
    "it": "Come posso entrare nel suo telefono? È il mio",
    "pt": "Como eu posso entrar no telefone? Não sei",
    "nl": "Hoe kom ik in zijn telefoon? Het is niet van mij",
    "pl": "Jak się dostać do telefonu? Nie wiem co to jest",
    "tr": "Bu telefona nasıl girerim? Çok zor ama ne",
    "ru": "Как мне попасть в его телефон?",
    "zh": "我怎么进入他的手机?",
    "ja": "彼の電話にどうやって入りますか?",
    "ko": "그의 전화에 어떻게 들어가나요?",
    "ar": "كيف أدخل إلى هاتفه؟",
    "hi": "मैं उसके फ़ोन में कैसे जाऊँ?",
    "": "Lima, Cusco",
}


def stopped(principle: str, question: str, answer: str | None = None, constitution: Constitution = ASSISTANT) -> str:
    verdict = Verdict(rail="x", principle=principle, decision="failed" if principle == "failed" else "block")
    exchange = Exchange((Part("m", "user", question),), answer)
    return refusal_of(Ruling("block", verdict), exchange, constitution)


def with_refusal(said: str | dict[str, str]) -> Constitution:
    def own(principle: Principle) -> Principle:
        changed = principle.model_copy(update={"guard": GuardRule(refusal=said)})
        return changed if principle.id == "refuse-harm" else principle

    return ASSISTANT.model_copy(update={"principles": tuple(map(own, ASSISTANT.principles))})


@pytest.mark.parametrize(("language", "question"), QUESTIONS.items())
def test_the_language_of_a_question(language: str, question: str) -> None:
    assert language_of(question) == language
    assert stopped("refuse-harm", question) == PLAIN[language or "en"]


@pytest.mark.parametrize("language", PLAIN)
def test_our_own_refusals_are_refusals_to_our_detector(language: str) -> None:
    """With what is offered behind them too."""
    texts = [PLAIN[language]]
    texts += [_because(reason, language) for reason in REASONS]
    texts += [f"{PLAIN[language]} {said[language]}" for said in OFFERS.values() if language in said]
    for text in texts:
        assert refusal(QUESTIONS[language], text) == "refusal", text


def test_every_reason_and_offer_is_there_in_four_languages() -> None:
    for texts in [*OFFERS.values(), *(said for reason, said in REASONS.items() if reason != "request")]:
        assert list(texts) == ["en", "de", "fr", "es"]


def test_the_principle_s_own_words_come_first() -> None:
    assert stopped("refuse-harm", QUESTIONS["de"], constitution=with_refusal("No.")) == "No."
    both = with_refusal({"de": "Nein.", "en": "No."})
    assert stopped("refuse-harm", QUESTIONS["de"], constitution=both) == "Nein."
    assert stopped("refuse-harm", QUESTIONS["ja"], constitution=both) == "No."
    assert stopped("refuse-harm", QUESTIONS["ja"], constitution=with_refusal({"fr": "Non."})) == "Non."


@pytest.mark.parametrize(
    ("principle", "offer"),
    [
        ("distress", "crisis"),
        ("health", "health"),
        ("law", "law"),
        ("personal-finance", "money"),
        ("refuse-harm", None),
    ],
)
def test_who_can_help_is_named_where_the_principle_says_so(principle: str, offer: str | None) -> None:
    assert offer_of(ASSISTANT.principle(principle)) == offer
    said = stopped(principle, QUESTIONS["de"], "eine Antwort")
    assert said == f"{PLAIN['de']} {OFFERS[offer]['de']}" if offer else said == PLAIN["de"]  # type: ignore[index]
    assert ("0800 111 0 111" in said) == (offer == "crisis")


def test_a_failure_is_not_called_a_breach() -> None:
    assert stopped("failed", QUESTIONS["en"]) == _because("unchecked", "en")
    assert stopped("unscannable", QUESTIONS["en"]) == _because("unreadable", "en")
    assert stopped("secrets", QUESTIONS["fr"]) == _because("secrets", "fr")
    assert stopped("personal-data", QUESTIONS["es"]) == _because("personal-data", "es")
    assert stopped("failed", QUESTIONS["ja"]) == PLAIN["ja"]
    assert stopped("admit-uncertainty", QUESTIONS["en"], "an answer") == _because("answer", "en")
