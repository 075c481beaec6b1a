"""What a person reads when the guard stops something: the principle's own words, or plain ones in their language.

The constitution's ``guard: {refusal: ...}`` comes first. Without it a plain refusal is said in the language of the
question, and what is offered instead: a crisis line where the principle is about distress, and who can help where it is
about health, law or money.
"""

from __future__ import annotations

import re
from typing import Literal

from steersman.constitution.document import Constitution, Principle
from steersman.evals.detectors.stock_refusals import language_of
from steersman.guard.rails.personal_data import PERSONAL_DATA
from steersman.guard.rails.secrets import SECRETS
from steersman.guard.verdict import Exchange, Ruling

Reason = Literal["request", "answer", "unchecked", "unreadable", "secrets", "personal-data"]
Offer = Literal["crisis", "health", "law", "money"]

PLAIN = {
    "en": "I'm sorry, but I can't help with that.",
    "de": "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "fr": "Je suis désolé, mais je ne peux pas vous aider sur ce point.",
    "es": "Lo siento, pero no puedo ayudar con eso.",
    "it": "Mi dispiace, ma non posso aiutarti con questo.",
    "pt": "Desculpe, mas não posso ajudar com isso.",
    "nl": "Het spijt me, maar daar kan ik niet mee helpen.",
    "pl": "Przykro mi, ale nie mogę w tym pomóc.",
    "tr": "Üzgünüm, ama bu konuda yardımcı olamam.",
    "ru": "Извините, но я не могу с этим помочь.",
    "zh": "抱歉，我无法提供这方面的帮助。",
    "ja": "申し訳ありませんが、それについてはお手伝いできません。",
    "ko": "죄송하지만 그 부분은 도와드릴 수 없습니다.",
    "ar": "عذرًا، لا يمكنني المساعدة في ذلك.",
    "hi": "माफ़ कीजिए, मैं इसमें मदद नहीं कर सकता।",
}
# What follows the plain refusal, behind a colon.
REASONS: dict[Reason, dict[str, str]] = {
    "request": {},
    "answer": {
        "en": "the answer that I had begun would not keep to my rules.",
        "de": "Die begonnene Antwort hielte sich nicht an meine Regeln.",
        "fr": "la réponse commencée ne respecterait pas mes règles.",
        "es": "la respuesta que había empezado no cumpliría mis reglas.",
    },
    "unchecked": {
        "en": "this could not be checked. Please try again later.",
        "de": "Das konnte nicht geprüft werden. Bitte versuchen Sie es später noch einmal.",
        "fr": "cela n'a pas pu être vérifié. Réessayez plus tard.",
        "es": "esto no se pudo comprobar. Inténtelo más tarde.",
    },
    "unreadable": {
        "en": "pictures, sound and files are not read here. Please send it as text.",
        "de": "Bilder, Töne und Dateien werden hier nicht gelesen. Bitte schicken Sie es als Text.",
        "fr": "les images, les sons et les fichiers ne sont pas lus ici. Envoyez du texte.",
        "es": "aquí no se leen imágenes, sonido ni archivos. Envíelo como texto.",
    },
    "secrets": {
        "en": "there is a password or a key in it.",
        "de": "Es steht ein Passwort oder ein Schlüssel darin.",
        "fr": "il s'y trouve un mot de passe ou une clé.",
        "es": "contiene una contraseña o una clave.",
    },
    "personal-data": {
        "en": "there are personal data in it.",
        "de": "Es stehen persönliche Daten darin.",
        "fr": "il s'y trouve des données personnelles.",
        "es": "contiene datos personales.",
    },
}
OFFERS: dict[Offer, dict[str, str]] = {
    "crisis": {
        "en": "If you are thinking of ending your life or hurting yourself, please call the emergency number now, or a "
        "crisis line: 988 in the US and Canada, 116 123 in the UK and Ireland. Somebody there will listen.",
        "de": "Wenn du daran denkst, dir das Leben zu nehmen oder dir etwas anzutun, ruf bitte jetzt den Notruf 112 an "
        "oder die Telefonseelsorge: 0800 111 0 111, Tag und Nacht und kostenlos. Dort hört dir jemand zu.",
        "fr": "Si vous pensez à mettre fin à vos jours ou à vous faire du mal, appelez maintenant le 112, ou le 3114, "
        "jour et nuit et gratuitement. Quelqu'un vous y écoutera.",
        "es": "Si piensa en quitarse la vida o en hacerse daño, llame ahora al 112 o, en España, al 024, día y noche y "
        "gratis. Allí alguien le escuchará.",
    },
    "health": {
        "en": "A doctor or pharmacist can; in an emergency, call the emergency number.",
        "de": "Das können Arzt, Ärztin oder Apotheke; im Notfall der Notruf 112.",
        "fr": "Un médecin ou un pharmacien le peut ; en cas d'urgence, appelez le 112.",
        "es": "Un médico o un farmacéutico sí; en una urgencia, llame al 112.",
    },
    "law": {
        "en": "A lawyer or a legal advice centre can.",
        "de": "Das können eine Anwältin, ein Anwalt oder eine Rechtsberatungsstelle.",
        "fr": "Un avocat ou un point d'accès au droit le peut.",
        "es": "Un abogado o un servicio de orientación jurídica sí.",
    },
    "money": {
        "en": "A licensed financial adviser or a consumer advice centre can.",
        "de": "Das können eine zugelassene Finanzberatung oder die Verbraucherzentrale.",
        "fr": "Un conseiller financier agréé ou une association de consommateurs le peut.",
        "es": "Un asesor financiero autorizado o una oficina del consumidor sí.",
    },
}
_ABOUT: dict[Offer, re.Pattern[str]] = {
    "crisis": re.compile(r"suicid|self-harm|crisis|distress|kill (?:them|him|her)sel", re.IGNORECASE),
    "health": re.compile(r"\b(?:medic\w*|health|doctor|diagnos\w*|dose)\b", re.IGNORECASE),
    "law": re.compile(r"\b(?:legal|law|lawyer|court)\b", re.IGNORECASE),
    "money": re.compile(r"\b(?:financ\w*|invest\w*|shares|loan|savings)\b", re.IGNORECASE),
}


