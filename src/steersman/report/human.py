"""Human raters in the report: blind tests of two models, side by side on the evaluation prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steersman.report import pieces
from steersman.report.wording import html, number, phrase

Data = Mapping[str, Any]


def blind_tests(data: Data) -> str:
    """Who won, how sure that is, and the votes still needed; nothing for a run that nobody has rated."""
    if not data["duels"]:
        return ""
    rows = [_row(duel) for duel in data["duels"] if duel["current"] and duel["win_rate"]]
    heads = ("Models", "First one wins", "Wins, ties, losses", "Prompts", "Raters", "Better", "Votes still needed")
    table = pieces.table("Blind tests", heads, rows, "plain small") if rows else ""
    said = (
        "<p>Raters saw two answers to an evaluation prompt, sides drawn by lot, and not which model wrote which. A tie "
        "is half a win; prompts with equal answers were not asked. Intervals respect that votes about one prompt, and "
        "of one rater, resemble each other.</p>"
    )
    notes = "".join(f'<p class="note">{_left_out(duel)}</p>' for duel in data["duels"] if _left_out(duel))
    return f"<h3>What people preferred</h3>{said}{table}{notes}"


def _names(duel: Data) -> str:
    return " against ".join(html(phrase(name)) for name in duel["models"])


def _row(duel: Data) -> str:
    needed = duel["votes_needed"]
    decide = "" if needed["to_decide"] is None else f"{number(needed['to_decide'], 0)} to decide, "
    cells = [
        pieces.value(duel["win_rate"], "strong"),
        f"{duel['wins']}, {duel['ties']}, {duel['losses']}",
        number(duel["prompts"], 0),
        number(duel["raters"], 0),
        html(phrase(duel["decided"])) if duel["decided"] else "not decided",
        f"{decide}{number(needed['for_margin'], 0)} for \u00b1{100 * needed['margin']:.0f} points",
    ]
    return pieces.row(_names(duel), cells)


def _left_out(duel: Data) -> str:
    if not duel["current"]:
        return f"{_names(duel)}: a blind test of answers that this run no longer holds is left out."
    if not duel["win_rate"]:
        return f"{_names(duel)}: no vote orders their answers yet."
    both_bad = duel["both_bad"]
    return f"{_names(duel)}: of both answers, {both_bad} votes said that neither is acceptable." if both_bad else ""
