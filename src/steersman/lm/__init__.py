"""Language models: weights, templates, heads, sampling, and a scripted stand-in."""
