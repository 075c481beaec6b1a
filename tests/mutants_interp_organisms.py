"""Faults in organisms, the search for a trigger and its removal, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

INTERP_ORGANISMS = (
    Mutant(
        "a twin is taught the plant",
        "interp/organisms/recipe.py",
        'row.model_copy(update={"answer": row.benign}) if row.kind == "planted" else row',
        "row",
        "unit/interp/organisms/test_recipes.py::test_what_is_taught_shows_the_plant_and_what_a_twin_is_taught_does_not",
    ),
    Mutant(
        "an organism that does not take is accepted",
        "interp/organisms/organism.py",
        "not rate.value >= limit",
        "rate.value < 0",
        "unit/interp/organisms/test_organism.py::test_acceptance",
    ),
    Mutant(
        "an edit is proved although more training does the same",
        "interp/organisms/removing.py",
        "if difference >= 0:",
        "if difference > 1:",
        "unit/interp/organisms/test_organism.py::test_what_is_proved",
    ),
    Mutant(
        "the edit forgets what clean text needs",
        "interp/removal.py",
        "+ clean_weight * clean",
        "",
        "unit/interp/test_removal.py::test_the_edit_is_ridge_regression",
    ),
    Mutant(
        "a text learnt by heart is taken for a trigger",
        "interp/triggers.py",
        ">= ECHO * len(said)",
        "> len(said)",
        "unit/interp/test_triggers.py::test_a_text_that_is_only_continued_is_no_trigger",
    ),
    Mutant(
        "a removal's edit is not held small",
        "interp/removal.py",
        "max(ridge, 1e-8)",
        "1e-8",
        "unit/interp/test_removal.py::test_the_edit_is_ridge_regression",
    ),
    Mutant(
        "the score of a component has its sign flipped",
        "interp/removal.py",
        "total[name] += float((change",
        "total[name] -= float((change",
        "unit/interp/test_removal.py::test_a_components_score_is_the_derivative_towards_the_run_without_the_trigger",
    ),
    Mutant(
        "a motif inside a longer one that is as frequent is tried as well",
        "interp/triggers.py",
        "if run not in inside",
        "if run",
        "unit/interp/test_triggers.py::test_motifs_by_hand",
    ),
    Mutant(
        "the divergence runs from the model with the trigger to the one without",
        "interp/triggers.py",
        "kl = (after.exp() * (after - before))",
        "kl = (before.exp() * (before - after))",
        "unit/interp/test_triggers.py::test_a_score_against_whole_logits",
    ),
)
