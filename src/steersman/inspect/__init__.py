"""Steersman inside Inspect: a run as a model, and the suites with free answers as tasks. Needs `steersman[inspect]`."""
