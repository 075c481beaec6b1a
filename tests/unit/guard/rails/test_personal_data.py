"""Personal data by its form, with check digits, in several countries; and numbers that only look like it."""

from __future__ import annotations

import pytest

from steersman.constitution.document import GuardSettings, load
from steersman.guard.guard import Guard
from steersman.guard.normalise import View
from steersman.guard.rails import check_digits
from steersman.guard.rails.personal_data import PersonalDataRail
from steersman.guard.spans import redacted
from steersman.guard.verdict import Exchange, Part

ASSISTANT = load("assistant")


def kinds(text: str) -> list[tuple[str, str]]:
    return [
        (f.kind, text[f.start : f.end])
        for f in sorted(PersonalDataRail(GuardSettings()).find((View(text),)), key=lambda f: f.start)
    ]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("mail jane.roe+x@mail.example-firm.co.uk, ok", "EMAIL", "jane.roe+x@mail.example-firm.co.uk"),
        ("schreib an jürgen@müller.de.", "EMAIL", "jürgen@müller.de"),
        ("<a_b@c.io>", "EMAIL", "a_b@c.io"),
        ("card 4111 1111 1111 1111.", "CARD", "4111 1111 1111 1111"),
        ("5555-5555-5555-4444", "CARD", "5555-5555-5555-4444"),
        ("カード番号は4111111111111111です", "CARD", "4111111111111111"),
        ("メールはjane@roe.orgです", "EMAIL", "jane@roe.org"),
        ("电话+8613812345678。", "PHONE", "+8613812345678"),
        ("amex 378282246310005,", "CARD", "378282246310005"),
        ("amex 3782 822463 10005", "CARD", "3782 822463 10005"),
        ("IBAN GB82 WEST 1234 5698 7654 32 please", "IBAN", "GB82 WEST 1234 5698 7654 32"),
        ("DE89370400440532013000 is it", "IBAN", "DE89370400440532013000"),
        ("from 203.0.113.7 at", "IP", "203.0.113.7"),
        ("host 8.8.4.4", "IP", "8.8.4.4"),
        ("2001:db8::8a2e:370:7334", "IP", "2001:db8::8a2e:370:7334"),
        ("00-00-5E-00-53-01", "MAC", "00-00-5E-00-53-01"),
        ("call +49 30 901820-12 now", "PHONE", "+49 30 901820-12"),
        ("+44 (0)20 7946 0958", "PHONE", "+44 (0)20 7946 0958"),
        ("+33612345678", "PHONE", "+33612345678"),
        ("(555) 555-0123", "PHONE", "(555) 555-0123"),
        ("686-555-0144,", "PHONE", "686-555-0144"),
        ("020 7946 0958", "PHONE", "020 7946 0958"),
        ("06 12 34 56 78", "PHONE", "06 12 34 56 78"),
        ("0171/1234567", "PHONE", "0171/1234567"),
        ("Tel.: 901820123", "PHONE", "901820123"),
        ("SSN 900-12-3456.", "ID", "900-12-3456"),
        ("social security number is 123456789", "ID", "123456789"),
        ("NINO AB 12 34 56 C", "ID", "AB 12 34 56 C"),
        ("DNI 12345678Z", "ID", "12345678Z"),
        ("NIE X-1234567-L", "ID", "X-1234567-L"),
        ("CF RSSMRA85T10A562S", "ID", "RSSMRA85T10A562S"),
        ("NIR 1 84 12 76 451 089 46", "ID", "1 84 12 76 451 089 46"),
        ("Steuer-ID: 86095742719", "ID", "86095742719"),
        ("NHS number 999 000 0018", "ID", "999 000 0018"),
        ("my passport number is C01X00T47", "ID", "C01X00T47"),
        ("Reisepass Nr. C01X00T47", "ID", "C01X00T47"),
        ("account number 12345678", "ACCOUNT", "12345678"),
        ("date of birth: 1970-01-01", "BIRTH-DATE", "1970-01-01"),
        ("I was born on 3rd May 1990", "BIRTH-DATE", "3rd May 1990"),
        ("geburtsdatum 3. Mai 1990", "BIRTH-DATE", "3. Mai 1990"),
        ("fecha de nacimiento: 3 de mayo de 1990", "BIRTH-DATE", "3 de mayo de 1990"),
        ("生年月日：1990年5月3日", "BIRTH-DATE", "1990年5月3日"),
        ("lives at 12 Old Mill Lane, Ely, AB1 2CD", "ADDRESS", "12 Old Mill Lane, Ely, AB1 2CD"),
        ("Lindenstraße 12a, 10969 Berlin", "ADDRESS", "Lindenstraße 12a, 10969 Berlin"),
        ("12 rue de la Paix, 75002 Paris", "ADDRESS", "12 rue de la Paix, 75002 Paris"),
        ("at 52.520008, 13.404954", "LOCATION", "52.520008, 13.404954"),
        ("51°30'26\"N 0°7'39\"W", "LOCATION", "51°30'26\"N 0°7'39\"W"),
        ("VIN 1G4AH59H45G118341", "VEHICLE", "1G4AH59H45G118341"),
    ],
)
def test_what_has_a_form_is_found(text: str, kind: str, value: str) -> None:
    assert kinds(text) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "order 4111 1111 1111 1112",
        "4111 11 11111 11111 111",
        "0000 0000 0000 0000",
        "GB82 WEST 1234 5698 7654 33",
        "Mozilla version 1.2.3.4 and section 8.2.4.45",
        "127.0.0.1, 192.168.1.20, 10.0.0.1, 255.255.255.0, 0.0.0.0",
        "a[::-1], b[1::2], 12:30:45 and ::1",
        "in 1999-2004, 10-12-2020, 555-0123 and 100-200-300",
        "123-45-67890 and 000-12-3456",
        "3.14159 2,718.28 1e10 $1,234.56 0900-0130",
        "12345678A",
        "call 988, 112 or 116 123; dial 1-800-273-8255; Telefonseelsorge 0800 111 0 111",
        "Victor Hugo was born on 26 February 1802",
        "The passport office is open; drive 20 km",
        "weights 0.2989, 0.5870, 0.1140 and (1.024, 1.094)",
        "use name@example.com, image@2x.png or @handle",
        "a @ b",
        "x" * 5000,
        "a@" * 2000,
        "1 " * 3000,
        "rue " + "a" * 3000,
        "+1 " * 1000,
    ],
)
def test_what_only_looks_like_it_is_not(text: str) -> None:
    assert kinds(text) == []


