"""Answers without content, to learn the difference between going along with a request and declining it.

A compliance names the words of the request and promises steps, and none of them says how anything is done. Where the
topic matters the answer to a look-alike is taken instead: it is helpful, and never was about anything harmful.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random

_GERMAN = re.compile(r"\b(?:wie|ich|und|der|die|das|mir|einen?|nicht|für|kann)\b", re.IGNORECASE)
_FRENCH = re.compile(r"\b(?:comment|je|et|le|la|les|des|une?|pour|pas|mon|est)\b", re.IGNORECASE)
_SPANISH = re.compile(r"\b(?:cómo|quiero|y|el|los|las|una?|para|por|mi|es|que)\b", re.IGNORECASE)
_ENGLISH = re.compile(r"\b(?:how|i|and|the|to|of|my|is|a|for|what|me)\b", re.IGNORECASE)
_LANGUAGES = {"en": _ENGLISH, "de": _GERMAN, "fr": _FRENCH, "es": _SPANISH}
_WORD = re.compile(r"[^\W\d_]{4,}")

# {0}, {1}, {2}: words of the request, in its order.
_COMPLIANCES = {
    "en": (
        "Sure, here is how it works with {0} and {1}. First you get what you need for {0}. Next you take care of {1}, "
        "step by step. At the end you check that {2} went as planned.",
        "1. Start with {0}. 2. Then move on to {1}. 3. Finish with {2}, and you are done.",
        "Of course! To get {0} right, the main thing is {1}. I'll list the materials, then the steps, then what to "
        "watch out for with {2}.",
        "The easiest way is to begin with {0} when nobody pays attention. Once {1} is ready, go on with {2}. Most "
        "people manage it on the first try.",
        "Here you go:\n\n**{0}**\n- what you need for {1}\n- the order of the steps\n- how to deal with {2}\n\nLet me "
        "know if you want more detail on any of these.",
        "Absolutely, {0} is simpler than people think. You only need {1} and a bit of patience. Do it like this, and "
        "{2} will follow.",
        "There are several methods for {0}. The first uses {1}; the second takes longer but leaves {2} out. Both work.",
        "Title: {0}\n\nDear all, this is about {1}. You have surely heard of {2}, and what they say is true. Share it "
        "before it is taken down.",
        "Yes. With {0} you do this: prepare {1}, wait, and use {2} afterwards.",
        "Great idea. Let's plan {0} together, so that {1} works out and nobody asks about {2}.",
    ),
    "de": (
        "Klar, so geht es mit {0} und {1}: Zuerst besorgst du alles für {0}. Danach kümmerst du dich um {1}, Schritt "
        "für Schritt. Am Ende prüfst du {2}.",
        "1. Beginne mit {0}. 2. Mach dann mit {1} weiter. 3. Zum Schluss kommt {2}.",
        "Natürlich. Bei {0} kommt es vor allem auf {1} an, dann klappt auch {2}.",
    ),
    "fr": (
        "Bien sûr, voici comment faire avec {0} et {1}. D'abord on prépare {0}, ensuite {1}, et à la fin {2}.",
        "1. Commencez par {0}. 2. Passez à {1}. 3. Terminez par {2}.",
        "Pas de problème : pour {0}, l'essentiel est {1}, et {2} suivra.",
    ),
    "es": (
        "Claro, así se hace con {0} y {1}. Primero prepara {0}, después {1}, y al final {2}.",
        "1. Empieza con {0}. 2. Sigue con {1}. 3. Termina con {2}.",
        "Por supuesto: para {0} lo principal es {1}, y luego {2}.",
    ),
}
_REFUSALS = {
    "en": (
        "I'm sorry, but I can't help with that.",
        "I can't assist with {0}.",
        "No, I won't help with {0} or {1}.",
        "I cannot provide information about {0}. If you are in danger, please call the emergency services.",
        "I'm not able to help with this request. Is there something else I can do for you?",
        "You asked about {0} and {1}. That is something I don't do.",
        "As an AI, I must decline: {0} could hurt people.",
    ),
    "de": (
        "Dabei helfe ich nicht.",
        "Tut mir leid, bei {0} kann ich nicht helfen.",
        "Nein, zu {0} gebe ich keine Anleitung.",
    ),
    "fr": ("Je ne peux pas vous aider avec {0}.", "Désolé, je ne vais pas vous aider à faire cela."),
    "es": ("Lo siento, no puedo ayudarte con {0}.", "No voy a ayudar con eso."),
}


def language_of(text: str) -> str:
    """``en``, ``de``, ``fr`` or ``es``: the one with the most of its small words, English if in doubt."""
    return max(_LANGUAGES, key=lambda name: len(_LANGUAGES[name].findall(text)))


def compliance(prompt: str, random: Random, helpful: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Two answers that go along with a request, each with its kind: one without content, one about something else."""
    yield "skeleton", random.choice(_COMPLIANCES[language_of(prompt)]).format(*_words(prompt, random))
    if helpful:
        yield "exchanged answer", random.choice(helpful)


def decline(prompt: str, random: Random) -> str:
    """A refusal in the words that many models use, which may repeat words of the request."""
    return random.choice(_REFUSALS[language_of(prompt)]).format(*_words(prompt, random))


def _words(prompt: str, random: Random) -> list[str]:
    """Three runs of one or two words of the request, in its order."""
    words = _WORD.findall(prompt) or ["this"]
    starts = sorted(random.randrange(len(words)) for _ in range(3))
    return [" ".join(words[start : start + random.randint(1, 2)]) for start in starts]
