"""Personal data that has a form: addresses of mail and network, telephone, card, account and identity numbers.

Numbers with check digits are checked, so that an order number is no card. What has no form of its own (a passport's
number, a date of birth, a street) counts only behind words that say what it is. Names are not found: any text is one.

`phonenumbers` and `python-stdnum` were tried. The first takes 2 ms for 1,200 characters and each region, our whole
budget; what we need of the second is a few lines for each country.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from steersman.constitution.document import GuardSettings
from steersman.guard.normalise import Views
from steersman.guard.rails import check_digits
from steersman.guard.rails.text import Finding, TextRail, in_small_letters, small_letters
from steersman.guard.verdict import Decision, Exchange, Side

PERSONAL_DATA = "personal-data"
REACH = 128
WIDEST = 256  # characters of the longest thing that has a form, with the words that say what it is
DENSE = 80  # characters in which all digits that such a thing has at least stand
MANY = 120  # digits of a text that is looked at as a whole
_DIGIT = re.compile(r"\d")
Check = Callable[[str, str], bool]  # of what was found, and of the 40 characters before it, in small letters


class Form(NamedTuple):
    """A kind of personal data. The group ``value`` of the pattern, if any, is the data.

    ``marks``: one of these words, or this pattern, is in all that has this form. ``digits``: it has so many at least.
    """

    kind: str
    marks: tuple[str, ...] | re.Pattern[str]
    pattern: re.Pattern[str]
    check: Check | None
    cased: bool  # capitals tell it from other text
    digits: int

    def find(self, text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Where data of this form stand in a stretch of a text."""
        if isinstance(self.marks, tuple):
            possible = any(text.find(word, start, end) >= 0 for word in self.marks)
        else:
            possible = self.marks.search(text, start, end) is not None
        if possible:
            group = "value" if "value" in self.pattern.groupindex else 0
            for match in self.pattern.finditer(text, start, end):
                yield match.span(group)


def _form(
    kind: str, mark: str, pattern: str, check: Check | None = None, *, cased: bool = False, digits: int = 1
) -> Form:
    """The others are looked for in small letters: thirty times as fast as a search that ignores case."""
    small = pattern if cased else in_small_letters(pattern)
    words = None if _PATTERN.search(mark) else tuple(mark.split("|"))
    return Form(
        kind, words or re.compile(mark if cased else in_small_letters(mark)), re.compile(small), check, cased, digits
    )


_PATTERN = re.compile(r"[][\\(){}?*+]")  # signs of a pattern that is more than words


# Of the letters around a number only ours count: Chinese and Japanese put no spaces.
_MAIL = r"0-9a-z_\u00c0-\u024f\u0370-\u052f"
_IN = r"(?<![A-Za-z0-9_.,:/#$€£-])"  # no part of a longer number, price, date or path
_OUT = r"(?![A-Za-z0-9_/]|[.,:-]\d)"
_SEP = r"[\s:：.#=-]{0,4}(?:(?:is|ist|est|es|number|no|nr|num|id|n°|nº|lautet|of|:)[\s:：.#=-]{1,3}){0,2}"
_MONTH = r"[^\W\d]{3,10}\.?"
_DATE = (
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\s?\d{1,2}[-/.]\s?\d{2,4}|\d{4}年\d{1,2}月\d{1,2}日?"
    rf"|\d{{1,2}}(?:st|nd|rd|th|\.|er)?\s(?:of\s|de\s)?{_MONTH},?\s(?:de\s)?\d{{4}}|{_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?,?\s\d{{4}})"
)


def _ip(text: str, before: str) -> bool:
    """An address on the internet; a private one, or one of this machine, is nobody's. Versions look the same."""
    with suppress(ValueError):
        address = ipaddress.ip_address(text)
        if address.version == 6:
            return text[0] in "23" and text.find(":") == 4 and len(re.findall(r"[0-9a-f]+", text)) >= 3
        if _VERSION.search(before) or (max(address.packed) < 20 and not _HOST.search(before)):
            return False
        documentation = text.startswith(("192.0.2.", "198.51.100.", "203.0.113."))
        return documentation or address.is_global
    return False


_VERSION = re.compile(r"(?:version|release|section|sections|chapter|§+|\bv|\bgit|python|mask|netmask)\W{0,3}$")
_HOST = re.compile(r"\b(?:ip|host|address|adresse|server|from|client|peer|dns|ping|ssh)\b[^\n]{0,20}$")