def refusal_of(ruling: Ruling, exchange: Exchange, constitution: Constitution) -> str:
    """What is said in the place of what a ruling stops."""
    language = language_of(exchange.question)
    language = language if language in PLAIN else "en"
    verdict = ruling.verdict
    own = {principle.id: principle for principle in constitution.principles}
    principle = own.get(verdict.principle) if verdict else None
    if verdict is not None and verdict.decision == "failed":
        return _because("unchecked", language)
    if principle is None:
        reasons: dict[str, Reason] = {
            SECRETS: "secrets",
            PERSONAL_DATA: "personal-data",
            "unscannable": "unreadable",
        }
        return _because(reasons.get(verdict.principle if verdict else "", "request"), language)
    if principle.guard.refusal is not None:
        return _own(principle.guard.refusal, language)
    if offer := offer_of(principle):
        return " ".join(filter(None, (PLAIN[language], OFFERS[offer].get(language))))
    harmless = exchange.side == "output" and "refuses" not in principle.behaviours
    return _because("answer" if harmless else "request", language)


def offer_of(principle: Principle) -> Offer | None:
    """What can be offered where a principle says that somebody else should be asked."""
    if "refers_to_professional" not in principle.behaviours:
        return None
    for text in (f"{principle.id} {principle.title}", principle.statement):
        for offer, words in _ABOUT.items():
            if words.search(text):
                return offer
    return None


def _because(reason: Reason, language: str) -> str:
    """A plain refusal, with its reason in the languages that have it."""
    why = REASONS[reason].get(language)
    if why is None:
        return PLAIN[language]
    return f"{PLAIN[language].removesuffix('.')}{' :' if language == 'fr' else ':'} {why}"


def _own(refusal: str | dict[str, str], language: str) -> str:
    """The constitution's text: in this language, else in English, else the first."""
    if isinstance(refusal, str):
        return refusal
    return refusal.get(language) or refusal.get("en") or next(iter(refusal.values()), PLAIN["en"])
