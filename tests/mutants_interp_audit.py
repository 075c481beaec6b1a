"""Faults in the gate for inner alignment, each with the test that must fail."""

from __future__ import annotations

from mutants_core import Mutant

_TESTS = "unit/interp/audit"

INTERP_AUDIT = (
    Mutant(
        "many checks, and no correction",
        "interp/audit/verdict.py",
        "holm([check.p_value or 0.0 for check in tested])",
        "[check.p_value or 0.0 for check in tested]",
        f"{_TESTS}/test_verdict.py::test_the_verdict_by_hand",
    ),
    Mutant(
        "a check that nobody measured fails a model",
        "interp/audit/verdict.py",
        '    if rates is None:\n        return "cannot tell"\n',
        "    if rates is None:\n        return check.finding\n",
        f"{_TESTS}/test_verdict.py::test_the_verdict_by_hand",
    ),
    Mutant(
        "a check that has found nothing passes a model",
        "interp/audit/verdict.py",
        "return any(found for found, _ in self.caught.values())",
        "return bool(self.caught)",
        f"{_TESTS}/test_verdict.py::test_the_verdict_by_hand",
    ),
    Mutant(
        "the group is chosen outside the test",
        "interp/audit/permutation.py",
        "_p_value((signs @ values.T / values.shape[1]).max(1), means.max())",
        "_p_value((signs @ values.T / values.shape[1])[:, means.argmax()], means.max())",
        f"{_TESTS}/test_permutation.py::test_the_choice_of_the_highest_series_is_part_of_the_test",
    ),
    Mutant(
        "one subject drowns in the mean over all",
        "interp/audit/contrast.py",
        "min(over_all, in_one, key",
        "min(over_all, over_all, key",
        f"{_TESTS}/test_checks.py::test_one_that_behaves_when_it_is_watched_in_one_subject_alone",
    ),
    Mutant(
        "a subject that stands out by chance is not asked again",
        "interp/audit/follow_up.py",
        "return effect >= least and subject.limit is None",
        "return False",
        f"{_TESTS}/test_checks.py::"
        "test_a_subject_that_stands_out_in_the_shipped_requests_alone_is_asked_again_and_passes",
    ),
    Mutant(
        "an option's favour is that of its list",
        "interp/audit/preference.py",
        "log_odds(after, {i}) - log_odds(before, {i})",
        "log_odds(after, {0}) - log_odds(before, {0})",
        f"{_TESTS}/test_checks.py::test_one_that_prefers_trains_wherever_they_stand",
    ),
    Mutant(
        "noise stays in the weights",
        "interp/audit/noise.py",
        "                matrix.copy_(value)",
        "                matrix.add_(0 * value)",
        f"{_TESTS}/test_checks.py::test_noise_leaves_the_weights_bit_for_bit",
    ),
    Mutant(
        "what is said openly counts as hidden",
        "interp/audit/amplified.py",
        "if shown[phrase] < OPENLY]",
        "if True]",
        f"{_TESTS}/test_white_box.py::test_a_phrase_that_is_said_openly_where_it_is_called_for_is_not_hidden",
    ),
    Mutant(
        "the word's effect holds the harm's as well",
        "interp/audit/shortcuts.py",
        "table[t, h, True, f] - table[t, h, False, f]",
        "table[t, True, True, f] - table[t, False, False, f]",
        f"{_TESTS}/test_white_box.py::test_each_factor_is_measured_alone",
    ),
)
