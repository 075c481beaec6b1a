"""One run's results, and what differs between two runs, as blocks for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from steersman.evals.conditions import ALIGNED, FEW_SHOT, RAW, baselines, conditions_of, subject
from steersman.report import terminal, verdict
from steersman.report.blocks import Block, Cell, Difference, Number, Rate, Table, paragraph
from steersman.report.evidence import Evidence, flatten, overview_data, read_evidence
from steersman.report.format import FEW, number, phrase, short
from steersman.report.overview import OVER_REFUSAL, pooled_name
from steersman.stats import independent_difference, mcnemar_exact, p_of_interval, paired_difference, wilson
from steersman.store import Run, canonical

ABSENT = "-"
SHORT = {RAW: "raw", FEW_SHOT: "few-shot", ALIGNED: "aligned"}


# ── one run ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def terminal_summary(run: Run) -> RenderableType:
    """The results of a run within 80 columns: the verdict, principles, overall, alignment tax.

    Raises:
        UserError: the run has not reached ``scores``.
    """
    return summary_of(overview_data(read_evidence(run)))


def summary_of(data: Mapping[str, Any]) -> RenderableType:
    """The same of a run's report.json."""
    blocks: list[Block] = [*verdict.sentences_of(verdict.verdict_of(data))]
    if data["overall"]:
        rates = [_rates(row["principle"], row) for row in data["principles"] if row["n"] >= FEW]
        if pooled := data.get("pooled"):
            rates.append(_rates(pooled_name(pooled), pooled))
        overall = tuple(_rates(_overall(row["label"]), row) for row in data["overall"] if row["n"])
        given = data["overall"][0]["rates"]
        names = [SHORT[name] for name in (*baselines(given), subject(given))]
        versus = [f"{names[-1]} - {SHORT[base]}" for base in _versus(data["overall"][0])]
        columns = ("rate, per cent", "n", *names, *versus)
        blocks.append(Table(caption="", columns=columns, rows=(*rates, (), *overall)))
    blocks += _tax(data["cost"])
    if data.get("left_out"):
        blocks.append(paragraph(" ".join(data["left_out"])))
    if data["overall"]:
        paired = "; differences are in percentage points, paired" if len(data["overall"][0]["rates"]) > 1 else ""
        blocks.append(paragraph(f"Brackets are 95 % intervals{paired}."))
    return terminal.render(blocks)


def _tax(measured: Mapping[str, Any]) -> list[Block]:
    """The alignment tax as a table; of one model, what it knows; nothing where nothing was measured."""
    lengths, knowledge = measured["mean_answer_tokens"], measured.get("knowledge", {})
    names = [name for name in (RAW, ALIGNED) if name in {**knowledge, **lengths}]
    rows: list[tuple[Cell, ...]] = []
    if knowledge:
        perplexity = measured["perplexity"]
        items = knowledge[names[0]]["n"]
        rates = (Rate(value=knowledge[name]["value"]) for name in names)
        change = [Difference.of(knowledge["difference"])] if len(names) > 1 else []
        rows.append((f"general knowledge, n={items}", *rates, *change))
        nats = (Number(value=perplexity[name], digits=2) for name in names)
        ratio = [Number.of(perplexity["ratio"], digits=3, factor=True)] if len(names) > 1 else []
        rows.append(("perplexity, neutral text", *nats, *ratio))
    if lengths:
        means = (Number(value=lengths.get(name)) for name in names)
        rows.append(("mean answer, tokens", *means, *([None] if len(names) > 1 else [])))
    title = "alignment tax" if len(names) > 1 else "measured"
    columns = (title, *(SHORT[name] for name in names), *(["change"] if len(names) > 1 else []))
    return [Table(caption="", columns=columns, rows=tuple(rows))] if rows else []


def _overall(label: str) -> str:
    return phrase(label) + (" (lower is better)" if label == OVER_REFUSAL else "")


def _rates(label: str, row: Mapping[str, Any]) -> tuple[Cell, ...]:
    own = subject(row["rates"])
    others = (Rate(value=row["rates"][name]["value"], n=row["n"]) for name in row["rates"] if name != own)
    versus = (Difference.of(row[f"versus_{base}"]) if row["n"] >= FEW else None for base in _versus(row))
    return label, row["n"], *others, Rate.of(row["rates"][own]), *versus


def _versus(row: Mapping[str, Any]) -> list[str]:
    """The baseline that the table shows the difference from: the raw model, else its few-shot answers, if any."""
    return baselines(row["rates"])[:1]


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
        "results": _judged_results(_results(first.rows, second.rows)),
        "cost": _costs(first.summary, second.summary),
    }


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": k, "a": a.get(k), "b": b.get(k)} for k in {**a, **b} if a.get(k) != b.get(k)]


