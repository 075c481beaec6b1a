"""Faults in the page of one prompt and in what it reads, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

INTERP_PAGE = (
    Mutant(
        "the scale of a direction begins at harmful requests",
        "interp/reading_of_prompt.py",
        "(projections.double().cpu() - self.harmless[layer]) / spans[layer]",
        "(projections.double().cpu() - self.harmful[layer]) / spans[layer]",
        "unit/interp/test_reading_of_prompt.py::test_harmless_requests_are_at_0_and_harmful_ones_at_1",
    ),
    Mutant(
        "the model is not asked without the direction",
        "interp/reading_of_prompt.py",
        "        with axis.removing(main.model):\n            without",
        "        if True:\n            without",
        "unit/interp/test_reading_of_prompt.py::test_only_the_last_model_is_asked_without_the_direction",
    ),
    Mutant(
        "a token is markup",
        "report/pictures.py",
        "        escaped(text)\n        .replace",
        "        text\n        .replace",
        "unit/report/test_inside.py::test_hostile_text_is_text",
    ),
    Mutant(
        "bars of two models have each a scale of its own",
        "report/pictures.py",
        "most = max(block.longest, own) or 1.0",
        "most = own or 1.0",
        "unit/report/test_inside.py::test_shades_and_bars_are_in_proportion",
    ),
)
