"""Keys, tokens and passwords are found, and code that speaks of them is not."""

from __future__ import annotations

import random
import string

import pytest

from steersman.constitution.document import BySide, GuardSettings, load
from steersman.guard.guard import Guard
from steersman.guard.normalise import Piece, View
from steersman.guard.rails.secrets import SecretRail, secrets_in
from steersman.guard.spans import redacted
from steersman.guard.verdict import Exchange, Part

ASSISTANT = load("assistant")


def drawn(letters: str, length: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices(letters, k=length))


ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
# Put together here, so that no scanner of repositories takes this file for a leak.
KEYS = [
    "AK" + "IA" + drawn(string.ascii_uppercase + "234567", 16),
    "gh" + "p_" + drawn(ALNUM, 36),
    "github" + "_pat_" + drawn(ALNUM + "_", 82),
    "gl" + "pat-" + drawn(ALNUM, 20),
    "xo" + "xb-12345678901-" + drawn(ALNUM, 24),
    "sk" + "_live_" + drawn(ALNUM, 24),
    "rk" + "_test_" + drawn(ALNUM, 24),
    "AI" + "za" + drawn(ALNUM + "-_", 35),
    "GOC" + "SPX-" + drawn(ALNUM, 28),
    "sk-" + "proj-" + drawn(ALNUM, 60),
    "sk-" + "ant-api03-" + drawn(ALNUM + "-_", 90) + "AA",
    "sk-" + "or-v1-" + drawn(HEX, 64),
    "sk-" + drawn(ALNUM, 48),
    "hf" + "_" + drawn(string.ascii_letters, 34),
    "np" + "m_" + drawn(ALNUM, 36),
    "py" + "pi-AgEIcHlwaS5vcmc" + drawn(ALNUM, 120),
    "gs" + "k_" + drawn(ALNUM, 52),
    "S" + "G." + drawn(ALNUM, 22) + "." + drawn(ALNUM, 43),
    "dop" + "_v1_" + drawn(HEX, 64),
    "shp" + "at_" + drawn(HEX, 32),
    "da" + "pi" + drawn(HEX, 32),
    "key" + "-" + drawn(HEX, 32),
    "123456789" + ":AA" + drawn(ALNUM, 33),
    "ey" + "J" + drawn(ALNUM, 33) + ".ey" + "J" + drawn(ALNUM, 80) + "." + drawn(ALNUM, 43),
]


