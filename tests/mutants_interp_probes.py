"""Faults in probes, their evidence, and the monitor that ships with the weights, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

INTERP_PROBES = (
    Mutant(
        "a score at the threshold counts as above it",
        "interp/probe_evidence.py",
        "(scores[labels] > threshold_at(",
        "(scores[labels] >= threshold_at(",
        "unit/interp/test_probe_evidence.py::test_true_positives_at_one_percent_by_hand",
    ),
    Mutant(
        "the bootstrap draws rows instead of groups",
        "interp/probe_evidence.py",
        "members.setdefault(group, []).append(place)",
        "members.setdefault(place, []).append(place)",
        "unit/interp/test_probe_evidence.py::test_intervals_draw_whole_groups_and_never_collapse",
    ),
    Mutant(
        "pairs are torn apart when labels are shuffled",
        "interp/probe_evidence.py",
        "        if group not in single and generator.random() < 0.5:\n            for row in rows:",
        "        if group not in single and generator.random() < 0.5:\n            for row in rows[:1]:",
        "unit/interp/test_probe_evidence.py::test_shuffling_keeps_pairs_together_and_the_number_of_positives_of_the_others",
    ),
    Mutant(
        "a report is given although a part is missing",
        "interp/probe_evidence.py",
        "if getattr(self, name) is None]",
        "if getattr(self, name) is None and name != 'style_shift']",
        "unit/interp/test_probe_evidence.py::test_a_missing_part_is_an_error_that_names_it",
    ),
    Mutant(
        "a group may be on both sides if its texts differ",
        "interp/probes.py",
        'for what in ("group", "ids"):',
        'for what in ("ids",):',
        "unit/interp/test_probes.py::test_a_group_on_both_sides_is_an_error",
    ),
    Mutant(
        "the mean over a response has its last tokens in it",
        "interp/probes.py",
        "end = max(start + 1, end - LAST_DROPPED)",
        "end = max(start + 1, end)",
        "unit/interp/test_probes.py::test_tokens_are_pooled_as_the_probe_says",
    ),
    Mutant(
        "the site is chosen by the worst separation",
        "interp/probes.py",
        "key=lambda site: (quality[site], -sites.index(site))",
        "key=lambda site: (-quality[site], -sites.index(site))",
        "unit/interp/test_probes.py::test_the_site_is_chosen_on_its_own_rows",
    ),
    Mutant(
        "a monitor serves other weights",
        "interp/alignment_monitor.py",
        'if (found := weights_digest(model)) != entry.get("weights"):',
        'if (found := weights_digest(model)) == "":',
        "unit/interp/test_monitor.py::test_other_weights_have_no_monitor",
    ),
    Mutant(
        "a score that is no number passes the gate",
        "interp/alignment_monitor.py",
        "return ~(scores <= self.threshold).all(-1)",
        "return (scores > self.threshold).any(-1)",
        "unit/interp/test_monitor.py::test_a_score_that_is_no_number_is_flagged",
    ),
    Mutant(
        "a changed monitor is taken for the saved one",
        "interp/alignment_monitor.py",
        'if hashlib.sha256(path.read_bytes()).hexdigest() != entry.get("sha256"):',
        'if "sha256" not in entry:',
        "unit/interp/test_monitor.py::test_what_is_wrong_with_a_monitor_closes_the_model",
    ),
)
