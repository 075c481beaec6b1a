"""Does a text go round in circles? One test for training data and for evaluation: exact repetition, no model.

Greedy decoding of small models falls into loops that their own log-probability rewards (Holtzman et al. 2020,
arXiv:1904.09751), so that no likelihood finds them. Case and punctuation do not hide a repetition. A paraphrase is
none; poems, lists and refrains may be called loops.
"""

from __future__ import annotations

import re
from collections import Counter

SHORTEST_RUN, LONGEST_RUN = 2, 12  # words of a run that comes twice without anything between
GRAM, GRAM_REPEATS = 4, 3  # this many words occur this often, anywhere
SENTENCE = 2  # words of the shortest sentence that may not come twice

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?…]+(?=\s|$)|\n+")


def loops(text: str) -> bool:
    """Whether a run of 2 to 12 words repeats directly, four words occur three times, or a sentence occurs twice."""
    words = _words(text)
    if any(
        words[i : i + n] == words[i + n : i + 2 * n]
        for n in range(SHORTEST_RUN, LONGEST_RUN + 1)
        for i in range(len(words) - 2 * n + 1)
    ):
        return True
    grams = Counter(tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))
    if max(grams.values(), default=0) >= GRAM_REPEATS:
        return True
    said = Counter(tuple(_words(sentence)) for sentence in _SENTENCE_END.split(text))
    return any(times > 1 and len(sentence) >= SENTENCE for sentence, times in said.items())


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