def _phone(text: str, before: str) -> bool:
    """7 to 15 digits, as E.164 has them. Numbers that cost nothing, or extra, belong to crisis lines and services."""
    digits = re.sub(r"\D", "", text)
    service = _SERVICE.match(digits) or (_TOLL_FREE.match(digits) and _CALLED.search(before))
    return 7 <= len(digits) <= 15 and not service


_TOLL_FREE = re.compile(r"8(?:00|33|44|55|66|77|88)\d{7}$")
_CALLED = re.compile(r"toll|free|hotline|helpline|lifeline|crisis|support|service|customer|emergency|poison|dial")
_SERVICE = re.compile(r"18(?:00|33|44|55|66|77|88)\d{7}$|0[89]00\d|(?:33|34|39|41|43|44|49)[89]00\d|0180\d|116\d{3}$")


def _national(text: str, before: str) -> bool:
    return 9 <= len(re.sub(r"\D", "", text)) <= 13 and _phone(text, before)


def _mail(text: str, before: str) -> bool:
    """No file's name, and nobody's address in an example."""
    return ".." not in text and not re.search(r"\.(?:png|jpe?g|gif|svg|webp|js|css|py)$|^" + _NOBODY, text)


_NOBODY = r"(?:your?[\w.-]*|name|user(?:name)?|someone|somebody|me|foo|x+)@example\.(?:com|net|org)$"


def _place(text: str, before: str) -> bool:
    """Degrees: with N and E, with many decimals, or behind words for a place. Other pairs of numbers look the same."""
    exact = all(len(number) >= 5 for number in re.findall(r"\.(\d+)", text))
    return exact or bool(re.search(r"[ns]", text)) or bool(_GEO.search(before))


_GEO = re.compile(r"(?:\bgps|coord|koord|\blat|\blon|location|located|position|standort|ubicaci)[^\n]{0,30}$")


def _checked(check: Callable[[str], bool]) -> Check:
    return lambda text, before: check(text)


