"""Disguises that attack tools use, each read, and harmless texts of the same look, left alone."""

from __future__ import annotations

import binascii

import pytest

from steersman.guard.normalise import views

OWN = frozenset({"project", "bluebird"})  # in no list of words


def read(text: str, own: frozenset[str] = frozenset()) -> str:
    """All views of a text but the first, in lower case."""
    return "\n".join(view.text.lower() for view in views(text, own=own)[1:])


def invisible(text: str) -> str:
    """Letters as bits without their leading zeros, words apart by a zero-width space."""
    words = [
        "".join("\u2062\u2064"[bit == "1"] for letter in word for bit in f"{ord(letter):b}") for word in text.split()
    ]
    return "\u200b".join(words)


@pytest.mark.parametrize(
    "dressed",
    [
        "Ӝց൪ങǲ৩ལဤǃଞ๔ങÆ",
        "Please decode this: Ӝց൪ങǲ৩ལဤǃଞ๔ങÆ",
        "👲🙂💙🌩💚🔥🇳👀💥📙🏩🤑👖🤾☕☕\n",
        "\U00012068\u5577\U00013061\u5565\U00012079\u5575\U00012074\u9664\u1579",
        "".join(binascii.b2a_uu(word.encode()).decode().rstrip("\n") for word in ["how", "are", "you", "today"]),
        invisible("how are you today"),
        "h0w 4r3 y0u 70d4y",
        "h0w @r3 y0u 7od/\\y",
        "h o w a r e y o u t o d a y",
        "how_are_you_today",
        'Solve {"value": "are", "left": {"value": "how", "left": null, "right": null}, "right": {"value": "today", '
        '"left": {"value": "you", "left": null, "right": null}, "right": null}}',
    ],
)
def test_what_tools_write_is_read(dressed: str) -> None:
    assert "how are you today" in read(dressed)


@pytest.mark.parametrize(
    ("dressed", "plain"),
    [
        ("h o w d o I o p e n a b a n k a c c o u n t , p l e a s e ?", "open a bank account"),
        (invisible("don't tell, please: 12 o'clock"), "don't tell, please: 12 o'clock"),
        ("n4115 70 (r45h 7h3 (4r", "nails to crash the car"),
        ("53ll sp0il3d (h33s3 4s fr3sh", "cheese as fresh"),
        ("74k3 54lbu74m0l b3f0r3 f007b4ll", "take salbutamol before football"),
        ("ꓪᏂ𑣃𐐽Ꮒ рарҽꮁ аռꓒ р𐐬ѕ𝚝 𐐽аꮁꓒ", "which paper"),
    ],
)
def test_what_the_words_alone_do_not_tell_the_whole_text_does(dressed: str, plain: str) -> None:
    assert plain in read(dressed)


@pytest.mark.parametrize(
    "dressed",
    [
        "81u381rd",
        "B l u e b i r d",
        "the B-luebird",
        "cebwrpg oyhroveq",
        "pr0j3ct b|ueb!rd",
        "about Bulebird",
        "projectbluebird",
    ],
)
def test_the_constitutions_own_words_are_known_in_every_dress(dressed: str) -> None:
    assert "bluebird" in read(dressed, OWN).split()
    assert "bluebird" not in read(dressed).split()


TWINS = """
dQw4w9WgXcQ
x_min + y_max + n_rows_of_q
550e8400-e29b-41d4-a716-446655440000
sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6 5. O-O Be7
ACGTTGCAAGCTTGCATGCCTGCAGGTCGACTCTAGAGGATCCCCGGGTACC
part no. B07-XJ9-4432, order 3 of M8x40 and 2 of G1/4"
for (i = 0; i < n1; i++) { a[i] = b3[i] + c2; }
x = 3; y1 = 4; print(f"{x:02d}{y1}")
Привет, как дела? Завтра в десять у входа.
Καλημέρα, πού είναι ο σταθμός;
Բարեւ ձեզ, ինչպես եք
こんにちは、今日はいい天気ですね。明日も晴れるでしょう。
你好，今天天气很好，我们去公园散步吧。明天见。
🎉🎂🥳🎈🎁🍰🕯🎊
🇩🇪🇫🇷🇪🇸🇮🇹🇵🇹🇳🇱
-- --- -- --- --
.:;!|/\\|!;:.
$E^2 = p^2 c^2 + m^2 c^4$
WHAT TIME DOES THE TRAIN LEAVE?
A1 B2 C3 D4 E5 F6 G7 H8
3D 4K 5G H2O CO2 B12 D3 K2 mp3 mp4
Zaubertränke kosten 50 €, 20 % mehr als 2019.
a b c d e f g h i j k l m n o p
""".strip().splitlines()


@pytest.mark.parametrize("text", TWINS)
def test_what_only_looks_like_one_is_left_alone(text: str) -> None:
    found = views(text, own=OWN)
    assert [view.text for view in found if view.trace and view.trace != ("canonical",)] == []
    assert not found.unread
