"""What `steersman data check` prints: the report of `check` as tables for people, or as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from steersman.data.check import DataReport, Pair

WIDTH = 100
SHOWN = 10


def as_json(report: DataReport) -> str:
    """The whole report, every pair included."""
    value = report._asdict()
    value["coverage"] = [row._asdict() for row in report.coverage]
    value["leaks"] = [pair._asdict() for pair in report.leaks]
    value["twins"] = {file: [pair._asdict() for pair in pairs] for file, pairs in report.twins.items()}
    return json.dumps(value, indent=2, ensure_ascii=False)


def print_report(name: str, report: DataReport) -> None:
    """Print counts, lengths and languages, what is too alike, and one line of verdict to stdout."""
    console = Console(highlight=False, markup=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    console.print(_coverage_table(report))
    for line in _facts(report):
        console.print(line)
    _print_pairs(console, "Leaks: an evaluation prompt and the training prompt that it is close to", report.leaks)
    _print_list(console, "Topics in training and in evaluation", [_line(topic) for topic in report.shared_topics])
    for file, pairs in report.twins.items():
        _print_pairs(console, f"Twins: two prompts of {file} that are almost the same", pairs)
    console.print(f"\n{_verdict(name, report)}")


def _coverage_table(report: DataReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False, collapse_padding=True)
    table.add_column("principle", footer="rows in the file", overflow="fold")
    for file, count in report.counts.items():
        table.add_column(file, footer=str(count), justify="right")
    table.add_column("look-alikes", justify="right")
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
    rows = [f"{tag.removeprefix('lang:')} {count}" for tag, count in sorted(report.languages.items())]
    yield f"Rows in other languages: {', '.join(rows) or 'none tagged'}."


def _print_pairs(console: Console, title: str, pairs: Sequence[Pair]) -> None:
    _print_list(console, title, [f"{_line(a)}\n    {_line(b)}\n    ({_line(reason)})" for a, b, reason in pairs])


def _print_list(console: Console, title: str, items: Sequence[str]) -> None:
    if not items:
        return
    console.print(f"\n{title} ({len(items)})")
    for item in items[:SHOWN]:
        console.print(Text(f"  - {item}"), no_wrap=True, overflow="ellipsis")
    if len(items) > SHOWN:
        console.print(f"  and {len(items) - SHOWN} more; --json lists them all")


def _line(text: str) -> str:
    """A prompt on one line, without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _verdict(name: str, report: DataReport) -> str:
    faults = [_count(len(report.leaks), "leak"), _count(len(report.shared_topics), "shared topic")]
    found = " and ".join(fault for fault in faults if fault)
    twins = _count(sum(map(len, report.twins.values())), "pair") + " of twins"
    rows = _count(sum(report.counts.values()), "row") or "no rows"
    if found:
        return f"{name}: {found}. Mend them: the evaluation would measure memory."
    if not report.counts["evaluation"]:
        return f"{name}: {rows}, none of them for evaluation: nothing can be measured."
    if any(report.twins.values()):
        return f"{name}: {rows}, no leaks, but {twins}: a second one teaches and measures nothing new."
    return f"{name}: {rows}, no leaks, no shared topics, no twins."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}" if number else ""
