"""Comparisons under single principles, for a scorer that reads the principle's text, see `types.judged_by`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from steersman.errors import DataError, closest
from steersman.types import Comparison, Slug, judged_by


def of_principles(rows: Sequence[Comparison], principles: Sequence[Slug]) -> list[Comparison]:
    """The comparisons under these principles; a row that as a whole is about several of them counts once.

    Raises:
        DataError: no comparison is about one of them.
    """
    known = {principle for row in rows for principle in (*row.principles, *row.per_principle)}
    for principle in principles:
        if principle not in known:
            raise DataError(
                f"no comparison is about the principle {principle!r}",
                where="cost_model.principles",
                do=closest(principle, sorted(known)),
            )
    by_row = ([row.on(principle) for principle in principles] for row in rows)
    return [row for own in by_row for row in list(dict.fromkeys(filter(None, own)))]


def with_principles(
    rows: Sequence[Comparison], texts: Mapping[str, str], contrasts: float = 0.0, seed: int = 0
) -> list[Comparison]:
    """The rows, and for each principle that a row decides another row whose prompt holds the principle's text.

    Args:
        texts: by id of the principle; other principles are skipped.
        contrasts: mean number of contrast rows for each of those: with the text of a principle that the row does not
            decide, neither answer is better (a soft label of one half).
    """
    extended = list(rows)
    stream = random.Random(seed)
    for row in rows:
        own = [principle for principle in texts if row.on(principle)]
        others = [principle for principle in texts if principle not in own]
        for principle in own:
            ranking = row.on(principle)
            assert ranking is not None
            extended.append(ranking.model_copy(update={"prompt": judged_by(row.prompt, texts[principle])}))
            if others and len(row.options) == 2 and stream.random() < contrasts:
                other = stream.choice(others)
                extended.append(
                    Comparison(
                        prompt=judged_by(row.prompt, texts[other]),
                        options=row.options,
                        soft_label=0.5,
                        principles=(other,),
                        topic=row.topic,
                        source="contrast",
                    )
                )
    return extended
