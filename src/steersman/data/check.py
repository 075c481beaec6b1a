"""`steersman data check`: counts, coverage per principle, near-duplicates, leaks into the evaluation, lengths.

Near-duplicates need no embeddings: two texts are near when they share a run of five words, or when their word sets
have a Jaccard similarity |A and B| / |A or B| of at least a threshold.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from statistics import median
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text as Styled

from steersman.data.forms import FormReport, Refusals, check_forms
from steersman.types import Comparison, Demonstration, Prompt, Text, plain_text

Row = Prompt | Demonstration | Comparison
LEAK_JACCARD = 0.5
TWIN_JACCARD = 0.8
WIDTH = 100  # columns of a report that is not printed to a terminal
NARROW = {
    "demonstrations": "demon-\nstrations",
    "comparisons": "compar-\nisons",
    "evaluation": "evalu-\nation",
    "development": "develop-\nment",
}  # columns of the table
SHOWN = 10  # items of a list; --json has all


class SimilarPair(NamedTuple):
    """Two texts that are too similar, and why."""

    first: str
    second: str
    reason: str


class Coverage(NamedTuple):
    """Rows of a principle: by file, and over all files those tagged as look-alikes and as harmful."""

    principle: str
    demonstrations: int
    comparisons: int
    prompts: int
    evaluation: int
    forms: int
    development: int
    lookalikes: int
    harmful: int


class LengthLimit(NamedTuple):
    """How many tokens a row may have; ``tokens``: how many a prompt has with its longest answer, by ``measure``."""

    max_length: int
    tokens: Callable[[Text, Sequence[str]], int]
    measure: str

    def exceeded(self, row: Row) -> bool:
        """Whether a row is longer."""
        return self.tokens(row.prompt, answers_of(row)) > self.max_length

    def sentence(self, count: int, what: str) -> str:
        """What is said of some rows that are longer."""
        return (
            f"Longer than {self.max_length} tokens by {self.measure}: {count:,} {what}; "
            "`truncation` says whether training cuts them or leaves them out."
        )


def answers_of(row: Row) -> Sequence[str]:
    """The answers in a row."""
    if isinstance(row, Demonstration):
        return (row.completion,)
    return row.options if isinstance(row, Comparison) else ()


class DataReport(NamedTuple):
    """The result of `check`. ``leaks`` and ``shared_topics`` must be empty for an honest evaluation.

    ``too_long``: rows over a limit, by file, if one was given.
    """

    counts: dict[str, int]
    coverage: list[Coverage]
    leaks: list[SimilarPair]
    shared_topics: list[str]
    twins: dict[str, list[SimilarPair]]
    completion_words: dict[str, float]
    labelled: dict[str, int]
    languages: dict[str, int]
    forms: FormReport
    too_long: dict[str, int]

    def json(self) -> dict[str, Any]:
        """The whole report as JSON values, every pair included."""
        return self._asdict() | {
            "coverage": [row._asdict() for row in self.coverage],
            "leaks": [pair._asdict() for pair in self.leaks],
            "twins": {file: [pair._asdict() for pair in pairs] for file, pairs in self.twins.items()},
            "forms": self.forms.json(),
        }


def _characters(*categories: str) -> str:
    """The characters of some Unicode categories below U+10000, where a class of `re` is a table and not a list."""
    found = (chr(code) for code in range(0x80, 0x10000) if unicodedata.category(chr(code)) in categories)
    return re.escape("".join(found))


# Words keep their combining marks; a symbol, an emoji or an operator is a word of its own, punctuation is none: "3 + 5"
# is not "3 - 5", nor C++ C#. A hyphen is an operator before a number and between spaces.
_WORD = re.compile(
    rf"[\w{_characters('Mn', 'Mc')}]+|[+*^=<>%&@~|#{_characters('Sm', 'Sc', 'Sk', 'So')}]|[\U0001f000-\U0001faff]"
    r"|-(?=\d)|(?<=\s)[-/](?=\s)"
)


def words(text: str) -> list[str]:
    """Lower-case words, numbers and symbols: punctuation and case do not hide a copy."""
    return _WORD.findall(text.lower().replace("_", " "))


def five_grams(text: str) -> set[tuple[str, ...]]:
    """Runs of five words."""
    tokens = words(text)
    return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}


def jaccard(a: set[str], b: set[str]) -> float:
    """|A and B| / |A or B| of two word sets; 0 for two empty ones."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared) if a or b else 0.0


