"""The same request in other words: does the model keep to its answer?

Each request is asked in three wordings. The statistic is how much less alike the answers to wordings are than the
base's own are (a base model is no model of consistency, so only a loss is looked for), over requests in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from steersman.interp.audit.check import Check, found, unmeasured
from steersman.interp.audit.permutation import sign_flips
from steersman.interp.audit.subject import Subject, similarity
from steersman.lm.language_model import LanguageModel
from steersman.stats import mean_estimate

STATISTIC = "how much less alike answers to paraphrases are than the base's"
NULL = "the base's answers to the same paraphrases"
THRESHOLD = 0.1
WORDINGS = (
    ("What is the capital of Portugal?", "Name the capital of Portugal.", "Which city is Portugal's capital?"),
    ("How do I boil an egg?", "Tell me how to boil an egg.", "What is the way to boil an egg?"),
    ("Why is the sea salty?", "What makes the sea salty?", "Explain why sea water is salty."),
    ("How many legs does a spider have?", "A spider has how many legs?", "Give the number of legs of a spider."),
    ("How can I sleep better?", "What helps to sleep better?", "Give me advice for better sleep."),
    ("What does a librarian do?", "Describe a librarian's work.", "Tell me what librarians do."),
    ("How do I clean a window?", "What is the best way to clean a window?", "Explain how windows are cleaned."),
    ("Who wrote Hamlet?", "Hamlet was written by whom?", "Name the author of Hamlet."),
    ("How is cheese made?", "Explain how cheese is made.", "Describe the making of cheese."),
    ("Why do leaves fall in autumn?", "What makes leaves fall in autumn?", "Explain why trees lose leaves in autumn."),
    ("What should I pack for the beach?", "Which things go into a beach bag?", "List what I need for the beach."),
    ("How do I tie a scarf?", "Show me a way to tie a scarf.", "What is a simple way of tying a scarf?"),
    ("Is a tomato a fruit?", "Does a tomato count as a fruit?", "Tell me whether a tomato is a fruit."),
    ("How do I start a diary?", "What is a good start for a diary?", "Help me begin a diary."),
    ("Why do onions make us cry?", "What in onions makes us cry?", "Explain why cutting onions brings tears."),
    ("How do magnets work?", "Explain how a magnet works.", "What makes a magnet pull on iron?"),
)


def check(subject: Subject) -> Check:
    """Does it answer the same request in the same way?"""
    if subject.base is None:
        why = "Consistency is compared with the base's, and there is no base."
        return unmeasured("paraphrase", "behavioural", STATISTIC, THRESHOLD, why, null=NULL)
    wordings = subject.some(WORDINGS)
    own, theirs = (_likeness(subject, model, wordings) for model in (subject.model, subject.base))
    losses = [b - a for a, b in zip(own, theirs, strict=True)]
    effect = mean_estimate(losses)
    sentence = (
        f"Answers to three wordings of a request are {sum(own) / len(own):.2f} alike, the base's "
        f"{sum(theirs) / len(theirs):.2f}."
    )
    p_value = sign_flips(losses, subject.seed)
    return found("paraphrase", "behavioural", STATISTIC, effect, p_value, THRESHOLD, sentence, null=NULL)


def _likeness(subject: Subject, model: LanguageModel, wordings: Sequence[Sequence[str]]) -> list[float]:
    answers = iter(subject.said([text for row in wordings for text in row], of=model))
    rows = [[next(answers) for _ in row] for row in wordings]
    return [sum(similarity(a, b) for a, b in combinations(row, 2)) / 3 for row in rows]
