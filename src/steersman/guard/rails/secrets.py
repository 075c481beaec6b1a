"""Keys, tokens and passwords, by the forms that their issuers publish and by what stands before them.

Libraries were tried and not taken: detect-secrets reads files line by line and, as it comes, sends what it finds to the
issuer to see whether it works; none reads a request in a millisecond. A form is looked for only where its mark, such as
``ghp_``, stands in the text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from steersman.constitution.document import GuardSettings
from steersman.guard.normalise import Views
from steersman.guard.rails.text import Finding, TextRail, small_letters
from steersman.guard.verdict import Decision, Side

SECRETS = "secrets"
KIND = "SECRET"
# A form is known by its first characters; the rest of a long token belongs to it as it comes.
REACH = 160


class Form(NamedTuple):
    """A kind of secret: marks of which one stands in it, and its pattern. A group `value` is the secret alone."""

    marks: tuple[str, ...]
    pattern: re.Pattern[str]


def _form(marks: str, pattern: str) -> Form:
    return Form(tuple(marks.split()), re.compile(pattern, re.ASCII))  # Japanese puts no space behind a key


_A = r"(?<![A-Za-z0-9])"  # nothing of the token before it
FORMS = (
    _form("AKIA ASIA ABIA ACCA A3T", _A + r"(?:A3T[A-Z0-9]|A[KS]IA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])"),  # AWS
    _form("ghp_ gho_ ghu_ ghs_ ghr_", _A + r"gh[pousr]_[A-Za-z0-9]{36,255}"),
    _form("github_pat_", r"github_pat_[A-Za-z0-9_]{36,255}"),
    _form("glpat- gldt- glrt- glptt- glcbt- glsoat-", _A + r"gl(?:pat|dt|rt|ptt|cbt|soat)-[\w.-]{19,300}\w"),
    _form("xox xapp-", _A + r"(?:xox[abeoprs]|xapp)-(?=[\w-]*\d)[A-Za-z0-9-]{10,255}"),  # Slack
    _form("hooks.slack.com", r"hooks\.slack\.com/(?:services|workflows|triggers)/[\w/]{20,90}"),
    _form("k_live_ k_test_ k_prod_ whsec_", _A + r"(?:[srp]k_(?:live|test|prod)_|whsec_)[A-Za-z0-9+/=]{16,255}"),
    _form("AIza", _A + r"AIza[\w-]{35}"),  # Google
    _form("GOCSPX- ya29.", _A + r"(?:GOCSPX-[\w-]{28}|ya29\.[\w-]{20,512})"),
    # OpenAI, Anthropic, OpenRouter and all who took over their form.
    _form("sk-", _A + r"sk-(?:[a-z]{2,12}(?:\d\d)?-){1,3}(?=[\w-]{0,60}\d)[\w-]{16,300}"),
    _form("sk-", _A + r"sk-(?=[A-Za-z]{0,60}\d)[A-Za-z0-9]{20,128}"),
    _form("hf_ api_org_", _A + r"(?:hf|api_org)_[A-Za-z0-9]{30,80}"),
    _form("npm_", _A + r"npm_[A-Za-z0-9]{36}"),
    _form("pypi-", _A + r"pypi-AgE[\w-]{50,512}"),
    _form("gsk_ xai- pplx- r8_ nvapi- tgp_v1_", _A + r"(?:gsk_|xai-|pplx-|r8_|nvapi-|tgp_v1_)[\w-]{32,128}"),
    _form("SG.", _A + r"SG\.[\w-]{16,32}\.[\w-]{16,64}"),  # SendGrid
    _form("dop_v1_ doo_v1_ dor_v1_", _A + r"do[opr]_v1_[0-9a-f]{64}"),
    _form("shpat_ shpca_ shppa_ shpss_", _A + r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    _form("sq0 EAAA", _A + r"(?:sq0[a-z]{3}-[\w-]{22,43}|EAAA[\w-]{60})"),
    _form("dapi", _A + r"dapi[0-9a-f]{32}(?:-\d)?"),
    _form("lin_api_ secret_ ntn_ hvs. hvb.", _A + r"(?:lin_api_|secret_|ntn_|hv[sb]\.)(?=\w*\d)[A-Za-z0-9]{24,128}"),
    _form(
        "glsa_ pscale_ PMAK- NRAK- dckr_pat_ sbp_",
        _A + r"(?:glsa_|pscale_\w+_|PMAK-|NRAK-|dckr_pat_|sbp_)[\w.-]{20,128}",
    ),
    _form("ATATT", _A + r"ATATT3[\w=-]{60,255}"),  # Atlassian
    _form("AGE-SECRET-KEY-", r"AGE-SECRET-KEY-1[0-9A-Z]{58}"),
    _form("key-", _A + r"key-[0-9a-f]{32}(?![0-9a-f])"),  # Mailgun
    _form(":AA", _A + r"\d{8,10}:AA[\w-]{33}(?![\w-])"),  # Telegram
    _form("M N O", _A + r"[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,40}(?![\w-])"),  # Discord
    _form("AccountKey= SharedAccessKey=", r"(?:Account|SharedAccess)Key=(?P<value>[A-Za-z0-9+/]{40,90}={0,2})"),
    _form("eyJ", _A + r"eyJ[\w-]{10,}\.(?:eyJ)?[\w-]{10,}(?:\.[\w-]*)?"),  # JSON web tokens
    _form(
        "-----BEGIN",
        r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:(?:(?!-----)[\s\S]){0,20000}-----END[A-Z0-9 ]{0,40}-----|[A-Za-z0-9+/=:,.\s\\-]*)",
    ),
    _form("PuTTY-User-Key-File", r"PuTTY-User-Key-File-\d[\s\S]{0,4000}?Private-MAC: \w+"),
)
# A connection string, and a header that carries a password or token.
_ADDRESS = re.compile(
    r"(?<![\w+])[a-z][a-z0-9+.-]{1,20}://[^\s/:@?#\"'<>]{0,48}:(?P<value>[^\s/@?#\"'<>]{3,96})@[\w.\[\]-]+",
    re.IGNORECASE,
)
_SCHEMES = ("bearer", "basic", "token", "apikey")
_HEADER = re.compile(r"\b(?:" + "|".join(_SCHEMES) + r")\s{1,3}(?P<value>[a-z0-9+/._~-]{20,512}={0,2})")
_NAME = (
    r"pass(?:word|wd|phrase|code|wort)|passwort|kennwort|mot\sde\spasse|contraseña|password[e]?|senha|wachtwoord|hasło|"
    r"пароль|密码|密碼|パスワード|비밀번호|pwd|secret(?:[_-]?(?:access)?[_-]?key)?|client[_-]?secret|"
    r"api[\s_-]?(?:key|token|secret)|access[\s_-]?(?:key|token)|auth[\s_-]?(?:key|token)|private[\s_-]?key|token|"
    r"credentials?|zugangscode|pin"
)
_NAMED = re.compile(
    rf"(?:{_NAME})(?P<quote>[\"']?)(?:\s{{0,3}}(?:[:=]|=>|:=|：)\s{{0,3}}|\s(?:is|ist|est|es|é|è|lautet|now|:)\s{{1,2}})"
    r"(?P<open>[\"'`“«]?)(?P<value>[^\s\"'`“”«»<>(){}\[\],;]{4,128})",
)
_MARKS = re.compile(r"pass|wort|contrase|senha|has[łl]o|парол|密|パス|비밀|pwd|secret|key|token|credential|zugang|pin")
_PLACEHOLDER = re.compile(
    r"[*x•.\-_#?]+|(?:your|my|the|some|a|an|insert|enter|change|replace|example|sample|dummy|fake|test|todo|none|null|"
    r"true|false|undefined|os|env|self|process|config|settings|getenv|str|int|bytes|redacted|secret|password|token|key|"
    r"xxx)(?:[\W_].*)?|\$.*|%.*|&.*|.*\.\.\..*|.*\.(?:py|js|json|txt|md|com|org|yaml|yml|html)",
    re.IGNORECASE,
)


class SecretRail(TextRail):
    """Secrets on both sides, handled as the constitution's ``guard.secrets`` says."""

    name = "secrets"
    begins = re.compile("-----BEGIN|PuTTY-")

    def __init__(self, settings: GuardSettings) -> None:
        super().__init__()
        self.settings = settings
        self.reach: int | None = REACH

    def find(self, views: Views) -> Iterable[Finding]:
        """See `TextRail`."""
        seen: set[tuple[int, int]] = set()
        for view in views:
            for start, end in secrets_in(view.text):
                place = view.span(start, end)
                if place not in seen:
                    seen.add(place)
                    yield Finding(SECRETS, KIND, *place, view.trace)

    def decision(self, principle: str, side: Side) -> Decision:
        """See `TextRail`."""
        return self.settings.handling("secrets", side)


