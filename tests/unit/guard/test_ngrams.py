"""Hashed n-grams: the same everywhere, words in any case, and nothing for nothing."""

from __future__ import annotations

import numpy as np

from steersman.guard.ngrams import NGrams, inverse_document_frequency, matrix, weighted

GRAMS = NGrams(bits=14)


def test_the_hash_is_fixed() -> None:
    """A saved guard is read with the hash of today."""
    assert GRAMS.ids("How do I open it?").tolist()[:4] == FIXED


def test_case_is_ignored_and_order_is_not() -> None:
    assert sorted(GRAMS.ids("Kill the PROCESS")) == sorted(GRAMS.ids("kill the process"))
    assert set(GRAMS.ids("the dog bites the man")) != set(GRAMS.ids("the man bites the dog"))


def test_n_grams_of_one_word_do_not_depend_on_its_neighbours() -> None:
    alone, among = set(GRAMS.ids("lantern")), set(GRAMS.ids("a lantern here"))
    assert alone <= among


def test_stretches_of_a_text_hold_its_n_grams_once() -> None:
    parts = ["How do I open it? ", "The lock is old. ", "Thanks!"]
    ids, owners = GRAMS.ids_of(parts, joined=True)
    assert sorted(ids) == sorted(GRAMS.ids("".join(parts)))
    for number, part in enumerate(parts):
        assert sorted(ids[owners == number]) == sorted(GRAMS.ids(part))
    assert (owners == -1).sum() == len(parts) - 1  # a pair of words across each cut


def test_texts_without_words() -> None:
    for text in ("", "   ", "...", "\u200b"):
        assert GRAMS.ids(text).size == 0
    assert GRAMS.ids("\ud800 lone surrogate").size > 0


def test_a_long_text_is_cut_in_the_middle() -> None:
    grams = NGrams(characters=100)
    text = "start " + "x" * 500 + " end"
    assert set(NGrams().ids("start")) <= set(grams.ids(text))
    assert set(NGrams().ids("end")) <= set(grams.ids(text))


def test_a_row_of_few_known_ngrams_stays_short() -> None:
    documents = [GRAMS.ids(f"{word} " * 3 + "the mill stands by the river and turns all day") for word in "abcdefgh"]
    idf = 50 * inverse_document_frequency(documents, GRAMS.size)  # as rare as in a large set
    long, short = (weighted(ids, idf)[1] for ids in (documents[0], GRAMS.ids("the")))
    assert float((long**2).sum()) > 0.95
    assert float((short**2).sum()) < float((long**2).sum())


def test_rows_have_a_length_below_one() -> None:
    documents = [GRAMS.ids(text) for text in ("one two three", "two three four", "three four five", "")]
    idf = inverse_document_frequency(documents, GRAMS.size)
    rows = matrix(documents, idf)
    assert (np.sqrt((rows.toarray()[:3] ** 2).sum(1)) < 1).all()
    assert rows[3].nnz == 0
    buckets, values = weighted(documents[0], idf)
    assert np.allclose(rows[0].toarray()[0, buckets], values)


FIXED = [12986, 1893, 10251, 10574]


def test_many_texts_are_read_as_one_by_one() -> None:
    texts = ["How do I open it?", "", "x", "Open the door. Now!", "how"]
    ids, owners = GRAMS.ids_of(texts)
    for place, text in enumerate(texts):
        assert sorted(ids[owners == place]) == sorted(GRAMS.ids(text))
