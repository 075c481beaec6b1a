"""Faults in the attacks of the red team, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

_TESTS = "unit/redteam/attacks"

ATTACKS = (
    Mutant(
        "a declined turn stays in the conversation of crescendo",
        "redteam/attacks/multi_turn.py",
        "            if not outcomes[0].stopped:",
        "            if True:",
        f"{_TESTS}/test_families.py::test_crescendo_builds_on_what_the_target_said_and_steps_back",
    ),
    Mutant(
        "an attack over several turns goes on after its success",
        "redteam/attacks/multi_turn.py",
        "            if outcomes[0].success:",
        "            if False:",
        f"{_TESTS}/test_all_attacks.py::test_an_adaptive_attack_stops_when_it_succeeded",
    ),
    Mutant(
        "the template for an encoded request holds the plain one",
        "redteam/attacks/encodings.py",
        r"message first.\n\n{code.encode(goal.text, tools.draw)}",
        r"message first.\n\n{goal.text}",
        f"{_TESTS}/test_encodings.py::test_what_is_encoded_is_not_plain_and_the_guard_reads_it",
    ),
    Mutant(
        "a short secret is found inside other words",
        "redteam/attacks/prompt_extraction.py",
        "    if len(core) <= _SHORT:",
        "    if False:",
        f"{_TESTS}/test_prompt_extraction.py::test_a_short_secret_has_to_be_a_word_of_its_own",
    ),
    Mutant(
        "the longest common subsequence forgets the order",
        "redteam/attacks/prompt_extraction.py",
        "        row = ((row + matched) | (row - matched)) & every",
        "        row = row & ~matched & every",
        f"{_TESTS}/test_prompt_extraction.py::test_recall_is_that_of_rouge_score",
    ),
    Mutant(
        "goals without a secret are asked for one",
        "redteam/attacks/prompt_extraction.py",
        "        if goal.secret:",
        "        if True:",
        f"{_TESTS}/test_prompt_extraction.py::test_without_a_secret_nothing_is_asked",
    ),
    Mutant(
        "a template that was there before is dropped without a word",
        "redteam/attacks/templates.py",
        "            if why or usable in texts:",
        "            if why:",
        f"{_TESTS}/test_templates.py::test_what_cannot_be_used_is_counted_and_named",
    ),
    Mutant(
        "the user's templates go over the budget",
        "redteam/attacks/wrappers.py",
        "min(tools.budget, len(own))",
        "len(own)",
        f"{_TESTS}/test_templates.py::test_the_users_templates_are_asked_within_the_budget_in_a_drawn_order",
    ),
    Mutant(
        "the names of families are not known",
        "redteam/attacks/__init__.py",
        "attack.name in wanted or attack.family in wanted",
        "attack.name in wanted",
        f"{_TESTS}/test_all_attacks.py::test_attacks_are_found_by_name_and_by_family",
    ),
)
