"""Tables for the terminal: one run's results, and what differs between two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from steersman.evals.conditions import ALIGNED, FEW_SHOT, RAW
from steersman.report.data import (
    Evidence,
    flatten,
    read_evidence,
    report_data,
)
from steersman.report.wording import (
    difference,
    number,
    percent,
    rate,
    ratio,
    short,
    visible,
)
from steersman.stats import independent_difference, mcnemar_exact, paired_difference, wilson
from steersman.store import Run, canonical

ABSENT = "-"


# ── one run ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def terminal_summary(run: Run) -> RenderableType:
    """The results of a run within 80 columns: principles, overall, cost.

    Raises:
        UserError: the run has not reached ``scores``.
    """
    data = report_data(run)
    rates = _grid("kept, per cent", "n", "raw", "few-shot", "aligned", "aligned - raw")
    for row in data["principles"]:
        _add_rate(rates, row["principle"], row)
    rates.add_section()
    for row in data["overall"]:
        lower = " (lower is better)" if row["label"] == "over-refusal" else ""
        _add_rate(rates, row["label"] + lower, row)
    knowledge, perplexity = data["cost"]["knowledge"], data["cost"]["perplexity"]
    lengths = data["cost"]["mean_answer_tokens"]
    cost = _grid("what it cost", "raw", "aligned", "change")
    knows = (
        percent(knowledge[RAW]["value"]),
        percent(knowledge[ALIGNED]["value"]),
        difference(knowledge["difference"]),
    )
    cost.add_row(f"general knowledge, n={knowledge[RAW]['n']}", *knows)
    cost.add_row(
        "perplexity, neutral text",
        *(number(perplexity[k], 2) for k in (RAW, ALIGNED)),
        f"x {ratio(perplexity['ratio'])}",
    )
    cost.add_row("mean answer, tokens", number(lengths[RAW]), number(lengths[ALIGNED]), "")
    return Group(rates, "", cost, "", "Brackets are 95 % intervals; differences are in percentage points, paired.")


def _grid(first: str, *others: str, width: int = 27) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column(first, overflow="fold", max_width=width)
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _add_rate(table: Table, label: str, row: Mapping[str, Any]) -> None:
    rates = row["rates"]
    baselines = (percent(rates[name]["value"]) for name in (RAW, FEW_SHOT))
    table.add_row(
        escape(visible(label)),
        str(row["n"]),
        *baselines,
        escape(rate(rates[ALIGNED])),
        escape(difference(row[f"versus_{RAW}"])),
    )


# ── two runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def differences(a: Run, b: Run) -> dict[str, Any]:
    """What differs between two finished runs: settings, inputs and packages first, then the aligned models' results.

    ``results`` compares the aligned models, b minus a: paired (Newcombe, exact McNemar) where both answered the same
    prompts, otherwise from the two Wilson intervals, with ``paired`` false.

    Raises:
        UserError: one of the runs has not reached ``scores``.
    """
    first, second = read_evidence(a), read_evidence(b)
    return {
        "a": str(a.path),
        "b": str(b.path),
        "settings": _changes(flatten(first.recipe), flatten(second.recipe)),
        "inputs": _changes(_inputs(first), _inputs(second)),
        "versions": _changes(_versions(first), _versions(second)),
        "results": _results(first.rows, second.rows),
        "cost": _costs(first.summary, second.summary),
    }


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": k, "a": a.get(k), "b": b.get(k)} for k in {**a, **b} if a.get(k) != b.get(k)]


def _inputs(found: Evidence) -> dict[str, Any]:
    """Digests of everything that entered a stage, and the stages' own versions."""
    entered: dict[str, Any] = {
        "model": short(found.about["model"]["digest"]),
        "constitution": f"{found.constitution['name']} {found.constitution['version']}",
    }
    for stage, manifest in found.manifests.items():
        entered[f"{stage} (version of the code)"] = manifest["version"]
        entered |= {f"{stage} <- {name}": short(digest) for name, digest in manifest["inputs"].items()}
    return entered


