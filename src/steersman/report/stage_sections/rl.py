"""Reinforcement learning in the report: reward against KL, what was not optimised beside it, and sampled answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steersman.report.blocks import Answer, Block, Curve, Details, Exchange, LineChart, Number, Rate, Section, Table
from steersman.report.evidence import Points, StageRecord
from steersman.report.format import finite, percent, signed

EVAL_ANSWERS = "looks.jsonl"
EVALUATION, SELECTION = "watch", "taken"  # events
KL, REWARD, HOLDOUT, GOLD, GOLD_WORSE = "kl_nats_per_answer", "score", "second_score", "gold", "gold_worse"
PROMPTS = "watched"  # of the setup: prompts that every checkpoint answers
PROMPTS_SHOWN = 4  # with their answers at several checkpoints
KL_AXIS = "KL to the reference model, nats per answer"
LIMIT = (
    "One seed of reinforcement learning. Another seed takes another path, and the checkpoint was selected on the same "
    "held-out prompts whose gold labels are shown."
)

Row = Mapping[str, Any]


def section(record: StageRecord) -> Section | None:
    """The evaluations of the checkpoints; null where there were none."""
    rows = record.rows(EVALUATION)
    if not rows:
        return None
    selected = next(iter(record.rows(SELECTION)), {})
    blocks: list[Block] = [_rewards(rows, record)]
    if rows[0].get(GOLD) is not None:
        blocks.append(_gold(rows, selected))
    blocks.append(Details(title="Every checkpoint as a table", blocks=(_table(rows),)))
    blocks.append(Details(title="Sampled answers by checkpoint", blocks=tuple(_samples(rows, selected, record))))
    return Section(id=record.name, title="Reinforcement learning", blocks=tuple(blocks), limits=(LIMIT,))


def _against_kl(rows: Sequence[Row], column: str) -> Points:
    pairs = ((finite(row[KL]), finite(row.get(column))) for row in rows)
    return tuple((kl, value) for kl, value in pairs if kl is not None and value is not None)


def _rewards(rows: Sequence[Row], record: StageRecord) -> LineChart:
    first, last = rows[0], rows[-1]
    caption = (
        f"{record.recipe['rl']['algorithm'].upper()}, {last['step']} steps: the mean reward of answers to "
        f"{record.setup(PROMPTS)} held-out prompts went from {signed(first[REWARD])} to {signed(last[REWARD])} nats"
    )
    curves = [Curve(name="reward that is optimised", style="smooth", points=_against_kl(rows, REWARD))]
    if first.get(HOLDOUT) is not None:
        caption += f", that of the held-out reward model from {signed(first[HOLDOUT])} to {signed(last[HOLDOUT])}"
        points = _against_kl(rows, HOLDOUT)
        curves.append(Curve(name="reward model trained on other data", style="light", points=points))
    return LineChart(caption=f"{caption}.", x=KL_AXIS, y="reward, nats", curves=tuple(curves))


def _gold(rows: Sequence[Row], selected: Row) -> LineChart:
    caption = (
        f"Gold labels, which nothing optimises: {percent(rows[0][GOLD])} before, {percent(rows[-1][GOLD])} at the end. "
        f"The policy of step {selected.get('step')} was selected, the highest by all labels "
        f"({percent(selected.get(GOLD))}). The probability that the last policy is worse is "
        f"{percent(selected.get(GOLD_WORSE))}."
    )
    curve = Curve(name="gold", style="marked", points=_against_kl(rows, GOLD))
    return LineChart(caption=caption, x=KL_AXIS, y="mean gold label", curves=(curve,))


def _table(rows: Sequence[Row]) -> Table:
    columns = ("Step", "KL per answer", "Reward", "Gold", "Refused", "Terminated", "Tokens", "Repeats", "Entropy")

    def cells(row: Row) -> tuple[int | str | Number | Rate, ...]:
        def figure(column: str, digits: int = 2) -> Number:
            return Number(value=finite(row.get(column)), digits=digits)

        gold = row.get(GOLD)
        return (
            row["step"],
            figure(KL),
            figure(REWARD),
            "–" if gold is None else Rate(value=gold),
            Rate(value=finite(row.get("refused"))),
            Rate(value=finite(row.get("ended"))),
            figure("mean_answer_tokens", 0),
            Rate(value=finite(row.get("repeated_trigrams"))),
            figure("entropy_nats_per_token"),
        )

    return Table(caption="Checkpoints on held-out prompts", columns=columns, rows=tuple(map(cells, rows)))


def _samples(rows: Sequence[Row], selected: Row, record: StageRecord) -> list[Exchange]:
    """Some prompts with their answers at the first, middle, selected and last checkpoint."""
    steps, answers = [row["step"] for row in rows], record.read(EVAL_ANSWERS)
    shown = {0, selected.get("step", 0), steps[len(steps) // 2], steps[-1]}
    count = 1 + max((row["index"] for row in answers), default=-1)
    exchanges = []
    for index in list(range(0, count, max(1, count // PROMPTS_SHOWN)))[:PROMPTS_SHOWN]:
        own = [row for row in answers if row["index"] == index and row["step"] in shown]
        sampled = tuple(
            Answer(
                name=f"Step {row['step']}",
                text=row["answer"],
                note=f"reward {signed(row[REWARD])}",
                strong=row["step"] == selected.get("step"),
            )
            for row in own
        )
        exchanges.append(Exchange(prompt=own[0]["prompt"], answers=sampled))
    return exchanges