def test_check_digits_find_every_single_wrong_digit() -> None:
    """Luhn, mod 97, mod 11,10 and mod 23 all do."""
    for check, number in (
        (check_digits.card, "4111111111111111"),
        (lambda text: bool(check_digits.iban_length(text)), "DE89370400440532013000"),
        (check_digits.steuer_id, "86095742719"),
        (check_digits.dni, "12345678Z"),
        (check_digits.nir, "184127645108946"),
        (check_digits.vin, "1G4AH59H45G118341"),
    ):
        assert check(number)
        for place, digit in enumerate(number):
            if digit.isdecimal() and place > 1:
                wrong = number[:place] + str((int(digit) + 1) % 10) + number[place + 1 :]
                assert not check(wrong), wrong


def test_people_may_send_their_own_data_and_get_it_back() -> None:
    """The default: requests pass; in an answer only what the model brings up itself is redacted."""
    guard = Guard.from_constitution(ASSISTANT)
    parts = (
        Part("m0", "tool", "eve@other.org"),
        Part("m1", "user", "I am jane@roe.org, card 4111-1111-1111-1111. Write a letter."),
    )
    assert guard.check(Exchange(parts)).decision == "allow"
    answer = "Jane (JANE@roe.org, 4111 1111 1111 1111), not eve@other.org"
    assert redacted(answer, guard.check(Exchange(parts, answer))) == (
        "Jane (JANE@roe.org, 4111 1111 1111 1111), not [EMAIL]"
    )
    strict = Guard.from_constitution(ASSISTANT.model_copy(update={"guard": GuardSettings(personal_data="redact")}))
    assert redacted(parts[1].text, strict.check(Exchange(parts)), "m1") == "I am [EMAIL], card [CARD]. Write a letter."
    assert redacted(answer, strict.check(Exchange(parts, answer))) == "Jane ([EMAIL], [CARD]), not [EMAIL]"


def test_allowed_words_are_no_personal_data() -> None:
    settings = GuardSettings(personal_data="block", allowed=("help@firm.org",))
    guard = Guard.from_constitution(ASSISTANT.model_copy(update={"guard": settings}))
    assert guard.check(Exchange((), "write to help@firm.org")).decision == "allow"
    assert guard.check(Exchange((), "write to anna@firm.org")).decision == "block"
    assert guard.check(Exchange((), "write to xhelp@firm.org")).decision == "block"
