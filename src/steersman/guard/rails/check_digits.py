"""Check digits of card, account and identity numbers: what tells them from any other number of the same length."""

from __future__ import annotations

import re

_DNI = "TRWAGMYFPDXBNJZSQVHLCKE"
_IBAN_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
    "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
    "YE30 "
)
_IBAN_LENGTH = {item[:2]: int(item[2:]) for item in _IBAN_LENGTHS.split()}
_ODD_DIGITS = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21)
_ODD_LETTERS = (*_ODD_DIGITS, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
_ODD = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", (*_ODD_DIGITS, *_ODD_LETTERS), strict=True))


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def luhn(number: str) -> bool:
    """Whether the last digit checks the others (Luhn 1960)."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def card(text: str) -> bool:
    """A payment card: an issuer's first digits, 13 to 19 digits in one of the usual groupings, and Luhn."""
    number = _digits(text)
    groups = [len(group) for group in re.split(r"[ -]", text) if group]
    usual = len(groups) == 1 or groups in ([4, 4, 4, 4], [4, 6, 5], [4, 6, 4], [4, 4, 4, 1], [4, 4, 4, 4, 3], [4, 4, 5])
    issuer = re.match(r"4|5[0-8]|2[2-7]|3[0-9]|6", number)
    return 13 <= len(number) <= 19 and usual and bool(issuer) and len(set(number)) > 1 and luhn(number)


def iban_length(text: str) -> int:
    """How many characters of a text are an account number (ISO 13616, mod 97); 0 if it begins with none."""
    expected = _IBAN_LENGTH.get(text[:2].upper(), 0)
    kept = [(place, c) for place, c in enumerate(text) if c.isalnum()]
    if not expected or len(kept) < expected:
        return 0
    number = "".join(c for _, c in kept[:expected]).upper()
    if int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 != 1:
        return 0
    return kept[expected - 1][0] + 1


def dni(text: str) -> bool:
    """The Spanish DNI, or NIE of foreigners."""
    number = text.replace("-", "").upper()
    if len(number) != 9:
        return False
    return _DNI[int(number[:8].translate(str.maketrans("XYZ", "012"))) % 23] == number[8]


def nir(text: str) -> bool:
    """The French social security number."""
    number = re.sub(r"\s", "", text).upper()
    body = number[:13].replace("2A", "19").replace("2B", "18")
    return len(number) == 15 and body.isdecimal() and 97 - int(body) % 97 == int(number[13:])


def codice_fiscale(text: str) -> bool:
    """The Italian tax code."""
    code = re.sub(r"\s", "", text).upper()
    if len(code) != 16:
        return False
    total = sum(_ODD[c] if place % 2 == 0 else int(c, 36) - 10 * c.isalpha() for place, c in enumerate(code[:15]))
    return chr(ord("A") + total % 26) == code[15]


def steuer_id(text: str) -> bool:
    """The German tax number of a person (ISO 7064, mod 11,10)."""
    number = _digits(text)
    if len(number) != 11 or number[0] == "0":
        return False
    product = 10
    for digit in number[:10]:
        total = (int(digit) + product) % 10 or 10
        product = 2 * total % 11
    return (11 - product) % 10 == int(number[10])


def vin(text: str) -> bool:
    """A vehicle's number, with the check digit that North America has (49 CFR 565)."""
    values = {c: int(c) for c in "0123456789"} | dict(
        zip("ABCDEFGHJKLMNPRSTUVWXYZ", (*range(1, 9), 1, 2, 3, 4, 5, 7, 9, *range(2, 10)), strict=True)
    )
    weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
    letters = any(map(str.isalpha, text))
    rest = sum(values[c] * weight for c, weight in zip(text, weights, strict=True)) % 11
    return letters and text[8] == ("X" if rest == 10 else str(rest))
