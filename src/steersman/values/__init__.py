"""Whose values: from what people say to a choice for all, by rules whose axioms are known, with the price of each."""
