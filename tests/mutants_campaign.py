"""Faults in campaigns of attacks and their figures, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

_RUN = "unit/redteam/test_campaign.py"
_FIGURES = "unit/redteam/test_figures.py"

CAMPAIGN = (
    Mutant(
        "a killed campaign cuts its batches anew",
        "redteam/journal.py",
        "            if query.reply is None and key not in self._counted:",
        '            if query.reply is None and self.journal.get("answer", key) is None:',
        f"{_RUN}::test_batches_are_cut_as_in_a_campaign_that_nobody_killed",
    ),
    Mutant(
        "the budget is only told to a search",
        "redteam/campaign.py",
        "        return list(asks)[: self.budget - self.asked]",
        "        return list(asks)",
        f"{_RUN}::test_the_budget_cuts_a_search_off",
    ),
    Mutant(
        "work is shared by attacks that have seen different things",
        "redteam/campaign.py",
        "        self.sent = key_of(self.sent, value)",
        "        self.sent = key_of(self.sent)",
        f"{_RUN}::test_work_is_shared_by_arms_that_have_seen_the_same",
    ),
    Mutant(
        "an attack goes on without the reply that never came",
        "redteam/campaign.py",
        "            run.close()\n        return outcomes",
        "            pass\n        return outcomes",
        f"{_RUN}::test_a_reply_that_never_comes_is_neither_a_success_nor_a_failure",
    ),
    Mutant(
        "attacks that do not extract are tried on secrets",
        "redteam/plan.py",
        "if (attack.family == EXTRACTION) == bool(goal.secret)",
        "if (attack.family == EXTRACTION) <= bool(goal.secret)",
        f"{_RUN}::test_secrets_are_for_attacks_that_extract_and_need_no_judge",
    ),
    Mutant(
        "an attempt without a reply counts as a failure of the attack",
        "redteam/figures.py",
        "        return self.success or not self.failed",
        "        return True",
        f"{_FIGURES}::test_an_attempt_succeeds_with_one_of_its_asks",
    ),
    Mutant(
        "draws of a round have places",
        "redteam/figures.py",
        "            return pass_at(len(own), sum(own), min(k - start, len(own)))",
        "            return float(any(own[: k - start]))",
        f"{_FIGURES}::test_rounds_give_the_mean_over_orders_within_them",
    ),
    Mutant(
        "the corrected rate is the raw one",
        "redteam/figures.py",
        "**corrected(successes, topics, card, family, asks=asks).json(), ",
        "",
        f"{_FIGURES}::test_corrected_rates_stand_beside_what_the_judge_saw",
    ),
    Mutant(
        "an answer that the guard stops is no longer stopped",
        "redteam/target.py",
        'stopped="output" if after.stopped else "")',
        'stopped="")',
        f"{_RUN}::test_who_stopped_what",
    ),
)
