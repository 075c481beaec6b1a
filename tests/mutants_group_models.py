"""Faults in models of groups of raters and of distributions of utility, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

GROUP_MODELS = (
    Mutant(
        "a rater without a group is given the last group's deviation",
        "train/group_reward.py",
        "own = (group[pairs.row] + 1)[:, None]",
        "own = group[pairs.row][:, None] % outputs.shape[1]",
        "unit/train/test_group_reward.py::test_a_group_is_scored_by_everyones_score_and_its_own_deviation",
    ),
    Mutant(
        "small groups are not shrunk",
        "train/group_reward.py",
        "shrinkage * weights[1:].square().sum()",
        "0.0 * weights[1:].square().sum()",
        "unit/train/test_group_reward.py::test_a_small_group_borrows_from_all_and_a_large_one_keeps_its_own",
    ),
    Mutant(
        "the M step forgets whose votes they are",
        "train/reward_mixture.py",
        "assigned[votes.rater], shares)  # [P, K]",
        "shares.expand(len(votes.rater), -1), shares)  # [P, K]",
        "unit/train/test_reward_mixture.py::test_two_opposed_groups_are_recovered_at_20_comparisons_a_rater",
    ),
    Mutant(
        "a comparison that a step has read does not move its rater",
        "train/reward_mixture.py",
        "self.observed[number] = torch.tensor(likelihoods)",
        "pass",
        "unit/train/test_reward_mixture.py::test_likelihoods_follow_the_training",
    ),
    Mutant(
        "equal atoms count as a win",
        "functional.py",
        "(q.cumsum(-1) - q / 2)",
        "q.cumsum(-1)",
        "unit/train/test_distributional_reward.py::test_categorical_is_the_sum_over_all_pairs_of_atoms",
    ),
    Mutant(
        "deviations are added instead of variances",
        "functional.py",
        "torch.rsqrt(variances.sum(1))",
        "1 / variances.sqrt().sum(1)",
        "unit/train/test_distributional_reward.py::test_mean_variance_is_phi",
    ),
)
