"""Demonstrations, comparisons, prompts: reading, checking, and what Steersman ships in `library/`."""
