"""No n tokens in a row twice in an answer (Paulus et al. 2018, arXiv:1705.04304).

Greedy decoding of small models goes round in circles (Holtzman et al. 2020, arXiv:1904.09751). Only the answer counts:
what the question says may be said again.
"""

from __future__ import annotations

from collections.abc import Sequence

from steersman.lm.compact_vocabulary import CompactVocabulary


def repeating(answers: Sequence[list[int]], n: int, vocabulary: CompactVocabulary | None) -> list[tuple[int, int]]:
    """The tokens that would complete n tokens which the answer holds already, as pairs (answer, row of the head).

    Args:
        answers: token ids so far.
        n: 0 for none.
        vocabulary: the rows of the head, if these are not all tokens.
    """
    pairs = [(i, token) for i, ids in enumerate(answers) for token in _repeats(ids, n)] if n else []
    return pairs if vocabulary is None else [(i, int(vocabulary.position[token])) for i, token in pairs]


def _repeats(ids: list[int], n: int) -> set[int]:
    last = ids[len(ids) - n + 1 :]
    return {ids[i + n - 1] for i in range(len(ids) - n + 1) if ids[i : i + n - 1] == last}