def secrets_in(text: str) -> Iterator[tuple[int, int]]:
    """Where secrets stand in a text."""
    for form in FORMS:
        if any(mark in text for mark in form.marks):
            for match in form.pattern.finditer(text):
                yield match.span("value") if "value" in form.pattern.groupindex else match.span()
    if "://" in text and "@" in text:
        for match in _ADDRESS.finditer(text):
            if not _PLACEHOLDER.fullmatch(match["value"]):
                yield match.span("value")
    small = small_letters(text)
    if any(scheme in small for scheme in _SCHEMES):
        for match in _HEADER.finditer(small):
            if _is_random(text[match.start("value") : match.end("value")]):
                yield match.span("value")
    if _MARKS.search(small):
        for match in _NAMED.finditer(small):
            if _is_password(match, text[match.start("value") : match.end("value")]):
                yield match.span("value")


def _is_password(match: re.Match[str], value: str) -> bool:
    """Whether what is named a password could be one, and is no variable, number or sentence.

    A quoted value needs a digit beside a letter, or a sign inside; one in running text, which may be the next word of a
    sentence, needs a digit beside a letter.
    """
    value = value.rstrip(".,:!?")
    name = match[0][: match.start("value") - match.start()]
    letters, digits = any(map(str.isalpha, value)), any(map(str.isdigit, value))
    if _PLACEHOLDER.fullmatch(value):
        return False
    if name.startswith("pin"):
        return value.isdecimal() and 4 <= len(value) <= 8
    if "." in value.strip(".") and not digits:
        return False  # an attribute or a file
    if re.match(r"pass|pwd|kenn|mot|contra|senha|wacht|has|парол|密|パス|비밀|zugang", name):
        signs = any(not c.isalnum() and c not in "_-.=" for c in value[:-1])
        quoted_word = bool(match["open"]) and len(value) >= 6 and re.search(r"[:=]", name) is not None
        return len(value) >= 4 and ((letters and digits) or (signs and letters and len(value) >= 6) or quoted_word)
    return len(value) >= 12 and letters and digits and _is_random(value)


def _is_random(value: str) -> bool:
    """Whether a value looks drawn: letters and digits mixed, 3 bits and more for each character (Shannon)."""
    if len(value) < 12 or not re.search(r"\d", value) or not re.search(r"[A-Za-z]", value):
        return False
    counts = Counter(value)
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return bits >= 3.0 and len(re.findall(r"(?<=[A-Za-z])\d|\d(?=[A-Za-z])|[a-z](?=[A-Z])", value)) >= 3