FORMS = (
    _form(
        "EMAIL",
        "@",
        rf"(?<![{_MAIL}.+@/-])[{_MAIL}](?:[{_MAIL}.+'%-]{{0,62}}[{_MAIL}+-])?@"
        rf"(?:[{_MAIL}](?:[{_MAIL}-]{{0,61}}[{_MAIL}])?\.){{1,8}}[a-z\u00c0-\u024f\u0400-\u052f]{{2,24}}(?![{_MAIL}@])",
        _mail,
        digits=0,
    ),
    _form("CARD", r"\d[ -]?\d{3}", rf"{_IN}(?:\d[ -]?){{12,18}}\d{_OUT}", _checked(check_digits.card), digits=13),
    _form("IBAN", r"[A-Z]{2}\d\d", r"(?<![A-Za-z0-9_-])[A-Z]{2}\d\d(?:[ -]?[A-Z0-9]){11,30}", None),
    _form("IP", r"\d\.\d{1,3}\.\d", r"(?<![A-Za-z0-9_.-])(?:\d{1,3}\.){3}\d{1,3}(?![A-Za-z0-9_-]|\.\d)", _ip, digits=4),
    _form("IP", r":[0-9a-f]{0,4}:", r"(?<![A-Za-z0-9_:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![A-Za-z0-9_:])", _ip),
    _form(
        "MAC",
        r"[0-9a-f]{2}[:-][0-9a-f]{2}[:-]",
        r"(?<![A-Za-z0-9_:-])[0-9a-f]{2}(?:([:-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4}(?![A-Za-z0-9_:-])",
        digits=0,
    ),
    # Telephone: + and a country's code; 0 and groups; American groups.
    _form(
        "PHONE",
        r"\+",
        r"(?<![A-Za-z0-9_+])\+[1-9]\d{0,2}[\s./-]?(?:\(\d{1,5}\)[\s./-]?)?\d{1,5}(?:[\s./-]?\d{1,5}){1,6}(?![A-Za-z0-9_]|[.,]\d)",
        _phone,
        digits=7,
    ),
    _form(
        "PHONE",
        r"\d{3}[-. ]\d{4}",
        rf"(?<![A-Za-z0-9_.,:/#$€£+-])(?:\+?1[-. ])?(?:\([2-9]\d\d\)\s?|[2-9]\d\d[-.])[2-9]\d\d[-. ]\d{{4}}{_OUT}",
        _phone,
        digits=7,
    ),
    _form(
        "PHONE",
        r"\b0\d|\(0\d",
        rf"(?<![A-Za-z0-9_.,:/#$€£+-])(?:\(0[1-9]\d{{0,4}}\)|00?[1-9]\d{{0,4}})(?:[ /-]{{1,2}}\d{{2,8}}){{1,5}}{_OUT}",
        _national,
        digits=7,
    ),
    _form(
        "PHONE",
        r"tel|phone|call|mobil|cell|whatsapp|handy|ruf|fax|appel|llam|numero|número|電話|电话|телефон",
        r"(?:tel\b|telephone|telefon|telefono|teléfono|téléphone|phone|mobile?|cell|whatsapp|handy|fax|call|ring|text|rufnummer|"
        rf"appelez|llame|電話|电话|телефон)[^\w\n]{{0,3}}{_SEP}(?:me\s|at\s|on\s|unter\s|au\s|al\s|me at\s){{0,2}}"
        r"(?P<value>\+?\(?\d[\d\s()./-]{5,18}\d)(?![A-Za-z0-9_]|[.,]\d)",
        _phone,
        digits=7,
    ),
    # Identity numbers.
    _form(
        "ID",
        r"\d{3}[- ]\d\d[- ]\d{4}",
        r"(?<![A-Za-z0-9_.-])(?!000|666)\d{3}(?P<s>[- ])(?!00)\d\d(?P=s)(?!0000)\d{4}(?![A-Za-z0-9_-])",
        digits=7,
    ),
    _form(
        "ID",
        r"ssn|social security",
        rf"\b(?:ssn|social security){_SEP}(?P<value>\d{{3}}[- ]?\d\d[- ]?\d{{4}})\b",
        None,
        digits=7,
    ),
    _form(
        "ID",
        r"[A-Z]{2}\s?\d\d\s?\d\d",
        r"(?<![A-Za-z0-9_])(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PQR-TW-Z][A-CEGHJ-NPQR-TW-Z]\s?\d\d\s?\d\d\s?\d\d\s?[A-D](?![A-Za-z0-9_])",
        cased=True,
        digits=6,
    ),
    _form(
        "ID",
        r"\d{8}-?[A-Z]|[XYZ]-?\d{7}",
        r"(?<![A-Za-z0-9_])[XYZ\d]-?\d{7}-?[A-HJ-NP-TV-Z](?![A-Za-z0-9_])",
        _checked(check_digits.dni),
        cased=True,
        digits=7,
    ),
    _form(
        "ID",
        r"[A-Z]{6}",
        r"(?<![A-Za-z0-9_])[A-Z]{6}\s?[\dL-NP-V]{2}[A-EHLMPR-T][\dL-NP-V]{2}\s?[A-Z][\dL-NP-V]{3}[A-Z](?![A-Za-z0-9_])",
        _checked(check_digits.codice_fiscale),
        cased=True,
        digits=0,
    ),
    _form(
        "ID",
        r"\d{3}\s?\d{3}\s?\d\d",
        r"(?<![A-Za-z0-9_.,-])[12]\s?\d\d\s?(?:0[1-9]|1[0-2]|[2-9]\d)\s?(?:\d\d|2[AB])\s?\d{3}\s?\d{3}\s?\d\d(?![A-Za-z0-9_]|[.,]\d)",
        _checked(check_digits.nir),
        digits=13,
    ),
    _form(
        "ID",
        "steuer|tax|tin|idnr",
        rf"(?:steuer-?id\w{{0,30}}|steuer-?\w{{0,15}}nummer|idnr|tax id\w{{0,30}}|tin){_SEP}"
        r"(?P<value>[1-9]\d(?:\s?\d){9})(?![A-Za-z0-9_])",
        _checked(check_digits.steuer_id),
        digits=7,
    ),
    _form(
        "ID",
        r"nhs|bsn|pesel|aadhaar|cpf|ahv|avs|personnummer|nif|nss|sozialversicherung",
        r"\b(?:nhs|bsn|pesel|aadhaar|cpf|ahv|avs|personnummer|nif|nss|sozialversicherungs\w{0,30})\b"
        rf"{_SEP}(?P<value>\d[\dA-Z .-]{{6,18}}[\dA-Z])(?![A-Za-z0-9_])",
    ),
    _form("ID", r"imei", rf"\bimei{_SEP}(?P<value>\d(?:[ -]?\d){{14}})(?!\d)", digits=13),
    _form(
        "ID",
        r"passport|passeport|pasaporte|reisepass|ausweis|identity card|id card|driv|führersch|permis|护照|パス|паспорт",
        r"(?:passport|reisepass|passeport|pasaporte|personalausweis|ausweis|identity card|id card|"
        r"driver'?s? licen[cs]e|driving licen[cs]e|führerschein|permis de conduire|护照|パスポート|паспорт)\w{0,8}"
        rf"{_SEP}(?P<value>(?=[A-Z ]{{0,4}}\d)[A-Z0-9](?:[A-Z0-9 -]{{4,16}})[A-Z0-9])(?![A-Za-z0-9_])",
    ),
    _form(
        "ACCOUNT",
        r"account|konto|routing|sort code|compte|cuenta",
        r"\b(?:bank account|account|kontonummer|konto|routing|sort code|compte|cuenta)(?:\s(?:number|no\.?|nr\.?|n°))?"
        rf"{_SEP}(?P<value>\d[\d -]{{4,20}}\d)(?![A-Za-z0-9_])",
    ),
    # A birth, a street, a place on the globe.
    _form(
        "VEHICLE",
        r"[A-HJ-NPR-Z0-9]{17}",
        r"(?<![A-Za-z0-9_])(?=\w{0,16}\d)[A-HJ-NPR-Z0-9]{17}(?![A-Za-z0-9_])",
        _checked(check_digits.vin),
        cased=True,
    ),
    _form(
        "BIRTH-DATE",
        "birth|born|dob|d.o|do.b|geb|ich |né |née |nací|nacimiento|nascita|生年月日|出生|рожд",
        # Of people who are not written about: "Hugo was born on 26 February 1802" is no secret.
        r"(?:date of birth|birth ?date|birthday|i was born(?: on)?|\bd\.?o\.?b\.?|ich (?:bin|wurde) (?:am )?|"
        r"geburtsdatum|geburtstag|geb\.|je suis née?(?: le)?|date de naissance|nací(?: el)?|fecha de nacimiento|"
        rf"data di nascita|生年月日|出生日期|дата рождения){_SEP}(?P<value>{_DATE})",
        digits=4,
    ),
    _form(
        "ADDRESS",
        r"\d[A-Za-z]? [A-Z]",
        r"(?<![A-Za-z0-9_.])\d{1,5}[A-Za-z]? (?:[A-Z][\w'.]{1,20} ){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|"
        r"Dr|Boulevard|Blvd|Court|Ct|Close|Crescent|Terrace|Way)\b\.?(?:,?\s(?:Apt|Unit|Flat|Suite)\.?\s?\w{1,5})?"
        r"(?:,\s[A-Z][\w .'-]{2,24}){0,2}(?:,?\s(?:[A-Z]{2}\s\d{5}(?:-\d{4})?|[A-Z]{1,2}\d[\dA-Z]?\s?\d[A-Z]{2}))?",
        cased=True,
    ),
    _form(
        "ADDRESS",
        r"str|weg|platz|allee|gasse",
        r"(?<![A-Za-z0-9_])[A-ZÄÖÜ][\wäöüß.-]{1,24}(?:straße|strasse|str\.|weg|platz|allee|gasse)\s\d{1,4}\s?[a-z]?"
        r"(?:,?\s(?:D-|A-|CH-)?\d{4,5}\s[A-ZÄÖÜ][\wäöüß-]{1,24})?(?![A-Za-z0-9_])",
        cased=True,
    ),
    _form(
        "ADDRESS",
        r"rue|avenue|boulevard|calle|avenida|piazza|rua|via ",
        r"(?<![A-Za-z0-9_])(?:\d{1,4}(?:\s?(?:bis|ter))?,?\s(?:rue|avenue|boulevard|place|chemin|impasse)\s[\w'’-]{1,20}(?:\s[\w'’-]{1,20}){0,4}"
        r"|(?:calle|avenida|plaza|via|piazza|rua)\s(?:[\w'’-]{1,20}\s){0,3}[\w'’-]{2,20},?\s(?:n[º°.]\s?)?\d{1,4})"
        r",\s\d{4,5}\s[A-Z][\w'’-]{2,24}(?![A-Za-z0-9_])",
        None,
        digits=4,
    ),
    _form(
        "LOCATION",
        r"\d\.\d{3,}\s?°?\s?[ns]?,",
        r"(?<![A-Za-z0-9_.,-])[-+]?(?:[0-8]?\d|90)\.\d{3,}\s?°?\s?[NS]?,\s{0,2}[-+]?(?:1[0-7]\d|\d?\d|180)\.\d{3,}(?![A-Za-z0-9_])",
        _place,
        digits=6,
    ),
    _form(
        "LOCATION",
        r"°",
        r"\d{1,2}°\s?\d{1,2}['′]\s?(?:\d{1,2}(?:\.\d+)?[\"″]\s?)?[NS][,\s]{1,2}\d{1,3}°\s?\d{1,2}['′]\s?(?:\d{1,2}(?:\.\d+)?[\"″]\s?)?[EWO]",
        digits=4,
    ),
)


