"""Inside a model: where a behaviour lives, proof by intervention, and the audit that looks for what behaviour hides."""
