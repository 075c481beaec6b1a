"""Measuring: answers to held-out prompts, behaviours in them, what alignment cost, and the statistics over both."""