def _inputs(evidence: Evidence) -> dict[str, Any]:
    """Digests of everything that entered a stage, and the stages' own versions."""
    entered: dict[str, Any] = {
        "model": short(evidence.about["model"]["digest"]),
        "constitution": f"{evidence.constitution['name']} {evidence.constitution['version']}",
    }
    for stage, manifest in evidence.manifests.items():
        entered[f"{stage} (version of the code)"] = manifest["version"]
        entered |= {f"{stage} <- {name}": short(digest) for name, digest in manifest["inputs"].items()}
    return entered


def _versions(evidence: Evidence) -> dict[str, Any]:
    about = evidence.about
    own = {"steersman": about.get("steersman"), "revision": about.get("git")}
    return {**own, **about.get("packages", {}), **about.get("machine", {})}


def _results(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rates of the aligned models, all prompts first, then by principle in the order of the first run."""
    judged_a, judged_b = _judged(a), _judged(b)
    principles = dict.fromkeys(row["principles"][0] for row in [*judged_a, *judged_b] if row["principles"])
    compared = [_compare("pass rate", judged_a, judged_b)]
    for principle in principles:
        about = [[row for row in rows if row["principles"][:1] == [principle]] for rows in (judged_a, judged_b)]
        compared.append(_compare(principle, *about))
    return compared


def _judged_results(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with its outcome: of all prompts alone, of the principles corrected over these (see `verdict`)."""
    for family in (results[:1], results[1:]):
        known = [row for row in family if row["difference"]["n"]]
        measures = []
        for row in known:
            change = {key: row["difference"][key] for key in ("value", "low", "high")}
            p = p_of_interval(*change.values()) if row["p_exact"] is None else row["p_exact"]
            about = {"label": row["label"], "n": row["difference"]["n"], "higher_is_better": True}
            measures.append({**about, "change": change, "p": p})
        verdict.judge(measures)
        for row, measure in zip(known, measures, strict=True):
            row["outcome"] = measure["outcome"]
    return results


def _in_short(results: Sequence[Mapping[str, Any]]) -> list[Block]:
    """One sentence on all prompts and one on the principles; nothing where nothing can be compared."""
    (overall, *principles) = results
    if "outcome" not in overall:
        return []
    said = f"B against A, aligned models, all prompts: {verdict.SAID[overall['outcome']]}."
    rows = [row for row in principles if "outcome" in row]
    return [paragraph(" ".join([said, *([verdict.counted(verdict.grouped(rows), {})] if rows else [])]))]


def _judged(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    model = subject(conditions_of(rows))
    return [row for row in rows if row["condition"] == model and row["kept"] is not None]


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
    """Knowledge (fraction), perplexity and answer length (tokens) of both runs' models; None: not measured."""

    def measured(label: str, value: Callable[[Mapping[str, Any], str], Any]) -> dict[str, Any]:
        return {"label": label, **{run: {k: value(s, k) for k in (RAW, ALIGNED)} for run, s in (("a", a), ("b", b))}}

    return [
        measured(
            "general knowledge, fraction right",
            lambda s, k: s["capability"].get("knowledge", {}).get(k, {}).get("value"),
        ),
        measured("perplexity on neutral text", lambda s, k: s["capability"].get("perplexity", {}).get(k)),
        measured("mean answer, tokens", lambda s, k: s["mean_answer_tokens"].get(k)),
    ]


def diff_table(found: Mapping[str, Any]) -> RenderableType:
    """`differences` as tables for the terminal."""
    blocks: list[Block] = [paragraph(f"A  {found['a']}\nB  {found['b']}")]
    for title, name in (("settings", "settings"), ("inputs", "inputs"), ("versions and machine", "versions")):
        if not found[name]:
            blocks.append(paragraph(f"{title}: no difference"))
            continue
        changes = tuple((change["name"], *(_setting(change[run]) for run in ("a", "b"))) for change in found[name])
        blocks.append(Table(caption="", columns=(title, "A", "B"), rows=changes))
    blocks += _in_short(found["results"])
    results = tuple(map(_result, found["results"]))
    blocks.append(Table(caption="", columns=("aligned: pass rate", "n", "A", "B", "B - A", "p"), rows=results))
    cost = tuple(
        (row["label"], *(" -> ".join(number(row[run][k], 3) for k in (RAW, ALIGNED)) for run in ("a", "b")))
        for row in found["cost"]
    )
    blocks.append(Table(caption="", columns=("alignment tax: raw -> aligned", "A", "B"), rows=cost))
    if any(not row["paired"] for row in found["results"]):
        blocks.append(paragraph("unpaired: the two runs answered other prompts there, so the interval is wider."))
    return terminal.render(blocks)


def _result(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    p = ("unpaired" if row["difference"]["n"] else "") if row["p_exact"] is None else f"{row['p_exact']:.3f}"
    rates = (Rate.of(row["a"]), Rate.of(row["b"]))
    change = Difference.of(row["difference"]) if row["difference"]["n"] >= FEW else None  # of fewer, counts are shown
    return row["label"], row["b"]["n"], *rates, change, p


def _setting(value: Any) -> str:
    return ABSENT if value is None else str(value)
