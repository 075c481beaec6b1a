"""Personal data that has a form: addresses of mail and network, telephone, card, account and identity numbers.

Numbers with check digits are checked, so that an order number is no card. What has no form of its own (a passport's
number, a date of birth, a street) counts only behind words that say what it is. Names are not found: any text is one.

`phonenumbers` and `python-stdnum` were tried. The first takes 2 ms for 1,200 characters and each region, our whole
budget; what we need of the second is a few lines for each country.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from steersman.constitution.document import GuardSettings
from steersman.guard.normalise import Views
from steersman.guard.rails import check_digits
from steersman.guard.rails.text import Finding, TextRail
from steersman.guard.verdict import Decision, Exchange, Side

PERSONAL_DATA = "personal-data"
REACH = 128
Check = Callable[[str], bool]


class Form(NamedTuple):
    """A kind of personal data. ``mark``: in every text that holds it. The group ``value``, if any, is the data."""

    kind: str
    mark: re.Pattern[str]
    pattern: re.Pattern[str]
    check: Check | None = None


def _form(kind: str, mark: str, pattern: str, check: Check | None = None, flags: int = re.IGNORECASE) -> Form:
    return Form(kind, re.compile(mark, re.IGNORECASE), re.compile(pattern, flags), check)


_IN = r"(?<![\w.,:/#$€£-])"  # no part of a longer number, price, date or path
_OUT = r"(?![\w/]|[.,:-]\d)"
_SEP = r"[\s:.#=-]{0,4}(?:(?:is|ist|est|es|number|no|nr|num|id|n°|nº|lautet|of|:)[\s:.#=-]{1,3}){0,2}"
_MONTH = r"[^\W\d]{3,10}\.?"
_DATE = (
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\s?\d{1,2}[-/.]\s?\d{2,4}|\d{4}年\d{1,2}月\d{1,2}日?"
    rf"|\d{{1,2}}(?:st|nd|rd|th|\.|er)?\s(?:of\s|de\s)?{_MONTH},?\s(?:de\s)?\d{{4}}|{_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?,?\s\d{{4}})"
)


def _ip(text: str) -> bool:
    """An address on the internet; a private one, or one of this machine, is nobody's."""
    with suppress(ValueError):
        address = ipaddress.ip_address(text)
        documentation = text.startswith(("192.0.2.", "198.51.100.", "203.0.113.", "2001:db8"))
        return documentation or not (
            address.is_private or address.is_loopback or address.is_unspecified or address.is_multicast
        )
    return False


def _phone(text: str) -> bool:
    """7 to 15 digits, as E.164 has them, in groups as people write them."""
    return 7 <= len(re.sub(r"\D", "", text)) <= 15


def _mail(text: str) -> bool:
    return ".." not in text and not re.search(r"\.(?:png|jpe?g|gif|svg|webp|js|css|py)$", text, re.IGNORECASE)


