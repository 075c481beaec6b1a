"""Attacks on a model and its guard, and figures about them that carry the judge's own error."""
