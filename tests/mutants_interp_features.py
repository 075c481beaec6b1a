"""Faults in sparse autoencoders and in the differences between models, for `mutants.py`."""

from __future__ import annotations

from mutants_core import Mutant

_TESTS = "unit/interp"

INTERP_FEATURES = (
    Mutant(
        "AuxK's error is not held fixed",
        "interp/sae_training.py",
        "(error.detach() - made)",
        "(error - made)",
        f"{_TESTS}/test_sae_training.py::test_losses_and_gradients_are_those_of_a_naive_reference",
    ),
    Mutant(
        "the bias is not unscaled when weights are folded back",
        "interp/sae_training.py",
        "encoder_bias / scale, decoder_bias / scale",
        "encoder_bias / scale, decoder_bias",
        f"{_TESTS}/test_sae_training.py::test_a_planted_dictionary_is_found_again",
    ),
    Mutant(
        "a steered feature's site loses what the reconstruction misses",
        "interp/sae.py",
        "        if error:\n",
        "        if error and change is None:\n",
        f"{_TESTS}/test_sae.py::test_features_and_interventions_at_a_site",
    ),
    Mutant(
        "the first token of a text is replaced too",
        "interp/sae.py",
        "    kept[:, 0] = False\n",
        "",
        f"{_TESTS}/test_sae.py::test_measures_are_those_of_a_loop",
    ),
    Mutant(
        "Gemma Scope takes the decoder's bias off its input",
        "interp/sae_formats.py",
        "        subtract_bias=False,\n",
        "        subtract_bias=True,\n",
        f"{_TESTS}/test_sae_formats.py::test_gemma_scope",
    ),
    Mutant(
        "KL is of the base model against the trained one",
        "interp/diffing.py",
        "nats.append((probability * (after - before))",
        "nats.append((before.exp() * (before - after))",
        f"{_TESTS}/test_diffing.py::test_divergences_are_those_of_whole_logits",
    ),
    Mutant(
        "the noise is as large as the weights, not as their change",
        "interp/diffing.py",
        "size = float((theirs[name].double() - value.double()).norm())",
        "size = float(value.double().norm())",
        f"{_TESTS}/test_diffing.py::test_noise_of_the_same_size_is_in_the_same_tensors",
    ),
    Mutant(
        "the rank is of the weight and not of its change",
        "interp/diffing.py",
        "_rank(change) if full and moved",
        "_rank(theirs[name].float()) if full and moved",
        f"{_TESTS}/test_diffing.py::test_the_layer_whose_weights_changed_is_first",
    ),
)
