"""The stages of a run, one file for each or for a family. Their order is in `pipeline.py`."""
