"""Faults of opinion groups, votes on statements and drafts, see mutants.py."""

from __future__ import annotations

from mutants_core import Mutant

VALUES_STATEMENTS = (
    Mutant(
        "a large group alone carries a statement",
        "values/opinion_groups.py",
        "np.asarray(self.p_agree.prod(axis=0))",
        "np.asarray(self.p_agree.max(axis=0))",
        "unit/values/test_opinion_groups.py::test_tallies_by_hand",
    ),
    Mutant(
        "people with few votes stand in the middle",
        "values/opinion_groups.py",
        "return np.asarray(scale[:, None] * (",
        "return np.asarray(1.0 * (",
        "unit/values/test_opinion_groups.py::test_few_votes_are_drawn_out_from_the_centre",
    ),
    Mutant(
        "a pass counts as nothing seen",
        "values/opinion_groups.py",
        "counted([~np.isnan(one) for one in own])",
        "counted([np.abs(one) == 1 for one in own])",
        "unit/values/test_opinion_groups.py::test_tallies_by_hand",
    ),
    Mutant(
        "votes of one group are enough",
        "values/agreed.py",
        "if seen[group] < fewest:",
        "if seen.max() < fewest:",
        "unit/values/test_agreed.py::test_every_group_carries_what_is_taken",
    ),
    Mutant(
        "reversed signs are read as they are",
        "data/polis.py",
        "if swapped > right:",
        "if swapped > right + len(lines):",
        "unit/data/test_polis.py::test_what_is_wrong_is_named_with_its_place",
    ),
    Mutant(
        "a statement is shown before the moderator has read it",
        "rating/statement_store.py",
        '_add(c, digest, text, rater, "waiting")',
        '_add(c, digest, text, rater, "accepted")',
        "unit/rating/test_statements.py::test_nobody_sees_a_statement_before_the_moderator_accepts_it",
    ),
    Mutant(
        "the statements of who withdrew stay",
        "rating/statement_store.py",
        "return or_(statements.c.author_id.is_(None), statements.c.author_id.not_in(gone))",
        "return or_(statements.c.author_id.is_(None), statements.c.author_id.is_not(None))",
        "unit/rating/test_statements.py::test_who_withdraws_leaves_no_votes_and_no_statements",
    ),
    Mutant(
        "nobody is warned of what a group rejects",
        "constitution/lint.py",
        "elif against.low > 0.5:",
        "elif against.low > 0.99:",
        "unit/constitution/test_draft.py::test_the_check_warns_of_what_a_group_rejects",
    ),
)