def _versions(found: Evidence) -> dict[str, Any]:
    about = found.about
    own = {"steersman": about.get("steersman"), "revision": about.get("git")}
    return {**own, **about.get("packages", {}), **about.get("machine", {})}


def _results(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rates of the aligned models, all prompts first, then by principle in the order of the first run."""
    judged_a, judged_b = _judged(a), _judged(b)
    principles = dict.fromkeys(row["principles"][0] for row in [*judged_a, *judged_b] if row["principles"])
    compared = [_compare("principle kept", judged_a, judged_b)]
    for principle in principles:
        about = [[row for row in rows if row["principles"][:1] == [principle]] for rows in (judged_a, judged_b)]
        compared.append(_compare(principle, *about))
    return compared


def _judged(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["condition"] == ALIGNED and row["kept"] is not None]


def _compare(label: str, a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    # Same prompt and same expectations: the order of the file does not matter, what was asked does.
    by_question = [
        {canonical([row["prompt"], sorted(row["behaviours"])]): row["kept"] for row in rows} for rows in (a, b)
    ]
    in_a, in_b = by_question
    unique = len(in_a) == len(a) and len(in_b) == len(b)
    paired = bool(a) and unique and in_a.keys() == in_b.keys()
    rates = [wilson(sum(row["kept"] for row in rows), len(rows)) for rows in (a, b)]
    result: dict[str, Any] = {"label": label, "a": rates[0].json(), "b": rates[1].json(), "paired": paired}
    if paired:
        before, after = list(in_a.values()), [in_b[question] for question in in_a]
        result["difference"] = paired_difference(before, after).json()
        result["p_exact"] = mcnemar_exact(before, after)
    else:
        result["difference"] = independent_difference(*rates).json()
        result["p_exact"] = None
    return result


def _costs(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Knowledge (fraction), perplexity and answer length (tokens) of the raw and aligned models of both runs."""
    return [
        {
            "label": "general knowledge, fraction right",
            **{
                run: {k: s["capability"]["knowledge"][k]["value"] for k in (RAW, ALIGNED)}
                for run, s in (("a", a), ("b", b))
            },
        },
        {
            "label": "perplexity on neutral text",
            **{run: {k: s["capability"]["perplexity"][k] for k in (RAW, ALIGNED)} for run, s in (("a", a), ("b", b))},
        },
        {
            "label": "mean answer, tokens",
            **{run: {k: s["mean_answer_tokens"][k] for k in (RAW, ALIGNED)} for run, s in (("a", a), ("b", b))},
        },
    ]


def diff_table(found: Mapping[str, Any]) -> RenderableType:
    """`differences` as tables for the terminal."""
    parts: list[RenderableType] = [escape(f"A  {found['a']}"), escape(f"B  {found['b']}"), ""]
    for title, name in (("settings", "settings"), ("inputs", "inputs"), ("versions and machine", "versions")):
        if not found[name]:
            parts.append(f"{title}: no difference")
            continue
        table = _grid(title, "A", "B", width=40)
        for change in found[name]:
            table.add_row(escape(change["name"]), *(_setting(change[run]) for run in ("a", "b")))
        parts += [table, ""]
    results = _grid("aligned: kept", "n", "A", "B", "B - A", "p")
    for row in found["results"]:
        p = ("unpaired" if row["difference"]["n"] else "") if row["p_exact"] is None else f"{row['p_exact']:.3f}"
        cells = (str(row["b"]["n"]), rate(row["a"]), rate(row["b"]), difference(row["difference"]), p)
        results.add_row(escape(row["label"]), *(escape(cell) for cell in cells))
    cost = _grid("what it cost: raw -> aligned", "A", "B", width=40)
    for row in found["cost"]:
        cost.add_row(row["label"], *(" -> ".join(number(row[run][k], 3) for k in (RAW, ALIGNED)) for run in ("a", "b")))
    parts += ["", results, "", cost]
    if any(not row["paired"] for row in found["results"]):
        parts.append("unpaired: the two runs were not asked the same prompts there, so the interval is wider.")
    return Group(*parts)


def _setting(value: Any) -> str:
    return ABSENT if value is None else escape(visible(str(value)))
