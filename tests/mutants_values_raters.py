"""Faults in what raters gain by lying, in detectors of collusion, in drift and in influence, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

_VALUES = "unit/values"

VALUES_RATERS = (
    Mutant(
        "the gain of misreporting is measured by what was reported",
        "values/strategy.py",
        "float(own @ change), float(others @ change)",
        "float(reports[inside].mean(0) @ change), float(others @ change)",
        f"{_VALUES}/test_strategy.py::test_burying_under_borda_by_hand",
    ),
    Mutant(
        "the blind misreport is measured on the populations that chose it",
        "values/strategy.py",
        "rest = [row[chosen] for row in table[half:]]",
        "rest = [row[chosen] for row in table[:half]]",
        f"{_VALUES}/test_strategy.py::test_informed_is_the_best_in_each_population_and_blind_is_chosen_on_the_first_half",
    ),
    Mutant(
        "the search for votes ends at the last power of two",
        "values/collusion.py",
        "while enough - too_few > 1:",
        "while enough - too_few > enough:",
        f"{_VALUES}/test_collusion.py::test_plurality_takes_one_vote_more_than_the_winner_has",
    ),
    Mutant(
        "a pair's own votes explain its agreement",
        "values/brigading.py",
        "won = np.where(both, wins - own[r] - rest, 0.0)",
        "won = np.where(both, wins - own[r], 0.0)",
        f"{_VALUES}/test_brigading.py::test_agreement_beyond_quality_by_brute_force",
    ),
    Mutant(
        "who agrees as like minds do is suspected",
        "values/brigading.py",
        "if max(p_quality, p_minds) <= level",
        "if p_quality <= level",
        f"{_VALUES}/test_brigading.py::test_those_who_follow_a_list_are_found_and_a_minority_of_one_mind_is_left_in_peace",
    ),
    Mutant(
        "drift is tested for each rater alone",
        "values/drift.py",
        "largest = np.max(drawn, axis=0)",
        "largest = np.min(drawn, axis=0)",
        f"{_VALUES}/test_drift.py::test_without_drift_few_rounds_have_an_alarm",
    ),
    Mutant(
        "a rater's own vote is part of the margin that it is held against",
        "values/drift.py",
        "n - mine.count(sign) for",
        "n for",
        f"{_VALUES}/test_drift.py::test_margins_are_the_other_raters_and_positions_the_raters_own",
    ),
    Mutant(
        "the influence of a pair has the sign of its gradient's opposite",
        "values/influence.py",
        "pairs.weight * (chance - pairs.label)",
        "pairs.weight * (pairs.label - chance)",
        f"{_VALUES}/test_influence.py::test_influence_is_leave_one_out",
    ),
    Mutant(
        "a removed set keeps its curvature",
        "values/influence.py",
        "left = head.hessian - (own.difference",
        "left = head.hessian - 0 * (own.difference",
        f"{_VALUES}/test_influence.py::test_one_pair_removed_is_newtons_step",
    ),
)
