"""What comparisons say by one principle: rows for a judge that reads the principle's text, see `types.judged_by`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from steersman.errors import DataError, closest
from steersman.types import Comparison, Slug, judged_by


def of_principles(rows: Sequence[Comparison], principles: Sequence[Slug]) -> list[Comparison]:
    """What the comparisons say by these principles; a row that as a whole is about several of them counts once.

    Raises:
        DataError: nothing is said by one of them.
    """
    known = {principle for row in rows for principle in (*row.principles, *row.per_principle)}
    for principle in principles:
        if principle not in known:
            raise DataError(
                f"no comparison is about the principle {principle!r}",
                where="cost_model.principles",
                do=closest(principle, sorted(known)),
            )
    said = ([row.on(principle) for principle in principles] for row in rows)
    return [row for found in said for row in list(dict.fromkeys(filter(None, found)))]


def with_principles(
    rows: Sequence[Comparison], texts: Mapping[str, str], contrasts: float = 0.0, seed: int = 0
) -> list[Comparison]:
    """The rows, and for everything that they say by one principle a row more, whose prompt holds the principle's text.

    Args:
        texts: by the principles' ids; of others nothing is made.
        contrasts: for each of those so many, on average, with the text of a principle that the row is not about and
            says nothing of: there, neither answer is better.
    """
    found = list(rows)
    stream = random.Random(seed)
    for row in rows:
        own = [principle for principle in texts if row.on(principle)]
        others = [principle for principle in texts if principle not in own]
        for principle in own:
            ranking = row.on(principle)
            assert ranking is not None
            found.append(ranking.model_copy(update={"prompt": judged_by(row.prompt, texts[principle])}))
            if others and len(row.options) == 2 and stream.random() < contrasts:
                other = stream.choice(others)
                found.append(
                    Comparison(
                        prompt=judged_by(row.prompt, texts[other]),
                        options=row.options,
                        soft_label=0.5,
                        principles=(other,),
                        topic=row.topic,
                        source="contrast",
                    )
                )
    return found