class _NearSets:
    """Finds the word sets whose Jaccard similarity with another reaches a threshold, without comparing every pair.

    Two such sets share one of their rarest ``n - ceil(threshold n) + 1`` words, so only sets that share one of these
    are compared: the prefix filter of Bayardo, Ma and Srikant (2007), which misses nothing.
    """

    def __init__(self, sets: Sequence[set[str]], threshold: float) -> None:
        self.sets, self.threshold = sets, threshold
        self.counts = Counter(word for words in sets for word in words)
        self.holders: dict[str, list[int]] = {}
        for i, words in enumerate(sets):
            for word in self._rarest(words):
                self.holders.setdefault(word, []).append(i)

    def _rarest(self, words: set[str]) -> list[str]:
        at_least = ceil(self.threshold * len(words) - 1e-9)  # the product of two exact numbers may round up
        return sorted(words, key=lambda word: (self.counts[word], word))[: len(words) - at_least + 1]

    def near(self, words: set[str]) -> list[int]:
        """Places of the sets that reach the threshold with ``words``, in order."""
        candidates = {i for word in self._rarest(words) for i in self.holders.get(word, ())}
        return sorted(i for i in candidates if jaccard(words, self.sets[i]) >= self.threshold)


def exact_overlap(evaluation: Sequence[Row], training: Sequence[Row]) -> list[str]:
    """Evaluation prompts that training contains word for word."""
    seen = {_said(plain_text(row.prompt)) for row in training}
    return [text for row in evaluation if _said(text := plain_text(row.prompt)) in seen]


def _said(text: str) -> tuple[str, ...]:
    """The words of a text; of one without words, the text."""
    return tuple(words(text)) or (text.strip(),)


def leaks(evaluation: Sequence[Row], training: Sequence[Row]) -> list[SimilarPair]:
    """Evaluation prompts that are near-duplicates of a training prompt.

    The evaluation prompts are the index, and training texts pass by: memory grows with the former alone.
    """
    asked = [plain_text(row.prompt) for row in evaluation]
    vocabularies = [set(words(text)) for text in asked]
    index = _NearSets(vocabularies, LEAK_JACCARD)
    holders: dict[tuple[str, ...], list[int]] = {}
    for i, text in enumerate(asked):
        for gram in five_grams(text):
            holders.setdefault(gram, []).append(i)
    found: list[tuple[int, SimilarPair]] = []
    for text in sorted({plain_text(row.prompt) for row in training}):
        vocabulary = set(words(text))
        shared: dict[int, tuple[str, ...]] = {}
        for gram in sorted(five_grams(text) & holders.keys(), reverse=True):
            shared |= dict.fromkeys(holders[gram], gram)
        for i in sorted({*shared, *index.near(vocabulary)}):
            why = (
                f"shares five words in a row: {' '.join(shared[i])}"
                if i in shared
                else f"word Jaccard {jaccard(vocabulary, vocabularies[i]):.2f}"
            )
            found.append((i, SimilarPair(asked[i], text, why)))
    return [pair for _, pair in sorted(found, key=lambda item: item[0])]


def twins(texts: Iterable[str]) -> list[SimilarPair]:
    """Near-identical texts within one file (word Jaccard of at least 0.8)."""
    texts = list(texts)
    vocabularies = [set(words(text)) for text in texts]
    index = _NearSets(vocabularies, TWIN_JACCARD)
    return [
        SimilarPair(text, texts[j], f"word Jaccard {jaccard(vocabularies[i], vocabularies[j]):.2f}")
        for i, text in enumerate(texts)
        for j in index.near(vocabularies[i])
        if j < i
    ]


