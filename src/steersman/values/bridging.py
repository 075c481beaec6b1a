"""Bridging: what people of different views find good alike. The model of Community Notes, in one dimension.

    r_un ~ mu + i_u + i_n + f_u f_n

The factors f take up agreement along one line of opinion; what is left for the intercept i_n is approval that does not
depend on it. The intercept is the score. Intercepts are regularised five times as strongly as factors, so that a
statement gets one only if it is needed on both sides. Wojcik et al. 2022 (arXiv:2210.15723); the published guide to the
ranking of notes, and the released code (github.com/twitter/communitynotes).

**The objective is the code's, not the formula's.** The guide writes a sum over ratings of the squared error plus
penalties. The code averages the squared errors over ratings, and each penalty over its parameters:

    mean_r (r - r^)^2 + 0.15 (mu^2 + mean_u i_u^2 + mean_n i_n^2) + 0.03 (mean_u f_u^2 + mean_n f_n^2)

Averaged like this, the penalty on an intercept is worth 0.15 of an average statement's ratings: a statement with an
average number of ratings keeps 1 / 1.15 of what stands out about it, one with few is pulled towards 0. Were it counted
once a parameter beside a sum, ten ratings would set an intercept almost free. The thresholds of the statuses (0.40;
-0.05 - 0.8 |f|; |f| < 0.5) belong to the code's scale.

What differs: L-BFGS to the optimum instead of Adam with an early stop; the best of several starts instead of a new
start where the loss is above 0.09; and who has too few ratings is taken out until all that are left have enough, where
the code looks once. Left out: pseudo-raters (intervals of intercepts), raters' helpfulness and its filter of ratings,
tags, inertia, and the models of regions and topics. So a status is what the core rule says, not what X would show.

Axioms: none of the ordinal ones. Not monotone: another person's praise can move the factors. Not invariant to
rescaling: ratings are on [0, 1]. Pooled approval that comes from one side alone is discounted, by design; so is a
statement on which there is only one view in the data. If people do not differ along one line it is a shrunken mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import minimize

from steersman.errors import DataError, RunError
from steersman.types import Record
from steersman.values.aggregate import Array, Choice, Ints, Ratings, by_score

HELPFUL, NOT_HELPFUL, SLOPE, POLARISED = 0.40, -0.05, 0.8, 0.5  # thresholds of the statuses
SHORT, LONG = 25, 1000  # steps of a start, and of the best one


class BridgingConfig(Record):
    """Settings of the model."""

    intercept_penalty: float = Field(default=0.15, gt=0, description="On squared intercepts.")
    factor_penalty: float = Field(default=0.03, gt=0, description="On squared factors.")
    fewest_of_rater: int = Field(default=10, ge=1, description="A rater with fewer ratings is left out.")
    fewest_of_statement: int = Field(default=5, ge=1, description="A statement with fewer ratings has no score.")
    starts: int = Field(default=4, ge=1, description="Random starts; the one with the least loss is kept.")
    seed: int = Field(default=0, description="Of the starts.")


class Bridging(NamedTuple):
    """A fitted model of U people and N statements; NaN for those that were left out.

    ``choice`` has the intercepts as scores, and minus infinity for statements with too few ratings. The factors' sign
    is such that most people's are not positive, as in the code.
    """

    choice: Choice
    mean: float
    intercepts: Array
    factors: Array
    person_intercepts: Array
    person_factors: Array
    loss: float
    squared_error: float
    people_left_out: int
    statements_left_out: int

    def statuses(self) -> list[str]:
        """``helpful``, ``not helpful`` or ``needs more ratings``, by the published thresholds."""
        found = []
        for intercept, factor in zip(self.intercepts, np.abs(self.factors), strict=True):
            helpful = intercept >= HELPFUL and factor < POLARISED
            poor = intercept <= NOT_HELPFUL - SLOPE * factor
            found.append("helpful" if helpful else "not helpful" if poor else "needs more ratings")
        return found


class _Table(NamedTuple):
    """The ratings that count: indices of people and statements, and the values, [N] each."""

    person: Ints
    statement: Ints
    value: Array
    people: int
    statements: int

    def unpack(self, flat: Array) -> tuple[float, Array, Array, Array, Array]:
        """The mean, people's intercepts, statements' intercepts, people's factors, statements' factors."""
        u, n = self.people, self.statements
        parts = np.split(flat[1:], [u, u + n, u + n + u])
        return float(flat[0]), parts[0], parts[1], parts[2], parts[3]


def objective(flat: Array, table: _Table, config: BridgingConfig) -> tuple[float, Array]:
    """The loss above, and its gradient; ``flat`` as `_Table.unpack` takes it apart."""
    mean, person, statement, person_factor, statement_factor = table.unpack(flat)
    u, n = table.person, table.statement
    error = mean + person[u] + statement[n] + person_factor[u] * statement_factor[n] - table.value
    a, b = config.intercept_penalty, config.factor_penalty
    loss = float(error @ error) / len(error) + a * mean * mean
    loss += a * float(person @ person / len(person) + statement @ statement / len(statement))
    loss += b * float(
        person_factor @ person_factor / len(person) + statement_factor @ statement_factor / len(statement)
    )
    pull = 2 * error / len(error)
    slopes = [
        np.array([pull.sum() + 2 * a * mean]),
        np.bincount(u, pull, table.people) + 2 * a * person / len(person),
        np.bincount(n, pull, table.statements) + 2 * a * statement / len(statement),
        np.bincount(u, pull * statement_factor[n], table.people) + 2 * b * person_factor / len(person),
        np.bincount(n, pull * person_factor[u], table.statements) + 2 * b * statement_factor / len(statement),
    ]
    return loss, np.concatenate(slopes)


def bridging(ratings: Ratings, config: BridgingConfig | None = None) -> Bridging:
    """Fit the model to ratings in [0, 1] (helpful 1, somewhat 1/2, not 0), NaN for none. People's weights do not count.

    Votes of 1, 0 and -1 are ratings after ``(v + 1) / 2``.

    Raises:
        DataError: a rating lies outside [0, 1], or nothing is left after the filters.
    """
    config = config or BridgingConfig()
    said = ~np.isnan(ratings.values)
    if not ((ratings.values[said] >= 0) & (ratings.values[said] <= 1)).all():
        raise DataError("a rating lies outside [0, 1]", do="map votes of -1, 0 and 1 to 0, 1/2 and 1")
    people, statements = _enough(said, config)
    kept = ratings.values[np.ix_(people, statements)]
    person, statement = np.nonzero(~np.isnan(kept))
    if not len(person):
        raise DataError(
            f"no person with {config.fewest_of_rater} ratings of statements that have {config.fewest_of_statement}",
            do="collect more ratings, or lower fewest_of_rater and fewest_of_statement",
        )
    table = _Table(person, statement, kept[person, statement], len(people), len(statements))
    flat, loss = _best_of_starts(table, config)
    mean, *parts = table.unpack(flat)
    sign = -1.0 if (parts[2] > 0).mean() > 0.5 else 1.0
    error = mean + parts[0][person] + parts[1][statement] + parts[2][person] * parts[3][statement] - table.value

    def spread(values: Array, where: Ints, size: int) -> Array:
        full = np.full(size, np.nan)
        full[where] = values
        return full

    count, many = len(ratings.alternatives), len(ratings.values)
    intercepts = spread(parts[1], statements, count)
    return Bridging(
        by_score("bridging", ratings.alternatives, np.where(np.isnan(intercepts), -np.inf, intercepts)),
        mean,
        intercepts,
        spread(sign * parts[3], statements, count),
        spread(parts[0], people, many),
        spread(sign * parts[2], people, many),
        loss,
        float(error @ error) / len(error),
        many - len(people),
        count - len(statements),
    )


def _enough(said: NDArray[np.bool_], config: BridgingConfig) -> tuple[Ints, Ints]:
    """The people and the statements that have enough ratings by and of each other."""
    people, statements = (np.ones(size, dtype=bool) for size in said.shape)
    while True:
        counted = said & people[:, None] & statements
        fewer_statements = statements & (counted.sum(0) >= config.fewest_of_statement)
        fewer_people = people & (counted[:, fewer_statements].sum(1) >= config.fewest_of_rater)
        if fewer_people.sum() == people.sum() and fewer_statements.sum() == statements.sum():
            return np.flatnonzero(people), np.flatnonzero(statements)
        people, statements = fewer_people, fewer_statements


def _best_of_starts(table: _Table, config: BridgingConfig) -> tuple[Array, float]:
    """The parameters with the least loss: short runs, the best of which goes on.

    Factors of 0 are a saddle, so each start draws them at random.
    """
    generator = np.random.default_rng(config.seed)
    intercepts, factors = 1 + table.people + table.statements, table.people + table.statements
    runs = []
    for _ in range(config.starts):
        start = np.concatenate([np.zeros(intercepts), generator.normal(0, 0.3, factors)])
        runs.append(_descend(start, table, config, SHORT))
    flat, loss = _descend(min(runs, key=lambda run: run[1])[0], table, config, LONG)
    if not np.isfinite(loss):
        raise RunError("the bridging model did not converge")
    return flat, loss


def _descend(start: Array, table: _Table, config: BridgingConfig, steps: int) -> tuple[Array, float]:
    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 1e-11, "gtol": 1e-9}
    fit = minimize(objective, start, (table, config), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(fit.x), float(fit.fun)