# Where data of a form with spaces may begin, in a text that goes on: a number, letters of an identity number, a street,
# and words before a value that need not begin with a digit.
_BEGINS = re.compile(
    r"[a-zA-Z0-9+(._-]*\d|\b[a-zA-Z]{2}\s?$|\b[a-zA-Z]{6}\s?$"
    r"|(?<![^\W_])[^\W\d_][\w.-]{0,24}(?:straße|strasse|str\.|weg|platz|allee|gasse)\b[^.]{0,60}$"
    r"|\b(?i:rue|avenue|boulevard|place|chemin|impasse|calle|avenida|plaza|via|piazza|rua)\s"
    r"|(?i:passe?port|pasaporte|reisepass|ausweis|identity card|id card|driv\w{1,3}'?s? licen|führerschein|permis"
    r"|护照|パスポ|паспорт|birth|born|d\.?o\.?b|ich (?:bin|wurde)|geb(?:urts|\.)|je suis né|naissance|nací|nacimiento"
    r"|nascita|生年月日|出生|рожд)[^\n]{0,60}$"
)


class PersonalDataRail(TextRail):
    """Personal data, handled on each side as the constitution's ``guard.personal_data`` says.

    Where people may send such data, the answer may hold what they sent: it is theirs.
    """

    name = "personal-data"
    begins = _BEGINS

    def __init__(self, settings: GuardSettings) -> None:
        super().__init__()
        self.settings = settings
        self.reach: int | None = REACH

    def find(self, views: Views) -> Iterable[Finding]:
        """See `TextRail`. Places that an earlier kind has taken are not looked at again."""
        taken: list[tuple[int, int]] = []
        for view in views:
            for kind, start, end in personal_data_in(view.text):
                place = view.span(start, end)
                if not any(place[0] < b and a < place[1] for a, b in taken):
                    taken.append(place)
                    yield Finding(PERSONAL_DATA, kind, *place, view.trace)

    def decision(self, principle: str, side: Side) -> Decision:
        """See `TextRail`."""
        return self.settings.handling("personal_data", side)

    def wanted(self, finding: Finding, text: str, exchange: Exchange) -> bool:
        """See `TextRail`."""
        if exchange.side == "input" or self.settings.handling("personal_data", "input") != "allow":
            return True
        value = _bare(text[finding.start : finding.end])
        return not any(part.role == "user" and value in _bare(part.text) for part in exchange.parts)


