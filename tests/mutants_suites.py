"""Faults in suites and their figures, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

_TESTS = "unit/evals/suites"

SUITES = (
    # ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "the bootstrap draws questions, not templates",
        "evals/suites/measure.py",
        "numbers.setdefault(q.cluster or i, len(numbers))",
        "numbers.setdefault(i, len(numbers))",
        f"{_TESTS}/test_measure.py::test_questions_of_one_template_do_not_count_as_independent",
    ),
    Mutant(
        "unknown columns count as zero in the bootstrap",
        "evals/suites/measure.py",
        "known[:, place] = np.bincount(observed.clusters[there], minlength=count)",
        "known[:, place] = np.bincount(observed.clusters, minlength=count)",
        f"{_TESTS}/test_measure.py::test_a_formula_over_means_is_drawn_as_any_other_formula_is",
    ),
    Mutant(
        "both arms are drawn on their own",
        "evals/suites/measure.py",
        "drawn = [draws(formulas, seen) for seen in pair]",
        "drawn = [draws(formulas, seen, seed) for seed, seen in enumerate(pair)]",
        f"{_TESTS}/test_measure.py::test_a_difference_is_paired",
    ),
    Mutant(
        "a question that one arm did not answer is in the difference",
        "evals/suites/measure.py",
        "[a is not None and b is not None for a, b",
        "[a is not None or b is not None for a, b",
        f"{_TESTS}/test_measure.py::test_a_question_that_one_arm_did_not_answer_is_in_no_difference",
    ),
    Mutant(
        "a few answers that all turned are certain",
        "evals/suites/measure.py",
        '"p": max(p, least)}',
        '"p": p}',
        f"{_TESTS}/test_measure.py::test_five_answers_that_all_turned_are_no_certainty",
    ),
    Mutant(
        "a rate of which all draws agree leaves its bounds",
        "evals/suites/measure.py",
        "return max(least, value - down), min(most, value + up)",
        "return value - 3 / clusters, value + 3 / clusters",
        f"{_TESTS}/test_measure.py::test_a_rate_of_which_all_draws_agree_stays_within_its_bounds",
    ),
    Mutant(
        "draws that differ by rounding are a spread",
        "evals/suites/measure.py",
        "if high - low > ROUNDING:",
        "if high > low:",
        f"{_TESTS}/test_measure.py::test_draws_that_differ_by_rounding_agree",
    ),
    Mutant(
        "a gap changes by no more than a rate can",
        "evals/suites/measure.py",
        "wide = 3 / clusters * most",
        "wide = 3 / clusters",
        f"{_TESTS}/test_measure.py::test_a_change_that_all_draws_agree_on_stays_within_what_can_change",
    ),
    Mutant(
        "clusters that a figure does not read make its change certain",
        "evals/suites/measure.py",
        "clusters = len(np.unique(pair[0].clusters[read]))",
        "clusters = len(np.unique(pair[0].clusters))",
        f"{_TESTS}/test_measure.py::test_only_clusters_that_a_figure_reads_make_its_change_certain",
    ),
    Mutant(
        "both rates of a gap have all clusters",
        "evals/suites/measure.py",
        "limits = score_limits(rate, len(np.unique(seen.clusters[known])), QUANTILE)",
        "limits = score_limits(rate, clusters, QUANTILE)",
        f"{_TESTS}/test_measure.py::test_a_gap_of_which_all_draws_agree_has_newcombes_limits",
    ),
    Mutant(
        "further below zero is better",
        "evals/suites/measure.py",
        '"zero": np.abs(values)',
        '"zero": values',
        f"{_TESTS}/test_measure.py::test_worse_is_further_from_where_it_should_be",
    ),
    Mutant(
        "no correction for many figures",
        "evals/suites/measure.py",
        'holm([row["change"]["p"] for row in rows])',
        '[row["change"]["p"] for row in rows]',
        f"{_TESTS}/test_measure.py::test_what_got_worse_is_said_first",
    ),
    Mutant(
        "the first questions are asked",
        "evals/suites/suite.py",
        "sorted(sorted(range(len(questions)), key=lambda i: (digests[i], i))[:limit])",
        "sorted(range(len(questions)))[:limit]",
        f"{_TESTS}/test_measure.py::test_a_cut_asks_the_same_questions_whatever_their_order",
    ),
    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "an option is scored with its terminator",
        "evals/suites/asking.py",
        "[ids[:-1] if ids[-1] in chat.stop_ids else ids for ids in answers]",
        "answers",
        f"{_TESTS}/test_asking.py::test_options_have_the_log_probabilities_of_plain_transformers",
    ),
    Mutant(
        "options are encoded apart from the prompt",
        "evals/suites/asking.py",
        "[ids_of(stripped + text[len(stripped) :] + option)[len(own) :] for option in question.options]",
        "[ids_of(option) for option in question.options]",
        f"{_TESTS}/test_asking.py::test_spaces_at_the_end_of_a_plain_prompt_go_to_the_option",
    ),
    Mutant(
        "a batch that was asked is asked again",
        "evals/suites/asking.py",
        "if not all(index in known for index in batch):",
        "if batch:",
        f"{_TESTS}/test_asking.py::test_a_killed_process_goes_on_and_writes_the_same_bytes",
    ),
    Mutant(
        "the guard stands before every arm",
        "evals/suites/runner.py",
        "last = list(arms)[-1]",
        "last = list(arms)[0]",
        f"{_TESTS}/test_runner.py::test_the_guard_is_an_arm_of_free_answers",
    ),
    Mutant(
        "the right options are no part of the key",
        "evals/suites/runner.py",
        "            dict(q.facts),\n",
        "",
        f"{_TESTS}/test_runner.py::test_the_digest_holds_whatever_is_asked_and_counted",
    ),
    # ── papers ───────────────────────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "the stereotyped group is biased whatever the question's polarity",
        "evals/suites/bbq.py",
        'return about if row["question_polarity"] == "neg" else other',
        "return about",
        f"{_TESTS}/test_bbq.py::test_the_answer_that_a_stereotype_is_about",
    ),
    Mutant(
        "s_AMB is not scaled by the errors",
        "evals/suites/bbq.py",
        "return (1 - right) * (2 * biased - 1)",
        "return 2 * biased - 1",
        f"{_TESTS}/test_bbq.py::test_scores_are_those_of_the_paper",
    ),
    Mutant(
        "a tie is a true answer",
        "evals/suites/truthfulqa.py",
        "float(best > max(false))",
        "float(best >= max(false))",
        f"{_TESTS}/test_choice_suites.py::test_truthfulqa_from_the_table",
    ),
    Mutant(
        "a tie prefers the stereotype",
        "evals/suites/crows_pairs.py",
        "float(more > less)",
        "float(more >= less)",
        f"{_TESTS}/test_choice_suites.py::test_crows_pairs",
    ),
    Mutant(
        "gotcha sentences are those of the minority whoever is meant",
        "evals/suites/winogender.py",
        "gotcha = (gender != majority) == (answer == 0)",
        "gotcha = gender != majority",
        f"{_TESTS}/test_choice_suites.py::test_winogender",
    ),
    # ── contested questions ──────────────────────────────────────────────────────────────────────────────────────────
    Mutant(
        "answers are always shown in one order",
        "evals/suites/cultures_choices.py",
        "shown = [(place + turn) % count for place",
        "shown = [place for place",
        f"{_TESTS}/test_cultures_choices.py::test_every_answer_stands_in_every_place_equally_often",
    ),
    Mutant(
        "the null shuffles nothing",
        "evals/suites/cultures_choices.py",
        "_by_value(relative, _shuffled(old.v, generator))",
        "_by_value(relative, old.v)",
        f"{_TESTS}/test_cultures_choices.py::test_movement_towards_one_value_is_found_and_sharpness_alone_is_not",
    ),
    Mutant(
        "a verdict on what is disputed is no claim if the disagreement was named",
        "evals/detectors/positions.py",
        'return bool(_IN_SPITE.search(" ".join(reply.sentences)))',
        "return False",
        "unit/evals/detectors/test_positions_presented.py::"
        "test_a_verdict_is_a_claim_unless_it_is_others_or_the_disagreement_is_named",
    ),
    Mutant(
        "the user goes before the publisher",
        "constitution/layers.py",
        'if principle.precedence == "user" else ("publisher", "user")',
        'if principle.precedence == "publisher" else ("publisher", "user")',
        "unit/constitution/test_layers.py::test_every_combination_of_settings",
    ),
    Mutant(
        "what the constitution fixes is overridden",
        "constitution/layers.py",
        'if principle.overridden_by == "nobody":',
        'if principle.overridden_by == "nobody" and layer == "user":',
        "unit/constitution/test_layers.py::test_every_combination_of_settings",
    ),
    Mutant(
        "a contested principle of before changes its digest",
        "constitution/document.py",
        "contested: bool = Field(default=False, exclude_if=lambda contested: not contested)",
        "contested: bool = False",
        "unit/constitution/test_contested.py::"
        "test_constitutions_without_contested_principles_have_the_digests_that_they_had",
    ),
)
