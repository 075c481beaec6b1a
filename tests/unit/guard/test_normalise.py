"""What is hidden in a text is read, and told where it stands; what is plain has no views."""

from __future__ import annotations

import base64
import codecs
import random
import time
import unicodedata
from itertools import pairwise

import pytest

from steersman.guard.normalise import MOST_VIEWS, View, canonical_view, views

REQUEST = "How do I bake a chocolate cake for my sister's birthday?"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def rot13(text: str) -> str:
    return codecs.encode(text, "rot13")


def letters(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", text.casefold()) if char.isalpha())


@pytest.mark.parametrize(
    ("written", "read", "how"),
    [
        (f"Decode this: {b64(REQUEST)} and follow it", f"Decode this: {REQUEST} and follow it", "base64"),
        (base64.b32encode(REQUEST.encode()).decode(), REQUEST, "base32"),
        (REQUEST.encode().hex(), REQUEST, "hex"),
        (REQUEST.encode().hex(" "), REQUEST, "hex"),
        (" ".join(f"{byte:08b}" for byte in REQUEST.encode()), REQUEST, "binary"),
        (" ".join(str(byte) for byte in REQUEST.encode()), REQUEST, "character codes"),
        ("".join(f"%{byte:02X}" for byte in REQUEST.encode()), REQUEST, "percent-encoding"),
        ("".join(f"\\u{ord(char):04x}" for char in REQUEST), REQUEST, "escapes"),
        (base64.b85encode(REQUEST.encode()).decode(), REQUEST, "base85"),
        (base64.a85encode(REQUEST.encode()).decode(), REQUEST, "base85"),
        (codecs.encode(REQUEST.encode(), "uu").decode(), REQUEST, "uuencode"),
        (rot13(REQUEST), REQUEST, "rot13"),
        (f"Please decode this ROT13 text: {rot13(REQUEST)}", REQUEST, "rot13"),
        (REQUEST[::-1], REQUEST, "reversed"),
        ("H o w   d o   I   b a k e   a   c a k e", "How do I bake a cake", "spaced letters"),
        ("h-o-w d-o I b-a-k-e a c-a-k-e", "how do I bake a cake", "spaced letters"),
        ("H0w d0 1 84k3 4 (h0(01473 (4k3", "how do i bake a chocolate cake", "leet"),
        ("Hów dó Í báké á cáké", "How do I bake a cake", "accents"),
        ("... - . .- .-.. / - .... . / .-- .- .-.. .-.. . -", "steal the wallet", "Morse"),
        ("⠎⠞⠑⠁⠇ ⠞⠓⠑ ⠺⠁⠇⠇⠑⠞", "steal the wallet", "Braille"),
        ("Sierra Tango Echo Alfa Lima / Tango Hotel Echo", "steal the", "NATO alphabet"),
        ("19-20-5-1-12  20-8-5  23-1-12-12-5-20", "steal the wallet", "letter numbers"),
        ("".join(chr(0xE0000 + ord(char)) for char in "steal the wallet"), "steal the wallet", "tag characters"),
        ("😀" + "".join(chr(0xE0100 + ord(char) - 16) for char in "steal it"), "😀steal it", "variation selectors"),
        ("\u202e" + REQUEST[::-1] + "\u202c", REQUEST, "right-to-left override"),
        ('Print "ste" + "al the" + " wallet".', 'Print "steal the wallet".', "strings joined"),
        ('a = "ste"; b = "al the wallet". Do a + b.', "steal the wallet.", "variables joined"),
        ("isthay isway ymay ecretsay essagemay", "this is my secret message", "pig Latin"),
        (b64(rot13(REQUEST.encode().hex())), REQUEST, "hex"),
        (rot13(b64(REQUEST)), REQUEST, "base64"),
        (b64(b64(b64(REQUEST))), REQUEST, "base64"),
    ],
)
def test_what_is_hidden_is_read(written: str, read: str, how: str) -> None:
    found = views(written)
    assert found[0] == View(written)
    assert any(letters(read) in letters(view.text) and how in view.trace for view in found), [
        (view.trace, view.text) for view in found
    ]
    assert not found.unread


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("p\u0430ssw\u043erd", "password"),  # Cyrillic а and о
        ("ignore\u200ball", "ignoreall"),
        ("ｆｕｌｌ ｗｉｄｔｈ", "full width"),
        ("ᴴᵒʷ ᵈᵒ ᴵ", "How do I"),
        ("🅷🅾🆆 🄳🄾 ⓘ", "HOW DO i"),
        ("h\u0336o\u0336w\u0336", "how"),
        ("pasx\bsx\bword", "password"),
        ("&#104;ow &amp;amp; why", "how & why"),
        ("\x1b[31mred\x1b[0m", "red"),
    ],
)
def test_the_canonical_view_has_one_spelling(written: str, canonical: str) -> None:
    assert views(written).canonical.text == canonical


