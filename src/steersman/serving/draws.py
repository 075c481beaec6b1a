"""One token for each of some rows that have settings of their own: rows of equal settings are drawn together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from steersman.lm.compact_vocabulary import CompactVocabulary
from steersman.lm.no_repeat import repeating
from steersman.lm.sampling import draw, uniforms
from steersman.serving.sequences import Continuation

Alternatives = tuple[tuple[int, float], ...]


def draw_each(
    rows: Sequence[Continuation], logits: Tensor, vocabulary: CompactVocabulary | None
) -> list[tuple[int, float, Alternatives]]:
    """A token for each row, its log-prob by the model itself (temperature 1, nothing changed), and the likeliest ones.

    A row's token does not depend on the other rows.

    Args:
        logits: [B, V] fp32; used as working memory.
        vocabulary: the rows of the head, if these are not all tokens.
    """
    likeliest = _likeliest(rows, logits, vocabulary)
    changes = [_changes(row, vocabulary) for row in rows]
    groups: dict[tuple[float, int, float, bool], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        config = row.job.sampling
        # The random number alone decides between rows of one temperature; greedy rows need none.
        cut = (config.top_k, config.top_p) if config.temperature else (0, 1.0)
        groups[config.temperature, *cut, bool(changes[i])].append(i)
    tokens = torch.empty(len(rows), dtype=torch.long, device=logits.device)
    logprobs = torch.empty(len(rows), device=logits.device)
    for (*_, changed), members in groups.items():
        own = logits if len(members) == len(rows) else logits[members]
        config = rows[members[0]].job.sampling
        uniform = uniforms([rows[i] for i in members], config, logits.device)
        if changed:
            weighed = own.clone()
            for at, i in enumerate(members):
                columns, values = zip(*changes[i].items(), strict=True)
                weighed[at, list(columns)] += torch.tensor(values, device=logits.device)
            drawn, _ = draw(weighed, config, uniform)
            found = own.gather(1, drawn[:, None])[:, 0] - own.logsumexp(-1)
        else:
            drawn, found = draw(own, config, uniform)
        tokens[members], logprobs[members] = drawn, found
    ids = tokens if vocabulary is None else vocabulary.exact[tokens]
    return list(zip(ids.tolist(), logprobs.tolist(), likeliest, strict=True))


def _likeliest(
    rows: Sequence[Continuation], logits: Tensor, vocabulary: CompactVocabulary | None
) -> list[Alternatives]:
    """The likeliest tokens of the rows that report them, with their log-probs."""
    found: list[Alternatives] = [()] * len(rows)
    for i, row in enumerate(rows):
        if row.job.top_logprobs:
            values, columns = (logits[i] - logits[i].logsumexp(-1)).topk(min(row.job.top_logprobs, logits.shape[1]))
            ids = columns if vocabulary is None else vocabulary.exact[columns]
            found[i] = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return found


def _changes(row: Continuation, vocabulary: CompactVocabulary | None) -> dict[int, float]:
    """What is added to the row's logits, by column: biases, penalties, and minus infinity for what would repeat."""
    job, changes = row.job, dict(row.job.logit_bias)
    if job.frequency_penalty or job.presence_penalty:
        for token, count in row.counts.items():
            penalty = job.frequency_penalty * count + job.presence_penalty
            changes[token] = changes.get(token, 0.0) - penalty
    if vocabulary is not None:
        places = {token: int(vocabulary.position[token]) for token in changes}
        changes = {places[token]: value for token, value in changes.items() if places[token] >= 0}
    for _, column in repeating([row.tokens], job.sampling.no_repeat_ngram, vocabulary):
        changes[column] = -torch.inf
    return changes
