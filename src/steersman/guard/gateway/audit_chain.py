"""The chain of the audit log: how a record is written as a line, and finding what was done to the lines since.

    {"digest":"<of this record>", ..., "previous":"<digest of the record before>", "seq":7, "time":"..."}

A line is canonical JSON in ASCII. Its ``digest`` is the sha256 of its other fields, ``previous`` among them, so that no
record can be changed, taken out, put in or moved without breaking the chain from there on. What a chain alone cannot
show is that its end was cut off, or written anew with new digests. Therefore a *head* beside the log, ``LOG.head``,
holds the last record's number and digest, signed with the key of the log (HMAC-SHA256), and is renewed with every
commit. Whoever can write both files and read the key can still forge the log: keep the key, or the heads that
``/health`` and the end of the gateway print, elsewhere (`verify` takes them).

Schneier and Kelsey, "Secure audit logs to support computer forensics" (1999), is the idea; we keep one key and do not
evolve it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from steersman.errors import UserError
from steersman.store import json_text

GENESIS = "0" * 64  # what the first record names as the one before
KEY_BYTES = 32
LINE_END = b"\n"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Head(NamedTuple):
    """A record's number and digest: all records up to it, if the chain leads there."""

    seq: int
    digest: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.digest}"


BEGIN = Head(0, GENESIS)


def parse_head(text: str) -> Head:
    """A head as the gateway prints it, ``SEQ:DIGEST``.

    Raises:
        UserError: it is none.
    """
    number, _, digest = text.strip().partition(":")
    if not (number.isascii() and number.isdigit() and len(number) < 19 and _DIGEST.fullmatch(digest)):
        raise UserError(f"{text[:80]!r} is no head of an audit log", where="--head", expected="SEQ:DIGEST, as printed")
    return Head(int(number), digest)


# ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def canonical_ascii(value: Mapping[str, Any]) -> bytes:
    """Sorted keys, no spaces, ASCII alone: half characters of a client's text can be written, and no line breaks."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError:  # NaN and infinity, which JSON lacks
        text = json.dumps(json.loads(json_text(value)), sort_keys=True, separators=(",", ":"))
    return text.encode("ascii")


def line_of(record: Mapping[str, Any], after: Head) -> tuple[bytes, Head]:
    """A record as the line that follows ``after``, with its line end; and the head that it makes."""
    body = {**record, "seq": after.seq + 1, "previous": after.digest}
    digest = hashlib.sha256(canonical_ascii(body)).hexdigest()
    return canonical_ascii({**body, "digest": digest}) + b"\n", Head(after.seq + 1, digest)


def read_line(line: bytes) -> dict[str, Any] | None:
    """The record of a line without its end; None if it is not exactly as `line_of` writes it."""
    try:
        record = json.loads(line)
        body = {name: value for name, value in record.items() if name != "digest"}
        fine = (
            type(record["seq"]) is int
            and isinstance(record["previous"], str)
            and hashlib.sha256(canonical_ascii(body)).hexdigest() == record["digest"]
            and canonical_ascii(record) == line  # nor may the spelling differ: 1.0 and 1.00, a key twice
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return record if fine else None


# ── the files of a log ───────────────────────────────────────────────────────────────────────────────────────────────
def head_file(log: Path) -> Path:
    """Where the signed head of a log is."""
    return log.with_name(log.name + ".head")


def key_file(log: Path) -> Path:
    """Where the key of a log is, if nothing else is said."""
    return log.with_name(log.name + ".key")


def segment_file(log: Path, first: int) -> Path:
    """Where a full file goes: ``audit.000000000001.jsonl`` begins with record 1."""
    return log.with_name(f"{log.stem}.{first:012d}{log.suffix}")


def segments(log: Path) -> list[Path]:
    """All files of a log in order: the full ones, then the one that is written, where they exist."""
    name = re.compile(re.escape(log.stem) + r"\.(\d{12,})" + re.escape(log.suffix))
    numbered = [(int(found[1]), path) for path in log.parent.glob("*") if (found := name.fullmatch(path.name))]
    return [path for _, path in sorted(numbered)] + ([log] if log.exists() else [])


def read_key(path: Path) -> bytes | None:
    """The key of a log; None if there is none.

    Raises:
        UserError: the file holds something else.
    """
    if not path.exists():
        return None
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise UserError("not the key of an audit log", where=str(path), expected=f"{2 * KEY_BYTES} hexadecimal digits")
    return key


def derived(key: bytes, purpose: str) -> bytes:
    """A key of one purpose, so that signatures of heads and digests of texts share none."""
    return hmac.digest(key, purpose.encode(), "sha256")


def signed_head(key: bytes, head: Head, *, time: str, closed: bool) -> bytes:
    """The content of a head file. ``closed``: the gateway has ended, and nothing may follow."""
    body = {"seq": head.seq, "digest": head.digest, "time": time, "closed": closed}
    signature = hmac.digest(derived(key, "head"), canonical_ascii(body), "sha256").hex()
    return canonical_ascii({**body, "signature": signature}) + b"\n"


class Kept(NamedTuple):
    """What a head file says."""

    head: Head
    closed: bool


def read_head(content: bytes, key: bytes | None) -> Kept | None:
    """The head of a head file, its signature checked where there is a key; None if it is not as written."""
    try:
        found = json.loads(content)
        kept = Kept(Head(found["seq"], found["digest"]), found["closed"])
        if key is None:
            return kept if canonical_ascii(found) + b"\n" == content and type(kept.head.seq) is int else None
        again = signed_head(key, kept.head, time=found["time"], closed=kept.closed)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return kept if hmac.compare_digest(again, content) else None


# ── checking ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class Wrong(NamedTuple):
    """The first thing that is wrong: a line of a file (0: the file as a whole), and what."""

    file: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        records: how many follow one another without a fault, from the first.
        first: the number of the first of them; more than 1 where older files were taken away and a kept head says so.
        head: the last of them.
        wrong: the first fault; None if everything is as it was written.
        notes: what is no fault, but should be known.
    """

    records: int
    first: int
    head: Head
    files: tuple[Path, ...]
    wrong: Wrong | None
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 if everything is as it was written, else 1."""
        return 1 if self.wrong else 0

    def __str__(self) -> str:
        span = f"{self.records} records in {len(self.files)} files, last {self.head}"
        said = [f"wrong: {self.wrong}", f"before that: {span}"] if self.wrong else [f"intact: {span}"]
        return "\n".join([*said, *(f"note: {note}" for note in self.notes)])


class Chain:
    """A walk along the records of several files.

    Args:
        starts: the heads after which the first record may stand.
        wanted: heads to look for; `met` holds those that the chain leads through.
    """

    def __init__(self, starts: Sequence[Head], wanted: Sequence[Head] = ()) -> None:
        self._starts, self._wanted = set(starts), {*starts, *wanted}
        self.head, self.records, self.first = starts[0], 0, 0
        self.met = {BEGIN, self.head}

    def walk(self, file: Path, *, torn_tail: bool = False) -> Wrong | None:
        """Follow one file; the first line that does not fit. ``torn_tail``: a last one without an end is left out."""
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if torn_tail and not line.endswith(LINE_END):
                    break
                what = self._step(line)
                if what:
                    return Wrong(file, number, what + self._elsewhere(lines, number, what))
        return None

    def _step(self, line: bytes) -> str:
        record = read_line(line[:-1]) if line.endswith(LINE_END) else None
        if record is None:
            which = f"record {self.head.seq + 1}" if self.records or len(self._starts) == 1 else "the first record"
            no_log = "" if self.records else ", or this is no audit log"
            return f"{which} {'was changed' if line.endswith(LINE_END) else 'is cut off'}{no_log}"
        before = Head(record["seq"] - 1, record["previous"])
        if not self.records:
            if before not in self._starts:
                return f"record {record['seq']} begins the file, and no record or kept head leads there"
            self.met.add(before)
        elif before.seq != self.head.seq:
            return _misplaced(record["seq"], self.head.seq + 1)
        elif before != self.head:
            return f"record {record['seq']} does not follow the one above, which was exchanged"
        self.records += 1
        self.first = self.first or record["seq"]
        self.head = Head(record["seq"], record["digest"])
        if self.head in self._wanted:
            self.met.add(self.head)
        return ""

    def _elsewhere(self, lines: Iterator[bytes], number: int, what: str) -> str:
        """Where the record that should have come stands: then lines were moved, not taken away."""
        if "missing" not in what or not self.records:
            return ""
        for later, line in enumerate(lines, start=number + 1):
            record = read_line(line.rstrip(b"\n"))
            if record and record["seq"] == self.head.seq + 1:
                return f"; record {record['seq']} stands on line {later}: they were reordered"
        return ""


def _misplaced(found: int, expected: int) -> str:
    if found < expected:
        return f"record {found} stands here a second time or in the wrong place; expected record {expected}"
    return f"{_span(expected, found - 1)} missing before record {found}"


def _span(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"


def verify(log: Path, *, key: Path | None = None, heads: Sequence[Head] = ()) -> Report:
    """Check a log: every record, their order, the end, and kept heads.

    Args:
        log: the file that is written; full files beside it (`segments`) are part of the log.
        key: the file with its key; None: ``LOG.key``.
        heads: heads that were kept elsewhere; the log must hold each. Where older files were taken away on purpose,
            the head at their end is one of them.

    Raises:
        UserError: there is no such log, or it cannot be read.
    """
    files = segments(log)
    content = head_file(log).read_bytes() if head_file(log).exists() else None
    if not files and content is None:
        raise UserError("there is no audit log", where=str(log), expected="the file that `guard serve --audit` wrote")
    secret = read_key(key or key_file(log))
    kept = None if content is None else read_head(content, secret)
    chain = Chain([BEGIN, *heads], [kept.head] if kept else [])
    wrong = None
    try:
        for file in files:
            wrong = wrong or chain.walk(file)
    except OSError as error:
        raise UserError(
            f"cannot be read ({(error.strerror or '').lower()})", where=str(error.filename or log)
        ) from None
    notes: list[str] = []
    if wrong is None:
        wrong = _end(log, chain, content, kept, secret, heads, notes)
    return Report(chain.records, chain.first, chain.head, tuple(files), wrong, tuple(notes))


def _end(
    log: Path,
    chain: Chain,
    content: bytes | None,
    kept: Kept | None,
    key: bytes | None,
    heads: Sequence[Head],
    notes: list[str],
) -> Wrong | None:
    """What is wrong with the end of a log whose lines are a chain."""
    for head in sorted(heads):
        if head not in chain.met:
            lost = head.seq > chain.head.seq
            what = "is behind its end: records are missing there" if lost else "differs: the log was written anew"
            return Wrong(log, 0, f"the kept head {head} {what}")
    vouched = chain.head in heads
    if content is None:
        return None if vouched else Wrong(head_file(log), 0, "is missing; whether the log's end was cut cannot be told")
    if kept is None:
        return Wrong(head_file(log), 1, "the signed head was changed")
    if key is None and not vouched:
        what = "its signature cannot be checked without the key; give --key, or the kept --head of the end"
        return Wrong(head_file(log), 0, what)
    if kept.head.seq > chain.head.seq:
        return Wrong(log, 0, f"its end was cut off: {_span(chain.head.seq + 1, kept.head.seq)} missing")
    if kept.head not in chain.met:
        return Wrong(head_file(log), 1, f"record {kept.head.seq} is another than the signed one: written anew")
    extra = chain.head.seq - kept.head.seq
    if extra and kept.closed:
        return Wrong(log, 0, f"{extra} records follow the signed end; they were not written by the gateway")
    if extra:
        notes.append(f"{extra} records are newer than the signed head: the gateway is writing, or was killed")
    return None