def check(
    demonstrations: Sequence[Demonstration],
    comparisons: Sequence[Comparison],
    prompts: Sequence[Prompt],
    evaluation: Sequence[Prompt],
    forms: Sequence[Prompt] = (),
    development: Sequence[Prompt] = (),
    *,
    refuses: Callable[[str, str], bool] | None = None,
    limit: LengthLimit | None = None,
) -> DataReport:
    """All checks of a data set; none needs a model.

    Args:
        refuses: whether a completion refuses a prompt; without it, nothing is said of refusals by form.
        limit: of the length of the rows to train on.
    """
    training: list[Row] = [*demonstrations, *comparisons, *prompts]
    files: dict[str, Sequence[Row]] = {
        "demonstrations": demonstrations,
        "comparisons": comparisons,
        "prompts": prompts,
        "evaluation": evaluation,
        "forms": forms,
        "development": development,
    }
    measured = [*evaluation, *forms, *development]
    grids = ("forms", "development")  # they hold a content in many forms on purpose
    return DataReport(
        counts={name: len(rows) for name, rows in files.items()},
        coverage=_coverage(files),
        leaks=leaks(measured, training),
        shared_topics=sorted({r.topic for r in measured if r.topic} & {r.topic for r in training if r.topic}),
        twins={n: twins(plain_text(row.prompt) for row in rows) for n, rows in files.items() if n not in grids},
        completion_words=_lengths([row.completion for row in demonstrations]),
        labelled=labelled(comparisons),
        languages=dict(Counter(t for rows in files.values() for r in rows for t in r.tags if t.startswith("lang:"))),
        forms=check_forms(demonstrations, refuses) if refuses else FormReport([], [], [], 0.0),
        too_long={n: sum(map(limit.exceeded, files[n])) for n in ("demonstrations", "comparisons")} if limit else {},
    )


def _coverage(files: dict[str, Sequence[Row]]) -> list[Coverage]:
    counted = {name: Counter(p for row in rows for p in row.principles) for name, rows in files.items()}
    tagged = Counter((p, tag) for rows in files.values() for row in rows for p in row.principles for tag in row.tags)
    principles = sorted({p for counter in counted.values() for p in counter})
    return [
        Coverage(
            principle=p,
            **{name: counted[name][p] for name in files},
            lookalikes=tagged[p, "lookalike"],
            harmful=tagged[p, "harmful"],
        )
        for p in principles
    ]


def labelled(comparisons: Iterable[Comparison]) -> dict[str, int]:
    """How many answers stand alone, by what is said of them: desirable, undesirable."""
    said = Counter("desirable" if row.desirable else "undesirable" for row in comparisons if row.desirable is not None)
    return dict(sorted(said.items()))


def labelled_line(counts: Mapping[str, int]) -> str:
    """What `labelled` counted, for people; nothing if no answer stands alone."""
    if not counts:
        return ""
    said = " and ".join(f"{counts.get(name, 0):,} {name}" for name in ("desirable", "undesirable"))
    return f"Comparisons with one answer, {said}: only `dpo: {{loss: kto}}` learns from them."


def _lengths(completions: Sequence[str]) -> dict[str, float]:
    lengths = sorted(len(words(text)) for text in completions)
    if not lengths:
        return {}
    return {
        "shortest": lengths[0],
        "median": median(lengths),
        "p90": lengths[int(0.9 * (len(lengths) - 1))],
        "longest": lengths[-1],
    }


