"""Whose values: how comparisons and votes of people become one choice, and who wins and loses by it."""
