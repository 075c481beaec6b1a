"""Detectors: which behaviours an answer shows, by patterns."""