FORMS = (
    _form(
        "EMAIL",
        "@",
        r"(?<![\w.+@/-])[\w](?:[\w.+'%-]{0,62}[\w+-])?@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@])",
        _mail,
    ),
    _form("CARD", r"\d[ -]?\d{3}", rf"{_IN}(?:\d[ -]?){{12,18}}\d{_OUT}", check_digits.card),
    _form("IBAN", r"[A-Z]{2}\d\d", r"(?<![\w-])[A-Z]{2}\d\d(?:[ -]?[A-Z0-9]){11,30}", None),
    _form("IP", r"\d\.\d", r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)", _ip),
    _form("IP", r":[0-9a-f]{0,4}:", r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])", _ip),
    _form(
        "MAC",
        r"[0-9a-f]{2}[:-][0-9a-f]{2}[:-]",
        r"(?<![\w:-])[0-9a-f]{2}(?:([:-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4}(?![\w:-])",
    ),
    # Telephone: + and a country's code; 0 and groups; American groups.
    _form(
        "PHONE",
        r"\+",
        r"(?<![\w+])\+[1-9]\d{0,2}[\s./-]?(?:\(\d{1,5}\)[\s./-]?)?\d{1,5}(?:[\s./-]?\d{1,5}){1,6}(?![\w]|[.,]\d)",
        _phone,
    ),
    _form(
        "PHONE",
        r"\d{3}",
        rf"(?<![\w.,:/#$€£+-])(?:\+?1[-. ])?(?:\([2-9]\d\d\)\s?|[2-9]\d\d[-.])[2-9]\d\d[-. ]\d{{4}}{_OUT}",
    ),
    _form(
        "PHONE",
        r"\b0\d|\(0\d",
        rf"(?<![\w.,:/#$€£+-])(?:\(0\d{{1,5}}\)|0\d{{1,5}})(?:[ /-]{{1,2}}\d{{2,8}}){{1,5}}{_OUT}",
        lambda text: 8 <= len(re.sub(r"\D", "", text)) <= 13 and not re.match(r"0\d-\d\d-\d\d", text),
    ),
    _form(
        "PHONE",
        r"tel|phone|call|mobil|cell|whatsapp|handy|ruf|fax|appel|llam|numero|número|電話|电话|телефон",
        r"(?:telephone|telefon|telefono|teléfono|téléphone|phone|mobile?|cell|whatsapp|handy|fax|call|ring|text|rufnummer|"
        rf"appelez|llame|電話|电话|телефон)[^\w\n]{{0,3}}{_SEP}(?:me\s|at\s|on\s|unter\s|au\s|al\s|me at\s){{0,2}}"
        r"(?P<value>\+?\(?\d[\d\s()./-]{5,18}\d)(?![\w]|[.,]\d)",
        _phone,
    ),
    # Identity numbers.
    _form(
        "ID", r"\d{3}[- ]\d\d[- ]\d{4}", r"(?<![\w.-])(?!000|666)\d{3}(?P<s>[- ])(?!00)\d\d(?P=s)(?!0000)\d{4}(?![\w-])"
    ),
    _form("ID", r"ssn|social security", rf"\b(?:ssn|social security){_SEP}(?P<value>\d{{3}}[- ]?\d\d[- ]?\d{{4}})\b"),
    _form(
        "ID",
        r"[A-Z]{2}\s?\d\d\s?\d\d",
        r"(?<!\w)(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PQR-TW-Z][A-CEGHJ-NPQR-TW-Z]\s?\d\d\s?\d\d\s?\d\d\s?[A-D](?!\w)",
        None,
        0,
    ),
    _form("ID", r"\d{8}-?[A-Z]|[XYZ]-?\d{7}", r"(?<!\w)[XYZ\d]-?\d{7}-?[A-HJ-NP-TV-Z](?!\w)", check_digits.dni, 0),
    _form(
        "ID",
        r"[A-Z]{6}",
        r"(?<!\w)[A-Z]{6}\s?[\dL-NP-V]{2}[A-EHLMPR-T][\dL-NP-V]{2}\s?[A-Z][\dL-NP-V]{3}[A-Z](?!\w)",
        check_digits.codice_fiscale,
        0,
    ),
    _form(
        "ID",
        r"[12]\s?\d\d",
        r"(?<![\w.,-])[12]\s?\d\d\s?(?:0[1-9]|1[0-2]|[2-9]\d)\s?(?:\d\d|2[AB])\s?\d{3}\s?\d{3}\s?\d\d(?![\w]|[.,]\d)",
        check_digits.nir,
    ),
    _form(
        "ID",
        r"steuer|tax|tin\b|idnr|identifikations",
        rf"(?:steuer-?id\w*|steuer-?\w{{0,15}}nummer|idnr|tax id\w*|tin){_SEP}(?P<value>[1-9]\d(?:\s?\d){{9}})(?![\w])",
        check_digits.steuer_id,
    ),
    _form(
        "ID",
        r"nhs|bsn|pesel|aadhaar|cpf|ahv|avs|personnummer|nif|nss|sozialversicherung",
        r"\b(?:nhs|bsn|pesel|aadhaar|cpf|ahv|avs|personnummer|nif|nss|sozialversicherungs\w*)\b"
        rf"{_SEP}(?P<value>\d[\dA-Z .-]{{6,18}}[\dA-Z])(?!\w)",
    ),
    _form("ID", r"imei", rf"\bimei{_SEP}(?P<value>\d(?:[ -]?\d){{14}})(?!\d)"),
    _form(
        "ID",
        r"passport|passeport|pasaporte|reisepass|ausweis|identity card|id card|driv|führersch|permis|护照|パス|паспорт",
        r"(?:passport|reisepass|passeport|pasaporte|personalausweis|ausweis|identity card|id card|"
        r"driver'?s? licen[cs]e|driving licen[cs]e|führerschein|permis de conduire|护照|パスポート|паспорт)\w{0,8}"
        rf"{_SEP}(?P<value>(?=[A-Z ]{{0,4}}\d)[A-Z0-9](?:[A-Z0-9 -]{{4,16}})[A-Z0-9])(?!\w)",
    ),
    _form(
        "ACCOUNT",
        r"account|konto|routing|sort code|compte|cuenta",
        r"\b(?:bank account|account|kontonummer|konto|routing|sort code|compte|cuenta)(?:\s(?:number|no\.?|nr\.?|n°))?"
        rf"{_SEP}(?P<value>\d[\d -]{{4,20}}\d)(?!\w)",
    ),
    # A birth, a street, a place on the globe.
    _form(
        "BIRTH-DATE",
        r"birth|born|dob|gebor|geburt|né|nac|nat[oa]|生年月日|出生|рожд",
        r"(?:date of birth|birth ?date|birthday|born(?: on)?|d\.?o\.?b\.?|geboren(?: am)?|geb\.|geburtsdatum|"
        r"née?(?:\(e\))?(?: le)?|date de naissance|nacid[oa](?: el)?|fecha de nacimiento|nat[oa] il|"
        rf"生年月日|出生(?:日期)?|(?:дата )?рожд\w+){_SEP}(?P<value>{_DATE})",
    ),
    _form(
        "ADDRESS",
        r"\d",
        r"(?<![\w.])\d{1,5}[A-Za-z]?\s(?:[A-Z][\w'.]{1,20}\s){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|"
        r"Blvd|Court|Ct|Close|Crescent|Terrace|Way)\b\.?(?:,?\s(?:Apt|Unit|Flat|Suite)\.?\s?\w{1,5})?"
        r"(?:,\s[A-Z][\w .'-]{2,24}){0,2}(?:,?\s(?:[A-Z]{2}\s\d{5}(?:-\d{4})?|[A-Z]{1,2}\d[\dA-Z]?\s?\d[A-Z]{2}))?",
        None,
        0,
    ),
    _form(
        "ADDRESS",
        r"str|weg|platz|allee|gasse",
        r"(?<!\w)[A-ZÄÖÜ][\wäöüß.-]{1,24}(?:straße|strasse|str\.|weg|platz|allee|gasse)\s\d{1,4}\s?[a-z]?"
        r"(?:,?\s(?:D-|A-|CH-)?\d{4,5}\s[A-ZÄÖÜ][\wäöüß-]{1,24})?(?!\w)",
        None,
        0,
    ),
    _form(
        "ADDRESS",
        r"rue|avenue|boulevard|calle|avenida|piazza|rua|via ",
        r"(?<!\w)(?:\d{1,4}(?:\s?(?:bis|ter))?,?\s(?:rue|avenue|boulevard|place|chemin|impasse)\s(?:[\w'’-]{1,20}\s?){1,5}"
        r"|(?:calle|avenida|plaza|via|piazza|rua)\s(?:[\w'’-]{1,20}\s){0,3}[\w'’-]{2,20},?\s(?:n[º°.]\s?)?\d{1,4})"
        r",\s\d{4,5}\s[A-Z][\w'’-]{2,24}(?!\w)",
        None,
    ),
    _form(
        "LOCATION",
        r"\d\.\d{3}",
        r"(?<![\w.,-])[-+]?(?:[0-8]?\d|90)\.\d{3,}\s?°?\s?[NS]?,\s{0,2}[-+]?(?:1[0-7]\d|\d?\d|180)\.\d{3,}(?!\w)",
    ),
    _form(
        "LOCATION",
        r"°",
        r"\d{1,2}°\s?\d{1,2}['′]\s?(?:\d{1,2}(?:\.\d+)?[\"″]\s?)?[NS][,\s]{1,2}\d{1,3}°\s?\d{1,2}['′]\s?(?:\d{1,2}(?:\.\d+)?[\"″]\s?)?[EWO]",
    ),
)


class PersonalDataRail(TextRail):
    """Personal data, handled on each side as the constitution's ``guard.personal_data`` says.

    Where people may send such data, the answer may hold what they sent: it is theirs.
    """

    name = "personal-data"

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
    for form in FORMS:
        if not form.mark.search(text):
            continue
        for match in form.pattern.finditer(text):
            start, end = match.span("value") if "value" in form.pattern.groupindex else match.span()
            if form.kind == "IBAN":
                if length := check_digits.iban_length(text[start:end]):
                    yield form.kind, start, start + length
            elif form.check is None or form.check(text[start:end]):
                yield form.kind, start, end
