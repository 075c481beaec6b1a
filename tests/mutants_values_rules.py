"""Faults in the rules of social choice, in bridging and in hidden groups, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

VALUES_RULES = (
    Mutant(
        "a person who votes three times counts three times",
        "values/aggregate.py",
        "once = weight / times[place]",
        "once = weight + 0 * times[place]",
        "unit/values/test_aggregate.py::test_a_person_has_one_vote_a_pair",
    ),
    Mutant(
        "a path is as strong as its strongest link",
        "values/elections.py",
        "np.minimum(strongest[:, [through]], strongest[[through], :])",
        "np.maximum(strongest[:, [through]], strongest[[through], :])",
        "unit/values/test_elections.py::test_schulze_compares_the_strongest_of_all_paths",
    ),
    Mutant(
        "Kemeny forgets the disagreement of a set with the rest",
        "values/elections.py",
        "against[before, j] + across + best[rest]",
        "against[before, j] + 0 * across + best[rest]",
        "unit/values/test_elections.py::test_kemeny_is_the_best_of_all_rankings",
    ),
    Mutant(
        "any maximal lottery will do",
        "values/elections.py",
        "np.append(np.zeros(count), -1.0),",
        "np.append(np.arange(count), -1e-9),",
        "unit/values/test_elections.py::test_of_many_maximal_lotteries_it_is_the_one_without_a_favourite",
    ),
    Mutant(
        "max-min compares groups on their own scales",
        "values/welfare.py",
        "values = standardised(utilities.values) if standardise else utilities.values\n    worst_first",
        "values = utilities.values\n    worst_first",
        "unit/values/test_welfare.py::test_max_min_and_the_mean_are_invariant_to_scales_only_after_standardisation",
    ),
    Mutant(
        "the slope of people's intercepts lacks the mean",
        "values/bridging.py",
        "2 * a * person / len(person)",
        "2 * a * person",
        "unit/values/test_bridging.py::test_the_gradient_is_that_of_finite_differences",
    ),
    Mutant(
        "a pass was not seen",
        "values/consensus.py",
        "(2 + (~np.isnan(mine)).sum(0))",
        "(2 + (abs(mine) == 1).sum(0))",
        "unit/values/test_consensus.py::test_by_hand",
    ),
    Mutant(
        "the shares of hidden groups are left out",
        "values/mixture.py",
        "joint[:, k] = np.log(shares[k]) + ",
        "joint[:, k] = 0 * np.log(shares[k]) + ",
        "unit/values/test_mixture.py::test_responsibilities_and_likelihood_by_the_plain_sum",
    ),
)