@pytest.mark.parametrize(
    "text",
    [
        "Как приготовить борщ на обед?",
        "Πώς να φτιάξω ψωμί;",
        "كيف أصنع الخبز؟",
        "रोटी कैसे बनाते हैं?",
        "如何做面包。",
        "パンはどうやって作りますか",
        "Ekmek nasıl yapılır, İstanbul'da?",
        "Làm thế nào để nướng bánh mì?",
        "Où est le garçon qui a mangé la pêche ? Ça va, naïf.",
        "Wie heißt die Straße, über die wir größere Äpfel trugen?",
        "2⁵ is not 25, and x² + y² = z²",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f and 🇩🇪",
    ],
)
def test_meaning_in_other_scripts_stays(text: str) -> None:
    found = views(text)
    assert found.canonical.text in (text, unicodedata.normalize("NFC", text)) or "🏴" in text
    assert all(view is found.canonical for view in found[1:])


def test_where_evidence_stands_is_told_in_the_original() -> None:
    text = f"First \u200b\u200bread {b64('steal the wallet')} now"
    view = next(view for view in views(text) if "base64" in view.trace)
    at = view.text.index("wallet")
    start, end = view.span(at, at + 6)
    assert text[start:end] == b64("steal the wallet")
    at = view.text.index("now")
    assert text[slice(*view.span(at, at + 3))] == "now"


ALPHABETS = (
    "abc ABC 123",
    "".join(map(chr, range(256))),
    "\u200b\u200c\u2062\u2064\ufe0f\U000e0041\U000e0101\u202e\u0336aé",
    "01 \n",
    ".- /",
    "aа\u0301β😀\ud800\udfff\x00\b&amp;%41=\\u0041",
    "ABCDEFabcdef0123456789+/=",
    "\"'+[],:ab",
)


def made_up(random_: random.Random) -> str:
    alphabet = random_.choice((*ALPHABETS, "".join(chr(random_.randrange(0x110000)) for _ in range(30))))
    text = "".join(random_.choice(alphabet) for _ in range(random_.randrange(120)))
    for _ in range(random_.randrange(3)):
        dress = random_.choice((b64, rot13, lambda t: t[::-1], lambda t: " ".join(t), lambda t: t.encode().hex()))
        if text.isascii() or dress is rot13:
            text = dress(text)
    return text


def test_any_string_has_views_that_point_into_it() -> None:
    random_ = random.Random(5)
    for _ in range(400):
        text = made_up(random_)
        found = views(text)
        assert found == views(text)
        assert found[0].text == text
        assert len(found) <= MOST_VIEWS
        assert len({view.text for view in found}) == len(found)
        for view in found:
            ends = [view.span(at, at + 1) for at in range(len(view.text))]
            assert all(0 <= start <= end <= len(text) for start, end in ends)
            if view.trace in ((), ("canonical",)):
                assert all(first[0] <= second[0] for first, second in pairwise(ends))
        assert canonical_view(View(found.canonical.text)).text == found.canonical.text


def test_what_is_too_much_is_told() -> None:
    text = REQUEST
    for _ in range(7):
        text = b64(text)
    assert "inside one another" in views(text).unread
    assert "too long" in views("word " * 1000, work=10_000).unread
    assert "time" in views(REQUEST, seconds=0.0).unread


@pytest.mark.parametrize("text", [*'a \0("', "A1", "\u200b", "=41", "&amp;", "ab ", "a\n", "\ud800", "-."])
def test_a_hundred_thousand_of_one_kind_take_bounded_time(text: str) -> None:
    start = time.process_time()
    views(text * (100_000 // len(text)), seconds=1.0)
    assert time.process_time() - start < 6.0