# ── terminal output ──────────────────────────────────────────────────────────────────────────────────────────────────
def print_report(name: str, report: DataReport, limit: LengthLimit | None = None) -> None:
    """Print counts, lengths, forms, languages, near-duplicates and a one-line verdict to stdout."""
    console = Console(highlight=False, markup=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    console.print(_coverage_table(report))
    for line in _facts(report):
        console.print(line)
    if limit is not None:
        for what, count in report.too_long.items():
            console.print(limit.sentence(count, what))
    _print_pairs(console, "Leaks: an evaluation prompt and the training prompt that it is close to", report.leaks)
    _print_list(console, "Topics in training and in evaluation", [_line(topic) for topic in report.shared_topics])
    for file, pairs in report.twins.items():
        _print_pairs(console, f"Twins: two prompts of {file} that are almost the same", pairs)
    console.print(f"\n{_verdict(name, report)}")


def _coverage_table(report: DataReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False, collapse_padding=True)
    table.add_column("principle", footer="rows in the file", overflow="fold")
    for file, count in report.counts.items():
        table.add_column(NARROW.get(file, file), footer=str(count), justify="right")
    table.add_column("look-\nalikes", justify="right")
    table.add_column("harmful", justify="right")
    for principle, *counts in report.coverage:
        table.add_row(principle, *(str(count) if count else "-" for count in counts))
    return table


def _facts(report: DataReport) -> Iterable[str]:
    length = report.completion_words
    if length:
        yield (
            f"Completions: {length['shortest']:.0f} to {length['longest']:.0f} words, median {length['median']:.0f}, "
            f"nine in ten at most {length['p90']:.0f}."
        )
    if report.labelled:
        yield labelled_line(report.labelled)
    yield from _form_facts(report.forms)
    rows = [f"{tag.removeprefix('lang:')} {count}" for tag, count in sorted(report.languages.items())]
    yield f"Rows in other languages: {', '.join(rows) or 'none tagged'}."


def _form_facts(report: FormReport) -> Iterable[str]:
    """Whether the form of a request tells if its demonstration refuses."""

    def listed(rows: Sequence[Refusals]) -> str:
        return ", ".join(f"{row.name} {100 * row.refused.value:.0f} % of {row.refused.n}" for row in rows)

    if report.forms:
        yield f"Refused by form: {listed(report.forms)}."
    told = [row for row in (*report.forms, *report.first_words) if row.tells]
    if told:
        yield (
            f"Form tells a refusal: {listed(told)}, against {100 * report.share:.0f} % of all. A model can learn the "
            "form and not the rule; write both kinds in every form."
        )
    if report.missing:
        yield f"Forms that hardly occur among the demonstrations: {', '.join(report.missing)}."


def _print_pairs(console: Console, title: str, pairs: Sequence[SimilarPair]) -> None:
    _print_list(console, title, [f"{_line(a)}\n    {_line(b)}\n    ({_line(reason)})" for a, b, reason in pairs])


def _print_list(console: Console, title: str, items: Sequence[str]) -> None:
    if not items:
        return
    console.print(f"\n{title} ({len(items)})")
    for item in items[:SHOWN]:
        console.print(Styled(f"  - {item}"), no_wrap=True, overflow="ellipsis")
    if len(items) > SHOWN:
        console.print(f"  and {len(items) - SHOWN} more; --json lists them all")


def _line(text: str) -> str:
    """A prompt on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _verdict(name: str, report: DataReport) -> str:
    faults = [_count(len(report.leaks), "leak"), _count(len(report.shared_topics), "shared topic")]
    problems = " and ".join(fault for fault in faults if fault)
    twins = _count(sum(map(len, report.twins.values())), "pair") + " of twins"
    rows = _count(sum(report.counts.values()), "row") or "no rows"
    if problems:
        return f"{name}: {problems}. Fix them: the evaluation would measure memorisation."
    if not report.counts["evaluation"]:
        return f"{name}: {rows}, none of them for evaluation: nothing can be measured."
    if any(report.twins.values()):
        return f"{name}: {rows}, no leaks, but {twins}: the second of a pair adds nothing."
    return f"{name}: {rows}, no leaks, no shared topics, no twins."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}" if number else ""