def _bare(text: str) -> str:
    """Letters and digits alone: people group numbers in their own ways."""
    return "".join(filter(str.isalnum, text)).casefold()


def personal_data_in(text: str) -> Iterator[tuple[str, int, int]]:
    """Kind and place of everything found in a text; the surer kinds come first."""
    small, places = small_letters(text), [digit.start() for digit in islice(_DIGIT.finditer(text), MANY)]
    around = {0: [(0, len(text))]}
    for form in FORMS:
        if not places and form.kind != "EMAIL":
            continue
        if form.digits not in around:
            around[form.digits] = _around(places, form.digits, len(text))
        read = text if form.cased else small
        for stretch in around[form.digits]:
            for start, end in form.find(read, *stretch):
                if form.kind == "IBAN":
                    if length := check_digits.iban_length(text[start:end]):
                        yield form.kind, start, start + length
                elif form.check is None or form.check(read[start:end], small[max(0, start - 40) : start]):
                    yield form.kind, start, end


def _around(places: Sequence[int], least: int, length: int) -> list[tuple[int, int]]:
    """The stretches of a text with all that has so many digits or more.

    Args:
        places: of the digits in the text, in order.
    """
    if len(places) == MANY:
        return [(0, length)]
    found: list[tuple[int, int]] = []
    for first, last in zip(places, places[least - 1 :], strict=False):
        if last - first > DENSE:
            continue
        start, end = max(0, first - WIDEST), min(length, last + WIDEST)
        if found and found[-1][1] >= start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found