def shown(text: str) -> str:
    out, at = [], 0
    for start, end in sorted(set(secrets_in(text))):
        if start >= at:
            out += [text[at:start], "#"]
            at = end
    return "".join([*out, text[at:]])


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[:6])
@pytest.mark.parametrize(
    "frame", ["{}", "my key is {}.", '{{"k": "{}"}}', "(see {})", "x={}\ny=1", "鍵は{}です", "`{}`,"]
)
def test_keys_of_known_forms(key: str, frame: str) -> None:
    assert shown(frame.format(key)) == frame.format("#").replace("x=#", "x=#")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres://app:s3cr3tpw@db.host:5432/x", "postgres://app:#@db.host:5432/x"),
        ("redis://:pa55word@10.0.0.1", "redis://:#@10.0.0.1"),
        ("Authorization: Bearer aB3dE5gH7jK9mN1pQ3sT5v", "Authorization: Bearer #"),
        ("password: hunter2", "password: #"),
        ("My password is Tr0ub4dor&3, thanks", "My password is #, thanks"),
        ("Mein Passwort lautet Sommer2024", "Mein Passwort lautet #"),
        ("le mot de passe est Soleil75!", "le mot de passe est #"),
        ("la contraseña es Madrid99", "la contraseña es #"),
        ("пароль: Qwerty123", "пароль: #"),
        ("密码：abc12345", "密码：#"),
        ("password = 'correct-horse'", "password = '#'"),
        ("PIN: 4821", "PIN: #"),
        ('api_key = "9f8A7c6B5d4E3f2A1b0C"', 'api_key = "#"'),
        ("DB_PASSWORD=x9!kLm2p", "DB_PASSWORD=#"),
        ("AccountKey=" + drawn(ALNUM, 86) + "==", "AccountKey=#"),
    ],
)
def test_secrets_by_what_stands_before_them(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_private_key_is_found_whole_and_from_its_first_line_on() -> None:
    head, tail = "-----BEGIN " + "RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"
    body = "\n".join(drawn(ALNUM, 64, seed) for seed in range(30))
    assert shown(f"see\n{head}\n{body}\n{tail}\nend") == "see\n#\nend"
    assert shown(f"see\n{head}\n{body[:100]}") == "see\n#"


@pytest.mark.parametrize(
    "text",
    [
        "password: ********",
        "password = os.environ['PASSWORD']",
        "password = getpass()",
        "Your password is required to log in.",
        "the password is wrong and the token is expired",
        "token = tokens[0]; key = self.key",
        "api_key: YOUR_API_KEY_HERE",
        "api_key=${API_KEY}",
        "postgres://user:password@localhost/db",
        "postgres://user:${PASSWORD}@host/db",
        "a task-force-of-the-united-nations-for-2024 and a risk-averse-strategy",
        "skip-list-2024 and sk-learn",
        "commit 3f5a9b2c1d4e5f60718293a4b5c6d7e8f9012345",
        "The key to success is patience123",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUA",
        "uuid 123e4567-e89b-12d3-a456-426614174000",
        "https://example.org/a?token=abc",
        "Bearer tokens are described in RFC 6750",
        "a hf_model and npm_config",
    ],
)
def test_what_is_no_secret(text: str) -> None:
    assert shown(text) == text


def test_a_long_token_is_seen_before_it_ends() -> None:
    """What is held back is enough to know a token by, at every length that it has while it is written."""
    rail = SecretRail(GuardSettings())
    assert rail.reach is not None
    for key in [*KEYS, "-----BEGIN " + "PRIVATE KEY-----\n" + drawn(ALNUM, 900)]:
        text = f"{'x ' * 200}{key} and more"
        seen = min(n for n in range(len(text) + 1) if any(True for _ in secrets_in(text[:n])))
        assert seen - rail.reach <= text.index(key), key[:8]


def test_a_key_of_many_lines_is_redacted_while_it_is_written() -> None:
    """It touches the end of the answer for longer than anything is held back."""
    guard = Guard.from_constitution(ASSISTANT)
    assert guard.reach is not None
    text = "here:\n-----BEGIN " + "PRIVATE KEY-----\n" + "\n".join(drawn(ALNUM, 64, seed) for seed in range(40))
    for end in range(0, len(text), 16):
        ruling = guard.check(Exchange((), text[:end], finished=False))
        assert ruling.decision == "redact" or end - guard.reach <= text.index("-----BEGIN"), end


@pytest.mark.parametrize("handling", ["allow", "redact", "block"])
def test_both_sides_are_handled_as_the_file_says(handling: str) -> None:
    settings = GuardSettings.model_validate({"secrets": {"input": handling, "output": "redact"}})
    assert settings.secrets == BySide.model_validate({"input": handling, "output": "redact"})
    guard = Guard.from_constitution(ASSISTANT.model_copy(update={"guard": settings}))
    text = f"here: {KEYS[1]}!"
    ruling = guard.check(Exchange((Part("m", "user", text),)))
    assert ruling.decision == handling
    assert redacted(text, ruling, "m") == {"allow": text, "redact": "here: [SECRET]!", "block": None}[handling]
    assert guard.check(Exchange((), text)).decision == "redact"


def test_a_secret_is_found_in_any_view_once() -> None:
    key = KEYS[1]
    original = View("x" * 80)
    decoded = View(key, ("base64",), original, [Piece(0, 7, 70, "block")])
    found = list(SecretRail(GuardSettings()).find((original, decoded)))
    assert [(f.start, f.end, f.views) for f in found] == [(7, 70, ("base64",))]
